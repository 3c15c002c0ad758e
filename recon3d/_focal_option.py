"""The focal length as users give it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from recon3d.errors import UsageError


@dataclass(frozen=True)
class Focal:
    """A focal length: ``value`` in px, or in mm on 36 x 24 mm film."""

    value: float
    on_film: bool

    @staticmethod
    def parse(text: str) -> Focal:
        """Read ``"1200"`` (px) or ``"50mm"``.

        Raises:
            UsageError: It is neither.
        """
        on_film = text.strip().lower().endswith("mm")
        try:
            value = float(text.strip()[:-2] if on_film else text)
        except ValueError:
            value = math.nan
        if not (math.isfinite(value) and value > 0):
            raise UsageError(f"--focal {text!r}: pixels (1200) or mm on 35 mm film (50mm) are wanted")
        return Focal(value, on_film)

    def pixels(self, size: tuple[int, int]) -> float:
        """Return it in px of a picture of ``size`` (w, h): the same diagonal angle of view."""
        from recon3d.media._exif import FILM_DIAGONAL_MM

        return self.value * math.hypot(*size) / FILM_DIAGONAL_MM if self.on_film else self.value
