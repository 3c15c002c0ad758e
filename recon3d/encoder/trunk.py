"""The trunk of the image encoder: MediaPipe's face landmark network, as plain torch modules.

The structure is that of ``face_landmarks_detector.tflite`` (Apache-2.0, Google), so that training can start
from its weights (:mod:`recon3d.training.landmark_weights`): bottlenecks around a depthwise convolution,
which add their input, and PReLU throughout.

Methods: V. Bazarevsky et al., BlazeFace: Sub-millisecond Neural Face Detection on Mobile GPUs, 2019 (the
blocks); I. Grishchenko et al., Attention Mesh: High-fidelity Face Mesh Prediction in Real-time, 2020.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from recon3d.encoder.crop import CROP_SIZE

#: Channels of the feature maps at strides 2, 4, 8, … 128.
WIDTHS = (16, 32, 64, 128, 128, 128, 128)
#: Residual blocks behind the stem and behind every downsampling block.
BLOCKS_PER_STAGE = 4
NUM_LANDMARKS = 478
_SIZE_STEP = 32
_SMALLEST = 128


class FaceMaps(NamedTuple):
    """Feature maps (B, C, H/s, W/s) of the trunk, finest first, each named by its stride s."""

    stride2: Tensor
    stride4: Tensor
    stride8: Tensor
    stride16: Tensor
    stride32: Tensor
    stride64: Tensor
    stride128: Tensor


class FacePoints(NamedTuple):
    """What the landmark network itself predicts.

    Attributes:
        landmarks: (B,478,3) px of the 256² crop, origin at its top-left corner; z on the same scale, 0 at
            the head's centre, smaller is nearer to the camera.
        presence: (B,) logit that the crop shows a face.
        tongue: (B,) logit that the tongue is out.
    """

    landmarks: Tensor
    presence: Tensor
    tongue: Tensor


class PReLU(nn.PReLU):
    """torch's PReLU, about 3 times as fast in training on CPUs, with the same gradients.

    Torch's own backward pass took more than a third of the trunk's time.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B,C,H,W): x where it is positive, a multiple of it elsewhere."""
        if torch.is_grad_enabled() and x.device.type == "cpu":
            return _PReLUFunction.apply(x, self.weight)  # type: ignore[no-untyped-call]
        return super().forward(x)


class _PReLUFunction(torch.autograd.Function):
    """PReLU from vectorised operations; can be differentiated once."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.prelu(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        positive = torch.ops.aten.threshold_backward(grad, x, 0)  # the gradient where x > 0
        negative = grad - positive
        weight_grad = (negative * x).sum((0, 2, 3), dtype=weight.dtype)
        return positive.addcmul_(negative, weight.to(grad.dtype).view(1, -1, 1, 1)), weight_grad


class ResidualBlock(nn.Module):
    """1×1 to half the channels, PReLU, depthwise 3×3, 1×1 back, plus the input, PReLU."""

    def __init__(self, width: int) -> None:
        """Build a block that keeps the size and the ``width`` channels of its input."""
        super().__init__()
        self.reduce = nn.Conv2d(width, width // 2, 1)
        self.reduce_act = PReLU(width // 2)
        self.depthwise = _depthwise(width // 2)
        self.expand = nn.Conv2d(width // 2, width, 1)
        self.act = PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B,C,H,W)."""
        inner = self.reduce_act(self.reduce(x))
        # Added in place: on CPUs memory traffic is what limits.
        return self.act(self.expand(self.depthwise(inner)).add_(x))


class DownBlock(nn.Module):
    """The residual block with a 2×2 convolution of stride 2 in front; adds the max-pooled input.

    Channels that the input lacks count as zeros.
    """

    def __init__(self, width_in: int, width_out: int) -> None:
        """Build a block that halves the size; ``width_out`` is not less than ``width_in``."""
        super().__init__()
        self.reduce = nn.Conv2d(width_in, width_out // 2, 2, stride=2)
        self.reduce_act = PReLU(width_out // 2)
        self.depthwise = _depthwise(width_out // 2)
        self.expand = nn.Conv2d(width_out // 2, width_out, 1)
        self.act = PReLU(width_out)
        self._missing = width_out - width_in

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B,C',H//2,W//2)."""
        shortcut = F.max_pool2d(x, 2)
        if self._missing:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self._missing))
        inner = self.reduce_act(self.reduce(x))
        return self.act(self.expand(self.depthwise(inner)).add_(shortcut))


class Stem(nn.Module):
    """3×3 convolution of stride 2 and PReLU."""

    def __init__(self, width: int) -> None:
        """Build the stem with ``width`` output channels."""
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, stride=2)
        self.act = PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,3,H,W) of even size to (B,C,H/2,W/2)."""
        # TensorFlow's "SAME": an even size gets its one row and column of padding at the far end.
        return self.act(self.conv(F.pad(x, (0, 1, 0, 1))))


class FaceTrunk(nn.Module):
    """Image crop to feature maps at seven strides. Fully convolutional; 0.46 M parameters.

    The pretrained weights expect crops as the face stage cuts them: the eyes level, the face about two
    thirds of the width. Modules are registered in the order in which they run, which is also the order of
    the weights in MediaPipe's file.
    """

    def __init__(self) -> None:
        """Build the trunk with torch's own random initialisation."""
        super().__init__()
        stages = [nn.Sequential(Stem(WIDTHS[0]), *_residuals(WIDTHS[0]))]
        for width_in, width_out in itertools.pairwise(WIDTHS):
            stages.append(nn.Sequential(DownBlock(width_in, width_out), *_residuals(width_out)))
        self.stages = nn.ModuleList(stages)

    def forward(self, images: Tensor) -> FaceMaps:
        """Compute the feature maps.

        Args:
            images: (B,3,H,W) RGB in [0, 1]; H and W multiples of 32, at least 128. ``channels_last`` is
                kept, and faster.

        Returns:
            The maps; their sizes are rounded down (a 160² crop has one of 2² at stride 64).

        Raises:
            ValueError: The images have another shape.
        """
        _check_images(images)
        x, maps = images, []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return FaceMaps(*maps)


class LandmarkHead(nn.Module):
    """The landmark network's last layer, on the trunk's 2² map of a 256² crop."""

    def __init__(self) -> None:
        """Build the head with torch's own random initialisation."""
        super().__init__()
        self.tongue = nn.Conv2d(WIDTHS[-1], 1, 2)
        self.presence = nn.Conv2d(WIDTHS[-1], 1, 2)
        self.landmarks = nn.Conv2d(WIDTHS[-1], NUM_LANDMARKS * 3, 2)

    def forward(self, maps: FaceMaps) -> FacePoints:
        """Predict landmarks from the maps of (B,3,256,256) images.

        Raises:
            ValueError: The images had another size.
        """
        x = maps.stride128
        if x.shape[-2:] != (2, 2):
            raise ValueError(f"the landmark head needs crops of {CROP_SIZE}², whose last map is 2²")
        points = self.landmarks(x).reshape(-1, NUM_LANDMARKS, 3)
        return FacePoints(points, self.presence(x).flatten(), self.tongue(x).flatten())


def _depthwise(width: int) -> nn.Conv2d:
    """3×3, no bias: the 1×1 convolution that follows has one."""
    return nn.Conv2d(width, width, 3, padding=1, groups=width, bias=False)


def _residuals(width: int) -> list[ResidualBlock]:
    return [ResidualBlock(width) for _ in range(BLOCKS_PER_STAGE)]


def _check_images(images: Tensor) -> None:
    height, width = images.shape[-2:]
    fits = height % _SIZE_STEP == 0 and width % _SIZE_STEP == 0 and min(height, width) >= _SMALLEST
    if images.dim() != 4 or images.shape[1] != 3 or not fits:
        raise ValueError(
            f"images must be (B,3,H,W) with H and W multiples of {_SIZE_STEP} and at least {_SMALLEST}, "
            f"not {tuple(images.shape)}"
        )
