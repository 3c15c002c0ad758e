"""Reading a photograph as upright 8-bit RGB with its focal length, and writing pictures."""

from __future__ import annotations

import importlib
import io
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError
from PIL.ExifTags import Base

from recon3d._version import GENERATOR
from recon3d.errors import InputError, Recon3DError, UsageError
from recon3d.files import atomic_path
from recon3d.media._color import to_rgb
from recon3d.media._exif import focal_pixels, read_exif, upright
from recon3d.media._find import IMAGE_SUFFIXES, find_images, iter_images
from recon3d.media._open import open_regular, shown

__all__ = [
    "IMAGE_SUFFIXES", "MAX_MEGAPIXELS", "Photo", "find_images", "iter_images", "read_image", "write_image",
]  # fmt: skip

#: Larger pictures are refused from their header, before a byte of them is decoded.
MAX_MEGAPIXELS = 100
#: As JPEG's. A strip of a pixel's height and of millions of pixels takes hours to search.
MAX_SIDE = 65_535
#: Programs for a printer, which Pillow would have Ghostscript run.
_PROGRAMS = frozenset({"EPS"})

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


@dataclass(frozen=True)
class Photo:
    """A photograph, upright.

    Attributes:
        pixels: (H, W, 3) uint8 sRGB, C-contiguous, EXIF orientation applied.
        focal_px: Focal length in pixels of this image from its EXIF data, or None if it does not tell.
        path: Where it came from; None for pixels made in memory.
    """

    pixels: npt.NDArray[np.uint8]
    focal_px: float | None = None
    path: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]


def read_image(path: str | Path) -> Photo:
    """Read a photograph in any format that Pillow knows: the first frame, upright, as 8-bit sRGB.

    Grey, transparent (put over white), palette, 16-bit, CMYK and profiled pictures are converted.
    HEIC needs the package pillow-heif.

    Raises:
        InputError: Missing, not a regular file, empty, not permitted, not an image, truncated, damaged,
            or over ``MAX_MEGAPIXELS`` or ``MAX_SIDE``; one message each, of one line.
    """
    path = Path(path)
    with open_regular(path) as file, _plain_errors(path), _open(file, path) as image:
        width, height = image.size
        if width * height > MAX_MEGAPIXELS * 1_000_000:
            raise _too_large(path, f"{width} x {height} pixels")
        if max(width, height) > MAX_SIDE:
            what = f"too large: {width} x {height} pixels, the limit is {MAX_SIDE} a side"
            raise InputError(f"{shown(path)}: {what}; make it smaller")
        if image.format in _PROGRAMS:
            raise InputError(f"{shown(path)}: a program ({image.format}), not a photograph; save it as JPEG")
        with _libtiff_hushed(image):
            image.load()
        exif = read_exif(image)  # after load(): a TIFF turns itself, and then no longer asks for it
        picture = upright(image, exif)
        return Photo(to_rgb(picture), focal_pixels(exif, picture.size), path)


def write_image(path: str | Path, pixels: npt.NDArray[np.uint8], quality: int = 92) -> None:
    """Write (H, W, 3) uint8 RGB pixels, atomically; the suffix of ``path`` tells the format.

    Exif's ``Software`` says which recon3d wrote it, in formats that have room for it.

    Raises:
        UsageError: The suffix names no format that can be written.
        OutputError: The file cannot be written.
    """
    path = Path(path)
    Image.init()
    format_name = Image.registered_extensions().get(path.suffix.lower())
    if format_name not in Image.SAVE:
        raise UsageError(f"{shown(path)}: cannot write this format; use .jpg or .png")
    # By way of memory: where the disk is full, Pillow writes less than it should and says nothing.
    encoded = io.BytesIO()
    exif = Image.Exif()
    exif[Base.Software] = GENERATOR
    save_pixels(encoded, pixels, format_name, quality, exif)
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.getbuffer())


def save_pixels(
    target: Path | BinaryIO,
    pixels: npt.NDArray[np.uint8],
    format_name: str,
    quality: int = 92,
    exif: Image.Exif | None = None,
) -> None:
    """Encode (H, W, 3) uint8 RGB pixels to a file; not atomic (see ``write_image``)."""
    # Full-resolution colour in JPEG: thin coloured lines and texture seams bleed otherwise.
    options: dict[str, Any] = {"quality": quality}
    if format_name == "JPEG":
        options["subsampling"] = 0
    if exif is not None:
        options["exif"] = exif
    Image.fromarray(np.ascontiguousarray(pixels)).save(target, format=format_name, **options)


def _open(file: BinaryIO, path: Path) -> Image.Image:
    """Read the header of an image."""
    head = file.read(12)
    file.seek(0)
    if head[4:8] == b"ftyp" and head[8:12] in _HEIF_BRANDS:
        _enable_heif(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # size is judged by our own limit, metadata does not matter
        return Image.open(file)


@contextmanager
def _libtiff_hushed(image: Image.Image) -> Iterator[None]:
    """Keep what libtiff itself prints about damaged pictures off standard error; our error says it, too."""
    if image.format != "TIFF":
        yield
        return
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        sink = os.open(os.devnull, os.O_WRONLY)
        os.dup2(sink, 2)
        os.close(sink)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _enable_heif(path: Path) -> None:
    try:
        importlib.import_module("pillow_heif").register_heif_opener()  # doing it twice does no harm
    except ImportError as error:
        raise InputError(
            f"{shown(path)}: reading HEIC needs a package: pip install pillow-heif, or convert it to JPEG"
        ) from error


@contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """Turn what a decoder throws at a bad file into one InputError; hush what it warns about."""
    name = shown(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Recon3DError:
        raise
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: not an image (or of a format that cannot be read)") from error
    except Image.DecompressionBombError as error:  # Pillow's own, higher limit comes first
        count = re.search(r"(\d+) pixels", str(error))
        raise _too_large(path, f"{int(count[1]) / 1e6:.0f} megapixels" if count else None) from error
    except MemoryError as error:
        raise InputError(f"{name}: not enough memory to decode it; make it smaller") from error
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        text = " ".join(str(error).split())
        if "truncated" in text.lower() or isinstance(error, EOFError):
            raise InputError(f"{name}: truncated: the file ends before the picture does") from error
        raise InputError(f"{name}: damaged, cannot be decoded ({text or type(error).__name__})") from error


def _too_large(path: str | os.PathLike[str], size: str | None) -> InputError:
    what = f"too large: {size}" if size else "too large"
    return InputError(f"{shown(path)}: {what}, the limit is {MAX_MEGAPIXELS} megapixels; make it smaller")
