"""The image encoder: a cut-out of a face in, identity, expression and pose out.

A trunk (``FaceTrunk``) sees the whole cut-out; the face stage's landmarks tell where eyes, mouth and nose
are, and small networks look at those closely, where the trunk's coarse maps are blind. What all of them
found first corrects the landmarks, because the head model's own ones tell most of an expression; with these
it is mixed once more, and read out. The idea of regressing a head
model's parameters with separate care for the expression is SMIRK's (G. Retsinas et al., 3D Facial
Expressions through Analysis-by-Neural-Synthesis, 2024).
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon3d.conventions import ARKIT_NAMES, FRONTAL
from recon3d.encoder.trunk import CROP_SIZE, WIDTHS, FaceMaps, FaceTrunk

#: Dense landmarks around each eye and the mouth, and the corners that tell a face's size.
_RIGHT_EYE = (33, 133, 159, 145, 158, 153)
_LEFT_EYE = (263, 362, 386, 374, 385, 380)
_MOUTH = (61, 291, 0, 17, 13, 14)
#: Between the brows, and the tip of the nose.
_MIDDLE = (9, 4)
_CORNERS = (33, 263)
#: Landmarks that expressions move little: nose and cheekbones.
_STILL = (6, 1, 50, 280)
#: Heights and widths of the close looks, px.
EYE_SIZE, MOUTH_SIZE, MIDDLE_SIZE = (48, 64), (64, 96), (80, 96)
#: What they show, in parts of the distance between the outer eye corners: width.
_EYE_WIDTH, _MOUTH_WIDTH, _MIDDLE_WIDTH = 0.75, 1.15, 1.4


@dataclass(frozen=True)
class EncoderConfig:
    """Sizes of the encoder.

    Attributes:
        shapes: Identity coefficients that it tells.
        mixed: Numbers that hold all that was seen.
        eye: Numbers that the look at an eye gives, and ...
        mouth: ... at the mouth, and ...
        middle: ... at brows, nose and cheeks.
        points: Numbers that landmarks are made fewer to.
    """

    shapes: int = 60
    mixed: int = 512
    eye: int = 128
    mouth: int = 192
    middle: int = 128
    points: int = 256


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
        self.trunk, self.face = FaceTrunk(), MapReader()
        self.eye = CloseLook(EYE_SIZE, (24, 48, 96), config.eye)
        self.mouth = CloseLook(MOUTH_SIZE, (24, 48, 96, 128), config.mouth)
        self.middle = CloseLook(MIDDLE_SIZE, (24, 48, 96, 128), config.middle)
        self.gather = nn.Sequential(Usual(_POINTS), nn.Linear(_POINTS, config.points))
        widths = (
            *self.face.widths, config.eye, config.eye, config.mouth, config.middle, config.points,
        )  # fmt: skip
        # Each by itself: the trunk's numbers are a hundred times as large as the others.
        self.level = nn.ModuleList([nn.LayerNorm(width) for width in widths])
        mixed = config.mixed
        self.mix = nn.Sequential(nn.Dropout(0.1), nn.Linear(sum(widths), mixed), nn.PReLU(mixed))
        self.correct = nn.Linear(mixed, _POINTS)
        self.judge = nn.Sequential(
            nn.Linear(mixed + config.points, mixed), nn.PReLU(mixed), nn.Dropout(0.1),
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

    def forward(self, images: Tensor, points: Tensor, maps: Tensor | None = None) -> Encoded:
        """Look at faces.

        Args:
            images: (B,3,256,256) RGB in [0,1], cut out by ``recon3d.encoder.crop.face_region``.
            points: (B,478,3) dense landmarks in parts of the cut-out's side; z on the same scale.
            maps: What ``trunk_maps`` tells of the images, where that is known already.
        """
        maps = self.trunk_maps(images) if maps is None else maps
        frame = FaceFrame.of(points)
        spread = frame.enter(points)
        sees = (*self.face(maps), *self._close(images, points * CROP_SIZE), self.gather(spread))
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
        """Before training: see what the trunk's maps (n,SIZE) and landmarks (n,478,3) usually are."""
        self.face.usual.settle(maps)
        self.gather[0].settle(FaceFrame.of(points).enter(points))  # type: ignore[operator]

    def trunk_maps(self, images: Tensor) -> Tensor:
        """Return what the trunk sees in (B,3,256,256), as (B,``MapReader.SIZE``)."""
        return MapReader.pooled(self.trunk(images))

    def _close(self, images: Tensor, points: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the close looks tell of the right eye, the left one, mirrored, the mouth and the middle."""
        unit = _unit(points).clamp_min(8)
        right = _window(images, points[:, _RIGHT_EYE, :2].mean(1), unit * _EYE_WIDTH, EYE_SIZE)
        left = _window(images, points[:, _LEFT_EYE, :2].mean(1), unit * _EYE_WIDTH, EYE_SIZE).flip(3)
        mouth = _window(images, points[:, _MOUTH, :2].mean(1), unit * _MOUTH_WIDTH, MOUTH_SIZE)
        middle = _window(images, points[:, _MIDDLE, :2].mean(1), unit * _MIDDLE_WIDTH, MIDDLE_SIZE)
        first, second = self.eye(torch.cat((right, left))).chunk(2)
        return first, second, self.mouth(mouth), self.middle(middle)


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


class MapReader(nn.Module):
    """Makes the trunk's maps few enough to be read as numbers, each kept at its place."""

    #: Map, cells a side, channels that it is reduced to.
    _PLAN = (("stride16", 8, 16), ("stride32", 8, 32), ("stride64", 4, 64), ("stride128", 2, 128))
    #: Numbers that are read.
    SIZE = sum(WIDTHS[-1] * cells * cells for _, cells, _ in _PLAN)

    def __init__(self) -> None:
        """Build with random weights."""
        super().__init__()
        self.usual = Usual(self.SIZE)
        self.reduce = nn.ModuleList([nn.Conv2d(WIDTHS[-1], channels, 1) for _, _, channels in self._PLAN])
        self.widths = [cells * cells * channels for _, cells, channels in self._PLAN]

    @staticmethod
    def pooled(maps: FaceMaps) -> Tensor:
        """Return the maps that are read as (B,SIZE), the finest one averaged."""
        chosen = (F.avg_pool2d(maps.stride16, 2), maps.stride32, maps.stride64, maps.stride128)
        return torch.cat([part.flatten(1) for part in chosen], dim=1)

    def forward(self, maps: Tensor) -> list[Tensor]:
        """Return each map as numbers, (B,widths[k]); the maps are (B,SIZE)."""
        maps = self.usual(maps)
        sizes = [WIDTHS[-1] * cells * cells for _, cells, _ in self._PLAN]
        read = []
        for part, (_, cells, _), layer in zip(maps.split(sizes, dim=1), self._PLAN, self.reduce, strict=True):
            read.append(layer(part.unflatten(1, (-1, cells, cells))).flatten(1))
        return read


class CloseLook(nn.Module):
    """A small network for one part of the face."""

    def __init__(self, size: tuple[int, int], widths: tuple[int, ...], told: int) -> None:
        """Build it for pictures (B,3,*size); each width halves the size."""
        super().__init__()
        stages: list[nn.Module] = [_halve(3, widths[0], groups=1)]
        for narrow, wide in itertools.pairwise(widths):
            stages += [_Mixed(narrow), _halve(narrow, wide, groups=narrow)]
        stages += [_Mixed(widths[-1]), nn.Conv2d(widths[-1], 24, 1)]
        self.stages = nn.Sequential(*stages)
        cells = (size[0] >> len(widths)) * (size[1] >> len(widths))
        self.tell = nn.Linear(24 * cells, told)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return (B,told)."""
        told: Tensor = self.tell(self.stages(pictures).flatten(1))
        return told


class _Mixed(nn.Module):
    """Depthwise 3×3 and 1×1, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False), nn.BatchNorm2d(width),
            nn.Conv2d(width, width, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def _halve(narrow: int, wide: int, groups: int) -> nn.Module:
    layers: list[nn.Module] = [
        nn.Conv2d(narrow, wide if groups == 1 else narrow, 3, stride=2, padding=1, groups=groups, bias=False)
    ]
    if groups > 1:
        layers.append(nn.Conv2d(narrow, wide, 1, bias=False))
    return nn.Sequential(*layers, nn.BatchNorm2d(wide), nn.ReLU())


def _window(images: Tensor, middle: Tensor, width: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut (B,3,*size) out around points (B,2) px, ``width`` (B,) px wide, and even out its light."""
    height, across = size
    side = images.shape[-1]
    y = (
        torch.arange(height, device=images.device, dtype=images.dtype) + 0.5
    ) / across - 0.5 * height / across
    x = (torch.arange(across, device=images.device, dtype=images.dtype) + 0.5) / across - 0.5
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)  # (h,w,2)
    places = middle[:, None, None] + grid * width[:, None, None, None]
    cut = F.grid_sample(images, places / side * 2 - 1, padding_mode="border", align_corners=False)
    mean = cut.mean((2, 3), keepdim=True)
    spread = (cut - mean).square().mean((1, 2, 3), keepdim=True).sqrt()
    return (cut - mean) / (spread + 0.05)


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
