"""What a photograph looks like as a whole, in a few numbers: skin, light, sharpness, glasses.

After TEASER (Y. Liu et al., Token Enhanced Spatial Modeling for Expressions Reconstruction, 2025): a small
network looks at the photograph, the mean of its maps at each of several scales becomes a token, and the
tokens guide the painter at its own scales. What is not left to the painter to guess, it need not average.
The tokens must not tell the expression, or the geometry would not have to. They are few, have no places, and
in the cycle path a photograph's tokens come with another expression than it shows: a painter that relied on
them would be read wrongly there.
"""

from __future__ import annotations

import itertools

import torch.nn.functional as F
from torch import Tensor, nn

#: Channels at each scale; coarser scales have as many as the last.
_WIDTHS = (16, 32, 48)


class AppearanceTokens(nn.Module):
    """Reads tokens off photographs, one a scale."""

    def __init__(self, scales: int, numbers: int) -> None:
        """Build with random weights, for so many scales and numbers a token."""
        super().__init__()
        widths = [_WIDTHS[min(k, len(_WIDTHS) - 1)] for k in range(scales)]
        # Not normalised: how light a photograph is, and of how much contrast, is what is to be told.
        self.look = nn.ModuleList(
            [
                nn.Conv2d(seen, width, 3, stride=2, padding=1)
                for seen, width in itertools.pairwise((3, *widths))
            ]
        )
        self.tell = nn.ModuleList([nn.Linear(width, numbers) for width in widths])

    def forward(self, photographs: Tensor) -> list[Tensor]:
        """Return tokens (B,n) of photographs (B,3,S,S), sRGB in [0,1], finest scale first."""
        x, tokens = photographs - 0.5, []
        for look, tell in zip(self.look, self.tell, strict=True):
            x = F.silu(look(x))
            tokens.append(tell(x.mean(dim=(2, 3))))
        return tokens


class Modulation(nn.Module):
    """Scales and shifts channels as a token says (FiLM: E. Perez et al., 2018); at first not at all."""

    def __init__(self, numbers: int, width: int) -> None:
        """Build for tokens of so many numbers and maps of ``width`` channels."""
        super().__init__()
        self.change = nn.Linear(numbers, 2 * width)
        nn.init.zeros_(self.change.weight)
        nn.init.zeros_(self.change.bias)

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Change maps (B,C,h,w) as tokens (B,n) say."""
        scale, shift = self.change(tokens)[..., None, None].chunk(2, dim=1)
        return x * (1 + scale) + shift
