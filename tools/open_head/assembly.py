"""Cuts the head out of the body and puts skin, eyes, teeth and tongue together into one mesh."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from open_head.eyes import RINGS, SEGMENTS, Eyeball, fit_spheres, make_eyeball
from open_head.source import BODY, LEFT_EYE, RIGHT_EYE, TONGUE, Array, Index, Mask, Source

#: Where each piece lies in the new texture layout: left, bottom, right, top.
_LAYOUT = {
    "skin": (0.01, 0.01, 0.71, 0.99),
    "nape": (0.73, 0.85, 0.99, 0.99),
    "mouth": (0.73, 0.62, 0.99, 0.83),
    "socket_right": (0.73, 0.46, 0.85, 0.60),
    "socket_left": (0.87, 0.46, 0.99, 0.60),
    "eye_right": (0.73, 0.31, 0.85, 0.43),
    "eye_left": (0.87, 0.31, 0.99, 0.43),
    "helper-tongue": (0.73, 0.10, 0.85, 0.29),
    "helper-upper-teeth": (0.87, 0.21, 0.99, 0.29),
    "helper-lower-teeth": (0.87, 0.10, 0.99, 0.18),
}


#: The source's teeth are a broad placeholder that shows through the corners of a smile: made narrower, and
#: set back (m).
_TEETH_WIDTH, _TEETH_BACK = 0.88, 0.002


@dataclass(frozen=True)
class Assembly:
    """The head's topology, and how its vertices follow from MakeHuman's.

    Vertices come in this order: skin, tongue, teeth (all copied from the source), left eye, right eye.
    """

    copied: Index
    """(K,) source vertices that are taken as they are."""
    triangles: Index
    """(F, 3)."""
    uv: Array
    faces_uv: Index
    piece: Index
    """(V,) 0 skin, 1 tongue, 2 teeth, 3 left eye, 4 right eye."""
    inside_mouth: Index
    """Vertices of the mouth's own skin."""
    sockets: Index
    """Vertices behind the eyelids."""
    eyeball: Eyeball
    mirror: Index
    """(V,) each vertex's partner on the other side."""

    def geometry(self, points: Array) -> Array:
        """Positions of the head's vertices: (..., N, 3) source points to (..., V, 3)."""
        copied = points[..., self.copied, :].copy()
        copied[..., self.piece[: len(self.copied)] == 2, :] *= [_TEETH_WIDTH, 1.0, 1.0]
        copied[..., self.piece[: len(self.copied)] == 2, 2] -= _TEETH_BACK
        parts = [copied]
        for eye in (LEFT_EYE, RIGHT_EYE):
            centre, radius = fit_spheres(points[..., eye, :])
            parts.append(centre[..., None, :] + radius[..., None, None] * self.eyeball.directions)
        return np.concatenate(parts, axis=-2)


def assemble(source: Source) -> Assembly:
    """Choose the faces that belong to the head, number their vertices, and lay out the texture."""
    bones = list(source.bone_weights)
    head_weight = np.sum([source.bone_weights[b] for b in bones[bones.index("neck01") :]], axis=0)
    above = _above_the_neck_loop(source, head_weight)
    groups: dict[str, Mask] = {"body": np.asarray(above[source.quads["body"]].all(1), dtype=bool)}
    for extra in ("helper-tongue", "helper-upper-teeth", "helper-lower-teeth"):
        groups[extra] = np.ones(len(source.quads[extra]), bool)
    copied = np.concatenate([np.unique(source.quads[g][keep]) for g, keep in groups.items()])
    new_index = np.full(len(source.vertices), -1)
    new_index[copied] = np.arange(len(copied))
    islands = _texture_islands(source, groups["body"])

    triangles: list[Index] = []
    faces_uv: list[Index] = []
    uv: list[Array] = []
    inside = {}
    for group, keep in groups.items():
        quads, quads_uv = source.quads[group][keep], source.quads_uv[group][keep]
        split = islands if group == "body" else {group: np.ones(len(quads), bool)}
        for name, chosen in split.items():
            placed, indices = _place(source.uv, quads_uv[chosen], _LAYOUT[name])
            triangles.append(_triangulate(new_index[quads[chosen]], source.vertices[quads[chosen]]))
            faces_uv.append(
                _triangulate(indices + sum(len(points) for points in uv), source.vertices[quads[chosen]])
            )
            uv.append(placed)
            inside[name] = np.unique(new_index[quads[chosen]])
    eyeball = make_eyeball()
    for k, name in enumerate(("eye_left", "eye_right")):
        offset = len(copied) + k * len(eyeball.directions)
        placed, indices = _eye_layout(eyeball, _LAYOUT[name])
        triangles.append(eyeball.triangles + offset)
        faces_uv.append(indices + sum(len(points) for points in uv))
        uv.append(placed)
    body = copied < BODY.stop
    piece = np.concatenate(
        [
            np.where(body, 0, np.where(copied < TONGUE.stop, 1, 2)),
            np.full(len(eyeball.directions), 3),
            np.full(len(eyeball.directions), 4),
        ]
    )
    assembly = Assembly(
        copied, np.concatenate(triangles), np.concatenate(uv), np.concatenate(faces_uv), piece,
        inside["mouth"], np.concatenate([inside["socket_left"], inside["socket_right"]]), eyeball,
        np.zeros(0, np.int64),
    )  # fmt: skip
    vertices = assembly.geometry(source.vertices)
    return Assembly(**{**assembly.__dict__, "mirror": _mirror(vertices, piece)})


def _above_the_neck_loop(source: Source, head_weight: Array) -> Mask:
    """Vertices on and above a closed edge loop around the neck, so that the boundary is a clean ring.

    Cutting where the skinning weight passes a half leaves a saw; instead the loop of edges that runs
    around the neck nearest to that place is followed from quad to quad, and the body is cut along it.
    """
    quads = source.quads["body"]
    low = head_weight[:13380]
    start = np.flatnonzero((np.abs(source.vertices[:13380, 0]) < 1e-6) & (np.abs(low - 0.5) < 0.45))
    front = start[source.vertices[start, 2] > source.vertices[start, 2].mean()]
    loops = [_edge_loop(quads, int(v), source.vertices) for v in front]
    closed = [loop for loop in loops if loop is not None]
    if not closed:
        raise RuntimeError("no closed edge loop runs around the neck")
    best = min(closed, key=lambda loop: abs(float(low[loop].mean()) - 0.5))
    neighbours = np.concatenate([quads[:, [0, 1]], quads[:, [1, 2]], quads[:, [2, 3]], quads[:, [3, 0]]])
    inner = ~np.isin(neighbours, best).any(1)
    graph = coo_matrix((np.ones(inner.sum()), neighbours[inner].T), shape=(len(source.vertices),) * 2)
    label = connected_components(graph, directed=False)[1]
    top = int(np.argmax(source.vertices[:13380, 1]))
    above: Mask = label == label[top]
    above[best] = True
    return above


def _edge_loop(quads: Index, vertex: int, points: Array) -> list[int] | None:
    """Follow the edge loop that leaves ``vertex`` sideways; None where it ends or does not close.

    At a vertex of four quads a loop goes on along the edge that shares no quad with the one it came by.
    """
    touching: dict[int, list[Index]] = {}
    for quad in quads[np.abs(points[quads].mean(1)[:, 1] - points[vertex, 1]) < 0.08]:
        for corner in quad:
            touching.setdefault(int(corner), []).append(quad)

    def neighbours(v: int) -> set[int]:
        found = set()
        for quad in touching.get(v, []):
            i = list(quad).index(v)
            found |= {int(quad[i - 1]), int(quad[(i + 1) % 4])}
        return found

    side = max(neighbours(vertex), key=lambda n: points[n, 0])
    loop = [vertex, side]
    while len(loop) < 200:
        last, here = loop[-2], loop[-1]
        quads_here = touching.get(here, [])
        if len(quads_here) != 4:
            return None
        beside = set().union(*(set(map(int, q)) for q in quads_here if last in q))
        ahead = neighbours(here) - beside
        if len(ahead) != 1:
            return None
        step = ahead.pop()
        if step == vertex:
            return loop
        loop.append(step)
    return None


def _texture_islands(source: Source, keep: Mask) -> dict[str, Mask]:
    """Name the connected pieces of the body's texture layout by where they lie on the head."""
    quads, quads_uv = source.quads["body"][keep], source.quads_uv["body"][keep]
    edges = np.concatenate([quads_uv[:, [0, 1]], quads_uv[:, [1, 2]], quads_uv[:, [2, 3]]])
    size = len(source.uv)
    graph = coo_matrix((np.ones(len(edges)), edges.T), shape=(size, size))
    label = connected_components(graph, directed=False)[1][quads_uv[:, 0]]
    order = sorted(set(label), key=lambda k: -int((label == k).sum()))
    named: dict[str, Mask] = {"skin": label == order[0]}
    for k in order[1:]:
        centre = source.vertices[np.unique(quads[label == k])].mean(0)
        if centre[0] > 0.01:
            named["socket_left"] = label == k
        elif centre[0] < -0.01:
            named["socket_right"] = label == k
        elif centre[2] > 0.09:
            named["mouth"] = label == k
        else:
            named["nape"] = label == k
    if len(order) != 5 or len(named) != 5:
        raise RuntimeError(f"the texture layout has {len(order)} pieces; 5 are known")
    return named


def _place(uv: Array, corners: Index, box: tuple[float, float, float, float]) -> tuple[Array, Index]:
    """Scale the used part of a layout into ``box``; return its points and the corners' new indices."""
    used, indices = np.unique(corners, return_inverse=True)
    points = uv[used]
    low, high = points.min(0), points.max(0)
    target = np.array(box)
    placed = target[:2] + (points - low) / (high - low) * (target[2:] - target[:2])
    return placed, indices.reshape(corners.shape)


def _eye_layout(eyeball: Eyeball, box: tuple[float, float, float, float]) -> tuple[Array, Index]:
    """Lay an eyeball out as a disc: distance from the middle is the angle from the optical axis.

    The back pole would be a whole circle; each of its triangles gets a texture point of its own.
    """
    angle = np.arctan2(eyeball.directions[:, 1], eyeball.directions[:, 0])
    radius = np.arccos(np.clip(eyeball.directions[:, 2], -1, 1)) / np.pi
    last = 1 + (len(RINGS) - 1) * SEGMENTS
    middle = (np.arange(SEGMENTS) + 0.5) / SEGMENTS * 2 * np.pi
    radius = np.concatenate([radius[:-1], np.ones(SEGMENTS)])
    angle = np.concatenate([angle[:-1], middle])
    indices = eyeball.triangles.copy()
    pole = len(eyeball.directions) - 1
    rows = np.flatnonzero((indices == pole).any(1))
    indices[rows, 1] = pole + np.arange(SEGMENTS)
    if not (indices[rows, 0] == last + np.arange(SEGMENTS)).all():
        raise RuntimeError("the back pole's triangles are out of order")
    target = np.array(box)
    disc = np.stack([radius * np.cos(angle), radius * np.sin(angle)], -1)
    return target[:2] + (disc + 1) / 2 * (target[2:] - target[:2]), indices


def _triangulate(quads: Index, corners: Array) -> Index:
    """Split quads along the diagonal that leaves the same split on both sides of the face.

    The choice looks only at mirror-invariant things (the shorter diagonal; on a tie the first), so that
    a mirrored quad is split along the mirrored diagonal.
    """
    first = np.linalg.norm(corners[:, 0] - corners[:, 2], axis=1)
    second = np.linalg.norm(corners[:, 1] - corners[:, 3], axis=1)
    swap = second < first - 1e-9
    a = np.where(swap[:, None], quads[:, [0, 1, 3]], quads[:, [0, 1, 2]])
    b = np.where(swap[:, None], quads[:, [1, 2, 3]], quads[:, [0, 2, 3]])
    return np.stack([a, b], 1).reshape(-1, 3).astype(np.int64)


def _mirror(vertices: Array, piece: Index) -> Index:
    """Partner of each vertex: the nearest to its mirror image within the mirrored piece."""
    from scipy.spatial import cKDTree

    partner = np.zeros(len(vertices), np.int64)
    for own, other in ((0, 0), (1, 1), (2, 2), (3, 4), (4, 3)):
        mine, theirs = np.flatnonzero(piece == own), np.flatnonzero(piece == other)
        distance, index = cKDTree(vertices[theirs]).query(vertices[mine] * [-1, 1, 1])
        if distance.max() > 1e-4:
            raise RuntimeError(f"piece {own} is not symmetric: {distance.max():.5f} m apart")
        partner[mine] = theirs[index]
    if not (partner[partner] == np.arange(len(vertices))).all():
        raise RuntimeError("the mirror map is not one to one")
    return partner
