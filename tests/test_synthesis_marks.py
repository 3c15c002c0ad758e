"""What recon3d painted says so: in its metadata, and where it is asked for, in the picture."""

from __future__ import annotations

import os
import struct
import tracemalloc
from pathlib import Path
from xml.etree import ElementTree

import av
import numpy as np
import pytest
import skimage.data
from PIL import Image
from small_disk import files_of_at_most

from recon3d._version import __version__
from recon3d.errors import InputError, OutputError, UsageError
from recon3d.files import atomic_path
from recon3d.media.video import VideoWriter
from recon3d.synthesis.marks import SOURCE_TYPE, draw_mark, mark_clip, read_mark, save_marked_picture

NAMES = ("p.jpg", "p.jpeg", "p.png", "p.webp", "p.tif", "p.TIFF")
LOSSLESS = ("p.png", "p.tif")
UUID = bytes.fromhex("be7acfcb97a942e89c71999491e3afac")
IPTC = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}"
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
#: What was done, and how it is to be read afterwards.
TEXTS = {
    "plain": ("face repainted: mouthSmileLeft=.8", "face repainted: mouthSmileLeft=.8"),
    "markup": ("""</rdf:li> "a" & 'b' &amp; <!-- ]]>""", """</rdf:li> "a" & 'b' &amp; <!-- ]]>"""),
    "wrapper": ('<?xpacket end="w"?><!DOCTYPE a>', '<?xpacket end="w"?><!DOCTYPE a>'),
    "letters": ("Lächeln 笑 😀", "Lächeln 笑 😀"),
    "lines": (" one\r\ntwo\n\n\tthree ", "one two three"),
    "no XML": ("a\x00b\x0b\x1bc\ud800d\uffffe", "a b c d e"),
    "long": ("&" * 10_000, "&" * 999 + "…"),
    "none": ("", None),
}


def picture(height: int = 96, width: int = 128) -> np.ndarray:
    return skimage.data.astronaut()[:height, 200 : 200 + width].copy()


def read_packet(path: Path) -> ElementTree.Element:
    """The XMP as Pillow finds it, well-formed or it raises."""
    with Image.open(path) as image:
        return ElementTree.fromstring(image.info["xmp"])


def description(packet: ElementTree.Element) -> str | None:
    (line,) = packet.iterfind(f".//{{http://purl.org/dc/elements/1.1/}}description/{RDF}Alt/{RDF}li")
    return line.text


def write_clip(path: Path, frames: int = 7) -> Path:
    with VideoWriter(path, (128, 96), 25.0) as writer:
        for k in range(frames):
            writer.write(np.roll(picture(), 3 * k, axis=1), k / 25)
    return path


def decoded(path: Path) -> np.ndarray:
    with av.open(str(path)) as file:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)])


def box(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(body), kind) + body


def xmp(inside: str) -> bytes:
    """A packet by somebody else, about the same property."""
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/" xmlns:i="{IPTC[1:-1]}" xmlns:r="{RDF[1:-1]}">'
        f"<r:RDF>{inside}</r:RDF></x:xmpmeta>"
    ).encode()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("text", TEXTS)
def test_a_picture_says_what_it_is(tmp_path: Path, name: str, text: str) -> None:
    what, line = TEXTS[text]
    save_marked_picture(tmp_path / name, picture(), what)
    packet = read_packet(tmp_path / name)
    assert packet.findtext(f".//{IPTC}DigitalSourceType") == SOURCE_TYPE
    assert packet.findtext(".//{http://ns.adobe.com/xap/1.0/}CreatorTool") == f"recon3d {__version__}"
    assert description(packet) == line
    assert read_mark(tmp_path / name) == SOURCE_TYPE
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_source_type_is_iptc_s() -> None:
    assert SOURCE_TYPE == (
        "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
    )


@pytest.mark.parametrize("name", NAMES)
def test_exif_says_so_too(tmp_path: Path, name: str) -> None:
    save_marked_picture(tmp_path / name, picture(), "a\nlächeln")
    with Image.open(tmp_path / name) as image:
        exif = image.getexif()
    assert (exif[0x0131], exif[0x010E]) == (f"recon3d {__version__}", "a l?cheln")


def test_the_picture_is_not_changed(tmp_path: Path) -> None:
    pixels = picture()
    for name in NAMES:
        save_marked_picture(tmp_path / name, pixels, "x")
        with Image.open(tmp_path / name) as image:
            off = np.abs(np.asarray(image).astype(int) - pixels)
        assert off.max() == 0 if Path(name).suffix.lower() in (".png", ".tif", ".tiff") else off.mean() < 3
    assert np.array_equal(pixels, picture())


def test_jpeg_quality_is_95(tmp_path: Path) -> None:
    save_marked_picture(tmp_path / "a.jpg", picture(), "x")
    Image.fromarray(picture()).save(tmp_path / "b.jpg", quality=95, subsampling=0)
    with Image.open(tmp_path / "a.jpg") as ours, Image.open(tmp_path / "b.jpg") as plain:
        assert ours.quantization == plain.quantization  # type: ignore[attr-defined]
        assert np.array_equal(np.asarray(ours), np.asarray(plain))


@pytest.mark.parametrize("name", LOSSLESS)
def test_the_visible_mark_is_by_option_and_in_its_corner(tmp_path: Path, name: str) -> None:
    pixels = picture(200, 300)
    save_marked_picture(tmp_path / name, pixels, "x", visible=True)
    with Image.open(tmp_path / name) as image:
        marked = np.asarray(image)
    assert np.array_equal(marked, draw_mark(pixels))
    rows, columns = np.nonzero((marked != pixels).any(2))
    assert rows.min() > 200 - 20 and rows.max() == 199
    assert columns.min() > 300 - 60 and columns.max() == 299
    assert read_mark(tmp_path / name) == SOURCE_TYPE


@pytest.mark.parametrize("ground", [0, 90, 255])
def test_the_mark_can_be_read_on_any_ground(ground: int) -> None:
    """WCAG 2's contrast of the type with the plate around it; and type there is, neither little nor all."""
    marked = draw_mark(np.full((300, 400, 3), ground, np.uint8))
    plate = marked[-10:, -48:].astype(float)
    light, dark = (((tone / 255 + 0.055) / 1.055) ** 2.4 for tone in (plate.max(), plate.min()))
    assert (light + 0.05) / (dark + 0.05) > 4.5
    assert 0.05 < (plate > (plate.max() + plate.min()) / 2).mean() < 0.5


def test_the_mark_grows_with_the_picture() -> None:
    def plate(height: int, width: int) -> tuple[int, int]:
        rows, columns = np.nonzero(draw_mark(np.full((height, width, 3), 255, np.uint8)).min(2) < 255)
        return height - int(rows.min()), width - int(columns.min())

    assert plate(100, 2000) == plate(360, 360)  # 10 px at least
    small, large = plate(1000, 1500), plate(3000, 2000)
    assert large[1] == pytest.approx(2 * small[1], rel=0.05)
    assert 0.025 * 1000 < small[0] < 2 * 0.03 * 1000  # the type, and a rim


@pytest.mark.parametrize("shape", [(64, 64), (64, 300), (8, 300), (20, 20), (1, 1)])
def test_the_mark_on_small_pictures(shape: tuple[int, int]) -> None:
    pixels = np.full((*shape, 3), 200, np.uint8)
    marked = draw_mark(pixels)
    assert marked.shape == pixels.shape and marked.dtype == np.uint8
    assert (pixels == 200).all() and (marked[-1, -1] < 200).all()
    if min(shape) >= 64:
        assert (marked[0] == 200).all() and (marked[:, 0] == 200).all()  # all of the plate fits


def test_the_mark_on_a_mirrored_view(tmp_path: Path) -> None:
    view = picture()[:, ::-1]
    assert np.array_equal(draw_mark(view), draw_mark(view.copy()))
    save_marked_picture(tmp_path / "p.png", view, "x")
    with Image.open(tmp_path / "p.png") as image:
        assert np.array_equal(np.asarray(image), view)


def test_unmarked_pictures_have_none(tmp_path: Path) -> None:
    for name in NAMES:
        Image.fromarray(picture()).save(tmp_path / name)
        assert read_mark(tmp_path / name) is None


@pytest.mark.parametrize("text", TEXTS)
def test_a_clip_says_what_it_is_and_plays_as_before(tmp_path: Path, text: str) -> None:
    what, line = TEXTS[text]
    clip = write_clip(tmp_path / "clip.mp4")
    before, bytes_before = decoded(clip), clip.read_bytes()
    assert read_mark(clip) is None
    mark_clip(clip, what)
    assert read_mark(clip) == SOURCE_TYPE
    assert len(before) == 7 and np.array_equal(decoded(clip), before)
    added = clip.read_bytes().removeprefix(bytes_before)
    assert added[:24] == struct.pack(">I4s", len(added), b"uuid") + UUID
    assert description(ElementTree.fromstring(added[24:])) == line


def test_a_clip_is_marked_before_it_has_its_name(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "clip.mp4") as temporary:
        write_clip(temporary)
        mark_clip(temporary, "x")
    assert read_mark(tmp_path / "clip.mp4") == SOURCE_TYPE
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


def test_a_second_mark_replaces_the_first(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    mark_clip(clip, "first")
    mark_clip(clip, "second")
    content = clip.read_bytes()
    assert content.count(b"uuid" + UUID) == 1 and content.count(b"free" + UUID) == 1
    assert description(ElementTree.fromstring(content.split(b"uuid" + UUID)[1])) == "second"
    assert read_mark(clip) == SOURCE_TYPE and len(decoded(clip)) == 7


def test_a_truncated_clip_has_none(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "clip.mp4")
    mark_clip(whole, "x")
    content = whole.read_bytes()
    for length in (*range(8, len(content), 97), len(content) - 1):
        (tmp_path / "part.mp4").write_bytes(content[:length])
        assert read_mark(tmp_path / "part.mp4") is None, length


FTYP = box(b"ftyp", b"isom\0\0\0\0isom")
MARK = box(b"uuid", UUID + xmp(f"<i:DigitalSourceType>{SOURCE_TYPE}</i:DigitalSourceType>"))


@pytest.mark.parametrize(
    "between",
    [
        struct.pack(">I4s", 7, b"free"),  # smaller than its own head
        struct.pack(">I4sQ", 1, b"free", 15),
        struct.pack(">I4sQ", 1, b"free", 2**64 - 1),
        struct.pack(">I4s", 2**32 - 1, b"mdat"),
        struct.pack(">I4s", 0, b"mdat"),  # to the end of the file: the mark is in it
        struct.pack(">I4s", 23, b"uuid") + bytes(15),  # too small for its name
        box(b"uuid", UUID),
        box(b"uuid", UUID + bytes(2**20 + 1)),
        b"\xff" * 64,
    ],
)
def test_lying_sizes(tmp_path: Path, between: bytes) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(FTYP + box(b"free", b"") + MARK)
    assert read_mark(clip) == SOURCE_TYPE
    clip.write_bytes(FTYP + between + MARK)
    found = read_mark(clip)
    assert found is None or between[:8] == struct.pack(">I4s", 23, b"uuid")


def test_a_mark_behind_a_box_with_a_long_size(tmp_path: Path) -> None:
    clip = tmp_path / "clip.mp4"
    clip.write_bytes(FTYP + struct.pack(">I4sQ", 1, b"mdat", 20) + b"1234" + MARK)
    assert read_mark(clip) == SOURCE_TYPE


def test_huge_files_are_not_read_into_memory(tmp_path: Path) -> None:
    """Sparse ones: a box that takes 5 GiB, and a picture of 100 MiB without a mark."""
    clip, other = tmp_path / "clip.mp4", tmp_path / "p.tif"
    size = 5 << 30
    clip.write_bytes(FTYP + struct.pack(">I4sQ", 1, b"uuid", size) + UUID)
    os.truncate(clip, len(FTYP) + size)
    other.write_bytes(b"II*\0")
    os.truncate(other, 100 << 20)
    tracemalloc.start()
    try:
        assert read_mark(clip) is None and read_mark(other) is None
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "packet",
    [
        xmp(f"<r:Description><i:DigitalSourceType> {SOURCE_TYPE}\n</i:DigitalSourceType></r:Description>"),
        xmp(f'<r:Description i:DigitalSourceType="{SOURCE_TYPE}"/>'),
        xmp(f'<r:Description><i:DigitalSourceType r:resource="{SOURCE_TYPE}"/></r:Description>'),
    ],
)
def test_other_ways_to_say_it(tmp_path: Path, packet: bytes) -> None:
    clip, other = tmp_path / "clip.mp4", tmp_path / "p.gif"
    clip.write_bytes(FTYP + box(b"uuid", UUID + packet + bytes(7)))
    assert read_mark(clip) == SOURCE_TYPE
    for before in (0, 2**20 - 300, 2**20 - 20, 2**20 - 16, 2**20 - 3, 2**20, 2**20 + 1):
        other.write_bytes(bytes(before) + b'<?xpacket begin=""?>' + packet + b'<?xpacket end="w"?>')
        assert read_mark(other) == SOURCE_TYPE, before


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\xff\xfe<",
        b"<x>",
        xmp("<i:DigitalSourceType>  </i:DigitalSourceType>"),
        xmp(f"<i:Other>{SOURCE_TYPE}</i:Other>"),
        xmp(f"<DigitalSourceType>{SOURCE_TYPE}</DigitalSourceType>"),  # somebody else's word
        b'<!DOCTYPE a [<!ENTITY b "c">]>' + xmp("<i:DigitalSourceType>&b;</i:DigitalSourceType>"),
        b"<a>" * 100_000,
        b"<a>" * 100_000 + b"</a>" * 100_000,
    ],
)
def test_packets_that_do_not_say_it(tmp_path: Path, packet: bytes) -> None:
    clip, other = tmp_path / "clip.mp4", tmp_path / "p.gif"
    clip.write_bytes(FTYP + box(b"uuid", UUID + packet))
    other.write_bytes(b'<?xpacket begin=""?>' + packet + b'<?xpacket end="w"?>')
    assert read_mark(clip) is None and read_mark(other) is None


def test_bytes_that_are_neither_picture_nor_clip(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for size in (1, 7, 8, 100, 5000):
        (tmp_path / "a").write_bytes(random.bytes(size))
        assert read_mark(tmp_path / "a") is None
    (tmp_path / "a").write_bytes(b"<?xpacket begin=" + bytes(3 << 20))
    assert read_mark(tmp_path / "a") is None
    for path in (tmp_path / "missing.jpg", tmp_path):
        with pytest.raises(InputError):
            read_mark(path)


@pytest.mark.parametrize("name", ["p.gif", "p.bmp", "p", "p.mp4"])
def test_formats_that_cannot_carry_it_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.jpg, .*\.png, \.webp, \.tif") as error:
        save_marked_picture(tmp_path / name, picture(), "x")
    assert "\n" not in str(error.value) and not list(tmp_path.iterdir())


@pytest.mark.parametrize(("name", "width"), [("p.webp", 16384), ("p.jpg", 65536)])
def test_pictures_too_large_for_their_format(tmp_path: Path, name: str, width: int) -> None:
    with pytest.raises(OutputError):
        save_marked_picture(tmp_path / name, np.zeros((1, width, 3), np.uint8), "x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"earlier")
    with files_of_at_most(100), pytest.raises(OutputError):
        save_marked_picture(tmp_path / name, picture(), "x")
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == b"earlier"


def test_no_folder(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        save_marked_picture(tmp_path / "none" / "p.jpg", picture(), "x")


def test_a_full_disk_leaves_the_clip_as_it_was(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "clip.mp4")
    before = clip.read_bytes()
    with files_of_at_most(len(before) + 10), pytest.raises(OSError):
        mark_clip(clip, "x")
    assert clip.read_bytes() == before and read_mark(clip) is None
    with pytest.raises(OutputError), atomic_path(tmp_path / "new.mp4") as temporary:
        temporary.write_bytes(before)
        with files_of_at_most(len(before) + 10):
            mark_clip(temporary, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["clip.mp4"]


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"not a clip at all, but long enough",
        box(b"free", b"") + FTYP,
        FTYP + struct.pack(">I4s", 0, b"mdat") + b"to the end",  # a mark would become part of it
        FTYP + box(b"mdat", b"1234")[:-1],
        FTYP + b"abc",
    ],
)
def test_only_whole_mp4_files_are_marked(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.mp4").write_bytes(content)
    with pytest.raises(OutputError, match="not a whole MP4"):
        mark_clip(tmp_path / "a.mp4", "x")
    assert (tmp_path / "a.mp4").read_bytes() == content
    with pytest.raises(InputError):
        mark_clip(tmp_path / "missing.mp4", "x")
