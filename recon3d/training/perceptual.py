"""How alike two pictures look: EfficientNet-Lite0's features of them, compared.

The network learned to name what photographs of ImageNet show. Its structure is that of Google's
``efficientnet_lite0.tflite`` (Apache-2.0), down to stride 16; the coarser rest is left out.

Methods: M. Tan and Q. Le, EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks, 2019 (the
Lite ones have ReLU6 for swish, and no squeeze-and-excitation); M. Sandler et al., MobileNetV2: Inverted
Residuals and Linear Bottlenecks, 2018 (the blocks); R. Zhang et al., The Unreasonable Effectiveness of Deep
Features as a Perceptual Metric, 2018 (the distance).
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon3d.assets import EFFICIENTNET_LITE0, fetch
from recon3d.training.tflite import fill_slots, other_network, read_layers, read_limited, weight_slots

#: Strides and channels of the maps that :class:`PerceptualNetwork` returns.
STRIDES = (4, 8, 16)
WIDTHS = (24, 40, 112)
_STEM = 32
#: Of each stage: how many times wider its blocks are inside, their channels, kernel, stride, and number.
_STAGES = ((1, 16, 3, 1, 1), (6, 24, 3, 2, 2), (6, 40, 5, 2, 2), (6, 80, 3, 2, 3), (6, 112, 5, 1, 3))
#: Stages in front of a downsampling block, whose maps are returned.
_TAKEN = (1, 2, 4)
_SIZE_STEP = 16
#: The file's metadata: 127 is taken from values of 0 to 255, and the rest divided by 128.
_MEAN, _SCALE = 127 / 255, 255 / 128
#: Convolutions of the whole network; ours are the first of them.
_LAYERS = 49
_MAX_BYTES = 64_000_000
_WANTED = "EfficientNet-Lite0 float32/1"
#: Keeps the gradient finite where all channels are zero; lengths are 20 to 80.
_TINY = 1e-8


class PerceptualNetwork(nn.Module):
    """Pictures to feature maps at strides 4, 8 and 16. Fully convolutional, frozen.

    TFLite pads an even size at the far end when it halves it, torch at the near end. So that no map has to be
    copied for its padding, the pictures are turned upside down and left to right, and the maps turned back;
    the weights are kept turned likewise (:func:`pretrained_perceptual`). Convolutions are registered in the
    order in which they run, which is also that of the weights in the file.
    """

    def __init__(self) -> None:
        """Build the network with torch's own random initialisation."""
        super().__init__()
        self.stem = _conv(3, _STEM, 3, stride=2)
        stages, width = [], _STEM
        for wider, channels, kernel, stride, count in _STAGES:
            first = InvertedBlock(width, channels, wider, kernel, stride)
            others = [InvertedBlock(channels, channels, wider, kernel) for _ in range(count - 1)]
            stages.append(nn.Sequential(first, *others))
            width = channels
        self.stages = nn.ModuleList(stages)
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Compute the feature maps.

        Args:
            images: (B,3,H,W) sRGB in [0, 1]; H and W multiples of 16. The network learned from 224².

        Returns:
            (B,24,H/4,W/4), (B,40,H/8,W/8), (B,112,H/16,W/16): the last maps before each downsampling, as
            the blocks hand them on (no ReLU cuts them).

        Raises:
            ValueError: The images have another shape.
        """
        _check_images(images)
        # In this order of the values CPUs take about three quarters of the time.
        turned = images.flip(2, 3).contiguous(memory_format=torch.channels_last)
        x = F.relu6(self.stem((turned - _MEAN) * _SCALE))
        maps = []
        for index, stage in enumerate(self.stages):
            x = stage(x)
            if index in _TAKEN:
                maps.append(x.flip(2, 3))
        return tuple(maps)


class InvertedBlock(nn.Module):
    """1×1 to more channels, ReLU6, depthwise, ReLU6, 1×1 to fewer; adds its input where that fits."""

    def __init__(self, width_in: int, width_out: int, wider: int, kernel: int, stride: int = 1) -> None:
        """Build a block that is ``wider`` times as wide inside as its input; 1 leaves the first 1×1 out."""
        super().__init__()
        inner = width_in * wider
        self.expand = _conv(width_in, inner, 1) if wider > 1 else None
        self.depthwise = _conv(inner, inner, kernel, stride, groups=inner)
        self.reduce = _conv(inner, width_out, 1)
        self._adds = stride == 1 and width_in == width_out

    def forward(self, x: Tensor) -> Tensor:
        """Map (B,C,H,W) to (B,C',H/stride,W/stride)."""
        inner = x if self.expand is None else F.relu6(self.expand(x))
        out: Tensor = self.reduce(F.relu6(self.depthwise(inner)))
        return out.add_(x) if self._adds else out


def pretrained_perceptual(path: str | Path | None = None) -> PerceptualNetwork:
    """Return the network with Google's weights.

    Args:
        path: ``efficientnet_lite0.tflite``, float32; by default the verified download.

    Raises:
        AssetError: The file cannot be had, is damaged, or holds another network.
    """
    found = Path(path) if path is not None else fetch(EFFICIENTNET_LITE0.name)
    layers = read_layers(read_limited(found, _MAX_BYTES), found.name, max_bytes=_MAX_BYTES)
    if len(layers) != _LAYERS:
        raise other_network(found.name, f"{len(layers)} layers with weights instead of {_LAYERS}", _WANTED)
    network = PerceptualNetwork()
    slots = weight_slots(network)
    weights = fill_slots(slots, layers[: len(slots)], found.name, _WANTED)
    network.load_state_dict({name: w.flip(2, 3) if w.dim() == 4 else w for name, w in weights.items()})
    return network


def perceptual_distance(network: PerceptualNetwork, painted: Tensor, pictures: Tensor) -> Tensor:
    """Tell how unlike pictures look: LPIPS (R. Zhang et al., 2018) without its learned weights.

    Args:
        network: Whose features are compared.
        painted: (B,3,H,W) sRGB in [0, 1]; gradients reach these.
        pictures: The same shape, to be compared with; no gradients reach these.

    Returns:
        A scalar: the squared distance of the two unit vectors of channels at a place, 0 to 4, its mean over
        the places and pictures, and then over the levels. Noise against noise has about 1.

    Raises:
        ValueError: The shapes differ, or do not suit the network.
    """
    if painted.shape != pictures.shape:
        raise ValueError(f"pictures of {tuple(painted.shape)} and {tuple(pictures.shape)} cannot be compared")
    with torch.no_grad():
        wanted = [_unit(maps) for maps in network(pictures)]
    found = [_unit(maps) for maps in network(painted)]
    apart = [(a - b).square().sum(1).mean() for a, b in zip(found, wanted, strict=True)]
    return torch.stack(apart).mean()


def _unit(maps: Tensor) -> Tensor:
    """Bring the channels (B,C,H,W) at every place to unit length, in float32."""
    maps = maps.float()
    return maps * (maps.square().sum(1, keepdim=True) + _TINY).rsqrt()


def _conv(width_in: int, width_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(width_in, width_out, kernel, stride, kernel // 2, groups=groups)


def _check_images(images: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] != 3 or any(n % _SIZE_STEP or not n for n in images.shape[2:]):
        raise ValueError(
            f"images must be (B,3,H,W) with H and W multiples of {_SIZE_STEP}, not {tuple(images.shape)}"
        )
