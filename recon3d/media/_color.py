"""Every pixel format of a photograph to 8-bit sRGB."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]


def to_rgb(image: Image.Image) -> Pixels:
    """Return a decoded image as (H, W, 3) uint8 sRGB; transparent parts are put over white.

    Deep grey (16, 32 bit, float) is scaled by its full range, never clipped. An embedded colour
    profile other than sRGB (Display P3 of a phone, a printer's CMYK) is applied.
    """
    if image.mode in ("F", "I") or image.mode.startswith("I;16"):
        return np.repeat(_deep_grey(image)[..., None], 3, axis=2)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = _over_white(image)
    return np.array(_to_srgb(image).convert("RGB"), dtype=np.uint8, order="C")


def _over_white(image: Image.Image) -> Image.Image:
    colour = image.convert("RGBA")
    flat = Image.new("RGBA", colour.size, (255, 255, 255, 255))
    flat.alpha_composite(colour)
    rgb = flat.convert("RGB")
    if "icc_profile" in image.info and image.mode in ("RGBA", "RGBa", "P"):
        rgb.info["icc_profile"] = image.info["icc_profile"]
    return rgb


def _deep_grey(image: Image.Image) -> Pixels:
    """Scale grey of more than 8 bits to 8: (H, W) uint8."""
    values: npt.NDArray[Any] = np.asarray(image)
    if values.dtype.kind == "u":  # 16 bit
        grey: Pixels = np.rint(values.astype(np.float32) / 257.0).astype(np.uint8)
        return grey
    values = np.nan_to_num(values.astype(np.float64), posinf=np.inf, neginf=-np.inf)
    top = float(values.max(initial=0.0, where=np.isfinite(values)))
    # Floats are [0, 1] by convention and integers use their whole type; Pillow does not tell which
    # type a wide integer had, so the smallest that holds the brightest pixel is taken.
    ranges = [1.0, 255.0, 65535.0] if values.dtype.kind == "f" and image.mode == "F" else [65535.0]
    full = next((r for r in ranges if top <= r), max(top, 2.0**31 - 1) if image.mode == "I" else top)
    return np.rint(np.clip(values / full, 0.0, 1.0) * 255.0).astype(np.uint8)


def _to_srgb(image: Image.Image) -> Image.Image:
    """Apply the embedded colour profile, where there is a usable one that is not sRGB already."""
    profile = image.info.get("icc_profile")
    if not isinstance(profile, bytes) or image.mode not in ("RGB", "CMYK", "L"):
        return image
    try:
        from PIL import ImageCms
    except ImportError:  # a Pillow built without colour management: the numbers as they are
        return image
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(source):
            return image
        turned = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
    except (OSError, ImageCms.PyCMSError, ValueError, TypeError):
        return image  # a broken profile, or one for another kind of picture
    return turned or image
