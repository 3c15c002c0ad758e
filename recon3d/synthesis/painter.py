"""The neural renderer: a network that paints a face from its geometry, its surroundings and a few pixels."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recon3d.synthesis.appearance import AppearanceTokens, Modulation

#: Channels in: the grey geometry, what is shown of the photograph, and where that is.
_INPUTS = 3 + 3 + 1
#: Channels are normalised in as many groups.
_GROUPS = 8
#: Logit from which the doubt of a new painter starts: 5 % of the pixels.
_DOUBT = -3.0


@dataclass(frozen=True)
class PainterConfig:
    """Sizes of the neural renderer.

    Attributes:
        size: Width and height of its pictures, px; a multiple of ``patch`` times 2 to the ``levels``.
        patch: Pixels that are seen as one place, across and down: 2 makes it four times as fast.
        width: Channels at the finest level; the next has twice as many, those below three times.
        levels: Halvings.
        blocks: Residual blocks a level.
        tokens: Numbers a level that tell how the photograph looks as a whole (``AppearanceTokens``); 0 for
            none. Few: they must not tell what the face does.
        outliers: Tell, too, where something else is likely to cover the face (``paint_and_doubt``).
    """

    size: int = 128
    patch: int = 2
    width: int = 40
    levels: int = 3
    blocks: int = 1
    tokens: int = 0
    outliers: bool = False

    def __post_init__(self) -> None:
        """Refuse sizes that cannot be.

        Raises:
            ValueError: Says which, and what would do.
        """
        if min(self.size, self.patch, self.width, self.blocks) < 1 or self.levels < 0:
            raise ValueError("a painter's size, patch, width and blocks must be positive")
        if self.tokens < 0:
            raise ValueError("a painter's tokens must not be negative; 0 is none")
        step = self.patch << self.levels
        if self.size % step:
            near = max(1, round(self.size / step)) * step
            raise ValueError(f"a painter's size must be a multiple of {step}: {near}, not {self.size}")
        if self.width % _GROUPS:
            raise ValueError(f"a painter's width must be a multiple of {_GROUPS}, not {self.width}")


class FacePainter(nn.Module):
    """A U-Net (O. Ronneberger et al., 2015) of residual blocks, as in SMIRK (G. Retsinas et al., 2024)."""

    def __init__(self, config: PainterConfig | None = None) -> None:
        """Build it with random weights."""
        super().__init__()
        self.config = config = config or PainterConfig()
        widths = [config.width * min(k + 1, 3) for k in range(config.levels + 1)]
        self.enter = nn.Conv2d(_INPUTS * config.patch**2, widths[0], 3, padding=1)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()
        for fine, coarse in itertools.pairwise(widths):
            halve = nn.Conv2d(fine, coarse, 2, stride=2)
            self.down.append(nn.Sequential(*_blocks(fine, config.blocks), halve))
            merge = nn.Conv2d(fine + coarse, fine, 1)
            self.up.insert(0, nn.Sequential(merge, *_blocks(fine, config.blocks)))
        self.middle = nn.Sequential(*_blocks(widths[-1], 2 * config.blocks))
        self.leave = nn.Conv2d(widths[0], (3 + config.outliers) * config.patch**2, 3, padding=1)
        if config.outliers:
            nn.init.constant_(self.leave.bias[3 * config.patch**2 :], _DOUBT)  # type: ignore[index]
        if config.tokens:
            self.tokens = AppearanceTokens(len(widths), config.tokens)
            self.modulate = nn.ModuleList([Modulation(config.tokens, width) for width in widths])

    def forward(
        self, geometry: Tensor, shown: Tensor, known: Tensor, appearance: Tensor | None = None
    ) -> Tensor:
        """Paint.

        Args:
            geometry: (B,3,S,S) of ``GeometryPainter``, [0,1].
            shown: (B,3,S,S) sRGB in [0,1] of the photograph, zeros where nothing is shown.
            known: (B,1,S,S) 1 where it is.
            appearance: (B,3,S,S) the whole photograph, sRGB in [0,1]; a painter without tokens does not look
                at it.

        Returns:
            (B,3,S,S) sRGB in [0,1].
        """
        return self._channels(geometry, shown, known, appearance)[:, :3].sigmoid()

    def paint_and_doubt(
        self, geometry: Tensor, shown: Tensor, known: Tensor, appearance: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Paint, and tell where what the photograph shows is likely to be no face.

        For painters with ``outliers``.

        Args:
            geometry: See ``forward``.
            shown: See there.
            known: See there.
            appearance: See there.

        Returns:
            (B,3,S,S) the picture, and (B,1,S,S) the logit that a pixel of the photograph is an outlier.
        """
        channels = self._channels(geometry, shown, known, appearance)
        return channels[:, :3].sigmoid(), channels[:, 3:]

    def _channels(self, geometry: Tensor, shown: Tensor, known: Tensor, appearance: Tensor | None) -> Tensor:
        """(B,3 or 4,S,S) logits."""
        patch = self.config.patch
        seen = torch.cat((geometry - 0.5, (shown - 0.5) * known, known), dim=1)
        x = self.enter(F.pixel_unshuffle(seen, patch))
        skipped = []
        for down in self.down:
            x = down[:-1](x)  # type: ignore[index]
            skipped.append(x)
            x = down[-1](x)  # type: ignore[index]
        modulate = self._modulations(appearance)
        x = self.middle(modulate[-1](x))
        for level, up in zip(reversed(range(len(skipped))), self.up, strict=True):
            merged = up[0](torch.cat((F.interpolate(x, scale_factor=2.0), skipped[level]), dim=1))  # type: ignore[index]
            x = up[1:](modulate[level](merged))  # type: ignore[index]
        return F.pixel_shuffle(self.leave(x), patch)

    def _modulations(self, appearance: Tensor | None) -> list[Callable[[Tensor], Tensor]]:
        """What the appearance does to the maps of each level, finest first."""
        if not self.config.tokens:
            return [_unchanged] * (self.config.levels + 1)
        if appearance is None:
            raise ValueError("a painter with tokens has to be shown the photograph, too")
        tokens = self.tokens(appearance)
        return [partial(one, tokens=mine) for one, mine in zip(self.modulate, tokens, strict=True)]


def _unchanged(x: Tensor) -> Tensor:
    return x


class _Block(nn.Module):
    """Normalise, convolve, convolve, add."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(_GROUPS, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.silu(self.first(F.silu(self.norm(x))))
        return x + self.second(inner)


def _blocks(width: int, count: int) -> list[nn.Module]:
    return [_Block(width) for _ in range(count)]
