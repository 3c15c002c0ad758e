"""Carries what one head can do over to another: deformations, masks, colours.

Deformations go over as in R. W. Sumner, J. Popović, "Deformation transfer for triangle meshes" (SIGGRAPH
2004): the target is to turn, stretch and bend at each of its triangles as the source does at the place that
corresponds. Here everything is kept linear in the source's displacements (a triangle's normal turns as it
does to first order), so that what goes over is a basis: the sum of two units becomes the sum of what they
become. One sparse factorisation serves all of them. Two more terms are in the same least squares problem:

* displacements themselves, weakly, so that errors of the gradients do not add up over the head, and strongly
  where no unit of the source moves anything;
* the rims of lips and lids, paired across the slit: the lips' move as far as the source's, so that lips that
  meet there meet here; the lids' by as much of their own opening, so that a blink shuts any eye.

Eyeballs are no part of that: they turn about their own middle. Teeth go with the jaw, as one body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import csr_matrix, diags, vstack
from scipy.spatial import cKDTree

from recon3d.head.correspondence import (
    Correspondence,
    Floats,
    Ints,
    Mask,
    Registration,
    Surface,
    face_normals,
    fit_sphere,
    sides_of_faces,
    solve_symmetric,
)

#: Over this length the displacements themselves are followed rather than the gradients (typical m).
_DRIFT = 0.025
#: The same where nothing of the source moves: there the target is held.
_HELD = 0.003
#: A displacement smaller than this is none, m.
_STILL = 2e-5
#: Points of the target farther from the registered source than this have no counterpart (typical m).
_FAR = 0.012
#: How high over an eyeball a lid passes at least, and how far before the lower lid an upper one may end up so
#: as to pass the ball on its way: parts of the ball's radius.
_CLEARANCE = 0.025
_OVERHANG = (0.016, 0.075)
#: At which strengths lids are lifted off a ball, and how far in all (at full strength; parts of its radius).
_WAY = ((0.5, _OVERHANG[1]), (0.75, _OVERHANG[1]), (1.0, 1.0))
#: Places within a triangle at which the source is looked up, as barycentric weights.
_SAMPLES = np.array(
    [[1, 1, 1], [4, 1, 1], [1, 4, 1], [1, 1, 4], [2.2, 2.2, 0.5], [0.5, 2.2, 2.2], [2.2, 0.5, 2.2]]
)
_SAMPLES /= _SAMPLES.sum(1, keepdims=True)


def transfer_deformations(
    registration: Registration, deltas: npt.NDArray[np.floating], *, shut: tuple[int, int] | None = None
) -> Floats:
    """Transfer displacements of the source to the target.

    Linear in ``deltas``, but that the target is held where none of them moves the source. A registration of a
    head with itself gives them back (but for those in ``shut``).

    Args:
        registration: Of the two heads at rest.
        deltas: (V_source, 3, K) m.
        shut: Which of the K are to shut the left and the right eye: on the target exactly, be it that on the
            source they leave a slit or go too far.

    Returns:
        (V_target, 3, K) m.
    """
    source, target = registration.source, registration.target
    moves = np.asarray(deltas, np.float64)
    # Along the target's axes, but of the source's size.
    moves = np.einsum("ij,vjk->vik", registration.rotation, moves)
    found = np.zeros((len(target.vertices), 3, moves.shape[-1]))
    found[target.skin] = _skin(registration, moves, shut)[target.skin]
    for own, other in zip(source.balls, target.balls, strict=True):
        if own.any() and other.any():
            found[other] = _as_one_body(registration, moves, own, other)
    rest = ~target.skin & ~target.balls[0] & ~target.balls[1]
    for piece in np.unique(target.pieces[rest]):
        own = rest & (target.pieces == piece)
        found[own] = _loose(registration, moves, found, own)
    return found


def _skin(registration: Registration, moves: Floats, shut: tuple[int, int] | None) -> Floats:
    """Displacements (V_target, 3, K) m of the skin; zeros elsewhere. ``moves`` along the target's axes."""
    target = registration.target
    count = len(target.vertices)
    faces = target.faces[target.skin[target.faces[:, 0]]]
    hats, areas = _hats(target.vertices, faces)
    bend = areas[:, None, None, None] * _gradients_at(registration, faces, moves)
    rows, columns = faces.reshape(-1), np.arange(len(faces)).repeat(3)
    # Sum over the triangles around a vertex of area · gradient · (gradient of the vertex's hat function).
    right = np.zeros((count, 3, moves.shape[-1]))
    for axis in range(3):
        gather = csr_matrix((hats[..., axis].reshape(-1), (rows, columns)), shape=(count, len(faces)))
        right += (gather @ bend[:, :, axis].reshape(len(faces), -1)).reshape(right.shape)
    stiffness = _stiffness(hats, areas, faces, count)
    mass: Floats = np.bincount(rows, np.repeat(areas / 3, 3), count).astype(np.float64)
    weight, aim = _screen(registration, moves, mass)
    right += weight[:, None, None] * aim
    rims, rim_aim = _rims(registration, moves, shut)
    strong = 50.0
    right += strong * (rims.T @ rim_aim.reshape(len(rim_aim), -1)).reshape(right.shape)
    system = stiffness + diags(weight + ~target.skin) + strong * (rims.T @ rims)
    return solve_symmetric(system.tocsc(), right.reshape(count, -1)).reshape(right.shape)


def _hats(vertices: Floats, faces: Ints) -> tuple[Floats, Floats]:
    """Gradients (F, 3 corners, 3) 1/m of each triangle's hat functions, and its area (F,) m²."""
    corners = vertices[faces]
    opposite = np.roll(corners, -2, axis=1) - np.roll(corners, -1, axis=1)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    double = np.maximum(np.linalg.norm(cross, axis=1), 1e-14)
    hats = np.cross((cross / double[:, None])[:, None], opposite) / double[:, None, None]
    return hats, double / 2


def _stiffness(hats: Floats, areas: Floats, faces: Ints, count: int) -> csr_matrix:
    """(V, V) the Laplacian whose energy is the integral of a squared gradient."""
    values = areas[:, None, None] * np.einsum("fax,fbx->fab", hats, hats)
    rows, columns = np.repeat(faces, 3, axis=1), np.tile(faces, (1, 3))
    return csr_matrix((values.reshape(-1), (rows.reshape(-1), columns.reshape(-1))), shape=(count, count))


def _gradients_at(registration: Registration, faces: Ints, moves: Floats) -> Floats:
    """Gradient of the displacement (F, 3, 3, K) that the source has where triangles of the target lie.

    Element [f, a, b, k] is how much displacement a grows along b, the normal's direction included.
    """
    source = registration.source
    turned = source.vertices @ registration.rotation.T
    hats, _ = _hats(turned, source.faces)
    normals = face_normals(turned, source.faces)
    corner_moves = moves[source.faces]
    along = np.einsum("fcxk,fcy->fxyk", corner_moves, hats)
    # To first order the unit normal changes by minus the gradient of the displacement along it.
    turn = np.einsum("fxyk,fx->fyk", along, normals)
    along -= turn[:, :, None] * normals[:, None, :, None]
    average = _sampled(registration, faces)
    flat = average @ along.reshape(len(source.faces), -1)
    return np.asarray(flat).reshape(len(faces), 3, 3, -1)


def _sampled(registration: Registration, faces: Ints) -> csr_matrix:
    """(F_target, F_source) which triangles of the source a triangle of the target lies on, how surely."""
    target = registration.target
    # Small triangles need not be searched all over.
    places = _SAMPLES[:4] if len(faces) > 2 * len(registration.source.faces) else _SAMPLES
    count = len(places)
    points = np.einsum("gc,fcx->fgx", places, target.vertices[faces]).reshape(-1, 3)
    normals = np.repeat(face_normals(target.vertices, faces), count, axis=0)
    sides = np.repeat(sides_of_faces(target.sides, faces), count)
    found = registration.locate(points, normals, sides, np.zeros(len(points), np.int64))
    trust = _trust(found, target)
    shape = (len(faces), len(registration.source.faces))
    return csr_matrix((trust / count, (np.arange(len(faces)).repeat(count), found.triangle)), shape=shape)


def _trust(found: Correspondence, target: Surface) -> Floats:
    """(N,) in [0, 1]: 1 where a point lies on the registered source, 0 where that is far."""
    return np.asarray(np.exp(-((found.distance / (_FAR * target.unit)) ** 4)))


def _screen(registration: Registration, moves: Floats, mass: Floats) -> tuple[Floats, Floats]:
    """How strongly (V,) each vertex is held to which displacement (V, 3, K) m."""
    source, target = registration.source, registration.target
    found = registration.correspondence
    trust = _trust(found, target)
    aim = registration.scale * trust[:, None, None] * found.carry(moves, source.faces)
    largest = np.sqrt((moves**2).sum(1).max(-1))
    still = (largest[source.faces[found.triangle]] < _STILL).all(1)
    length = np.where(still | (trust < 0.1), _HELD, _DRIFT) * target.unit
    return np.where(target.skin, mass / length**2, 0.0), aim


def _rims(
    registration: Registration, moves: Floats, shut: tuple[int, int] | None
) -> tuple[csr_matrix, Floats]:
    """Points on the rims of lips and lids (N, V_target), and how far they are to move (N, 3, K) m."""
    source, target = registration.source, registration.target
    one, other = lip_seam(source), lip_seam(target)
    rows = [other.upper, other.lower]
    aims = [registration.scale * rim_moves for rim_moves in one.moves(moves)]
    for eye, own in enumerate(source.balls):
        if not own.any():
            continue
        others = target.vertices[target.balls[eye]] if target.balls[eye].any() else registration.warped[own]
        one, other = lid_seam(source, eye, source.vertices[own]), lid_seam(target, eye, others)
        upper, lower = one.moves(moves)
        gaps = one.across(source.vertices @ registration.rotation.T), other.across(target.vertices)
        aim = [np.einsum("nij,njk->nik", _onto(*gaps), part) for part in (upper, lower)]
        if shut is not None:
            k = shut[eye]
            turn = _onto(upper[..., k] - lower[..., k], -gaps[1])
            aim[0][..., k], aim[1][..., k] = (
                np.einsum("nij,nj->ni", turn, part[..., k]) for part in (upper, lower)
            )
            aim[0][..., k] += _over_the_ball(target, others, other, aim[0][..., k])
        rows += [other.upper, other.lower]
        aims += aim
    return vstack(rows).tocsr(), np.concatenate(aims)


def _over_the_ball(surface: Surface, points: Floats, seam: Seam, moves: Floats) -> Floats:
    """How much farther outward (N, 3) m an upper lid's rim has to go that moves so (N, 3) as it shuts.

    A rim moves on a straight line, which cuts through the ball with these ``points`` (n, 3): so it ends a
    little before the lower lid's, as much as clears the ball half-way, within bounds.
    """
    ball = Ball.of(points)
    start = seam.upper @ surface.vertices
    lack = 2 * (_CLEARANCE * ball.size - ball.height(start + moves / 2))
    outward = ball.outward(start + moves)
    least, most = (bound * ball.size for bound in _OVERHANG)
    return np.clip(lack, least, most)[:, None] * outward


@dataclass(frozen=True, eq=False)
class Ball:
    """An eyeball's surface, seen from its middle: it may bulge where the cornea is."""

    middle: Floats
    """(3,) m."""
    radius: Floats
    """(n,) m, by direction."""
    tree: cKDTree
    """Of the n directions."""

    @property
    def size(self) -> float:
        """Its usual radius, m."""
        return float(np.median(self.radius))

    @classmethod
    def of(cls, points: Floats, middle: Floats | None = None) -> Ball:
        """The ball with these vertices (n, 3) m, about its own middle or another."""
        middle = fit_sphere(points)[0] if middle is None else middle
        radius = np.linalg.norm(points - middle, axis=1)
        return cls(middle, radius, cKDTree((points - middle) / radius[:, None]))

    def outward(self, points: Floats) -> Floats:
        """Unit vectors (N, 3) from the middle to points."""
        local = points - self.middle
        return local / np.linalg.norm(local, axis=1, keepdims=True)

    def height(self, points: Floats) -> Floats:
        """How high points (N, 3) stand over the ball, (N,) m; negative within it."""
        _, near = self.tree.query(self.outward(points), k=3)
        return np.asarray(np.linalg.norm(points - self.middle, axis=1) - self.radius[near].max(1))


def off_the_eyeballs(target: Surface, deltas: Floats) -> Floats:
    """Lift lids off the eyeballs where a deformation drags them through.

    Skin that is outside an eyeball at rest stays so at full strength, and nearly so at half of it: there the
    straight way of a lid is a chord of the ball. What is lifted takes its surroundings along.

    Args:
        target: The head.
        deltas: (V, 3, K) m at unit strength, eyeballs included.

    Returns:
        (V, 3, K) m.
    """
    found = deltas.copy()
    for ball in target.balls:
        if ball.any():
            _lift(target, ball, found)
    return found


def _lift(target: Surface, ball: Mask, deltas: Floats) -> None:
    """Lift the skin off one eyeball, in place."""
    rest = Ball.of(target.vertices[ball])
    rows, clearance = _before(target, rest)
    points, wanted = target.vertices[rows], np.minimum(clearance, _CLEARANCE * rest.size)
    links = _neighbours(target.faces, rows, len(target.vertices))
    for k in np.flatnonzero(np.abs(deltas[rows]).max((0, 1)) > _STILL):
        lifted = np.zeros(len(rows))
        for _ in range(3):
            lack = np.zeros(len(rows))
            for strength, most in _WAY:
                turned = Ball.of(target.vertices[ball] + strength * deltas[ball, :, k], rest.middle)
                missing = wanted - turned.height(points + strength * deltas[rows, :, k])
                lack = np.maximum(lack, np.minimum(missing / strength, most * rest.size - lifted))
            if lack.max() < 1e-5:
                break
            lift = _with_surroundings(lack, links)
            lifted += lift
            deltas[rows, :, k] += lift[:, None] * rest.outward(points + deltas[rows, :, k])


def _before(target: Surface, ball: Ball) -> tuple[Ints, Floats]:
    """Which vertices (n,) lie on skin just before an eyeball, and how high (n,) over it, m."""
    near = target.skin & (np.linalg.norm(target.vertices - ball.middle, axis=1) < 1.5 * ball.radius.max())
    rows = np.flatnonzero(near & (target.vertices[:, 2] > ball.middle[2]))
    height = ball.height(target.vertices[rows])
    outside = height > -_STILL
    return rows[outside], height[outside]


def _with_surroundings(lift: Floats, links: csr_matrix) -> Floats:
    """(n,) a lift that takes the neighbours along, less and less."""
    wide = lift
    for _ in range(12):
        wide = np.maximum(lift, 0.85 * (links @ wide))
    return wide


def _neighbours(faces: Ints, rows: Ints, count: int) -> csr_matrix:
    """(n, n) mean over the neighbours that some vertices have among themselves."""
    number = np.full(count, -1)
    number[rows] = np.arange(len(rows))
    edges = number[np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])]
    edges = edges[(edges >= 0).all(1)]
    ends = np.concatenate([edges, edges[:, ::-1]])
    links = csr_matrix((np.ones(len(ends)), (ends[:, 0], ends[:, 1])), shape=(len(rows),) * 2)
    links.data[:] = 1.0
    return diags(1 / np.maximum(np.asarray(links.sum(1))[:, 0], 1)) @ links


def _onto(vectors: Floats, aims: Floats) -> Floats:
    """(N, 3, 3) the least turn, and the scale within reason, that make each vector (N, 3) its aim (N, 3)."""
    length = np.linalg.norm(vectors, axis=1)
    ratio = np.clip(np.linalg.norm(aims, axis=1) / np.maximum(length, 1e-9), 0.3, 3)
    a = vectors / np.maximum(length, 1e-9)[:, None]
    b = aims / np.maximum(np.linalg.norm(aims, axis=1), 1e-9)[:, None]
    axis = np.cross(a, b)
    cosine = np.einsum("nc,nc->n", a, b)
    cross = np.zeros((len(a), 3, 3))
    cross[:, [2, 0, 1], [1, 2, 0]] = axis
    cross[:, [1, 2, 0], [2, 0, 1]] = -axis
    turn = np.eye(3) + cross + cross @ cross / np.maximum(1 + cosine, 0.1)[:, None, None]
    return ratio[:, None, None] * turn


def _as_one_body(registration: Registration, moves: Floats, own: Mask, other: Mask) -> Floats:
    """Displacements (n, 3, K) of a piece of the target that moves as ``own`` of the source: as one body.

    They are linear in place. For an eyeball that turns this is the same turn, about the target's own middle.
    """
    source, target = registration.source, registration.target
    points = source.vertices[own] @ registration.rotation.T
    middle, aim = _middle(points), _middle(target.vertices[other])
    local = points - middle
    system = np.column_stack([local, np.ones(len(local))])
    linear, *_ = np.linalg.lstsq(system, moves[own].reshape(len(local), -1), rcond=None)
    place = target.vertices[other] - aim
    shifted = np.column_stack([place, np.full(len(place), registration.scale)])
    return (shifted @ linear).reshape(len(place), 3, -1)


def _middle(points: Floats) -> Floats:
    """(3,) of the sphere that points (N, 3) lie on, or their mean where they lie on none."""
    centre, radius, residual = fit_sphere(points)
    return centre if residual < 0.06 * radius else points.mean(0)


def _loose(registration: Registration, moves: Floats, found: Floats, own: Mask) -> Floats:
    """Displacements (n, 3, K) of another piece: its counterpart's, or the skin's beside it."""
    source, target = registration.source, registration.target
    points = target.vertices[own]
    loose = ~source.skin & ~source.balls[0] & ~source.balls[1]
    if loose.any():
        at = registration.correspondence
        near = at.distance[own] < _FAR * target.unit
        if near.mean() > 0.5:
            labels = source.pieces[source.faces[at.triangle[own]][:, 0]]
            like = source.pieces == np.bincount(labels[near]).argmax()
            if source.regions.get("teeth", np.zeros_like(like))[like].all():
                return _as_one_body(registration, moves, like, own)
            return registration.scale * at.carry(moves, source.faces)[own]
    skin = np.flatnonzero(target.skin)
    away, near_rows = cKDTree(target.vertices[skin]).query(points, k=8)
    weight = 1 / np.maximum(away, 1e-4) ** 2
    weight /= weight.sum(1, keepdims=True)
    return np.einsum("nk,nkxe->nxe", weight, found[skin[near_rows]])


def carry_values(registration: Registration, values: npt.NDArray[np.floating]) -> Floats:
    """Carry per-vertex values (V_source, ...) of the source to the target's vertices: (V_target, ...)."""
    return registration.correspondence.carry(values, registration.source.faces)


def carry_mask(registration: Registration, mask: Mask) -> Mask:
    """Carry a region (V_source,) to the target: a vertex (V_target,) is in it where more than half is."""
    near = registration.correspondence.distance < _FAR * registration.target.unit
    return np.asarray(near & (carry_values(registration, mask.astype(np.float64)) > 0.5))


@dataclass(frozen=True, eq=False)
class Seam:
    """The two rims of a slit in pairs of points that come together when it closes."""

    upper: csr_matrix
    """(N, V) weights of the upper points."""
    lower: csr_matrix
    """(N, V)."""

    def moves(self, values: Floats) -> tuple[Floats, Floats]:
        """Values (V, ...) at the upper and at the lower points: (N, ...) each."""
        flat = values.reshape(len(values), -1)
        upper, lower = ((rim @ flat).reshape(-1, *values.shape[1:]) for rim in (self.upper, self.lower))
        return upper, lower

    def across(self, values: Floats) -> Floats:
        """Upper less lower: (V, ...) to (N, ...)."""
        upper, lower = self.moves(values)
        return upper - lower


def lid_seam(surface: Surface, eye: int, ball: Floats, count: int = 15) -> Seam:
    """The rims of an eye's lids, at even angles about the eye's middle from corner to corner.

    A lid's rim is where, seen from the middle of the eyeball, the skin in front of the ball reaches lowest
    (the lower lid's: highest).

    Args:
        surface: The head.
        eye: 0 left, 1 right.
        ball: (n, 3) m, points of that eyeball, or of where it would be.
        count: How many pairs.
    """
    centre, radius, _ = fit_sphere(ball)
    outer, inner = ((263, 362), (33, 133))[eye]
    corners = surface.landmarks[[outer, inner]] - centre
    ends = np.arctan2(corners[:, 0], corners[:, 2])
    angles = ends[0] + np.linspace(0.14, 0.86, count) * (ends[1] - ends[0])
    step = abs(float(angles[1] - angles[0]))
    rims = []
    for side, sign in ((3 + 2 * eye, 1.0), (4 + 2 * eye, -1.0)):
        points, triangle, weights = _spread(surface, side)
        local = points - centre
        distance = np.linalg.norm(local, axis=1)
        front = (local[:, 2] > 0) & (distance > radius) & (distance < 1.6 * radius)
        azimuth = np.arctan2(local[:, 0], local[:, 2])
        height = sign * np.arcsin(local[:, 1] / distance)
        rims.append(
            _extreme(surface, azimuth, np.where(front, height, np.inf), angles, step, triangle, weights)
        )
    return Seam(*rims)


def lip_seam(surface: Surface, count: int = 17) -> Seam:
    """The rims of the lips, evenly from corner to corner: where the upper lip ends and the lower begins."""
    corners = surface.landmarks[[78, 308], 0]
    aims = corners[0] + np.linspace(0.06, 0.94, count) * (corners[1] - corners[0])
    step = abs(float(aims[1] - aims[0]))
    # Behind the lips the mouth's walls may sag: only what lies as far forward as its corners counts.
    back = surface.landmarks[[78, 308], 2].min() - 0.004 * surface.unit
    rims = []
    for side, sign in ((1, 1.0), (2, -1.0)):
        points, triangle, weights = _spread(surface, side)
        height = np.where(points[:, 2] > back, sign * points[:, 1], np.inf)
        rims.append(_extreme(surface, points[:, 0], height, aims, step, triangle, weights))
    return Seam(*rims)


def _spread(surface: Surface, side: int, steps: int = 6) -> tuple[Floats, Ints, Floats]:
    """Points all over the triangles of one side of a slit: places (N, 3), triangles (N,), weights (N, 3)."""
    rows = np.flatnonzero(sides_of_faces(surface.sides, surface.faces) == side)
    grid = np.array([(i, j, steps - i - j) for i in range(steps + 1) for j in range(steps + 1 - i)]) / steps
    points = np.einsum("gc,fcx->fgx", grid, surface.vertices[surface.faces[rows]]).reshape(-1, 3)
    return points, np.repeat(rows, len(grid)), np.tile(grid, (len(rows), 1))


def _extreme(
    surface: Surface,
    along: Floats,
    height: Floats,
    aims: Floats,
    step: float,
    triangle: Ints,
    weights: Floats,
) -> csr_matrix:
    """(N, V) weights of the lowest point near each aim along a slit."""
    away = (along[None] - aims[:, None]) / step
    # A slight pull toward the aim keeps the pairs opposite each other where the rim is level.
    spread = float(np.ptp(height[np.isfinite(height)])) if np.isfinite(height).any() else 1.0
    cost = np.where(np.abs(away) < 0.5, height[None] + 0.02 * spread * away**2, np.inf)
    chosen = cost.argmin(1)
    rows = np.repeat(np.arange(len(aims)), 3)
    columns = surface.faces[triangle[chosen]].reshape(-1)
    shape = (len(aims), len(surface.vertices))
    return csr_matrix((weights[chosen].reshape(-1), (rows, columns)), shape=shape)
