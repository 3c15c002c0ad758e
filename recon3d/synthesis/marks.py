"""What says of a picture or clip that recon3d painted it anew: metadata always, a visible mark by option.

The metadata are an XMP packet (ISO 16684-1) with IPTC's *Digital Source Type*, which search engines and
platforms read. They cannot prove anything, for they are neither signed nor hard to remove.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import struct
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree import ElementTree
from xml.sax.saxutils import escape

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from recon3d._version import GENERATOR
from recon3d.errors import OutputError, UsageError
from recon3d.files import atomic_path
from recon3d.media._open import open_regular, shown

__all__ = ["SOURCE_TYPE", "draw_mark", "mark_clip", "read_mark", "save_marked_picture"]

Pixels = npt.NDArray[np.uint8]

#: IPTC NewsCodes, vocabulary "Digital Source Type" (http://cv.iptc.org/newscodes/digitalsourcetype/): the
#: concept named "Edited using Generative AI". There was an original, and a trained network changed it.
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"

_SOFTWARE = GENERATOR
#: Characters of a description: one JPEG segment of 64 KiB holds the packet however it is escaped.
_WHAT_LENGTH = 1000
#: Larger packets are not read, bytes; ours have a few thousand.
_MAX_PACKET = 1 << 20
#: How far into a picture a packet is searched, bytes; the largest that recon3d reads has 300 million.
_MAX_SEARCH = 1 << 29
#: Top-level boxes that are looked at; a clip in fragments has two a fragment.
_MAX_BOXES = 100_000

_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
#: The box for XMP in ISO media files: XMP specification part 3 ("Storage in files"), MPEG-4.
_XMP_BOX = uuid.UUID("BE7ACFCB-97A9-42E8-9C71-999491E3AFAC").bytes

PICTURES = {
    ".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF",
}  # fmt: skip
_DESCRIPTION_TAG, _SOFTWARE_TAG, _XMP_TAG = 270, 305, 700  # TIFF 6.0 and Exif; XMP specification part 3
_TIFF_BYTE = 1

_WORD = "synthetic"
#: Height of the type in parts of the shorter side, and the least, in pixels.
_TYPE_SIZE, _MIN_TYPE = 0.0275, 10
#: Share of the ground that shows through the plate: on white, white type has a contrast of 5.7 : 1 on it
#: (WCAG 2 asks for 4.5).
_THROUGH = 0.4


def save_marked_picture(path: Path, pixels: Pixels, what: str, visible: bool = False) -> None:
    """Write a picture that says it was painted anew, atomically; the suffix tells the format.

    JPEG (quality 95, colour at full resolution), PNG, WebP (quality 95) or TIFF, each with an XMP packet, and
    with Exif's ``Software`` and ``ImageDescription`` (ASCII only).

    Args:
        path: The file; its folder exists.
        pixels: (H,W,3) sRGB.
        what: What was done, such as "face repainted: mouthSmileLeft=.8". It becomes one line of at most
            1000 characters; what XML cannot hold becomes space.
        visible: Draw the mark too (see ``draw_mark``).

    Raises:
        UsageError: The suffix names no format that can carry the mark.
        OutputError: The file cannot be written, or not of this size.
    """
    kind = PICTURES.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{shown(path)}: cannot write this format; use {', '.join(PICTURES)}")
    image = Image.fromarray(draw_mark(pixels) if visible else pixels)
    encoded = io.BytesIO()  # straight to a file, Pillow does not notice that a full disk cuts off a JPEG
    try:
        image.save(encoded, format=kind, **_options(kind, what))
    except (OSError, ValueError) as error:  # too large for the format
        size = f"{image.width} x {image.height}"
        raise OutputError(f"{shown(path)}: {size} pixels cannot be written as {kind} ({error})") from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(encoded.getbuffer())


def mark_clip(path: Path, what: str) -> None:
    """Add the mark to a finished MP4 file, in place: a box at the end, so no offset into the file changes.

    Meant for a file that has not got its name yet (``recon3d.files.atomic_path``). An earlier XMP packet at
    the top level becomes free space, so that there is one only. After an error nothing has been added.

    Args:
        path: The file.
        what: What was done; see ``save_marked_picture``.

    Raises:
        InputError: There is no such file.
        OutputError: It is not a whole MP4 file.
        OSError: The disk is full, or the like; an OutputError by the time it leaves ``atomic_path``.
    """
    with open_regular(path) as file:
        boxes, length = list(_boxes(file)), _length(file)
        if not boxes or boxes[0].kind != b"ftyp" or boxes[-1].end != length or boxes[-1].endless:
            raise OutputError(f"{shown(path)}: not a whole MP4 file; it cannot be marked")
        earlier = [box for box in boxes if _is_packet(file, box)]
    body = _XMP_BOX + _packet(what)
    try:
        with path.open("r+b") as file:
            file.seek(length)
            file.write(struct.pack(">I4s", 8 + len(body), b"uuid") + body)
            for box in earlier:
                file.seek(box.start + 4)
                file.write(b"free")
    except OSError:
        with contextlib.suppress(OSError):
            os.truncate(path, length)
        raise


def read_mark(path: Path) -> str | None:
    """Return the Digital Source Type that a picture or an MP4 file declares, an address as ``SOURCE_TYPE``.

    In MP4 files the top-level XMP box counts; in others the first packet in a wrapper, which is found by
    searching for it (XMP specification part 1, "Packet wrapper"), whatever the format. So packets that are
    compressed (some PNG) or in UTF-16 are not seen. Reads at most 512 MiB, in pieces of 1 MiB.

    Returns:
        None where there is none, or where it, or the file before it, is damaged.

    Raises:
        InputError: Missing, not a regular file, empty, or not permitted.
    """
    with open_regular(path) as file:
        try:
            is_media = file.read(8)[4:] == b"ftyp"
            packet = _boxed_packet(file) if is_media else _searched_packet(file)
        except OSError:  # the disk fails
            return None
    return None if packet is None else _source_type(packet)


def draw_mark(pixels: Pixels) -> Pixels:
    """Write "synthetic" on a dark, half transparent plate into the lower right corner.

    The type has 2.75 % of the shorter side, at least 10 px; of pictures that are narrower than the plate
    (about 50 px) or lower it covers all, and is cut off.

    Args:
        pixels: (H,W,3) sRGB.

    Returns:
        (H,W,3), a new one.
    """
    height, width = pixels.shape[:2]
    ink = _plate(max(_MIN_TYPE, round(_TYPE_SIZE * min(height, width))))[:height, :width, None]
    tall, wide = ink.shape[:2]
    marked = np.array(pixels, order="C")
    part = marked[height - tall :, width - wide :]
    part[:] = np.round(part * (_THROUGH * (1 - ink)) + 255 * ink).astype(np.uint8)
    return marked


@lru_cache(maxsize=4)
def _plate(size: int) -> npt.NDArray[np.float32]:
    """Draw the word in a type of ``size`` px: (h,w) share of ink, with a rim around it; read only."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = font.getbbox(_WORD)
    rim = max(3, size // 3)
    canvas = Image.new("L", (round(right - left) + 2 * rim, round(bottom - top) + 2 * rim))
    ImageDraw.Draw(canvas).text((rim - left, rim - top), _WORD, fill=255, font=font)
    ink = np.asarray(canvas, np.float32) / np.float32(255)
    ink.flags.writeable = False
    return ink


def _options(kind: str, what: str) -> dict[str, Any]:
    """Return how Pillow is to save a format, the metadata included."""
    packet, line = _packet(what), _one_line(what)  # of the line, Pillow turns into "?" what is not ASCII
    if kind == "TIFF":
        tags = ImageFileDirectory_v2()
        tags[_DESCRIPTION_TAG], tags[_SOFTWARE_TAG] = line, _SOFTWARE
        tags.tagtype[_XMP_TAG] = _TIFF_BYTE
        tags[_XMP_TAG] = packet
        return {"tiffinfo": tags}
    exif = Image.Exif()
    exif[_DESCRIPTION_TAG], exif[_SOFTWARE_TAG] = line, _SOFTWARE
    if kind == "PNG":
        return {"exif": exif, "pnginfo": _png_text(packet)}
    options: dict[str, Any] = {"exif": exif, "xmp": packet, "quality": 95}
    return options if kind == "WEBP" else options | {"subsampling": 0}


def _png_text(packet: bytes) -> PngInfo:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", packet)  # not compressed, as XMP specification part 3 has it
    return info


def _packet(what: str) -> bytes:
    """Return the XMP packet in UTF-8; as it has no room to grow, its wrapper says that it is read only."""
    return (
        '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n'
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{_RDF}">\n'
        '<rdf:Description rdf:about="" xmlns:dc="http://purl.org/dc/elements/1.1/"'
        f' xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmlns:Iptc4xmpExt="{_IPTC}">\n'
        f"<Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>\n"
        f"<xmp:CreatorTool>{escape(_SOFTWARE)}</xmp:CreatorTool>\n"
        f'<dc:description><rdf:Alt><rdf:li xml:lang="x-default">{escape(_one_line(what))}</rdf:li></rdf:Alt>'
        "</dc:description>\n"
        '</rdf:Description>\n</rdf:RDF></x:xmpmeta>\n<?xpacket end="r"?>'
    ).encode()


def _one_line(what: str) -> str:
    """Make a text one line of at most ``_WHAT_LENGTH`` characters, all of them such as XML 1.0 can hold."""
    line = " ".join(re.sub(r"[^ -\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", " ", what).split())
    return line if len(line) <= _WHAT_LENGTH else line[: _WHAT_LENGTH - 1] + "…"


@dataclass(frozen=True)
class _Box:
    """A top-level box of an ISO media file (ISO/IEC 14496-12, 4.2); positions in bytes from its begin."""

    kind: bytes
    start: int
    body: int
    end: int
    endless: bool  # its size is "to the end of the file"


def _boxes(file: BinaryIO) -> Iterator[_Box]:
    """Yield the top-level boxes, up to the first that is damaged or reaches beyond the end."""
    start, length = 0, _length(file)
    for _ in range(_MAX_BOXES):
        file.seek(start)
        head = file.read(16)
        if len(head) < 8:
            return
        size, kind = struct.unpack(">I4s", head[:8])
        body = start + 8
        if size == 1 and len(head) == 16:  # the size is a long one
            (size,), body = struct.unpack(">Q", head[8:]), start + 16
        end = start + size if size else length
        if not body <= end <= length:
            return
        yield _Box(kind, start, body, end, size == 0)
        start = end


def _is_packet(file: BinaryIO, box: _Box) -> bool:
    file.seek(box.body)
    return box.kind == b"uuid" and file.read(len(_XMP_BOX)) == _XMP_BOX


def _boxed_packet(file: BinaryIO) -> bytes | None:
    """Return the first XMP packet at the top level of an ISO media file."""
    for box in _boxes(file):
        if _is_packet(file, box):
            size = box.end - box.body - len(_XMP_BOX)
            return file.read(size) if 0 <= size <= _MAX_PACKET else None
    return None


def _searched_packet(file: BinaryIO) -> bytes | None:
    """Return the first XMP packet that stands in a wrapper, without the wrapper's last line."""
    first, last = b"<?xpacket begin=", b"<?xpacket end="
    kept = b""
    file.seek(0)
    for _ in range(_MAX_SEARCH // _MAX_PACKET):
        block = file.read(_MAX_PACKET)
        seen = kept + block
        if (start := seen.find(first)) >= 0:
            seen = seen[start:] + file.read(_MAX_PACKET)
            end = seen.find(last)
            return seen[:end] if end >= 0 else None
        if not block:
            return None
        kept = seen[-len(first) :]
    return None


def _source_type(packet: bytes) -> str | None:
    """Return what a packet says of ``Iptc4xmpExt:DigitalSourceType`` in any of RDF's ways to say it."""
    name = f"{{{_IPTC}}}DigitalSourceType"
    try:
        text = packet.decode("utf-8").strip("\0 \ufeff")
        if "<!DOCTYPE" in text:  # XMP has none, and entities can be made to fill the memory
            return None
        for element in ElementTree.fromstring(text).iter():
            value = element.get(name)
            if element.tag == name:
                value = element.text or element.get(f"{{{_RDF}}}resource")
            if value and value.strip():
                return value.strip()
    except (UnicodeDecodeError, ElementTree.ParseError):
        pass
    return None


def _length(file: BinaryIO) -> int:
    return os.fstat(file.fileno()).st_size
