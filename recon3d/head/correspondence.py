"""Where every point of one head lies on another: a non-rigid registration of two neutral meshes.

Both heads carry the same 478 dense landmarks. The source is brought to the target in three steps: a
similarity and a smooth warp through the landmarks (biharmonic radial basis functions), then a fit of its
skin to the target's by closest points, which gives way over shorter and shorter distances: the scheme of B.
Amberg, S. Romdhani, T. Vetter, "Optimal step nonrigid ICP algorithms for surface registration" (CVPR 2007),
with the bending of a thin plate as what holds the surface together.

Lips and lids lie close and must not be mixed up. Which side of the mouth's slit a point is on is told by the
way along the surface: it is nearer to the landmarks around the upper lip or to those around the lower one.
The same for each eye. Closest points are sought on the own side only, and where the surfaces face alike.

Lengths are in metres; those called *typical* are for an adult and are scaled with the distance of the eyes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
from scipy.interpolate import RBFInterpolator
from scipy.sparse import coo_matrix, csc_matrix, csr_matrix, diags
from scipy.sparse.csgraph import connected_components, dijkstra
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from recon3d.head.model import HeadModel

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

#: The iris points among the landmarks; the others lie on the skin.
IRIS = slice(468, 478)
#: Landmarks in the outer corners of the eyes, right and left, and their usual distance.
EYE_CORNERS = (33, 263)
_EYE_CORNERS_APART = 0.09

#: Landmarks around the mouth and around each eye, over and under its slit, without the corners.
SLITS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    ((185, 40, 39, 37, 0, 267, 269, 270, 409), (146, 91, 181, 84, 17, 314, 405, 321, 375)),
    ((467, 260, 259, 257, 258, 286, 414), (255, 339, 254, 253, 252, 256, 341)),
    ((247, 30, 29, 27, 28, 56, 190), (25, 110, 24, 23, 22, 26, 112)),
)
#: The landmarks on the slits' own rims, over and under: they belong to that side whatever lies nearest.
RIMS: tuple[tuple[tuple[int, ...], tuple[int, ...]], ...] = (
    (
        (191, 80, 81, 82, 13, 312, 311, 310, 415, 183, 42, 41, 38, 12, 268, 271, 272, 407,
         74, 73, 72, 11, 302, 303, 304, 184, 408),
        (95, 88, 178, 87, 14, 317, 402, 318, 324, 96, 89, 179, 86, 15, 316, 403, 319, 325,
         77, 90, 180, 85, 16, 315, 404, 320, 307),
    ),
    ((466, 388, 387, 386, 385, 384, 398), (249, 390, 373, 374, 380, 381, 382)),
    ((246, 161, 160, 159, 158, 157, 173), (7, 163, 144, 145, 153, 154, 155)),
)  # fmt: skip

#: The landmarks on the face's outline: a detector that sees it from the front knows little of their depth.
_OUTLINE = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
#: The landmarks that say where the skin lies.
_FIRM = np.setdiff1d(np.arange(IRIS.start), _OUTLINE)
#: How far from the landmarks around a slit a point is still told to be over or under it (typical m).
_REACH = (0.035, 0.022, 0.022)
#: A point is over the slit if the way there is this much shorter than the way to under it.
_CLEARLY = 0.7
#: Surfaces that face away from each other count as about this much farther apart (typical m).
_FACING = 0.006
#: Lengths over which the surface holds together, step by step (typical m), and the reach of closest points.
_STIFFNESS = (0.040, 0.030, 0.022, 0.016, 0.012, 0.009, 0.007, 0.005, 0.004, 0.004)
_CANDIDATES = 32


@dataclass(frozen=True, eq=False)
class Surface:
    """A head at rest: what a registration needs to know of it."""

    vertices: Floats
    """(V, 3) m; +Y up, the face looks along +Z."""
    faces: Ints
    """(F, 3), counter-clockwise from outside."""
    landmarks: Floats
    """(478, 3) m, the dense landmarks on it."""
    regions: dict[str, Mask] = field(default_factory=dict)
    """Masks (V,) by name, those that are known."""

    @cached_property
    def unit(self) -> float:
        """How large the head is beside a usual one: typical lengths are multiplied with this."""
        apart = np.linalg.norm(self.landmarks[EYE_CORNERS[0]] - self.landmarks[EYE_CORNERS[1]])
        return float(apart) / _EYE_CORNERS_APART

    @cached_property
    def pieces(self) -> Ints:
        """(V,) which connected piece each vertex belongs to."""
        return pieces(len(self.vertices), self.faces)

    @cached_property
    def skin(self) -> Mask:
        """(V,) the piece on which the landmarks lie."""
        points = self.landmarks[: IRIS.start]
        _, near = cKDTree(self.vertices).query(points)
        return np.asarray(self.pieces == np.bincount(self.pieces[near]).argmax())

    @cached_property
    def balls(self) -> tuple[Mask, Mask]:
        """Left and right eyeball, each (V,); empty where the head has none."""
        return eyeballs(self.vertices, self.faces)

    @cached_property
    def normals(self) -> Floats:
        """(V, 3) unit normals."""
        return vertex_normals(self.vertices, self.faces)

    @cached_property
    def sides(self) -> Ints:
        """(V,) 0, or a slit's side: 1 and 2 upper and lower lip, 3 and 4 left lids, 5 and 6 right."""
        found = np.zeros(len(self.vertices), np.int64)
        graph = edge_graph(self.vertices, self.faces, self.skin)
        for k, (over, under) in enumerate(SLITS):
            found = np.where(found == 0, self._sides_of(graph, over, under, _REACH[k], 2 * k + 1), found)
        return found

    def _sides_of(
        self, graph: csr_matrix, over: Sequence[int], under: Sequence[int], reach: float, first: int
    ) -> Ints:
        ways = [self._way(graph, group) for group in (over, under)]
        near = np.minimum(*ways) < reach * self.unit
        upper = near & (ways[0] < _CLEARLY * ways[1])
        lower = near & (ways[1] < _CLEARLY * ways[0])
        return np.where(upper, first, np.where(lower, first + 1, 0))

    def _way(self, graph: csr_matrix, landmarks: Sequence[int]) -> Floats:
        """(V,) length along edges to the nearest of some landmarks; infinite on other pieces."""
        skin = np.flatnonzero(self.skin)
        _, near = cKDTree(self.vertices[skin]).query(self.landmarks[list(landmarks)])
        found: Floats = dijkstra(graph, indices=np.unique(skin[near]), directed=False, min_only=True)
        return found


@dataclass(frozen=True, eq=False)
class Correspondence:
    """For each of N points of a target, where it lies on the source."""

    triangle: Ints
    """(N,) index into the source's faces."""
    barycentric: Floats
    """(N, 3), rows sum to 1."""
    distance: Floats
    """(N,) m between the point and the registered source."""

    def carry(self, values: npt.NDArray[np.floating], faces: Ints) -> Floats:
        """Interpolate per-vertex values (V_source, ...) of the source at the points: (N, ...)."""
        corners = np.asarray(values, np.float64)[faces[self.triangle]]
        return np.einsum("nc,nc...->n...", self.barycentric, corners)


@dataclass(frozen=True, eq=False)
class Registration:
    """The source brought to the target's form and place."""

    source: Surface
    target: Surface
    warped: Floats
    """(V_source, 3) m: the source's vertices where the target has the same part of the head."""
    rotation: Floats
    """(3, 3) of the similarity from source to target."""
    scale: float
    """Of the similarity."""

    @cached_property
    def correspondence(self) -> Correspondence:
        """Where the target's vertices lie on the source."""
        target = self.target
        return self.locate(target.vertices, target.normals, target.sides, _parts(target))

    def locate(self, points: Floats, normals: Floats, sides: Ints, parts: Ints) -> Correspondence:
        """Find points of the target on the source.

        Args:
            points: (N, 3) m.
            normals: (N, 3) unit normals.
            sides: (N,) as in ``Surface.sides``.
            parts: (N,) 0 skin, 1 left and 2 right eyeball, 3 anything else.
        """
        triangle, weights = np.zeros(len(points), np.int64), np.zeros((len(points), 3))
        distance = np.full(len(points), np.inf)
        for part in np.unique(parts):
            rows = np.flatnonzero(parts == part)
            finder = self._finders[int(part)]
            found = finder.find(points[rows], normals[rows], sides[rows])
            triangle[rows], weights[rows] = found.triangle, found.barycentric
            distance[rows] = found.distance
        return Correspondence(triangle, weights, distance)

    @cached_property
    def _finders(self) -> tuple[Finder, ...]:
        """For each part of a target, the triangles of the source among which it is sought."""
        source, parts = self.source, _parts(self.source)[self.source.faces[:, 0]]
        by_part = [np.flatnonzero(parts == k) for k in range(4)]
        # A part that the source lacks is sought on its skin.
        chosen = [found if len(found) else by_part[0] for found in by_part]
        facing = _FACING * self.target.unit
        return tuple(Finder(self.warped, source.faces, source.sides, facing, rows) for rows in chosen)


def correspond(source: Surface, target: Surface) -> Correspondence:
    """Tell for each vertex of ``target`` where on ``source`` it lies."""
    return register(source, target).correspondence


def surface_of(head: HeadModel) -> Surface:
    """The surface of a head model that has the dense landmarks."""
    template = head.v_template.double().numpy()
    points = head.landmarks(head.v_template[None], "mediapipe478")[0].double().numpy()
    return Surface(template, head.faces.numpy(), points, dict(head.regions))


def register(source: Surface, target: Surface) -> Registration:
    """Bring ``source`` to the form of ``target``: 2 to 5 s for heads of five thousand vertices."""
    aims = _own_side(target)
    scale, rotation, shift = similarity(source.landmarks[_FIRM], aims[_FIRM])
    aligned = scale * source.vertices @ rotation.T + shift
    placed = scale * source.landmarks @ rotation.T + shift
    smooth = RBFInterpolator(placed[_FIRM], (aims - placed)[_FIRM], kernel="linear", degree=0, smoothing=0.02)
    start = aligned + smooth(aligned)
    warped = start.copy()
    skin = source.skin
    warped[skin] = _fit_skin(source, target, start, aims)
    for own, other in zip(source.balls, target.balls, strict=True):
        if own.any() and other.any():
            warped[own] = _fit_ball(source.vertices[own], target.vertices[other])
    return Registration(source, target, warped, rotation, scale)


def similarity(points: Floats, onto: Floats) -> tuple[float, Floats, Floats]:
    """Scale, rotation (3, 3) and shift (3,) that bring points (N, 3) nearest to others (S. Umeyama, 1991)."""
    middle, aim = points.mean(0), onto.mean(0)
    u, s, vt = np.linalg.svd((onto - aim).T @ (points - middle))
    flip = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * flip) @ vt
    scale = float((s * flip).sum() / ((points - middle) ** 2).sum())
    return scale, rotation, aim - scale * rotation @ middle


def solve_symmetric(system: csc_matrix, right: Floats) -> Floats:
    """Solve a sparse positive definite system (n, n) for right-hand sides (n, K)."""
    # An order of elimination for symmetric patterns, without pivots: several times faster than the default.
    solver = splu(system, permc_spec="MMD_AT_PLUS_A", diag_pivot_thresh=0.0, options={"SymmetricMode": True})
    found: Floats = solver.solve(right)
    return found


def pieces(count: int, faces: Ints) -> Ints:
    """(count,) number of the connected piece of each vertex."""
    rows, columns = faces.reshape(-1), np.roll(faces, 1, axis=1).reshape(-1)
    graph = coo_matrix((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    found: Ints = connected_components(graph, directed=False)[1].astype(np.int64)
    return found


def fit_sphere(points: Floats) -> tuple[Floats, float, float]:
    """Centre (3,), radius and root mean square residual of the sphere through points (N, 3), m."""
    middle = points.mean(0)
    local = points - middle
    system = np.column_stack([2 * local, np.ones(len(local))])
    solution, *_ = np.linalg.lstsq(system, (local**2).sum(1), rcond=None)
    radius = float(np.sqrt(max(solution[3] + solution[:3] @ solution[:3], 0.0)))
    distance = np.linalg.norm(local - solution[:3], axis=1)
    return middle + solution[:3], radius, float(np.sqrt(((distance - radius) ** 2).mean()))


def eyeballs(vertices: Floats, faces: Ints) -> tuple[Mask, Mask]:
    """Find left and right eyeball, each (V,): round pieces of an eye's size, on either side of the head.

    A ball may be made of several pieces (white and cornea). Both are empty where either is missing.
    """
    label = pieces(len(vertices), faces)
    masks = (np.zeros(len(vertices), bool), np.zeros(len(vertices), bool))
    # Measured against the head's own height, so that units and proportions do not matter much.
    height = float(np.ptp(vertices[:, 1]))
    middle = float(vertices[:, 0].max() + vertices[:, 0].min()) / 2
    for k in np.flatnonzero(np.bincount(label) >= 20):
        own = label == k
        centre, radius, residual = fit_sphere(vertices[own])
        round_enough = residual < 0.06 * radius
        if round_enough and 0.02 * height < radius < 0.12 * height and abs(centre[0] - middle) > radius:
            masks[0 if centre[0] > middle else 1][own] = True
    empty = np.zeros(len(vertices), bool)
    return masks if masks[0].any() and masks[1].any() else (empty, empty)


def vertex_normals(vertices: Floats, faces: Ints) -> Floats:
    """(V, 3) unit normals: the mean of the triangles', weighted by area."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    total = np.stack(
        [np.bincount(faces.reshape(-1), np.repeat(cross[:, k], 3), len(vertices)) for k in range(3)], -1
    )
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)


def face_normals(vertices: Floats, faces: Ints) -> Floats:
    """(F, 3) unit normals of triangles."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    return cross / np.maximum(np.linalg.norm(cross, axis=1, keepdims=True), 1e-20)


def edge_graph(vertices: Floats, faces: Ints, among: Mask) -> csr_matrix:
    """(V, V) lengths of the edges whose ends are both ``among`` some vertices."""
    edges = np.unique(
        np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1), axis=0
    )
    edges = edges[among[edges].all(1)]
    length = np.maximum(np.linalg.norm(vertices[edges[:, 0]] - vertices[edges[:, 1]], axis=1), 1e-9)
    return csr_matrix((length, (edges[:, 0], edges[:, 1])), shape=(len(vertices),) * 2)


def border(faces: Ints) -> Ints:
    """(n, 2) sorted edges that only one triangle has."""
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    found, uses = np.unique(edges, axis=0, return_counts=True)
    return np.asarray(found[uses == 1])


def sides_of_faces(sides: Ints, faces: Ints) -> Ints:
    """(F,) the side on which a triangle's corners agree, leaving out those on none; 0 where they differ."""
    corners = sides[faces]
    high = corners.max(1)
    low = np.where(corners > 0, corners, high[:, None]).min(1)
    return np.where(low == high, high, 0)


class Finder:
    """Closest points on some triangles of a mesh, on the own side of a slit and where surfaces face alike."""

    def __init__(self, vertices: Floats, faces: Ints, sides: Ints, facing: float, rows: Ints) -> None:
        """Prepare.

        Args:
            vertices: (V, 3) m.
            faces: (F, 3).
            sides: (V,) as in ``Surface.sides``.
            facing: What facing away counts for, m.
            rows: (R,) the triangles to search.
        """
        self._rows, self._facing = rows, facing
        self._corners = vertices[faces[rows]]
        self._normals = face_normals(vertices, faces[rows])
        self._seeds, self._owner, self._reach = _seeds(self._corners)
        self._sides = sides_of_faces(sides, faces[rows])
        self._trees: dict[int, tuple[Ints, cKDTree]] = {}

    def find(self, points: Floats, normals: Floats, sides: Ints) -> Correspondence:
        """Find the closest points to points (N, 3) with unit normals (N, 3) on sides (N,)."""
        triangle, weights = np.zeros(len(points), np.int64), np.zeros((len(points), 3))
        distance = np.zeros(len(points))
        for side in np.unique(sides):
            own = np.flatnonzero(sides == side)
            triangle[own], weights[own], distance[own] = self._find(points[own], normals[own], int(side))
        return Correspondence(self._rows[triangle], weights, distance)

    def _find(self, points: Floats, normals: Floats, side: int) -> tuple[Ints, Floats, Floats]:
        seeds, tree = self._tree(side)
        away, seed = tree.query(points, k=min(_CANDIDATES, len(seeds)))
        away, seed = away.reshape(len(points), -1), seeds[seed.reshape(len(points), -1)]
        near = self._owner[seed]
        # Up to 78° apart counts as alike: at sharp rims the surface itself turns that much.
        turned = np.clip(0.2 - np.einsum("nkc,nc->nk", self._normals[near], normals), 0, None)
        extra = self._facing**2 * turned
        # Only triangles that reach near enough to be the best are looked at closely.
        least = np.maximum(away - self._reach[seed], 0) ** 2 + extra
        row, column = np.nonzero(least <= (away**2 + extra).min(1, keepdims=True))
        triangle = near[row, column]
        weights = closest_in_triangles(self._corners[triangle], points[row])
        found = np.einsum("nc,ncx->nx", weights, self._corners[triangle])
        squared = ((found - points[row]) ** 2).sum(1)
        order = np.lexsort((squared + extra[row, column], row))
        best = order[np.searchsorted(row, np.arange(len(points)))]
        return triangle[best], weights[best], np.sqrt(squared[best])

    def _tree(self, side: int) -> tuple[Ints, cKDTree]:
        """The seeds of the triangles that a point on a side may lie on, and a tree of them."""
        if side not in self._trees:
            fits = np.ones(len(self._sides), bool) if side == 0 else np.isin(self._sides, (0, side))
            allowed = np.flatnonzero(fits[self._owner])
            self._trees[side] = (allowed, cKDTree(self._seeds[allowed]))
        return self._trees[side]


def closest_in_triangles(corners: Floats, points: Floats) -> Floats:
    """Barycentric weights (N, 3) of the point of each triangle (N, 3, 3) that is nearest to a point (N, 3).

    By the regions of C. Ericson, "Real-time collision detection" (2005), 5.1.5. Free of tolerances, unlike
    trimesh's function of this purpose, which takes triangles of a millimetre, in metres, for points.
    """
    ab, ac = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    on_ab, on_ac = (
        [np.einsum("nc,nc->n", edge, points - corners[:, k]) for k in range(3)] for edge in (ab, ac)
    )
    a = on_ab[1] * on_ac[2] - on_ab[2] * on_ac[1]
    b = on_ab[2] * on_ac[0] - on_ab[0] * on_ac[2]
    c = on_ab[0] * on_ac[1] - on_ab[1] * on_ac[0]
    past_b, past_c = on_ac[1] - on_ab[1], on_ab[2] - on_ac[2]
    where = [
        (on_ab[0] <= 0) & (on_ac[0] <= 0),
        (on_ab[1] >= 0) & (past_b <= 0),
        (on_ac[2] >= 0) & (past_c <= 0),
        (c <= 0) & (on_ab[0] >= 0) & (on_ab[1] <= 0),
        (b <= 0) & (on_ac[0] >= 0) & (on_ac[2] <= 0),
        (a <= 0) & (past_b >= 0) & (past_c >= 0),
    ]
    zero, one = np.zeros(len(points)), np.ones(len(points))
    along_ab, along_ac = _share(on_ab[0], -on_ab[1]), _share(on_ac[0], -on_ac[2])
    along_bc, area = _share(past_b, past_c), np.maximum(a + b + c, 1e-300)
    v = np.select(where, [zero, one, zero, along_ab, zero, 1 - along_bc], b / area)
    w = np.select(where, [zero, zero, one, zero, along_ac, along_bc], c / area)
    return np.stack([1 - v - w, v, w], -1)


def _share(part: Floats, rest: Floats) -> Floats:
    """How much of a sum one part of it is; 0 of nothing."""
    total = part + rest
    return part / np.where(total == 0, 1.0, total)


def _seeds(corners: Floats) -> tuple[Floats, Ints, Floats]:
    """Points by which triangles (F, 3, 3) are found: one in the middle, more on large ones.

    Returns:
        The points (N, 3), the triangle (N,) of each, and how far (N,) it reaches from there.
    """
    reach = np.linalg.norm(corners - corners.mean(1, keepdims=True), axis=2).max(1)
    points, owner = [], []
    for steps, low, high in ((1, 0.0, 2.0), (3, 2.0, 5.0), (7, 5.0, np.inf)):
        rows = np.flatnonzero((reach >= low * np.median(reach)) & (reach < high * np.median(reach)))
        grid = np.array([(i, j, steps - 1 - i - j) for i in range(steps) for j in range(steps - i)]) + 1 / 3
        points.append(np.einsum("gc,fcx->fgx", grid / steps, corners[rows]).reshape(-1, 3))
        owner.append(np.repeat(rows, len(grid)))
    places, owners = np.concatenate(points), np.concatenate(owner)
    far = np.linalg.norm(corners[owners] - places[:, None], axis=2).max(1)
    return places, owners, far


def _parts(surface: Surface) -> Ints:
    """(V,) 0 skin, 1 left and 2 right eyeball, 3 anything else."""
    left, right = surface.balls
    return np.where(surface.skin, 0, np.where(left, 1, np.where(right, 2, 3)))


def _own_side(surface: Surface) -> Floats:
    """(478, 3) the landmarks, those on the rims of lips and lids put onto their own side of the slit."""
    points = surface.landmarks.copy()
    rows = np.flatnonzero(surface.skin[surface.faces].all(1))
    finder = Finder(surface.vertices, surface.faces, surface.sides, 0.0, rows)
    for k, rims in enumerate(RIMS):
        for j, rim in enumerate(rims):
            index = list(rim)
            side = np.full(len(index), 2 * k + 1 + j)
            found = finder.find(points[index], np.zeros((len(index), 3)), side)
            points[index] = found.carry(surface.vertices, surface.faces)
    return points


def _fit_ball(ball: Floats, onto: Floats) -> Floats:
    """Move an eyeball (N, 3) to the middle and size of another (M, 3)."""
    centre, radius, _ = fit_sphere(ball)
    aim, size, _ = fit_sphere(onto)
    return aim + (ball - centre) * (size / radius)


def _fit_skin(source: Surface, target: Surface, start: Floats, aims: Floats) -> Floats:
    """The source's skin (n, 3) on the target's, beginning with its vertices at ``start`` (V, 3)."""
    own = np.flatnonzero(source.skin)
    local = np.full(len(start), -1)
    local[own] = np.arange(len(own))
    faces = local[source.faces[source.skin[source.faces].all(1)]]
    stiffness, bending, mass = _plate(start[own], faces)
    at = Finder(
        source.vertices, source.faces, source.sides, 0.0, np.flatnonzero(source.skin[source.faces[:, 0]])
    )
    marks = at.find(source.landmarks[: IRIS.start], np.zeros((IRIS.start, 3)), np.zeros(IRIS.start, np.int64))
    held = csr_matrix(
        (marks.barycentric.reshape(-1),
         (np.repeat(np.arange(IRIS.start), 3), local[source.faces[marks.triangle]].reshape(-1))),
        shape=(IRIS.start, len(own)),
    )  # fmt: skip
    finder = _skin_finder(target)
    open_edges = _on_border(target)
    visible = ~_hidden(source)[own]
    sides, unit = source.sides[own], target.unit
    # A landmark counts as much as so large a piece of skin, m².
    firm = np.full(IRIS.start, (0.006 * unit) ** 2)
    firm[list(_OUTLINE)] *= 0.1
    moved = start[own].copy()
    for k, length in enumerate(_STIFFNESS):
        length = length * unit
        found = finder.find(moved, vertex_normals(moved, faces), sides)
        aim = found.carry(target.vertices, target.faces)
        facing = np.einsum(
            "nc,nc->n",
            vertex_normals(moved, faces),
            face_normals(target.vertices, target.faces)[found.triangle],
        )
        reach = max(0.6 * length, 0.004 * unit)
        trust = np.exp(-((found.distance / reach) ** 2)) * np.clip(2 * facing - 0.6, 0, 1)
        trust *= visible & ~open_edges(found)
        mark = firm * max(1.0 - k / len(_STIFFNESS), 0.2)
        system = diags(mass * trust) + length**4 * bending + 1e-3 * length**2 * stiffness
        system = system + held.T @ diags(mark) @ held
        right = (mass * trust)[:, None] * (aim - start[own])
        right += held.T @ (mark[:, None] * (aims[: IRIS.start] - held @ start[own]))
        moved = start[own] + solve_symmetric(system.tocsc(), right)
    return moved


def _plate(vertices: Floats, faces: Ints) -> tuple[csr_matrix, csr_matrix, Floats]:
    """Membrane and bending energies (n, n) of a surface, and the area (n,) of each vertex, m²."""
    count = len(vertices)
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    double = np.maximum(np.linalg.norm(np.cross(b - a, c - a), axis=1), 1e-14)
    rows, columns, values = [], [], []
    for k in range(3):
        apex, first, second = (vertices[faces[:, (k + j) % 3]] for j in range(3))
        cotangent = np.einsum("fc,fc->f", first - apex, second - apex) / double
        rows.append(faces[:, (k + 1) % 3])
        columns.append(faces[:, (k + 2) % 3])
        values.append(np.clip(cotangent, 0.05, 10) / 2)
    one, two, weight = (np.concatenate(part) for part in (rows, columns, values))
    links = coo_matrix((np.tile(weight, 2), (np.append(one, two), np.append(two, one))), shape=(count, count))
    links = links.tocsr()
    stiffness = diags(np.asarray(links.sum(1))[:, 0]) - links
    mass = np.bincount(faces.reshape(-1), np.repeat(double / 6, 3), count)
    mass = np.maximum(mass, 0.05 * mass.mean())
    return stiffness.tocsr(), (stiffness @ diags(1 / mass) @ stiffness).tocsr(), mass


def _hidden(surface: Surface) -> Mask:
    """(V,) what lies behind lips and lids, as far as it is known."""
    found = np.zeros(len(surface.vertices), bool)
    for name in ("mouth_inside", "eye_sockets"):
        found |= surface.regions.get(name, False)
    return found & ~surface.regions.get("lips", np.zeros_like(found))


def _skin_finder(surface: Surface) -> Finder:
    rows = np.flatnonzero(surface.skin[surface.faces[:, 0]])
    return Finder(surface.vertices, surface.faces, surface.sides, _FACING * surface.unit, rows)


def _on_border(surface: Surface) -> Callable[[Correspondence], Mask]:
    """Tell which found points lie on the mesh's own border: there it ends, but the other may go on."""
    faces = surface.faces
    open_edges = border(faces)
    count = len(surface.vertices)
    codes = open_edges[:, 0] * count + open_edges[:, 1]
    # Edge k of a triangle lies opposite its corner k.
    ends = np.sort(np.stack([faces[:, [1, 2]], faces[:, [2, 0]], faces[:, [0, 1]]], 1), axis=-1)
    is_open = np.isin(ends[..., 0] * count + ends[..., 1], codes)

    def on_border(found: Correspondence) -> Mask:
        return np.asarray((is_open[found.triangle] & (found.barycentric < 1e-3)).any(1))

    return on_border
