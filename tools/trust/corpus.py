"""Broken, lying and nasty inputs, made on the fly; the same seed and number give the same input anywhere.

A *case* is one input: what kind it is, what it is called, how it is laid down, and what is known of what must
become of it. ``PICTURES``, ``CLIPS`` (corpus_clips.py) and ``TAKES`` (corpus_takes.py) are tables of kinds.
"""

from __future__ import annotations

import io
import os
import re
import socket
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import skimage.data
from PIL import Image

Pixels = npt.NDArray[np.uint8]
Place = Callable[[Path], None]
#: What must become of an input: a result, an error, or one of both.
Fate = Literal["done", "refused", "either"]


@dataclass(frozen=True)
class Case:
    """One input.

    Attributes:
        kind: What is wrong with it, in words.
        name: What it is called.
        place: Lays it down at a path.
        fate: What must become of it.
        named: ``name`` is all of the name; else its ending.
    """

    kind: str
    name: str
    place: Place
    fate: Fate = "either"
    named: bool = False


#: Makes a case of a kind; the name it gives is an ending, unless the kind is about names.
Maker = Callable[[Random], Case]


def make_case(table: Mapping[str, Maker], seed: int, number: int, command: str) -> Case:
    """Return input ``number`` for a command; the kinds take turns, so that each has its share."""
    kinds = list(table)
    kind = kinds[number % len(kinds)]
    case = table[kind](Random(f"{seed} {command} {number}"))
    words = "-".join(re.findall("[a-zA-Z]+", kind))
    return replace(case, kind=kind, name=case.name if case.named else f"{number:05d}-{words}{case.name}")


def of_bytes(ending: str, data: bytes, fate: Fate = "either") -> Case:
    """Return a case that is a file of these bytes."""
    return Case("", ending, lambda path: _write(path, data), fate)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


# --- damage -------------------------------------------------------------------------------------------------


def truncated(data: bytes, rng: Random) -> bytes:
    """Cut off the end."""
    return data[: rng.randrange(1, len(data))]


def flipped(data: bytes, rng: Random) -> bytes:
    """Turn some bits round, anywhere."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 3, 10, 60))):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def head_flipped(data: bytes, rng: Random) -> bytes:
    """Turn some bits of the first bytes round, where headers are."""
    start = min(len(data), rng.choice((32, 64, 300)))
    return flipped(data[:start], rng) + data[start:]


def zeroed(data: bytes, rng: Random) -> bytes:
    """Put zeros into the middle, as a half-finished download has them."""
    start = rng.randrange(len(data))
    stop = rng.randrange(start, len(data)) + 1
    return data[:start] + bytes(stop - start) + data[stop:]


def noisy(data: bytes, rng: Random) -> bytes:
    """Put noise into the middle."""
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice((16, 256, 4096)))
    return data[:start] + rng.randbytes(stop - start) + data[stop:]


def doubled(data: bytes, rng: Random) -> bytes:
    """Repeat a stretch."""
    start = rng.randrange(len(data))
    stop = rng.randrange(start, len(data)) + 1
    return data[:stop] + data[start:]


def spliced(data: bytes, other: bytes, rng: Random) -> bytes:
    """Put the end of one file behind the start of another."""
    return data[: rng.randrange(1, len(data))] + other[rng.randrange(len(other)) :]


DAMAGES: Mapping[str, Callable[[bytes, Random], bytes]] = {
    "truncated": truncated,
    "bits flipped": flipped,
    "header bits flipped": head_flipped,
    "zeros in the middle": zeroed,
    "noise in the middle": noisy,
    "a stretch twice": doubled,
}


def damaged(name: str, formats: Mapping[str, Callable[[], bytes]]) -> Maker:
    """Return a maker of files of these formats with one kind of damage."""

    def make(rng: Random) -> Case:
        ending = rng.choice(list(formats))
        return of_bytes(ending, DAMAGES[name](formats[ending](), rng))

    return make


def spliced_of(formats: Mapping[str, Callable[[], bytes]]) -> Maker:
    """Return a maker of files put together of two."""

    def make(rng: Random) -> Case:
        ending, other = rng.choice(list(formats)), rng.choice(list(formats))
        return of_bytes(ending, spliced(formats[ending](), formats[other](), rng))

    return make


def renamed(formats: Mapping[str, Callable[[], bytes]], endings: tuple[str, ...], fate: Fate) -> Maker:
    """Return a maker of whole files with another kind's ending."""

    def make(rng: Random) -> Case:
        return of_bytes(rng.choice(endings), formats[rng.choice(list(formats))](), fate)

    return make


# --- what is no regular file, and names ---------------------------------------------------------------------


def irregular(endings: tuple[str, ...], whole: Callable[[], bytes]) -> dict[str, Maker]:
    """Return kinds of inputs that are no regular files, or that are hard to get at."""

    def kind(place: Callable[[Path], None], fate: Fate = "refused") -> Maker:
        return lambda rng: Case("", rng.choice(endings), place, fate)

    def unreadable(path: Path) -> None:
        path.write_bytes(whole())
        path.chmod(0)

    def elsewhere(path: Path) -> None:
        target = path.parent.parent / "guard" / f"target-{path.name}"
        target.write_bytes(whole())
        path.symlink_to(target)

    def chain(path: Path) -> None:
        other = path.with_name(f"{path.name}.other")
        other.symlink_to(path)
        path.symlink_to(other)

    return {
        "empty": kind(Path.touch),
        "pipe": kind(os.mkfifo),
        "socket": kind(_socket),
        "folder with a file's name": kind(lambda path: path.mkdir()),
        "link to itself": kind(lambda path: path.symlink_to(path)),
        "links in a circle": kind(chain),
        "link to /dev/zero": kind(lambda path: path.symlink_to("/dev/zero")),
        "link to a terminal": kind(lambda path: path.symlink_to("/dev/tty")),
        "link to /proc/self/mem": kind(lambda path: path.symlink_to("/proc/self/mem")),
        "link to nothing": kind(lambda path: path.symlink_to("nowhere")),
        "link to outside": kind(elsewhere, "done"),
        "missing": kind(lambda path: None),
        "not to be read": kind(unreadable, "either" if os.geteuid() == 0 else "refused"),
    }


def _socket(path: Path) -> None:
    here = Path.cwd()
    listener = socket.socket(socket.AF_UNIX)
    try:  # by its name alone: the path of a socket must be short
        os.chdir(path.parent)
        listener.bind(path.name)
    finally:
        os.chdir(here)
        listener.close()


#: Before the ending; ``{}`` keeps the names of one run apart.
_NAMES = (
    "{} with spaces", "{}\nwith a line break", "{}\r\rover", "{}\x1b[31mred\x07", "{}\tтест 顔 😀 é e\u0301",
    "{}\u202egnp", "{}\udcff\udcfe broken", "-{}", "--out={}", "{}.tar.gz", "{} ", "{}.", "..{}", "{}..",
    "{}[1-9]*?", "{}%04d", "{}%s%n", "{}'\"`$(touch x)`", "{};touch x", "{}\\..\\..\\x", "~{}", "{}:stream",
    "file:{}", "http:{}", "@{}", "{}.face2", "{}#frag?query", "{}&<b>", "{}\u0000"[:-1] + "\u2028", "con{}",
)  # fmt: skip


def odd_name(ending: Callable[[Random], str], whole: Callable[[], bytes]) -> Maker:
    """Return a maker of whole files with odd names."""

    def make(rng: Random) -> Case:
        pattern = rng.choice(_NAMES)
        name = pattern.format(rng.randrange(10**6)) + ending(rng)
        return Case("", name, lambda path: _write(path, whole()), "done", named=True)

    return make


def long_name(ending: str, whole: Callable[[], bytes]) -> Maker:
    """Return a maker of whole files with the longest names that there are."""

    def make(rng: Random) -> Case:
        letter = rng.choice("aä顔")
        room = 255 - len(ending) - 6
        name = f"{rng.randrange(10**6):06d}" + letter * (room // len(letter.encode())) + ending
        return Case("", name, lambda path: _write(path, whole()), "either", named=True)

    return make


# --- pictures -----------------------------------------------------------------------------------------------


def face(step: float = 0.0, size: tuple[int, int] = (160, 120)) -> Pixels:
    """A face that moves with ``step``: (h, w, 3), of scikit-image's photograph of an astronaut."""
    x, y = 12 * float(np.sin(step / 5)), 8 * (1 + float(np.sin(step / 7)))
    photo = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    box = (80 + x, y, 400 + x, 240 + y)
    return np.asarray(photo.resize(size, Image.Resampling.BILINEAR, box=box))


_SAVED: Mapping[str, tuple[str, dict[str, Any]]] = {
    ".jpg": ("JPEG", {"quality": 88}),
    ".png": ("PNG", {}),
    ".webp": ("WEBP", {"quality": 85}),
    ".tif": ("TIFF", {"compression": "tiff_lzw"}),
    ".gif": ("GIF", {}),
    ".bmp": ("BMP", {}),
}


@cache
def picture(ending: str) -> bytes:
    """Return a whole picture of the face by its ending."""
    name, options = _SAVED[ending]
    return _saved(Image.fromarray(face()), name, **options)


def _saved(image: Image.Image, name: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format=name, **options)
    return file.getvalue()


FORMATS: Mapping[str, Callable[[], bytes]] = {
    ending: lambda ending=ending: picture(ending)  # type: ignore[misc]
    for ending in _SAVED
}
_ENDINGS = tuple(_SAVED)
_SIDES = (0, 1, 2, 65_535, 30_000, 2**31 - 1, 2**32 - 1)


def _valid(rng: Random) -> Case:
    ending = rng.choice(_ENDINGS)
    return of_bytes(ending, picture(ending), "done")


def _unusual(rng: Random) -> Case:
    """Whole pictures that few programs write."""
    image = Image.fromarray(face())
    deep = Image.fromarray((np.asarray(image.convert("L")).astype(np.uint16)) << 8)
    floating = Image.fromarray(np.asarray(image.convert("L")).astype(np.float32) * rng.choice((1e-3, np.nan)))
    made = [
        (".jpg", _saved(image.convert("CMYK"), "JPEG")),
        (".jpg", _saved(image, "JPEG", progressive=True, exif=_exif(rng))),
        (".png", _saved(image.convert("P"), "PNG", transparency=rng.randrange(256))),
        (".png", _saved(deep, "PNG")),
        (".png", _saved(image.convert("1"), "PNG")),
        (".png", _saved(image.convert("RGBA"), "PNG", icc_profile=rng.randbytes(500))),
        (".tif", _saved(floating, "TIFF")),
        (".tif", _saved(image.convert("LAB"), "TIFF")),
        (".tif", _saved(image, "TIFF", save_all=True, append_images=[image.convert("L")] * 3)),
        (".gif", _saved(image.convert("P"), "GIF", save_all=True, append_images=[image.convert("P")] * 5)),
        (".png", _saved(image.resize((rng.choice((1, 2, 3)), rng.choice((1, 2, 4000)))), "PNG")),
        (".jpg", _saved(image.resize((rng.choice((1, 60_000)), rng.choice((1, 8)))), "JPEG")),
    ]
    return of_bytes(*rng.choice(made))


def _exif(rng: Random) -> bytes:
    """Metadata that mean nothing: orientation, focal lengths, resolution."""
    exif = Image.Exif()
    exif[0x0112] = rng.choice((0, 9, 65_535, 6))
    own = exif.get_ifd(0x8769)
    own[0x920A] = rng.choice((0.0, 1e9, 1e-9, 50.0))
    own[0xA405] = rng.choice((0, 1, 65_535))
    own[0xA20E] = rng.choice((0.0, 1e9))
    data = exif.tobytes()
    return data if rng.random() < 0.5 else flipped(data[6:], rng)[: rng.randrange(1, 200)]


def _bad_exif(rng: Random) -> Case:
    return of_bytes(".jpg", _saved(Image.fromarray(face()), "JPEG", exif=b"Exif\0\0" + _exif(rng)))


def _lying_size(rng: Random) -> Case:
    """Headers that claim sides which the picture does not have."""
    width, height = rng.choice(_SIDES), rng.choice(_SIDES)
    ending = rng.choice((".png", ".jpg", ".gif", ".bmp", ".webp"))
    data = bytearray(picture(ending))
    if ending == ".png":
        return of_bytes(ending, png(width, height, bytes(data[8 + 25 :])))
    if ending == ".jpg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height & 0xFFFF, width & 0xFFFF)
    elif ending == ".gif":
        data[6:10] = struct.pack("<HH", width & 0xFFFF, height & 0xFFFF)
    elif ending == ".bmp":
        data[18:26] = struct.pack("<II", width, height)
    else:
        at = data.index(b"\x9d\x01\x2a") + 3
        data[at : at + 4] = struct.pack("<HH", width & 0x3FFF, height & 0x3FFF)
    return of_bytes(ending, bytes(data))


def png(width: int, height: int, rest: bytes) -> bytes:
    """Return a PNG file of 8-bit RGB by its header's claims and the chunks that follow."""
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)) + rest


def chunk(name: bytes, data: bytes) -> bytes:
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png_bomb(rng: Random) -> Case:
    """Hundreds of megabytes of pixels or of text in a few kilobytes."""
    if rng.random() < 0.4:
        text = chunk(rng.choice((b"zTXt", b"iCCP")), b"x\0\0" + zlib.compress(bytes(200_000_000), 9))
        return of_bytes(".png", png(160, 120, text + picture(".png")[33:]))
    width, height = rng.choice(
        ((9_900, 9_900), (10_001, 10_000), (30_000, 30_000), (2**31 - 1, 2), (1, 99_000_000))
    )
    data = _deflated(min((width * 3 + 1) * height, 300_000_000))
    return of_bytes(".png", png(width, height, chunk(b"IDAT", data) + chunk(b"IEND", b"")))


@cache
def _deflated(size: int) -> bytes:
    packer = zlib.compressobj(1)
    parts = [packer.compress(bytes(1 << 20)) for _ in range(size >> 20)]
    return b"".join(parts) + packer.compress(bytes(size & 0xFFFFF)) + packer.flush()


def _lying_tiff(rng: Random) -> Case:
    """TIFF files whose tags point nowhere, count too much, or lead in circles."""
    wild = (0, 1, 8, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF)
    tags = {
        256: 160, 257: 120, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: 120, 279: 19_200, 284: 1,
        322: 64, 323: 64, 324: 200, 325: 4096,
    }  # fmt: skip
    for tag in rng.sample(sorted(tags), rng.randrange(1, 5)):
        tags[tag] = rng.choice(wild)
    tags[259] = rng.choice((1, 1, 2, 4, 5, 6, 7, 8, 32773, 34712, 50001, 9))
    kept = sorted(tags)[: 10 if rng.random() < 0.7 else 14]
    entries = [
        struct.pack("<HHII", tag, rng.choice((3, 4, 4, 5, 12)), rng.choice((1, 1, 1, *wild)), tags[tag])
        for tag in kept
    ]
    following = rng.choice((0, 8, 0xFFFFFFF0))
    data = b"II*\0" + struct.pack("<IH", 8, len(entries)) + b"".join(entries) + struct.pack("<I", following)
    return of_bytes(".tif", data + rng.randbytes(rng.choice((0, 20_000))))


def _many_scans(rng: Random) -> Case:
    """A progressive JPEG that says the same again and again, which takes long to decode."""
    data = _saved(Image.fromarray(face(size=(640, 480))), "JPEG", progressive=True)
    start = data.index(b"\xff\xda")
    length = rng.choice((1, 30, 2000))
    stop = data.index(b"\xff\xc4", start + 2)
    return of_bytes(".jpg", data[:stop] + data[start:stop] * length + data[stop:])


def _program(rng: Random) -> Case:
    """Pictures that are programs or lists of other files, for whoever believes them."""
    made = [
        (".eps", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 160 120\n%%EndComments\n(x) (w) file\n"
                 b"{ } loop\n%%EOF\n"),
        (".jpg", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 160 120\n%%EndComments\nshowpage\n%%EOF\n"),
        (".svg", b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>"),
        (".png", b"<html><script>alert(1)</script></html>"),
        (".jpg", b"#!/bin/sh\ntouch x\n"),
        (".mvg", b"push graphic-context\nimage over 0,0 0,0 'https://127.0.0.1/x'\n"),
        (".xpm", b"/* XPM */\nstatic char *x[] = {\"99999 99999 1 1\", \"a c #000000\", \"a\"};\n"),
        (".ppm", b"P6 99999 99999 255\n" + bytes(100)),
        (".ppm", b"P6 " + b"9" * 5000 + b" 1 255\n"),
        (".icns", b"icns" + struct.pack(">I", 64) + b"ic10" + struct.pack(">I", 0) + bytes(48)),
        (".psd", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 3, 30_000, 30_000, 8, 3) + bytes(40)),
        (".fits", b"SIMPLE  =                    T" + b" " * 50 + b"NAXIS   = 99999" + b" " * 3000),
        (".dds", b"DDS " + struct.pack("<7I", 124, 0x1007, 2**31, 2**31, 0, 0, 0) + bytes(100)),
        (".ico", b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, 0xFFFFFFFF, 22) + bytes(50)),
    ]  # fmt: skip
    return of_bytes(*rng.choice(made))


def _noise(rng: Random) -> Case:
    return of_bytes(rng.choice(_ENDINGS), rng.randbytes(rng.choice((1, 2, 12, 100, 5000))), "either")


def _nobody(rng: Random) -> Case:
    wall = np.full((120, 160, 3), rng.randrange(256), np.uint8)
    return of_bytes(".png", _saved(Image.fromarray(wall), "PNG"), "refused")


def _folder(rng: Random) -> Case:
    def place(path: Path) -> None:
        path.mkdir()
        (path / "good.jpg").write_bytes(picture(".jpg"))
        (path / "bad.png").write_bytes(truncated(picture(".png"), Random(1)))
        (path / "sub.jpg").mkdir()
        (path / "up.png").symlink_to("..")

    return Case("", rng.choice(_ENDINGS), place)


def archive(rng: Random) -> bytes:
    """Return a zip file that unpacks to a great deal, or elsewhere."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(rng.choice(("../../escaped.txt", "/tmp/escaped.txt", "bomb.bin")), bytes(50_000_000))
    return file.getvalue()


def _archive(rng: Random) -> Case:
    return of_bytes(rng.choice(_ENDINGS), archive(rng), "refused")


PICTURES: Mapping[str, Maker] = {
    "valid": _valid,
    **{name: damaged(name, FORMATS) for name in DAMAGES},
    "two files in one": spliced_of(FORMATS),
    "another format's ending": renamed(FORMATS, (*_ENDINGS, ".mp4", ".txt", ".npz", ""), "done"),
    "unusual": _unusual,
    "bad metadata": _bad_exif,
    "lying size": _lying_size,
    "PNG bomb": _png_bomb,
    "lying TIFF": _lying_tiff,
    "JPEG of many scans": _many_scans,
    "program or list": _program,
    "noise": _noise,
    "nobody in it": _nobody,
    "folder of pictures": _folder,
    "zip bomb": _archive,
    **irregular(_ENDINGS, lambda: picture(".jpg")),
    "odd name": odd_name(lambda rng: rng.choice((".jpg", ".jpg", "")), lambda: picture(".jpg")),
    "longest name": long_name(".jpg", lambda: picture(".jpg")),
}
