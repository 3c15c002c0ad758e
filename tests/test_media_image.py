from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import skimage.data
import tifffile
from PIL import Image, ImageCms

from recon3d.errors import InputError, OutputError, Recon3DError, UsageError
from recon3d.media.image import find_images, iter_images, read_image, write_image

Array = npt.NDArray[Any]
PIXELS: Array = skimage.data.astronaut()[:300, :400].copy()
GREY: Array = PIXELS[..., 0]


def png16(path: Path, values: Array, colour_type: int) -> Path:
    """A 16-bit PNG written by hand: Pillow writes none with colour."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    return path


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def error(path: Path | str) -> str:
    """The message for a bad input: always an InputError, always one line, always naming the file."""
    with pytest.raises(InputError) as caught:
        read_image(path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    return text


def difference(path: Path, wanted: Array) -> float:
    photo = read_image(path)
    assert photo.pixels.dtype == np.uint8
    assert photo.pixels.flags.c_contiguous
    assert photo.pixels.shape == wanted.shape
    assert photo.size == (wanted.shape[1], wanted.shape[0])
    return float(np.abs(photo.pixels.astype(int) - wanted.astype(int)).max())


@pytest.mark.parametrize("suffix", [".png", ".bmp", ".tif", ".ppm", ".webp", ".gif", ".jpg"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    options: dict[str, Any] = {".webp": {"lossless": True}, ".jpg": {"quality": 100, "subsampling": 0}}.get(
        suffix, {}
    )
    path = saved(tmp_path / f"a{suffix}", Image.fromarray(PIXELS), **options)
    mean = np.abs(read_image(path).pixels.astype(int) - PIXELS).mean()
    assert mean <= {".gif": 12.0, ".jpg": 1.0}.get(suffix, 0.0)


def test_grey_palette_and_bilevel(tmp_path: Path) -> None:
    image = Image.fromarray(PIXELS)
    grey = np.repeat(np.asarray(image.convert("L"))[..., None], 3, axis=2)
    assert difference(saved(tmp_path / "l.png", image.convert("L")), grey) == 0
    palette = image.convert("P", palette=Image.Palette.ADAPTIVE)
    assert difference(saved(tmp_path / "p.png", palette), np.asarray(palette.convert("RGB"))) == 0
    bilevel = image.convert("1")
    assert difference(saved(tmp_path / "1.png", bilevel), np.asarray(bilevel.convert("RGB"))) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_is_put_over_white(tmp_path: Path, mode: str) -> None:
    alpha = np.tile(np.linspace(0, 255, 400).astype(np.uint8), (300, 1))
    colour = PIXELS if mode == "RGBA" else np.repeat(GREY[..., None], 3, axis=2)
    stored = np.dstack([PIXELS if mode == "RGBA" else GREY, alpha])
    part = alpha[..., None] / 255.0
    wanted = np.rint(colour * part + 255 * (1 - part))
    assert difference(saved(tmp_path / "a.png", Image.fromarray(stored, mode)), wanted) <= 1


def test_transparent_palette_colour_becomes_white(tmp_path: Path) -> None:
    image = Image.new("P", (4, 2), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    pixels = read_image(saved(tmp_path / "t.png", image, transparency=0)).pixels
    assert pixels[0, 0].tolist() == [255, 255, 255]
    assert pixels[1, 1].tolist() == [40, 50, 60]


def test_sixteen_bit_is_scaled_not_clipped(tmp_path: Path) -> None:
    # Not exact multiples of 257: those give the right bytes even when cut to 8 bits by overflow.
    low = np.arange(PIXELS.size).reshape(PIXELS.shape) % 97 - 48
    deep = np.clip(PIXELS.astype(int) * 257 + low, 0, 65535).astype(np.uint16)
    grey = np.repeat(GREY[..., None], 3, axis=2)
    assert difference(png16(tmp_path / "rgb.png", deep, 2), PIXELS) <= 1
    assert difference(png16(tmp_path / "grey.png", deep[..., 0], 0), grey) == 0
    for order in "<>":
        tifffile.imwrite(tmp_path / "grey.tif", deep[..., 0], byteorder=order)
        assert difference(tmp_path / "grey.tif", grey) == 0
    tifffile.imwrite(tmp_path / "rgb.tif", deep)
    assert difference(tmp_path / "rgb.tif", PIXELS) <= 1
    opaque = np.dstack([deep, np.full(GREY.shape, 65535, np.uint16)])
    assert difference(png16(tmp_path / "rgba.png", opaque, 6), PIXELS) <= 1
    tifffile.imwrite(tmp_path / "float.tif", GREY.astype(np.float32) / 255)
    assert difference(tmp_path / "float.tif", grey) == 0


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk(tmp_path: Path, suffix: str) -> None:
    cmyk = Image.fromarray(PIXELS).convert("CMYK")
    path = saved(tmp_path / f"a{suffix}", cmyk, **({"quality": 100} if suffix == ".jpg" else {}))
    if suffix == ".jpg":
        assert b"Adobe" in path.read_bytes()[:4096]  # the marker by which the inks are stored inverted
    assert np.abs(read_image(path).pixels.astype(int) - PIXELS).mean() < 2


def test_embedded_profile_is_applied_and_a_broken_one_ignored(tmp_path: Path) -> None:
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image = Image.fromarray(PIXELS)
    assert difference(saved(tmp_path / "s.png", image, icc_profile=lab), PIXELS) == 0
    assert difference(saved(tmp_path / "b.png", image, icc_profile=b"no profile at all"), PIXELS) == 0
    # The same profile with its red and green primaries swapped must swap the two colours.
    data, tags = bytearray(lab), {}
    for k in range(struct.unpack_from(">I", lab, 128)[0]):
        name, start, _ = struct.unpack_from(">4sII", lab, 132 + 12 * k)
        tags[name] = start
    red, green, size = tags[b"rXYZ"], tags[b"gXYZ"], 20
    data[red : red + size], data[green : green + size] = lab[green : green + size], lab[red : red + size]
    swapped = bytes(data).replace("sRGB".encode("utf-16-be"), "swap".encode("utf-16-be"))
    path = saved(tmp_path / "x.png", Image.fromarray(PIXELS), icc_profile=swapped)
    assert difference(path, PIXELS[..., [1, 0, 2]]) <= 3


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_every_orientation_is_turned_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    stored = {
        1: PIXELS, 2: PIXELS[:, ::-1], 3: PIXELS[::-1, ::-1], 4: PIXELS[::-1],
        5: PIXELS.swapaxes(0, 1), 6: np.rot90(PIXELS), 7: np.rot90(PIXELS, 2).swapaxes(0, 1),
        8: np.rot90(PIXELS, -1),
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif.get_ifd(0x8769)[0xA405] = 50
    image = Image.fromarray(np.ascontiguousarray(stored))
    # As bytes, because Pillow's TIFF writer leaves the camera's part of an Exif object out.
    photo = read_image(saved(tmp_path / f"a{suffix}", image, exif=exif.tobytes()))
    assert photo.pixels.shape == PIXELS.shape
    assert np.abs(photo.pixels.astype(int) - PIXELS).mean() < (4 if suffix == ".jpg" else 1e-9)
    assert photo.focal_px == pytest.approx(50 * 500 / 43.2666, rel=1e-4)  # 400 x 300: diagonal 500


def focal(tmp_path: Path, **tags: object) -> float | None:
    numbers = {"f35": 0xA405, "f": 0x920A, "res": 0xA20E, "unit": 0xA210, "width": 0xA002, "height": 0xA003}
    exif = Image.Exif()
    for name, value in tags.items():
        exif.get_ifd(0x8769)[numbers[name]] = value
    return read_image(saved(tmp_path / "f.jpg", Image.fromarray(PIXELS), exif=exif)).focal_px


def test_focal_length(tmp_path: Path) -> None:
    assert focal(tmp_path) is None
    assert focal(tmp_path, f35=26) == pytest.approx(26 * 500 / 43.2666, rel=1e-4)
    assert focal(tmp_path, f35=0) is None
    # 4 mm, 100 px per mm, in each unit that the standard has.
    for unit, resolution in ((2, 2540.0), (3, 1000.0), (4, 100.0), (5, 0.1)):
        assert focal(tmp_path, f=4.0, res=resolution, unit=unit) == pytest.approx(400)
    # Taken at 4000 x 3000 and made ten times smaller since.
    assert focal(tmp_path, f=4.0, res=1000.0, unit=4, width=4000, height=3000) == pytest.approx(400)
    assert focal(tmp_path, f=4.0, res=1000.0, unit=4, width=3000, height=4000) == pytest.approx(400)
    assert focal(tmp_path, f=4.0) is None
    assert focal(tmp_path, f35=5) is None  # 0.14 x the longer side: below any lens
    assert focal(tmp_path, f35=2000) is None
    assert focal(tmp_path, f35=5, f=4.0, res=100.0, unit=4) == pytest.approx(400)


def test_damaged_exif_does_not_spoil_the_picture(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(PIXELS), exif=b"Exif\0\0II*\0\xff\xff\xff\x7f junk")
    assert read_image(path).focal_px is None


def test_bad_files_have_distinct_messages(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    whole = saved(tmp_path / "whole.jpg", Image.fromarray(PIXELS)).read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.jpg").write_bytes(b"")
    (tmp_path / "text.jpg").write_text("not a picture")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    messages = {
        "cut.jpg": "truncated", "empty.jpg": "is empty", "text.jpg": "not an image", "pipe.jpg": "is a pipe",
        "loop.jpg": "symbolic link", "none.jpg": "no such file", ".": "is a folder",
        "empty.jpg/x": "not a folder",
    }  # fmt: skip
    for name, part in messages.items():
        text = error(tmp_path / name)
        assert part in text
        assert str(tmp_path / name) in text
    assert "is a device" in error("/dev/zero")
    assert "cannot be read" in error("a\0b")
    assert "\n" not in error(tmp_path / "two\nlines.jpg")
    assert not recwarn.list


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".gif", ".bmp"])
def test_no_damage_escapes_as_another_exception(tmp_path: Path, suffix: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(PIXELS).save(buffer, format=Image.registered_extensions()[suffix])
    whole, random = buffer.getvalue(), np.random.default_rng(0)
    refused = 0
    for trial in range(60):
        data = bytearray(whole)
        if trial % 2:
            data = data[: random.integers(1, len(data))]
        else:
            for place in random.integers(0, min(len(data), 600), 8):
                data[place] = random.integers(256)
        path = tmp_path / f"x{suffix}"
        path.write_bytes(data)
        try:
            assert read_image(path).pixels.dtype == np.uint8
        except InputError as failure:
            assert len(str(failure).splitlines()) == 1
            refused += 1
    assert refused > 5


def bomb(path: Path, width: int, height: int) -> Path:
    """A PNG of some kilobytes whose header claims any size."""
    small = png16(path, np.zeros((1, 1), np.uint16), 0).read_bytes()
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    path.write_bytes(small[:12] + header + struct.pack(">I", zlib.crc32(header)) + small[33:])
    return path


def test_too_large_is_refused_from_the_header(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    for size in ((20_000, 20_000), (10_001, 10_000)):
        text = error(bomb(tmp_path / "b.png", *size))
        assert "too large" in text
        assert "100 megapixels" in text
    assert "400 megapixels" in error(bomb(tmp_path / "b.png", 20_000, 20_000))
    assert "10001 x 10000" in error(bomb(tmp_path / "b.png", 10_001, 10_000))
    assert "too large" not in error(bomb(tmp_path / "b.png", 10_000, 10_000))  # allowed, and then truncated
    assert not recwarn.list


def test_heic_without_its_package_says_what_to_install(tmp_path: Path) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic" + b"\0" * 100)
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from recon3d.media.image import read_image; read_image(sys.argv[1])"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=False)
    assert "pip install pillow-heif" in done.stderr


def test_no_permission(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.jpg", Image.fromarray(PIXELS))
    path.chmod(0)
    root = os.geteuid() == 0
    try:
        if root:
            os.seteuid(65534)  # root may read anything: be somebody else for a moment
        text = error(path)
    finally:
        if root:
            os.seteuid(0)
    assert "no permission" in text


@pytest.fixture
def shoot(tmp_path: Path) -> Path:
    image = Image.new("RGB", (2, 2))
    for name in ("b.JPG", "a.png", "notes.txt", ".hidden.jpg", "in/c.jpg", "in/d.png", "odd[1].jpg"):
        path = tmp_path / "s" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, format="PNG")
    (tmp_path / "s" / "none").mkdir()
    return tmp_path / "s"


def names(root: Path, *inputs: str) -> list[str]:
    return [p.relative_to(root).as_posix() for p in find_images([root / i for i in inputs])]


def test_find_images(shoot: Path) -> None:
    assert names(shoot, ".") == ["a.png", "b.JPG", "odd[1].jpg"]
    assert names(shoot, "*.png") == ["a.png"]
    assert names(shoot, "**/*.png") == ["a.png", "in/d.png"]
    assert names(shoot, "*") == ["a.png", "b.JPG", "odd[1].jpg"]
    assert names(shoot, "*.txt") == ["notes.txt"]
    assert names(shoot, "odd[1].jpg") == ["odd[1].jpg"]  # a file's own name before a pattern
    assert names(shoot, "in/d.png", "**/*.png", "in/../a.png", ".") == [
        "in/d.png",
        "a.png",
        "b.JPG",
        "odd[1].jpg",
    ]


def test_one_bad_input_does_not_stop_the_others(shoot: Path) -> None:
    inputs = [shoot / n for n in ("nope.jpg", "a.png", "none", "*.tiff", "b.JPG")]
    found = list(iter_images(inputs))
    assert [p.name for p, e in found if e is None] == ["a.png", "b.JPG"]
    texts = [str(e) for _, e in found if e is not None]
    assert [p.name for p, e in found if e is not None] == ["nope.jpg", "none", "*.tiff"]
    for text, part in zip(
        texts, ("no such file", "no images in this folder", "no images match"), strict=True
    ):
        assert part in text
    with pytest.raises(InputError, match="no such file"):
        find_images(inputs)


def test_write_image(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", PIXELS)
    assert difference(tmp_path / "a.png", PIXELS) == 0
    write_image(tmp_path / "ä b.jpg", PIXELS[:, ::-1])  # not contiguous
    assert np.abs(read_image(tmp_path / "ä b.jpg").pixels.astype(int) - PIXELS[:, ::-1]).mean() < 3
    with pytest.raises(UsageError, match=r"use \.jpg or \.png"):
        write_image(tmp_path / "a.xyz", PIXELS)
    before = (tmp_path / "ä b.jpg").read_bytes()
    with pytest.raises((OutputError, Recon3DError)):
        write_image(tmp_path / "none" / "a.jpg", PIXELS)
    assert (tmp_path / "ä b.jpg").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "ä b.jpg"]
