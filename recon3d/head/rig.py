"""A head model of any rig that is a neutral mesh and a folder of its ARKit shapes as OBJ files.

So comes, among others, USC ICT's FaceKit (MIT): https://github.com/USC-ICT/ICT-FaceKit, in ``FaceXModel`` a
``generic_neutral_mesh.obj`` of 26,719 vertices in centimetres and a file a unit (``eyeBlink_L.obj``,
``browInnerUp_R.obj``). A rig is one person: it has expressions and no identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from recon3d._unit_names import UnitName, unit_name
from recon3d.conventions import ARKIT_NAMES, GLOBAL, JAW, JOINT_NAMES, LEFT_EYE, NECK, RIGHT_EYE
from recon3d.errors import InputError
from recon3d.head._obj import ObjMesh, read_obj, read_obj_vertices
from recon3d.media._open import shown, unreadable

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Say = Callable[[str], None]

#: A head, with its neck and perhaps shoulders, is so large along its longest side, m.
_LONGEST = (0.15, 0.6)
_UNITS_OF_LENGTH: Mapping[str, float] = {"metres": 1.0, "centimetres": 0.01, "millimetres": 0.001}
#: The open head's joints, seen from the point between its eyes, m; its eyes; and where that point lies.
_FROM_EYES: Mapping[int, tuple[float, float, float]] = {
    GLOBAL: (0.0, -0.151, -0.119),
    NECK: (0.0, -0.117, -0.112),
    JAW: (0.0, -0.0375, -0.0665),
}
_EYES_APART = 0.0629
_BETWEEN_EYES = (0.0, 0.020, 0.068)
#: How much larger or smaller than the open head a rig's skeleton may be.
_SIZES = (0.8, 1.25)
#: The face may look past +Z, or its top past +Y, by so much: cosine of 35°.
_STRAIGHT = 0.82
#: A unit that moves half of all vertices farther than this is no shape of the neutral, m.
_MOVED = 0.02
#: Radius of eyeballs, m; drawn rigs have large ones.
_BALL = (0.008, 0.022)
#: Colours of skin, eyeball, iris and pupil (sRGB), and how far from its axis the last two reach, degrees.
_SKIN, _WHITE = (0.78, 0.6, 0.51), (0.93, 0.91, 0.89)
_RINGS = ((20.0, (0.33, 0.23, 0.15)), (8.0, (0.03, 0.03, 0.03)))
#: So many names are listed in one line.
_LISTED = 12


class _Ball(NamedTuple):
    """An eyeball: centre (3,) m, radius m, and its vertices (V,)."""

    centre: Floats
    radius: float
    inside: Mask


def build_rig(neutral: Path, shapes: Path, *, say: Say) -> dict[str, Array]:
    """Make a head model of a neutral mesh and the shapes of the ARKit units.

    The shapes are the OBJ files in a folder that are named after units, in any case and with the sides
    written as ``Left``, ``_L`` and the like. Central units may come in halves (``browInnerUp_L``,
    ``browInnerUp_R``), which are added. Of the shapes only the vertices count, which have to be those of the
    neutral, in its order.

    The rig is brought to metres, by its size, and moved so that its eyes lie where the open head's do. The
    eye joints are the centres of the eyeballs, if there are separate balls, or else lie where the lids move;
    the other joints lie as in the open head. Only the eyeballs move with the eye joints. All the rest moves
    with the joint neck, and so with global, as one piece: jaw and lids are the units' business.

    Args:
        neutral: OBJ file of the face at rest, +Y up, looking along +Z.
        shapes: The folder.
        say: Called with a line for everything that the user should know.

    Returns:
        What ``HeadModel`` takes: ``v_template`` (V, 3), ``f`` (F, 3), ``shapedirs`` (V, 3, 0), ``exprdirs``
        (V, 3, 52) with ``expression_names``, ``posedirs`` (V, 3, 0), ``J_regressor`` (5, V), ``weights``
        (V, 5), ``kintree_table`` (2, 5), ``colors`` (V, 3), with texture coordinates ``uv`` (U, 2) and
        ``f_uv`` (F, 3), and with eyeballs ``region_eyeballs``, ``region_left_eyeball`` and
        ``region_right_eyeball`` (V,).

    Raises:
        InputError: A file cannot be read or does not fit the neutral, no file is named after a unit, two are
            named after the same, or the rig has no head's size or looks another way.
    """
    mesh = read_obj(neutral)
    files = _unit_files(shapes, neutral, say)
    scale = _scale(mesh.vertices, neutral, say)
    vertices = mesh.vertices * scale
    offsets = np.zeros((len(vertices), 3, len(ARKIT_NAMES)), np.float32)
    for unit, parts in files.items():
        for part in parts:
            offsets[:, :, unit] += _offset(part, mesh.vertices, neutral, scale)
    _check_direction(vertices, offsets, neutral, say)

    balls = _eyeballs(vertices, mesh.faces)
    eyes = [ball.centre for ball in balls] or _eyes_by_lids(vertices, offsets)
    if not balls:
        say(f"{shown(neutral)}: no separate eyeballs found: the eye joints are estimates, and move nothing")
    move = np.array(_BETWEEN_EYES) - np.mean(eyes, axis=0)
    joints = _joints([eye + move for eye in eyes])
    balls = [ball._replace(centre=ball.centre + move) for ball in balls]
    vertices = vertices + move
    return {
        "v_template": vertices.astype(np.float32),
        "f": mesh.faces,
        "shapedirs": np.zeros((len(vertices), 3, 0), np.float32),
        "exprdirs": offsets,
        "posedirs": np.zeros((len(vertices), 3, 0), np.float32),
        "expression_names": np.array(ARKIT_NAMES),
        "kintree_table": np.array([[-1, GLOBAL, NECK, NECK, NECK], range(len(JOINT_NAMES))]),
        "J_regressor": _regressor(vertices, joints, balls),
        "weights": _weights(len(vertices), balls),
        "colors": _colors(vertices, balls),
        **_texture(mesh),
        **_regions(balls),
    }


# ---- files ----


def _unit_files(folder: Path, neutral: Path, say: Say) -> dict[int, list[Path]]:
    """Return the files of each unit: one, or the two halves of a central one.

    Raises:
        InputError: It is no folder, none of its files is named after a unit, or two after the same.
    """
    found: dict[int, list[tuple[UnitName, Path]]] = {}
    unknown = []
    for path in _obj_files(folder, neutral):
        name = unit_name(path.stem)
        if name is None:
            unknown.append(path)
        else:
            found.setdefault(name.unit, []).append((name, path))
    if not found:
        raise InputError(
            f"{shown(folder)}: no OBJ file in it is named after an ARKit unit, such as jawOpen.obj"
        )
    chosen: dict[int, list[Path]] = {}
    for unit, named in sorted(found.items()):
        chosen[unit] = _chosen(unit, named, folder, say)
        unknown += [path for _, path in named if path not in chosen[unit]]
    _report(chosen, unknown, folder, say)
    return chosen


def _obj_files(folder: Path, neutral: Path) -> list[Path]:
    try:
        if not folder.is_dir():
            folder.stat()
            raise InputError(f"{shown(folder)}: is a file; the folder of the shapes is wanted")
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() == ".obj")
        return [path for path in paths if not path.name.startswith(".") and not _same(path, neutral)]
    except OSError as error:
        raise unreadable(folder, error) from error


def _same(path: Path, other: Path) -> bool:
    return path.exists() and path.samefile(other)


def _chosen(unit: int, named: Sequence[tuple[UnitName, Path]], folder: Path, say: Say) -> list[Path]:
    """Return one unit's files: the one that names it most plainly, or both halves."""
    parts = {half: _plainest(half, named, unit, folder) for half in ("", "Left", "Right")}
    if parts[""] is not None:
        return [parts[""]]
    halves = [path for half in ("Left", "Right") if (path := parts[half]) is not None]
    if len(halves) == 1:
        say(f"{shown(folder)}: only one half of {ARKIT_NAMES[unit]} is there: {shown(halves[0].name)}")
    return halves


def _plainest(half: str, named: Sequence[tuple[UnitName, Path]], unit: int, folder: Path) -> Path | None:
    same = [(name.left_out, path) for name, path in named if name.half == half]
    least = min((left_out for left_out, _ in same), default=0)
    plain = [path for left_out, path in same if left_out == least]
    if len(plain) > 1:
        both = " and ".join(shown(path.name) for path in plain[:2])
        raise InputError(f"{shown(folder)}: {both} are both named after {ARKIT_NAMES[unit]}; keep one")
    return plain[0] if plain else None


def _report(chosen: Mapping[int, Sequence[Path]], unknown: Sequence[Path], folder: Path, say: Say) -> None:
    missing = [name for unit, name in enumerate(ARKIT_NAMES) if unit not in chosen]
    if missing:
        say(f"{shown(folder)}: units without a file, which will do nothing: {_listed(missing)}")
    if unknown:
        names = [shown(path.name) for path in sorted(unknown)]
        say(f"{shown(folder)}: files that stand for no unit, left out: {_listed(names)}")


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _offset(path: Path, neutral: Floats, neutral_path: Path, scale: float) -> Floats:
    """Return what a shape moves, (V, 3) m.

    Raises:
        InputError: It is no shape of the neutral.
    """
    vertices = read_obj_vertices(path)
    if len(vertices) != len(neutral):
        raise InputError(
            f"{shown(path)}: has {len(vertices)} vertices, the neutral {shown(neutral_path.name)} has "
            f"{len(neutral)}; shapes of the same mesh are wanted"
        )
    offset = (vertices - neutral) * scale
    if np.median(np.linalg.norm(offset, axis=1)) > _MOVED:
        raise InputError(
            f"{shown(path)}: moves the whole mesh: its vertices are in another order, place or unit of "
            f"length than those of {shown(neutral_path.name)}"
        )
    return offset


# ---- size and direction ----


def _scale(vertices: Floats, neutral: Path, say: Say) -> float:
    """Return the file's unit of length, m.

    Raises:
        InputError: In none of the units is it as large as a head.
    """
    longest = float(np.ptp(vertices, axis=0).max())
    for name, metres in _UNITS_OF_LENGTH.items():
        if _LONGEST[0] <= longest * metres <= _LONGEST[1]:
            if metres != 1:
                say(f"{shown(neutral)}: taken for {name} ({longest:.3g} along its longest side)")
            return metres
    raise InputError(
        f"{shown(neutral)}: is {longest:.3g} long along its longest side, which is a head in none of "
        f"{', '.join(_UNITS_OF_LENGTH)}; scale it, and the shapes with it"
    )


def _check_direction(vertices: Floats, offsets: Array, neutral: Path, say: Say) -> None:
    """Refuse a head that does not look along +Z with +Y up, as what the units move tells.

    Eyes and brows lie above the mouth, and what the left units move lies to the subject's left.

    Raises:
        InputError: It stands otherwise.
    """
    upper = _moved_by(vertices, offsets, "eye", "brow")
    lower = _moved_by(vertices, offsets, "mouth", "jaw")
    sides = [_moved_by(vertices, offsets, "", end=side) for side in ("Left", "Right")]
    if upper is None or lower is None or sides[0] is None or sides[1] is None:
        say(f"{shown(neutral)}: too few units to tell which way it looks; +Y is taken for up, +Z for ahead")
        return
    up = _unit_vector(upper - lower)
    left = sides[0] - sides[1]
    ahead = np.cross(_unit_vector(left - up * (left @ up)), up)
    if up[1] < _STRAIGHT or ahead[2] < _STRAIGHT:
        raise InputError(
            f"{shown(neutral)}: by what its units move the face looks along {_axis(ahead)} with {_axis(up)} "
            "up, unless left and right are named the wrong way round; +Z with +Y up is wanted: turn it, and "
            "the shapes with it"
        )


def _moved_by(vertices: Floats, offsets: Array, *starts: str, end: str = "") -> Floats | None:
    """Return the middle of what some units move (3,) m, each unit counting alike; None if there are none."""
    middles = []
    for unit, name in enumerate(ARKIT_NAMES):
        if name.startswith(starts) and name.endswith(end):
            moved = np.linalg.norm(offsets[:, :, unit], axis=1).astype(np.float64)
            if moved.sum() > 0:
                middles.append(moved @ vertices / moved.sum())
    return np.mean(middles, axis=0) if middles else None


def _unit_vector(vector: Floats) -> Floats:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)


def _axis(direction: Floats) -> str:
    nearest = int(np.abs(direction).argmax())
    return f"{'-' if direction[nearest] < 0 else '+'}{'XYZ'[nearest]}"


# ---- eyes and joints ----


def _eyeballs(vertices: Floats, faces: Indices) -> list[_Ball]:
    """Return the left and the right eyeball, with whatever else lies on them, or nothing.

    An eyeball is a separate part of the mesh, a ball or at least its front half, of which there is another
    one beside it. Irises, pupils and corneas that are parts of their own belong to it: they lie on it and are
    round from in front. Eye sockets have a hole there, lids and lashes are not round.
    """
    parts = _parts(len(vertices), faces)
    balls = [ball for part in parts if (ball := _ball(vertices, part)) is not None]
    pairs = [(a, b) for a in balls for b in balls if _beside(a.centre, b.centre)]
    if not pairs:
        return []
    pair = max(pairs, key=lambda both: both[0].radius + both[1].radius)
    return [_with_parts(ball, vertices, parts) for ball in pair]


def _parts(count: int, faces: Indices) -> list[Indices]:
    """Return the connected parts of a mesh, each as its vertices' indices."""
    ends = np.roll(faces, 1, axis=1).ravel()
    graph = coo_array((np.ones(ends.size, bool), (faces.ravel(), ends)), shape=(count, count))
    _, labels = connected_components(graph, directed=False)
    order = np.argsort(labels, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(labels[order])) + 1)


def _ball(vertices: Floats, part: Indices) -> _Ball | None:
    """Return a part as an eyeball, if it is one: by the sphere that lies nearest to it (least squares)."""
    points = vertices[part]
    if len(points) < 20:
        return None
    system = np.column_stack([2 * points, np.ones(len(points))])
    solution = np.linalg.lstsq(system, (points**2).sum(1), rcond=None)[0]
    centre = solution[:3]
    radius = float(np.sqrt(max(solution[3] + centre @ centre, 0.0)))
    if not _BALL[0] <= radius <= _BALL[1]:
        return None
    away = np.abs(np.linalg.norm(points - centre, axis=1) - radius) / radius
    wide, high, deep = np.ptp(points, axis=0) / radius
    # A cornea bulges, so not all of it has to lie on the sphere.
    if np.quantile(away, 0.9) > 0.15 or min(wide, high) < 1.6 or deep < 0.7:
        return None
    if not _reaches_front(points - centre):
        return None
    inside = np.zeros(len(vertices), bool)
    inside[part] = True
    return _Ball(centre, radius, inside)


def _reaches_front(from_centre: Floats) -> bool:
    """Tell whether something of a part lies straight ahead of an eye's centre, within 25°."""
    distance = np.linalg.norm(from_centre, axis=1)
    return bool((from_centre[:, 2] > 0.906 * distance).any())


def _beside(left: Floats, right: Floats) -> bool:
    apart = left - right
    return bool(0.04 < apart[0] < 0.1 and np.abs(apart[1:]).max() < 0.008)


def _with_parts(ball: _Ball, vertices: Floats, parts: Sequence[Indices]) -> _Ball:
    inside = ball.inside.copy()
    for part in parts:
        points = vertices[part] - ball.centre
        distance = np.linalg.norm(points, axis=1) / ball.radius
        if distance.max() > 1.3 or distance.mean() > 1.15:
            continue
        low, high = points[:, :2].min(0), points[:, :2].max(0)
        size, middle = high - low, np.linalg.norm(high + low) / 2
        round_ = size.max() < 1.25 * size.min() and middle < 0.35 * ball.radius
        if round_ and _reaches_front(points):
            inside[part] = True
    return ball._replace(inside=inside)


def _eyes_by_lids(vertices: Floats, offsets: Array) -> list[Floats]:
    """Return where the eyes are, left and right (3,) m, behind what the lids' units move.

    Without such units: as far from the top and the front of the mesh as in the open head.
    """
    middles = [
        _moved_by(vertices, offsets, "eyeBlink", "eyeWide", "eyeSquint", end=s) for s in ("Left", "Right")
    ]
    if middles[0] is not None and middles[1] is not None:
        return [middle - np.array([0.0, 0.0, 0.005]) for middle in middles if middle is not None]
    low, high = vertices.min(0), vertices.max(0)
    between = np.array([(low[0] + high[0]) / 2, high[1] - 0.119, high[2] - 0.047])
    return [between + np.array([side * _EYES_APART / 2, 0.0, 0.0]) for side in (1, -1)]


def _joints(eyes: Sequence[Floats]) -> Floats:
    """Return the joints (5, 3) m, given the eyes."""
    size = float(np.clip(np.linalg.norm(eyes[0] - eyes[1]) / _EYES_APART, *_SIZES))
    joints = np.zeros((len(JOINT_NAMES), 3))
    for joint, place in _FROM_EYES.items():
        joints[joint] = np.mean(eyes, axis=0) + size * np.array(place)
    joints[LEFT_EYE], joints[RIGHT_EYE] = eyes
    return joints


def _regressor(vertices: Floats, joints: Floats, balls: Sequence[_Ball]) -> npt.NDArray[np.float32]:
    """Return the regressor (5, V): the eyes from their balls, the others from all vertices."""
    regressor = np.zeros((len(joints), len(vertices)))
    for joint, place in enumerate(joints):
        ball = balls[joint - LEFT_EYE] if balls and joint >= LEFT_EYE else None
        chosen = np.ones(len(vertices), bool) if ball is None else ball.inside
        # The smallest weights that add up to 1 and give the joint.
        system = np.column_stack([vertices[chosen], np.ones(chosen.sum())]).T
        regressor[joint, chosen] = np.linalg.lstsq(system, np.append(place, 1.0), rcond=None)[0]
    return regressor.astype(np.float32)


def _weights(count: int, balls: Sequence[_Ball]) -> npt.NDArray[np.float32]:
    weights = np.zeros((count, len(JOINT_NAMES)), np.float32)
    weights[:, NECK] = 1
    for joint, ball in zip((LEFT_EYE, RIGHT_EYE), balls, strict=False):
        weights[ball.inside] = np.eye(len(JOINT_NAMES))[joint]
    return weights


# ---- looks ----


def _colors(vertices: Floats, balls: Sequence[_Ball]) -> npt.NDArray[np.float32]:
    colors = np.tile(np.array(_SKIN, np.float32), (len(vertices), 1))
    for ball in balls:
        from_centre = vertices - ball.centre
        ahead = np.degrees(np.arctan2(np.hypot(from_centre[:, 0], from_centre[:, 1]), from_centre[:, 2]))
        colors[ball.inside] = _WHITE
        for reach, color in _RINGS:
            colors[ball.inside & (ahead < reach)] = color
    return colors


def _texture(mesh: ObjMesh) -> dict[str, Array]:
    if mesh.uv is None or mesh.faces_uv is None:
        return {}
    return {"uv": mesh.uv.astype(np.float32), "f_uv": mesh.faces_uv}


def _regions(balls: Sequence[_Ball]) -> dict[str, Array]:
    if not balls:
        return {}
    left, right = (ball.inside for ball in balls)
    return {
        "region_eyeballs": left | right,
        "region_left_eyeball": left,
        "region_right_eyeball": right,
    }
