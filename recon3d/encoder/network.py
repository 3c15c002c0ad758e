"""The image encoder: a cut-out of a face in, identity, expression and pose out.

A trunk (``FaceTrunk``) sees the cut-out; the face stage's landmarks tell where eyes, mouth and nose are, and
there the trunk's fine map is read closely: its coarse ones do not tell where an eye looks. What all of them
found first corrects the landmarks, because the head model's own ones tell most of an expression; with these
it is mixed once more, and read out. The idea of regressing a head model's parameters with separate care for
the expression is SMIRK's (G. Retsinas et al., 3D Facial Expressions through Analysis-by-Neural-Synthesis,
2024).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon3d.conventions import ARKIT_NAMES, FRONTAL
from recon3d.encoder.crop import CROP_SIZE
from recon3d.encoder.trunk import WIDTHS, FaceMaps, FaceTrunk, PReLU

#: Corners of the eyes, that tell a face's size.
_CORNERS = (33, 263)
#: Landmarks that expressions move little: nose and cheekbones.
_STILL = (6, 1, 50, 280)


class Window(NamedTuple):
    """A part of the face that is looked at closely.

    Attributes:
        points: Dense landmarks around its middle.
        rows: Places down, and ...
        columns: ... across, at which the map is read.
        width: In parts of the distance between the outer eye corners.
    """

    points: tuple[int, ...]
    rows: int
    columns: int
    width: float


#: Each eye with its brow, the mouth, nose and cheeks, jaw and chin.
WINDOWS = (
    Window((33, 133, 159, 145, 105, 52), 8, 8, 0.62),
    Window((263, 362, 386, 374, 334, 282), 8, 8, 0.62),
    Window((61, 291, 0, 17, 13, 14), 8, 12, 1.15),
    Window((4, 168, 50, 280), 8, 12, 1.3),
    Window((152, 17), 6, 12, 1.6),
)
#: Channels of the map that windows are cut out of, and of the two coarsest maps, with their cells.
_FINE, _COARSE, _CELLS = WIDTHS[2], WIDTHS[-1], (16, 4)
#: Numbers of each window's part of the fine map, and of the coarse maps together; of all.
_SIZES = [*(_FINE * window.rows * window.columns for window in WINDOWS), _COARSE * sum(_CELLS)]
MAPS = sum(_SIZES)


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder.

    Attributes:
        shapes: Identity coefficients that it tells.
        mixed: Numbers that hold all that was seen.
        channels: That the fine map's are made fewer to.
        eye: Numbers that the close look at an eye gives, ...
        mouth: ... that at the mouth, ...
        middle: ... that at nose and cheeks, ...
        jaw: ... that at the jaw, ...
        coarse: ... that the coarse maps give, and ...
        points: ... the landmarks.
        dropout: Share of the numbers that training leaves out at random.
        noise: What training adds to each of the trunk's numbers at random, in parts of its usual spread: on
            photographs the trunk sees what it never saw in renders.
    """

    shapes: int = 60
    mixed: int = 512
    channels: int = 32
    eye: int = 160
    mouth: int = 256
    middle: int = 192
    jaw: int = 96
    coarse: int = 128
    points: int = 256
    dropout: float = 0.1
    noise: float = 0.0


class Encoded(NamedTuple):
    """What the encoder tells of B faces.

    Attributes:
        expression: (B,52) ARKit units in [0,1].
        expression_spread: (B,52) logarithm of the variance that it expects of its error.
        shape: (B,S) identity coefficients, standard deviations.
        shape_spread: (B,S) as above.
        rotation: (B,3,3) head to camera, the camera's axis through the middle of the cut-out.
        place: (B,3) where the head's origin lies, x and y, and how large a metre is there; in parts of the
            cut-out's side. Weak perspective.
        presence: (B,) logit that there is a face.
        landmarks: (B,478,3) the head model's dense landmarks, in parts of the cut-out's side.
    """

    expression: Tensor
    expression_spread: Tensor
    shape: Tensor
    shape_spread: Tensor
    rotation: Tensor
    place: Tensor
    presence: Tensor
    landmarks: Tensor


class EncoderNetwork(nn.Module):
    """The encoder."""

    def __init__(self, config: EncoderConfig | None = None) -> None:
        """Build it with random weights."""
        super().__init__()
        self.config = config = config or EncoderConfig()
        self.trunk, self.maps = FaceTrunk(), Usual(MAPS)
        told = (config.eye, config.eye, config.mouth, config.middle, config.jaw)
        looks = zip(WINDOWS, told, strict=True)
        self.looks = nn.ModuleList(
            [CloseLook(window, config.channels, count, config.dropout) for window, count in looks]
        )
        self.coarse = nn.Sequential(nn.Linear(_SIZES[-1], config.coarse), nn.PReLU(config.coarse))
        self.gather = nn.Sequential(Usual(_POINTS), nn.Linear(_POINTS, config.points))
        widths = (*told, config.coarse, config.points)
        # Each by itself, so that none drowns the others.
        self.level = nn.ModuleList([nn.LayerNorm(width) for width in widths])
        mixed = config.mixed
        self.mix = nn.Sequential(nn.Dropout(config.dropout), nn.Linear(sum(widths), mixed), nn.PReLU(mixed))
        self.correct = nn.Linear(mixed, _POINTS)
        self.judge = nn.Sequential(
            nn.Linear(mixed + config.points, mixed), nn.PReLU(mixed), nn.Dropout(config.dropout),
            nn.Linear(mixed, mixed), nn.PReLU(mixed),
        )  # fmt: skip
        units = len(ARKIT_NAMES)
        self._parts = (units, units, config.shapes, config.shapes, 6, 3, 1)
        self.out = nn.Linear(config.mixed, sum(self._parts))
        self._start_calm()

    def _start_calm(self) -> None:
        """Begin near a face at rest that looks into the camera."""
        for layer in (self.out, self.correct):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        with torch.no_grad():
            units = self._parts[0]
            self.out.bias[:units] = -2.0
            self.out.bias[units : 2 * units] = -3.5

    def forward(self, images: Tensor | None, points: Tensor, maps: Tensor | None = None) -> Encoded:
        """Look at faces.

        Args:
            images: (B,3,256,256) RGB in [0,1], cut out by ``recon3d.encoder.crop.face_region``; not needed
                beside ``maps``.
            points: (B,478,3) dense landmarks in parts of the cut-out's side; z on the same scale.
            maps: What ``trunk_maps`` tells of them, where that is known already.
        """
        if maps is None:
            assert images is not None
            maps = self.trunk_maps(images, points)
        maps = self.maps(maps)
        if self.training and self.config.noise:
            maps = maps + self.config.noise * torch.randn_like(maps)
        frame = FaceFrame.of(points)
        spread = frame.enter(points)
        *fine, coarse = maps.split(_SIZES, dim=1)
        seen = [look(part) for look, part in zip(self.looks, fine, strict=True)]
        sees = (*seen, self.coarse(coarse), self.gather(spread))
        mixed = self.mix(torch.cat([level(x) for level, x in zip(self.level, sees, strict=True)], dim=1))
        corrected = spread + self.correct(mixed)
        values = self.out(self.judge(torch.cat((mixed, self.gather(corrected)), dim=1))).float()
        expression, trust, shape, shape_trust, turn, place, here = values.split(self._parts, dim=1)
        return Encoded(
            expression=torch.sigmoid(expression),
            expression_spread=trust.clamp(-10, 1),
            shape=shape * 4,
            shape_spread=shape_trust.clamp(-6, 3),
            rotation=_rotation(turn),
            place=place,
            presence=here[:, 0],
            landmarks=frame.leave(corrected),
        )

    def settle(self, maps: Tensor, points: Tensor) -> None:
        """Before training: see what the trunk's maps (n,MAPS) and landmarks (n,478,3) usually are."""
        self.maps.settle(maps)
        self.gather[0].settle(FaceFrame.of(points).enter(points))  # type: ignore[operator]

    def trunk_maps(self, images: Tensor, points: Tensor) -> Tensor:
        """Return what the trunk sees, (B,MAPS): its fine map in each window, then its coarsest ones."""
        return self.windows(self.trunk(images), points)

    def windows(self, maps: FaceMaps, points: Tensor) -> Tensor:
        """Return of a trunk's maps what is read, (B,MAPS): as ``trunk_maps``."""
        unit = _unit(points).clamp_min(_LEAST_UNIT)
        fine = [_cut(maps.stride8, points[:, window.points, :2].mean(1), unit, window) for window in WINDOWS]
        return torch.cat([part.flatten(1) for part in (*fine, maps.stride64, maps.stride128)], dim=1)


#: Numbers that the landmarks give: x, y and z of each.
_POINTS = 478 * 3


class Usual(nn.Module):
    """Measures numbers by how far they are from what they usually are.

    The trunk's channels are of very different size, and most of what they tell, as most of what landmarks
    tell, is that there is a face.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, size: int) -> None:
        """Leave numbers as they are until ``settle``."""
        super().__init__()
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("spread", torch.ones(size))

    def settle(self, numbers: Tensor) -> None:
        """Look at the numbers (n,size) of many faces."""
        self.mean.copy_(numbers.mean(0))
        self.spread.copy_(numbers.std(0) + _LEAST_SPREAD)

    def forward(self, numbers: Tensor) -> Tensor:
        """Measure numbers (B,size); what no face shows does not count more the stranger it is."""
        return ((numbers - self.mean) / self.spread).clamp(-_MOST, _MOST)


#: That numbers have at least; of the trunk's, the half spread by more than 0.3.
_LEAST_SPREAD = 0.01
#: Spreads away from the usual, at most.
_MOST = 10.0


class CloseLook(nn.Module):
    """Reads the fine map in a window: every place with the same weights first, then all places together."""

    def __init__(self, window: Window, channels: int, told: int, dropout: float) -> None:
        """Build with random weights; ``told`` numbers come out."""
        super().__init__()
        self._size = (_FINE, window.rows, window.columns)
        self.reduce = nn.Sequential(nn.Conv2d(_FINE, channels, 1), PReLU(channels))
        self.tell = nn.Sequential(
            nn.Dropout(dropout), nn.Linear(channels * window.rows * window.columns, told), nn.PReLU(told)
        )

    def forward(self, part: Tensor) -> Tensor:
        """Read (B,n) numbers of the map, usual ones around zero; return (B,told)."""
        told: Tensor = self.tell(self.reduce(part.unflatten(1, self._size)).flatten(1))
        return told


def _cut(fine: Tensor, middle: Tensor, unit: Tensor, window: Window) -> Tensor:
    """Read a map (B,C,h,w) in a window around points (B,2) of faces of size ``unit`` (B,).

    Points and sizes are in parts of the cut-out. Returns (B,C,rows,columns).
    """
    y = (torch.arange(window.rows, device=fine.device) + 0.5 - 0.5 * window.rows) / window.columns
    x = (torch.arange(window.columns, device=fine.device) + 0.5) / window.columns - 0.5
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (rows,columns,2)
    places = middle[:, None, None] + grid * (unit * window.width)[:, None, None, None]
    return F.grid_sample(fine, (places * 2 - 1).to(fine.dtype), padding_mode="border", align_corners=False)


#: Smallest size of a face, in parts of its cut-out: landmarks of nothing may all fall together.
_LEAST_UNIT = 0.03


def _unit(points: Tensor) -> Tensor:
    """Size (B,) of faces with landmarks (B,478,3): the distance of the outer eye corners.

    A face turned aside shows its eyes close together; its height then tells its size.
    """
    wide = (points[:, _CORNERS[1], :2] - points[:, _CORNERS[0], :2]).norm(dim=1)
    tall = (points[:, 152, :2] - points[:, 10, :2]).norm(dim=1)
    return torch.maximum(wide, 0.5 * tall)


@dataclass(frozen=True, eq=False)
class FaceFrame:
    """Where faces lie in their cut-outs and how large they are, so that landmarks become numbers around zero.

    Attributes:
        middle: (B,1,3) between nose and cheekbones.
        unit: (B,1,1) half of the face's size.
    """

    middle: Tensor
    unit: Tensor

    @staticmethod
    def of(points: Tensor) -> FaceFrame:
        """Take it from landmarks (B,478,3)."""
        unit = _unit(points).clamp_min(0.02)[:, None, None] / 2
        return FaceFrame(points[:, list(_STILL)].mean(1, keepdim=True), unit)

    def enter(self, points: Tensor) -> Tensor:
        """Landmarks (B,478,3) in parts of the cut-out to (B,1434)."""
        return ((points - self.middle) / self.unit).flatten(1)

    def leave(self, numbers: Tensor) -> Tensor:
        """The way back."""
        return numbers.unflatten(1, (-1, 3)) * self.unit + self.middle


def _rotation(six: Tensor) -> Tensor:
    """Turn six numbers into a rotation (Y. Zhou et al., On the Continuity of Rotation Representations, 2019).

    Zeros are a face that looks into the camera.
    """
    frontal = torch.tensor(FRONTAL, dtype=six.dtype, device=six.device)
    first = F.normalize(six[:, :3] + frontal[:, 0], dim=1)
    second = six[:, 3:] + frontal[:, 1]
    second = F.normalize(second - (first * second).sum(1, keepdim=True) * first, dim=1)
    return torch.stack((first, second, torch.linalg.cross(first, second)), dim=2)


def images_of(pixels: Tensor) -> Tensor:
    """Turn cut-outs (B,256,256,3) uint8 into what the network reads: float, channels first, [0,1]."""
    assert pixels.shape[1:] == (CROP_SIZE, CROP_SIZE, 3)
    return pixels.permute(0, 3, 1, 2).float().div_(255)
