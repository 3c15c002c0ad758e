"""The parts of the server that need no server: names, sizes, signatures, the queue, the data folder."""

from __future__ import annotations

import hashlib
import io
import os
import socket
import stat
import struct
import sys
import tarfile
import time
import zipfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest
import skimage.data
from face_clips import wall_frames, write_clip
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

from recon3d import assets
from recon3d.cli import app
from recon3d.errors import InputError, UsageError
from recon3d.serve import library
from recon3d.serve.archive import stream_zip
from recon3d.serve.schema import Kind, Options, State
from recon3d.serve.settings import choose_token, is_local, parse_bytes, parse_seconds
from recon3d.serve.sniff import sniff
from recon3d.serve.storage import Storage, Stored, archive_stem, display_name, list_results
from recon3d.serve.store import NewJob, QueueFull, Store

HOSTILE = (
    "../../etc/passwd",
    "..\\..\\boot.ini",
    "/etc/shadow",
    "a\r\nSet-Cookie: x=1",
    "\u202egpj.exe",
    "<script>alert(1)</script>.png",
    "nul",
    "con.png",
    "...",
    "",
    "\x00\x01",
    "é" * 500,
    "x" * 5000,
    "名前.jpg",
    "\ud800broken",
)


def new_job(number: int, **changes: object) -> NewJob:
    return NewJob(f"{number:032x}", f"{number}.png", Kind.photo, 10, Options(**changes))


def encoded(format_name: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(skimage.data.astronaut()[:40, :60]).save(buffer, format_name, **options)
    return buffer.getvalue()


# ---- options ----


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("10min", 600), ("24h", 86400), ("7d", 604800), ("1.5 H", 5400)]
)
def test_times(text: str, seconds: float) -> None:
    assert parse_seconds(text, "--keep") == seconds


@pytest.mark.parametrize(
    ("text", "size"), [("500MB", 500_000_000), ("2gb", 2 * 10**9), ("64MiB", 64 << 20), ("17", 17)]
)
def test_sizes(text: str, size: int) -> None:
    assert parse_bytes(text, "--max-upload") == size


@pytest.mark.parametrize("text", ["", "0", "0s", "-1s", "nan", "1e9", "5 parsecs", "MB", "٣s"])
def test_what_is_no_time_and_no_size(text: str) -> None:
    with pytest.raises(UsageError, match=r"--keep .* a time is wanted, like"):
        parse_seconds(text, "--keep")
    with pytest.raises(UsageError, match=r"--max-upload .* a size is wanted, like"):
        parse_bytes(text if text != "1e9" else "-1", "--max-upload")


def test_a_token_is_made_where_others_can_reach_the_server() -> None:
    assert [is_local(host) for host in ("127.0.0.1", "::1", "localhost", "127.3.2.1")] == [True] * 4
    assert [is_local(host) for host in ("0.0.0.0", "::", "192.168.1.5", "myhost")] == [False] * 4
    assert choose_token("127.0.0.1", None) == (None, False)
    token, made = choose_token("0.0.0.0", None)
    assert made and token is not None and len(token) >= 32
    assert choose_token("0.0.0.0", None)[0] != token
    assert choose_token("127.0.0.1", "long-enough-1") == ("long-enough-1", False)
    for bad in ("short", "with spaces inside", "ümlaute-sind-keine"):
        with pytest.raises(UsageError, match="the token must have 12 or more"):
            choose_token("127.0.0.1", bad)


def serve(*options: str | Path) -> str:
    """Run the command with options that it refuses; return its one line."""
    done = CliRunner().invoke(app, ["serve", *map(str, options)])
    assert done.exit_code == 2 and done.stderr.count("\n") == 1, done.output
    return done.stderr


def test_the_command_says_what_is_wrong_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ("--data", tmp_path / "data")
    assert "--keep 'soon': a time is wanted, like" in serve(*data, "--keep", "soon")
    assert "--max-upload 'much': a size is wanted" in serve(*data, "--max-upload", "much")
    assert "the token must have 12 or more" in serve(*data, "--token", "abc")
    monkeypatch.setenv("RECON3D_TOKEN", "abc")
    assert "the token must have 12 or more" in serve(*data)
    monkeypatch.delenv("RECON3D_TOKEN")
    assert "cannot serve at nowhere.invalid:8000 (" in serve(*data, "--host", "nowhere.invalid")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert f"cannot serve at 127.0.0.1:{port} (Address already in use)" in serve(
            *data, "--port", str(port)
        )
    assert not (tmp_path / "data").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "x").touch()
    assert "choose an empty folder for --data" in serve("--data", tmp_path / "mine", "--port", "0")


def test_without_the_extra_it_says_which_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = CliRunner().invoke(app, ["serve"])
    assert done.exit_code == 1
    assert done.stderr == "recon3d: the server needs uvicorn: pip install 'recon3d[serve]'\n"


# ---- three.js ----


def package(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in members.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            archive.addfile(about, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("whole", [True, False])
def test_three_is_taken_out_of_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: bool
) -> None:
    names = dict.fromkeys(library._MEMBERS.values(), b"export {};")
    if not whole:
        del names["package/build/three.core.js"]
    content = package({**names, "package/../../evil.js": b"evil"})
    digest = hashlib.sha256(content).hexdigest()
    fake = replace(assets.THREE_JS, size=len(content), sha256=digest, sources=())
    monkeypatch.setattr(library, "THREE_JS", fake)
    monkeypatch.setitem(assets.PAGE_MANIFEST, "three", fake)
    monkeypatch.setenv("RECON3D_CACHE", str(tmp_path))
    found = library.Library()
    found.load()
    assert found.problem is not None and "recon3d models --fetch" in found.problem and not found.files
    fake.path.write_bytes(content)
    found.look_again()
    assert (found.problem is None) is whole
    assert set(found.files) == (set(library._MEMBERS) if whole else set())
    assert [path.name for path in tmp_path.iterdir()] == [fake.filename]


def test_models_fetch_brings_it_along() -> None:
    assert [asset.name for asset in assets.wanted_assets()] == ["face_landmarker", "three"]


# ---- names ----


@given(st.one_of(st.text(max_size=300), st.sampled_from(HOSTILE)))
@settings(max_examples=200, deadline=None)
@example("\ud800broken")
def test_names_of_clients_become_harmless(text: str) -> None:
    name = display_name(text)
    assert 0 < len(name) <= 120 and name.isprintable() and not set("/\\") & set(name)
    stem = archive_stem(name)
    assert 0 < len(stem) <= 81
    assert not set(stem) & set('/\\:*?"<>|') and stem.isprintable()
    assert stem not in (".", "..") and stem == stem.strip(". ") and Path(stem).name == stem
    assert stem.split(".")[0].lower() not in ("con", "nul", "aux", "prn", "com1")


def test_display_names_stay_readable() -> None:
    assert display_name("C:\\takes\\Take 3 (é).mov") == "Take 3 (é).mov"
    assert archive_stem("Take 3 (é).mov") == "Take 3 (é)"
    assert display_name("名前.jpg") == "名前.jpg" and archive_stem("名前.jpg") == "名前"
    assert "\u202e" not in display_name("\u202egpj.exe")


# ---- content ----


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "PPM"])
def test_pictures_are_known_by_their_content(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "clip.mp4"  # a name that lies
    path.write_bytes(encoded(kind))
    assert sniff(path, "x") is Kind.photo


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".avi", ".webm", ".ts"])
def test_clips_are_known_by_their_content(tmp_path: Path, suffix: str) -> None:
    import av

    original = write_clip(tmp_path / "wall.mp4", wall_frames(4))
    path = tmp_path / f"clip{suffix}"
    with av.open(original) as source, av.open(path, "w") as target:
        stream = target.add_stream("libvpx" if suffix == ".webm" else "mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for frame in source.decode(video=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    lying = path.rename(tmp_path / "photo.jpg")
    assert sniff(lying, "x") is Kind.clip


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"hello",
        b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n",
        b"ffconcat version 1.0\nfile /etc/passwd\n",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run\n",
        b"PK\x03\x04" + bytes(100),
        b"\x7fELF" + bytes(100),
        b"P6 nonsense",
        b"BM",
        b"RIFF\x00\x00\x00\x00WAVEfmt ",
        b"\xff\xd8\xff\xe0 no picture",
        b"\x89PNG\r\n\x1a\n" + bytes(60),
    ],
)
def test_everything_else_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "portrait.jpg"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"^shown\.jpg: ") as caught:
        sniff(path, "shown.jpg")
    assert "\n" not in str(caught.value) and str(tmp_path) not in str(caught.value)


def test_pictures_that_unpack_to_too_much_are_refused_by_their_header(tmp_path: Path) -> None:
    header = b"IHDR" + struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    (tmp_path / "huge.png").write_bytes(content + struct.pack(">I", 0) + b"IDAT" + bytes(4))
    with pytest.raises(InputError, match="megapixels"):
        sniff(tmp_path / "huge.png", "huge.png")


def test_pictures_that_are_read_whole_may_not_be_too_large(tmp_path: Path) -> None:
    path = tmp_path / "large.webp"
    path.write_bytes(encoded("WEBP"))
    with path.open("ab") as file:
        file.truncate(70_000_000)
    with pytest.raises(InputError, match="more than 64 MB; send it as JPEG or PNG"):
        sniff(path, "large.webp")


# ---- the queue ----


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "queue.sqlite")


def test_jobs_are_done_in_their_order_and_once(store: Store) -> None:
    store.add([new_job(1), new_job(2, faces=2)], limit=10)
    store.add([new_job(3)], limit=10)
    first, second = store.claim(), store.claim()
    assert first is not None and second is not None
    assert [first.name, second.name] == ["1.png", "2.png"]
    assert first.state is State.running and first.attempts == 1 and second.options.faces == 2
    store.put_back(first.id, tried=True)
    again = store.claim()
    assert again is not None and again.id == first.id and again.attempts == 2
    assert store.waiting_numbers() == [3] and store.open_jobs() == 3
    assert store.finish(first.id, [Stored("mesh.glb", 1, "head", "mesh.glb", 5)], 1)
    assert not store.fail(first.id, "too late")
    done = store.get(first.id)
    assert done is not None and done.state is State.done and done.files[0].media_type == "model/gltf-binary"
    assert [record.name for record in store.newest(2)] == ["3.png", "2.png"]
    assert [record.name for record in store.newest(2, 2)] == ["1.png"]


def test_the_queue_is_bounded_and_takes_all_or_none(store: Store) -> None:
    store.add([new_job(1), new_job(2)], limit=3)
    with pytest.raises(QueueFull):
        store.add([new_job(3), new_job(4)], limit=3)
    assert store.count() == 2
    store.cancel(new_job(1).id)
    store.add([new_job(3), new_job(4)], limit=3)
    assert store.count(State.waiting) == 3


def test_a_restart_keeps_the_queue_and_running_jobs_wait_again(tmp_path: Path) -> None:
    path = tmp_path / "queue.sqlite"
    first = Store(path)
    first.add([new_job(1), new_job(2), new_job(3)], limit=9)
    claimed = first.claim()
    assert claimed is not None
    first.cancel(new_job(3).id)
    # No close: as if it had been killed.
    second = Store(path)
    assert [record.state for record in second.newest(9)] == [State.cancelled, State.waiting, State.waiting]
    again = second.claim()
    assert again is not None and again.id == claimed.id and again.attempts == 2


def test_a_job_that_takes_the_server_along_again_and_again_is_set_aside(tmp_path: Path) -> None:
    for _ in range(3):
        store = Store(tmp_path / "queue.sqlite")
        if not store.count():
            store.add([new_job(1)], limit=9)
        assert store.claim() is not None
    last = Store(tmp_path / "queue.sqlite")
    record = last.get(new_job(1).id)
    assert record is not None and record.state is State.failed
    assert record.error == "1.png: the server was killed while it worked on this, again and again"
    assert last.claim() is None


def test_deleted_jobs_are_seen_by_nobody_and_go_at_last(store: Store) -> None:
    store.add([new_job(1), new_job(2)], limit=9)
    running = store.claim()
    assert running is not None
    assert store.delete(running.id) and not store.delete(running.id)
    assert store.get(running.id) is None and store.count() == 1 and store.open_jobs() == 1
    assert not store.finish(running.id, [], 1)
    assert store.deleted_ids() == [running.id]
    store.forget(running.id)
    store.forget(new_job(2).id)  # is not deleted, so it stays
    assert store.ids() == [new_job(2).id]


def test_only_finished_jobs_grow_old(store: Store) -> None:
    store.add([new_job(1), new_job(2), new_job(3)], limit=9)
    for _ in range(2):
        store.claim()
    store.fail(new_job(1).id, "no")
    store.delete_old(time.time() - 60)
    assert store.deleted_ids() == []
    store.delete_old(time.time() + 60)
    assert store.deleted_ids() == [new_job(1).id]


@pytest.mark.parametrize("content", [b"not a database, but long enough to be one" * 40, b""])
def test_a_queue_that_is_none(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "queue.sqlite"
    path.write_bytes(content)
    if not content:
        assert Store(path).count() == 0  # an empty file is an empty database
        return
    with pytest.raises(UsageError, match="not a queue of recon3d"):
        Store(path)


# ---- the data folder ----


@pytest.mark.skipif(sys.platform == "win32", reason="no modes")
def test_the_folders_are_their_owners_alone(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "data")
    for folder in (storage.root, storage.incoming, storage.jobs):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    upload = storage.new_upload()
    upload.write_bytes(b"x")
    storage.adopt(upload, "a" * 32)
    assert stat.S_IMODE((storage.jobs / ("a" * 32)).stat().st_mode) == 0o700
    assert storage.upload("a" * 32).read_bytes() == b"x" and not upload.exists()
    storage.close()


def test_a_folder_belongs_to_one_server_and_to_nothing_else(tmp_path: Path) -> None:
    first = Storage(tmp_path / "data")
    Store(first.queue).close()
    with pytest.raises(UsageError, match="another server uses it"):
        Storage(tmp_path / "data")
    first.close()
    Storage(tmp_path / "data").close()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(UsageError, match="holds other files; choose an empty folder for --data"):
        Storage(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_what_a_crash_left_is_removed(tmp_path: Path) -> None:
    first = Storage(tmp_path / "data")
    Store(first.queue).close()
    first.new_upload().write_bytes(b"half")
    (first.jobs / ("b" * 32)).mkdir()
    (first.jobs / ("c" * 32)).mkdir()
    first.close()
    second = Storage(tmp_path / "data")
    second.remove_strangers(["c" * 32])
    assert list(second.incoming.iterdir()) == []
    assert [path.name for path in second.jobs.iterdir()] == ["c" * 32]
    second.close()


def test_no_result_outside_its_folder_is_given_out(tmp_path: Path) -> None:
    storage = Storage(tmp_path / "data")
    job = "d" * 32
    folder = storage.results(job) / "head"
    folder.mkdir(parents=True)
    (folder / "mesh.glb").write_bytes(b"glb")
    (tmp_path / "secret").write_text("secret")
    (folder / "link.glb").symlink_to(tmp_path / "secret")
    (storage.results(job) / "head.face2").symlink_to(tmp_path)
    (storage.results(job) / ".recon3d-1234").mkdir()
    if hasattr(os, "mkfifo"):
        os.mkfifo(folder / "pipe.glb")
    assert [stored.name for stored in list_results(storage.results(job))] == ["mesh.glb"]

    def path(folder: str, file: str) -> Path | None:
        return storage.path(job, Stored("x", 1, folder, file, 1))

    assert path("head", "mesh.glb") is not None
    for folder_name, file in (
        ("head", "link.glb"),
        ("head.face2", "secret"),
        ("head", "pipe.glb"),
        ("..", "upload"),
        ("head", "../../../../../secret"),
        ("head", "gone.glb"),
        ("head", ""),
    ):
        assert path(folder_name, file) is None
    storage.close()


def test_archives_are_made_in_pieces_and_are_whole(tmp_path: Path) -> None:
    big = os.urandom(3 << 20)
    (tmp_path / "mesh.glb").write_bytes(big)
    (tmp_path / "overlay.mp4").write_bytes(b"small")
    entries = [("take/mesh.glb", tmp_path / "mesh.glb"), ("take/overlay.mp4", tmp_path / "overlay.mp4")]
    pieces = list(stream_zip(entries, 1_700_000_000.0))
    assert max(map(len, pieces)) < 1 << 20
    with zipfile.ZipFile(io.BytesIO(b"".join(pieces))) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["take/mesh.glb", "take/overlay.mp4"]
        assert archive.read("take/mesh.glb") == big
    assert b"".join(stream_zip(entries, 0.0))[:4] == b"PK\x03\x04"  # before zip's first year
