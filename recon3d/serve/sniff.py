"""What an upload is, told by its first bytes; neither its name nor its content type counts.

Pillow reads a picture's header here, which tells its size. Clips are opened by the workers alone: a file
that breaks its decoder breaks a worker, not the server. Lists of other files, which FFmpeg would play, are
none of the signatures here.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from recon3d.errors import InputError
from recon3d.serve.schema import Kind

_HEAD_BYTES = 600
#: Pillow's formats that are let in; among its others are ones that call programs.
_PHOTOS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PPM")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1", b"avif", b"avis")
_PHOTO_STARTS = (
    b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a", b"BM", b"II*\x00", b"MM\x00*",
    b"\x00\x00\x00\x0cjP  \r\n", b"\xff\x4f\xff\x51", b"P5", b"P6",
)  # fmt: skip
_CLIP_STARTS = (
    b"\x1a\x45\xdf\xa3", b"OggS", b"FLV\x01", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3", b"DKIF",
    b"YUV4MPEG2 ", b"\x06\x0e\x2b\x34", b"\x30\x26\xb2\x75\x8e\x66\xcf\x11",
)  # fmt: skip
#: First boxes of MP4 and QuickTime files.
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
#: Pillow reads WebP, AVIF and HEIC whole to learn their size; bytes that this may take.
_LARGEST_READ_WHOLE = 64_000_000
_TS_PACKET, _M2TS_PACKET = 188, 192


def sniff(path: Path, name: str) -> Kind:
    """Return what a file is.

    Args:
        path: The upload.
        name: What to call it.

    Raises:
        InputError: Neither a picture nor a clip, or a picture that is too large or whose header is damaged.
    """
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    if not head:
        raise InputError(f"{name}: is empty (0 bytes)")
    if _is_photo(head):
        _check_photo(path, name, head)
        return Kind.photo
    if _is_clip(head):
        return Kind.clip
    raise InputError(f"{name}: neither a picture nor a clip in a format that is known here")


def _is_photo(head: bytes) -> bool:
    if head[4:8] == b"ftyp":
        return head[8:12] in _HEIF_BRANDS
    return head.startswith(_PHOTO_STARTS) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


def _is_clip(head: bytes) -> bool:
    if head.startswith(_CLIP_STARTS) or head[4:8] in _BOXES:
        return True
    if head[:4] == b"RIFF":
        return head[8:12] == b"AVI "
    return any(
        head[at : at + 1] == head[at + step : at + step + 1] == b"G"
        for at, step in ((0, _TS_PACKET), (4, _M2TS_PACKET))
    )


def _check_photo(path: Path, name: str, head: bytes) -> None:
    from PIL import Image, UnidentifiedImageError

    from recon3d.media.image import MAX_MEGAPIXELS

    if (head[:4] == b"RIFF" or head[4:8] == b"ftyp") and path.stat().st_size > _LARGEST_READ_WHOLE:
        raise InputError(f"{name}: more than {_LARGEST_READ_WHOLE / 1e6:.0f} MB; send it as JPEG or PNG")
    if head[4:8] == b"ftyp" and head[8:11] != b"avi":
        return  # HEIC needs another package; the worker says so if it is not there
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            Image.init()
            with Image.open(path, formats=[name for name in _PHOTOS if name in Image.OPEN]) as image:
                width, height = image.size
    except UnidentifiedImageError as error:
        raise InputError(f"{name}: begins like a picture, and is none") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name}: larger than {MAX_MEGAPIXELS} megapixels; make it smaller") from error
    except Exception as error:  # decoders raise nearly anything on damaged bytes
        raise InputError(f"{name}: damaged, its header cannot be read") from error
    if width * height > MAX_MEGAPIXELS * 1_000_000:
        raise InputError(f"{name}: {width} x {height} pixels, above {MAX_MEGAPIXELS} megapixels")
