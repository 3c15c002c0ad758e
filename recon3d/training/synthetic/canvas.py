"""Where things lie on a face: a plane to paint on, wrapped around the template like a label around a bottle.

Painting happens in a picture of this plane; each pixel of a render looks its colour up there. The curves
(brows, lids, folds of the skin) come from the dense landmarks of the head model, so that any head with the
same landmarks can be painted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from recon3d.head import HeadModel

#: Half the plane's width and height, m; texels each way.
HALF_WIDTH, HALF_HEIGHT, SIDE = 0.15, 0.125, 256
#: How far around a curve its texels reach, m.
_NEAR = 0.015
#: Radius of the bottle, m.
_RADIUS = 0.09

#: Dense landmarks along each curve, on the subject's right; ``_LEFT`` are their mirror images.
_RIGHT = {
    "brow_upper": (107, 66, 105, 63, 70),
    "brow_lower": (55, 65, 52, 53, 46),
    "upper_lid": (133, 173, 157, 158, 159, 160, 161, 246, 33),
    "lower_lid": (133, 155, 154, 153, 145, 144, 163, 7, 33),
    "nasolabial": (129, 203, 206, 216, 57),
    "nose_side": (168, 122, 196, 236),
}
_LEFT = {
    "brow_upper": (336, 296, 334, 293, 300),
    "brow_lower": (285, 295, 282, 283, 276),
    "upper_lid": (362, 398, 384, 385, 386, 387, 388, 466, 263),
    "lower_lid": (362, 382, 381, 380, 374, 373, 390, 249, 263),
    "nasolabial": (358, 423, 426, 436, 287),
    "nose_side": (168, 351, 419, 456),
}
_SIDES = {"Right": _RIGHT, "Left": _LEFT}
_CHEEKS, _NOSE_TIP, _CHIN, _MOUTH = (50, 280), 1, 152, (0, 17, 61, 291)


@dataclass(frozen=True, eq=False)
class Curve:
    """A curve on the plane, as seen from the texels around it.

    Attributes:
        window: Rows and columns of the texels near it.
        along: (h,w) how far along the curve each one's nearest point lies, [0,1].
        off: (h,w) distance to it, m; positive above.
    """

    window: tuple[slice, slice]
    along: Tensor
    off: Tensor


@dataclass(frozen=True, eq=False)
class Canvas:
    """The plane and what lies where on it.

    Attributes:
        coordinates: (V,2) each vertex's place on the plane, m.
        places: (S,S,2) each texel's place, m.
        brows: Middle line of each brow, from the nose outward; by side.
        upper_lids: Edge of each upper lid; by side.
        lower_lids: Edge of each lower lid; by side.
        wrinkles: Folds that appear with expressions: units that bring them, and the curve.
        cheeks: (S,S) round the cheeks, [0,1].
        nose: (S,S) round the tip of the nose.
        under_eyes: (S,S) below the lower lids.
        lid_skin: (S,S) between upper lids and brows.
        moustache: (S,S), and ...
        chin: (S,S), and ...
        jaw: (S,S): where a beard grows.
        scalp: (S,S) where a shaven head shows hair.
    """

    coordinates: Tensor
    places: Tensor
    brows: dict[str, Curve]
    upper_lids: dict[str, Curve]
    lower_lids: dict[str, Curve]
    wrinkles: tuple[tuple[tuple[str, ...], Curve], ...]
    cheeks: Tensor
    nose: Tensor
    under_eyes: Tensor
    lid_skin: Tensor
    moustache: Tensor
    chin: Tensor
    jaw: Tensor
    scalp: Tensor

    @staticmethod
    def of(head: HeadModel) -> Canvas:
        """Prepare the plane of a head model with the dense landmarks."""
        points = unroll(head.landmarks(head.v_template[None], "mediapipe478")[0])
        places = _places()
        lines = {
            side: {name: points[list(index)] for name, index in table.items()}
            for side, table in _SIDES.items()
        }
        lids = {name: {s: _curve(places, lines[s][name]) for s in _SIDES} for name in _LIDS}
        brows = {s: (lines[s]["brow_upper"] + lines[s]["brow_lower"]) / 2 for s in _SIDES}
        return Canvas(
            coordinates=unroll(head.v_template),
            places=places,
            brows={s: _curve(places, line) for s, line in brows.items()},
            upper_lids=lids["upper_lid"],
            lower_lids=lids["lower_lid"],
            wrinkles=tuple(_wrinkles(places, lines, points)),
            cheeks=_blobs(places, points[list(_CHEEKS)], 0.022, 0.018),
            nose=_blobs(places, points[[_NOSE_TIP]], 0.016, 0.014),
            under_eyes=_blobs(places, _below(lines), 0.016, 0.006),
            lid_skin=_lid_skin(lids["upper_lid"], brows, places),
            **_beard(places, points),
            scalp=_scalp(places, points),
        )


_LIDS = ("upper_lid", "lower_lid")


def unroll(points: Tensor) -> Tensor:
    """Place points (N,3), head space, on the plane: (N,2) m."""
    x, y, z = points.unbind(-1)
    return torch.stack((torch.atan2(x, z.clamp_min(0) + 0.3 * z.clamp_max(0)) * _RADIUS, y), dim=-1)


def lookup(canvas: Tensor, places: Tensor) -> Tensor:
    """Look pictures of the plane (C,S,S) up at places (n,2) m: (n,C)."""
    grid = places / places.new_tensor((HALF_WIDTH, -HALF_HEIGHT))
    found = torch.nn.functional.grid_sample(
        canvas[None], grid[None, None], padding_mode="border", align_corners=False
    )
    return found[0, :, 0].T


def _places() -> Tensor:
    steps = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    v, u = torch.meshgrid(-steps * HALF_HEIGHT, steps * HALF_WIDTH, indexing="ij")
    return torch.stack((u, v), dim=-1)


def _curve(places: Tensor, line: Tensor) -> Curve:
    """See a curve through points (n,2) from the texels around it."""
    low, high = line.amin(0) - _NEAR, line.amax(0) + _NEAR
    near = ((places > low) & (places < high)).all(-1)
    rows, columns = (torch.nonzero(near.any(k))[:, 0].tolist() for k in (1, 0))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    places = places[window]
    start, step = line[:-1], line[1:] - line[:-1]
    length = step.norm(dim=1)
    away = places[:, :, None] - start  # (S,S,n-1,2)
    part = ((away * step).sum(-1) / length.square()).clamp(0, 1)
    distance = (away - part[..., None] * step).norm(dim=-1)
    nearest = distance.argmin(-1, keepdim=True)
    before = torch.cat((length.new_zeros(1), length.cumsum(0)))
    along = (before[:-1] + part * length) / before[-1]
    # Above the curve, whichever way it runs.
    cross = step[:, 0] * away[..., 1] - step[:, 1] * away[..., 0]
    side = torch.where(step[:, 0] > 0, cross, -cross).gather(-1, nearest)[..., 0].sign()
    off = distance.gather(-1, nearest)[..., 0] * side
    return Curve(window, along.gather(-1, nearest)[..., 0], off)


def _blobs(places: Tensor, centres: Tensor, width: float, height: float) -> Tensor:
    away = (places[:, :, None] - centres) / places.new_tensor((width, height))
    return torch.exp(-away.square().sum(-1)).amax(-1)


def _below(lines: dict[str, dict[str, Tensor]]) -> Tensor:
    down = torch.tensor((0.0, -0.007))
    return torch.stack([line["lower_lid"].mean(0) + down for line in lines.values()])


def _lid_skin(lids: dict[str, Curve], brows: dict[str, Tensor], places: Tensor) -> Tensor:
    found = torch.zeros(SIDE, SIDE)
    for curve in lids.values():
        above = (curve.off / 0.003).clamp(0, 1) * (1 - (curve.off / 0.014)).clamp(0, 1)
        within = torch.sigmoid((curve.along - 0.02) * 60) * torch.sigmoid((0.98 - curve.along) * 60)
        part = found[curve.window]
        part.copy_(torch.maximum(part, above * within))
    return found


def _beard(places: Tensor, points: Tensor) -> dict[str, Tensor]:
    """Soft masks of where hair grows on the face."""
    u, v = places.unbind(-1)
    upper, lower, right, left = points[list(_MOUTH)]
    half = (left[0] - right[0]) / 2
    soft = 0.004

    def ramp(x: Tensor) -> Tensor:
        return torch.sigmoid(x / soft)

    over = ramp(v - upper[1] + 0.001) * ramp(upper[1] + 0.012 - v) * ramp(half + 0.004 - u.abs())
    corner = ramp(v - lower[1] - 0.002) * ramp(upper[1] - v) * ramp(half + 0.012 - u.abs())
    corner = corner * ramp(u.abs() - half - 0.003)
    chin = ramp(lower[1] - 0.004 - v) * ramp(half * 1.15 - u.abs())
    # The cheek's border runs from beside the mouth up to the ears.
    border = lower[1] + 0.012 + (u.abs() - half).clamp_min(0) * 0.55
    jaw = ramp(border - v) * ramp(u.abs() - half - 0.006) * ramp(0.125 - u.abs())
    # Under the jaw, which rises toward the ears, the neck begins.
    under = torch.sigmoid((v - points[_CHIN, 1] + 0.012 - (u.abs() - 0.03).clamp_min(0) * 0.4) / 0.008)
    chin, jaw = chin * under, jaw * under
    moustache = torch.maximum(over, corner * 0.9)
    return {"moustache": moustache, "chin": chin, "jaw": jaw}


def _scalp(places: Tensor, points: Tensor) -> Tensor:
    u, v = places.unbind(-1)
    forehead = points[10, 1] + 0.012
    line = forehead - ((u.abs() - 0.05).clamp_min(0) * 1.6)
    return torch.sigmoid((v - line) / 0.004)


def _wrinkles(
    places: Tensor, lines: dict[str, dict[str, Tensor]], points: Tensor
) -> Sequence[tuple[tuple[str, ...], Curve]]:
    """Folds and the units that deepen them."""
    found: list[tuple[tuple[str, ...], Curve]] = []
    for side, table in lines.items():
        sign = 1.0 if side == "Left" else -1.0
        found.append(
            ((f"mouthSmile{side}", f"noseSneer{side}", f"mouthUpperUp{side}", f"cheekSquint{side}"),
             _curve(places, table["nasolabial"]))
        )  # fmt: skip
        outer = table["upper_lid"][-1]
        for rise in (0.006, 0.0, -0.006):
            ends = torch.stack((outer + torch.tensor((sign * 0.006, rise * 0.5)),
                                outer + torch.tensor((sign * 0.02, rise * 1.6))))  # fmt: skip
            found.append(
                ((f"mouthSmile{side}", f"eyeSquint{side}", f"cheekSquint{side}"), _curve(places, ends))
            )
        found.append(((f"noseSneer{side}",), _curve(places, table["nose_side"])))
        bag = table["lower_lid"][1:-1] + torch.tensor((0.0, -0.006))
        found.append(((f"eyeSquint{side}", f"cheekSquint{side}"), _curve(places, bag)))
        frown = torch.stack((points[9] + torch.tensor((sign * 0.006, 0.008)),
                             points[9] + torch.tensor((sign * 0.007, -0.012))))  # fmt: skip
        found.append(((f"browDown{side}",), _curve(places, frown)))
        dimple = points[291 if side == "Left" else 61] + torch.tensor((sign * 0.006, 0.0))
        sides = torch.stack((dimple + torch.tensor((0.0, 0.007)), dimple - torch.tensor((0.0, 0.007))))
        found.append(((f"mouthDimple{side}", f"mouthSmile{side}"), _curve(places, sides)))
        for height in (0.016, 0.026):
            arc = table["brow_upper"][1:4] + torch.tensor((0.0, height - 0.004))
            found.append(((f"browOuterUp{side}",), _curve(places, arc)))
    for height in (0.0, 0.01, 0.02):
        across = torch.stack(
            [points[9] + torch.tensor((x, 0.012 + height - abs(x) * 0.1)) for x in (-0.03, 0.0, 0.03)]
        )
        found.append((("browInnerUp",), _curve(places, across)))
    below = torch.stack(
        [points[_MOUTH[1]] + torch.tensor((x, -0.009 - abs(x) * 0.2)) for x in (-0.015, 0.0, 0.015)]
    )
    found.append((("mouthShrugLower", "mouthPressLeft", "mouthPressRight"), _curve(places, below)))
    return found
