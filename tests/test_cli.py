"""The installed console script, as a user runs it."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pygltflib
import pytest
import skimage.data
from PIL import Image

from recon3d._cli_photo import PhotoSettings, run_photo
from recon3d._cli_report import Reporter
from recon3d._version import __version__
from recon3d.capture import Capture
from recon3d.media import image

SCRIPT = Path(sys.executable).with_name("recon3d")
ALL_FILES = {"capture.npz", "mesh.obj", "mesh.mtl", "mesh.jpg", "mesh.glb", "overlay.jpg", "arkit.json"}


@dataclass(frozen=True)
class Run:
    status: int
    out: str
    err: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def recon3d(*arguments: str | Path, cwd: Path | None = None, **options: Any) -> Run:
    """Run the script to its end; no output of it may ever hold a traceback."""
    environment = {**os.environ, **options.pop("env", {})}
    done = subprocess.run(
        [SCRIPT, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=cwd,
        env=environment,
        check=False,
        **options,
    )
    for stream in (done.stdout, done.stderr):
        assert "Traceback" not in stream, stream
        assert "unexpected error" not in stream, stream
    return Run(done.returncode, done.stdout, done.stderr)


def huge_png(path: Path) -> None:
    """20,000 x 20,000 px of black in about a megabyte."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(1)
    rows = b"".join([*(packer.compress(bytes(60_001 * 100)) for _ in range(200)), packer.flush()])
    header = struct.pack(">IIBBBBB", 20_000, 20_000, 8, 2, 0, 0, 0)
    parts = (chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Good and bad inputs."""
    root = tmp_path_factory.mktemp("inputs")
    for name in ("more", "empty"):
        (root / name).mkdir()
    astronaut = Image.fromarray(skimage.data.astronaut())
    astronaut.save(root / "astronaut.png")
    astronaut.resize((300, 300)).save(root / "more" / "astronaut.jpg")
    pair = Image.new("RGB", (1024, 512), (90, 90, 90))
    pair.paste(astronaut, (0, 0))
    pair.paste(astronaut.resize((380, 380)), (580, 60))
    pair.save(root / "pair.png")
    (root / "text.jpg").write_text("not a picture\n" * 40)
    astronaut.save(root / "whole.jpg")
    (root / "cut.jpg").write_bytes((root / "whole.jpg").read_bytes()[:9_000])
    (root / "whole.jpg").unlink()
    (root / "zero.jpg").touch()
    huge_png(root / "huge.png")
    Image.fromarray(np.full((90, 120, 3), 200, np.uint8)).save(root / "wall.png")
    return root


REASONS = {
    "nothing.jpg": "nothing.jpg: no such file",
    "text.jpg": "text.jpg: not an image (or of a format that cannot be read)",
    "cut.jpg": "cut.jpg: truncated: the file ends before the picture does",
    "zero.jpg": "zero.jpg: is empty (0 bytes)",
    "huge.png": "huge.png: too large: 400 megapixels, the limit is 100 megapixels; make it smaller",
    "wall.png": "wall.png: no face found; show one larger or more from the front",
    "empty": "empty: no images in this folder (subfolders are not searched)",
    "*.bmp": "*.bmp: no images match this pattern",
}
GOOD = ("astronaut.png", "more", "pair.png")


@pytest.fixture(scope="module")
def batch(folder: Path) -> Run:
    """One run over everything, good and bad by turns."""
    bad = list(REASONS)
    inputs = [*bad[:3], GOOD[0], *bad[3:5], GOOD[1], *bad[5:7], GOOD[2], bad[7]]
    return recon3d("photo", *inputs, "--out", "out", "--json", cwd=folder)


# ---- a batch with good and bad inputs ----


def test_the_bad_are_listed_and_the_others_done(batch: Run, folder: Path) -> None:
    assert batch.status == 1
    expected = [f"recon3d: {reason}" for reason in REASONS.values()]
    assert batch.err.splitlines() == [*expected, "recon3d: 8 of 11 inputs failed"]
    names = sorted(p.name for p in (folder / "out").iterdir())
    assert names == ["astronaut", "astronaut-2", "pair", "pair.face2"]
    for name in names:
        assert {p.name for p in (folder / "out" / name).iterdir()} == ALL_FILES
        assert all(p.stat().st_size > 0 for p in (folder / "out" / name).iterdir())


def test_json_has_one_line_an_input(batch: Run, folder: Path) -> None:
    records = {record["input"]: record for record in batch.records}
    assert len(batch.records) == len(records) == 11
    for name, reason in REASONS.items():
        assert records[name]["ok"] is False
        assert records[name]["error"] == reason
    assert records["wall.png"]["kind"] == "NoFaceError"
    (face,) = records["astronaut.png"]["faces"]
    assert face["folder"] == "out/astronaut"
    assert face["score"] > 0.9
    assert 0 < face["residual"] < 0.03
    left, top, right, bottom = face["box"]
    assert (left < right, top < bottom) == (True, True)
    outputs = {Path(path) for path in records["astronaut.png"]["outputs"]}
    assert outputs == {Path("out/astronaut") / name for name in ALL_FILES}
    assert all((folder / path).is_file() for path in outputs)


def test_two_faces_have_two_folders(batch: Run, folder: Path) -> None:
    (record,) = [r for r in batch.records if r["input"] == "pair.png"]
    assert [face["folder"] for face in record["faces"]] == ["out/pair", "out/pair.face2"]
    large, small = (Capture.load(folder / "out" / n / "capture.npz") for n in ("pair", "pair.face2"))
    assert large.box[0, 2] < 512 < small.box[0, 0]


def test_two_inputs_of_one_name_do_not_overwrite_each_other(batch: Run, folder: Path) -> None:
    sizes = [
        Capture.load(folder / "out" / name / "capture.npz").size for name in ("astronaut", "astronaut-2")
    ]
    assert sizes == [(512, 512), (300, 300)]


def test_the_glb_has_the_units(batch: Run, folder: Path) -> None:
    gltf = pygltflib.GLTF2().load(str(folder / "out" / "astronaut" / "mesh.glb"))
    assert gltf is not None
    assert len(gltf.meshes[0].primitives[0].targets) == 52


def test_export_of_captures(batch: Run, folder: Path, tmp_path: Path) -> None:
    captures = [folder / "out" / name / "capture.npz" for name in ("astronaut", "pair")]
    done = recon3d("export", *captures, folder / "text.jpg", "--out", tmp_path, "--format", "glb,arkit")
    assert done.status == 1
    assert f"recon3d: {folder / 'text.jpg'}: not a capture" in done.err
    assert done.out.splitlines()[0] == f"{captures[0]} -> {tmp_path / 'astronaut'}"
    for name in ("astronaut", "pair"):
        assert {p.name for p in (tmp_path / name).iterdir()} == {"mesh.glb", "arkit.json"}
        first, again = (f / name / "arkit.json" for f in (folder / "out", tmp_path))
        assert first.read_bytes() == again.read_bytes()


def test_export_with_the_photograph_gives_its_texture(batch: Run, folder: Path, tmp_path: Path) -> None:
    arguments = ("export", folder / "out" / "astronaut" / "capture.npz", "--out", tmp_path, "--json")
    done = recon3d(*arguments, "-f", "obj", "-f", "overlay", "--photo", folder / "astronaut.png")
    assert (done.status, done.err) == (0, "")
    (record,) = done.records
    assert {Path(p).name for p in record["outputs"]} == {"mesh.obj", "mesh.mtl", "mesh.jpg", "overlay.jpg"}


# ---- what is said, and where ----


def test_quiet_says_nothing(folder: Path, tmp_path: Path) -> None:
    arguments = ("photo", folder / "astronaut.png", "--out", tmp_path, "--quiet", "--format", "arkit, glb")
    assert recon3d(*arguments) == Run(0, "", "")
    assert {p.name for p in (tmp_path / "astronaut").iterdir()} == {"capture.npz", "arkit.json", "mesh.glb"}


def test_people_read_where_it_went(folder: Path, tmp_path: Path) -> None:
    options = ("--format", "arkit", "--focal", "50mm", "--max-faces", "1")
    done = recon3d("photo", "pair.png", "--out", tmp_path, *options, cwd=folder)
    assert done == Run(0, f"pair.png -> {tmp_path / 'pair'}\n", "")
    focal = Capture.load(tmp_path / "pair" / "capture.npz").focal
    assert focal == pytest.approx(50 * np.hypot(1024, 512) / np.hypot(36, 24))


def test_version_and_help() -> None:
    assert recon3d("--version") == Run(0, f"recon3d {__version__}\n", "")
    for arguments in (["--help"], ["photo", "--help"], ["export", "--help"], ["models", "--help"]):
        done = recon3d(*arguments)
        assert (done.status, done.err) == (0, "")
        assert "Usage: recon3d" in done.out


TO = ("--out", "out")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Usage: recon3d"),
        (["juggle"], "No such command 'juggle'"),
        (["photo", *TO], "Missing argument 'IMAGE...'"),
        (["photo", "eve.jpg"], "Missing option '--out'"),
        (["photo", "eve.jpg", *TO, "--loud"], "No such option"),
        (["photo", "eve.jpg", *TO, "--format", "fbx"], "recon3d: there is no format 'fbx'; choose"),
        (["photo", "eve.jpg", *TO, "--focal", "far"], "recon3d: --focal 'far': pixels (1200) or mm"),
        (["photo", "eve.jpg", *TO, "--max-faces", "0"], "--max-faces"),
        (["photo", "eve.jpg", *TO, "--head", "no.npz"], "--head"),
        (["photo", "eve.jpg", *TO, "--landmarks", "dlib"], "'mediapipe'"),
        (["export", "a.npz", *TO, "-f", "overlay"], "recon3d: an overlay is drawn over the photograph"),
        (["export", "a.npz", "b.npz", *TO, "-f", "obj", "--photo", "x.png"], "--photo goes with one"),
    ],
)
def test_wrong_usage_is_status_2(arguments: list[str], message: str, tmp_path: Path) -> None:
    done = recon3d(*arguments, cwd=tmp_path)
    assert done.status == 2
    assert message in done.out + done.err
    assert list(tmp_path.iterdir()) == []


def test_a_device_that_is_not_there_is_wrong_usage(folder: Path, tmp_path: Path) -> None:
    done = recon3d("photo", folder / "astronaut.png", "--out", tmp_path, "--device", "quantum")
    assert done.status == 2
    assert done.err == "recon3d: there is no device 'quantum' here; choose cpu, or cuda where torch has it\n"


def test_starting_up_imports_nothing_heavy() -> None:
    code = (
        "import sys\n"
        "from recon3d.cli import main\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "print(sorted({'torch', 'scipy', 'trimesh', 'numpy', 'PIL', 'rich.progress'} & set(sys.modules)))"
    )
    for arguments in (["--help"], ["--version"], ["photo"], ["photo", "a.jpg", "--out", "o", "-f", "fbx"]):
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        assert done.stdout.splitlines()[-1] == "[]"


def _read_terminal(terminal: int, parts: list[bytes]) -> None:
    """Read until the other end is closed, which a terminal tells by an error."""
    with contextlib.suppress(OSError):
        while data := os.read(terminal, 65536):
            parts.append(data)


def test_a_progress_bar_for_who_watches(folder: Path, tmp_path: Path) -> None:
    """Standard error is a terminal, standard output a pipe: the bar goes to the one, JSON to the other."""
    ours, theirs = os.openpty()
    seen_parts: list[bytes] = []
    reader = threading.Thread(target=_read_terminal, args=(ours, seen_parts))
    reader.start()  # a terminal holds 4 kB; a slow machine draws more than that
    done = subprocess.run(
        [SCRIPT, "photo", "astronaut.png", "wall.png", "--out", tmp_path, "-f", "arkit", "--json"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
        check=False,
    )
    os.close(theirs)
    reader.join(30)
    os.close(ours)
    seen = b"".join(seen_parts).decode()
    assert done.returncode == 1
    assert [json.loads(line)["ok"] for line in done.stdout.splitlines()] == [True, False]
    assert "photos" in seen
    assert "2/2" in seen
    assert "recon3d: wall.png: no face found" in seen


def test_a_fault_of_ours_is_one_line_and_the_batch_goes_on(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Faults that nobody foresaw cannot be had on demand, so one is put in where pictures are read."""
    reading = image.read_image

    def faulty(path: Path) -> image.Photo:
        if path.name == "pair.png":
            raise ZeroDivisionError("division\nby zero")
        return reading(path)

    monkeypatch.setattr(image, "read_image", faulty)
    inputs = [str(folder / name) for name in ("pair.png", "astronaut.png")]
    settings = PhotoSettings(
        out=tmp_path,
        formats=["arkit"],
        head=None,
        device="cpu",
        landmarks="mediapipe",
        weights_dir=None,
        max_faces=8,
        focal=None,
        landmark_dots=False,
    )
    with Reporter() as reporter:
        assert run_photo(inputs, settings, reporter) == 1
    out, err = capsys.readouterr()
    line, count = err.splitlines()
    assert line == (
        f"recon3d: {inputs[0]}: unexpected error: ZeroDivisionError: division by zero "
        "(a fault of recon3d: please report it, with what RECON3D_DEBUG=1 shows)"
    )
    assert count == "recon3d: 1 of 2 inputs failed"
    assert out == f"{inputs[1]} -> {tmp_path / 'astronaut'}\n"


# ---- outputs that cannot be written ----


def test_out_is_a_file(folder: Path) -> None:
    done = recon3d("photo", "astronaut.png", "more", "--out", "pair.png", cwd=folder)
    assert (done.status, done.out) == (1, "")
    reason = "recon3d: pair.png: a file is in the way of the output folder; choose another --out"
    assert done.err.splitlines() == [reason, "recon3d: 2 of 2 inputs failed"]


def test_out_cannot_be_made(folder: Path) -> None:
    done = recon3d("photo", folder / "astronaut.png", "--out", "/proc/recon3d/out")
    assert (done.status, done.out) == (1, "")
    (line,) = done.err.splitlines()
    assert line.startswith("recon3d: /proc/recon3d/out: cannot be written")


def test_a_full_disk_leaves_nothing_half_written(folder: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the mesh hits it, the capture does not."""
    done = recon3d(
        "photo",
        *("astronaut.png", "more"),
        *("--out", tmp_path / "out"),
        cwd=folder,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert (done.status, done.out) == (1, "")
    first, second, last = done.err.splitlines()
    target = tmp_path / "out" / "astronaut" / "mesh.obj"
    assert first == f"recon3d: astronaut.png: {target}: cannot be written (File too large)"
    assert second.startswith("recon3d: more/astronaut.jpg: ")
    assert last == "recon3d: 2 of 2 inputs failed"
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB; a folder called "unmounted" for those who may not mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(command, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    yield disk if mounted else tmp_path / "unmounted"
    if mounted:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_disk_that_is_really_full(folder: Path, tiny_disk: Path) -> None:
    done = recon3d("photo", folder / "astronaut.png", "--out", tiny_disk)
    if tiny_disk.name == "unmounted":  # not root: the limit above has to do, here it must just work
        assert done.status == 0
        return
    assert (done.status, done.out) == (1, "")
    assert "mesh.obj: no space left on the disk; free some or choose another --out" in done.err
    assert list(tiny_disk.iterdir()) == []


# ---- models ----


def test_a_missing_model_file_offline(folder: Path, tmp_path: Path) -> None:
    offline = {"RECON3D_CACHE": str(tmp_path / "cache"), "RECON3D_OFFLINE": "1"}
    inputs = (folder / "astronaut.png", folder / "pair.png")
    done = recon3d("photo", *inputs, "--out", tmp_path / "out", "--json", env=offline)
    assert done.status == 1
    reason, count = done.err.splitlines()
    assert reason.startswith("recon3d: face_landmarker.task could not be had; looked in ")
    assert "RECON3D_OFFLINE" in reason
    assert count == "recon3d: 2 of 2 inputs failed"
    assert [record["kind"] for record in done.records] == ["AssetError", "AssetError"]
    done = recon3d("models", "--fetch", env=offline)
    assert done.status == 1
    landmarker, three = done.err.splitlines()
    assert landmarker == reason
    assert three.startswith("recon3d: three-0.187.0.tgz could not be had; looked in ")
    assert done.out.startswith("face_landmarker: not downloaded, 3.8 MB, Apache-2.0")


def test_models_are_listed() -> None:
    record, page = recon3d("models", "--fetch", "--json").records
    assert page["name"] == "three"  # for recon3d serve, whose extra the tests need
    assert record["name"] == "face_landmarker"
    assert record["cached"] is True
    assert Path(record["path"]).stat().st_size == record["size"]


# ---- signals ----


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupted(folder: Path, tmp_path: Path, number: int, status: int) -> None:
    """When the first of many is done: what is there is whole, and nothing else is there."""
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for k in range(40):  # copies, not links: a file that is reached twice is done once
        (inputs / f"{k:02d}.png").write_bytes((folder / "astronaut.png").read_bytes())
    out = tmp_path / "out"
    command = [SCRIPT, "photo", inputs, "--out", out]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    assert running.stdout.readline().endswith("out/00\n")
    time.sleep(0.3)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == status
    assert "Traceback" not in err
    done = sorted(out.iterdir())
    assert 1 <= len(done) < 40
    for one in done:
        assert {p.name for p in one.iterdir()} == ALL_FILES
        Capture.load(one / "capture.npz")


def test_a_reader_that_leaves(folder: Path, tmp_path: Path) -> None:
    inputs = [folder / "astronaut.png", folder / "pair.png"]
    command = [SCRIPT, "photo", *inputs, "--out", tmp_path, "-f", "arkit", "--json"]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert running.stdout is not None
    running.stdout.close()
    assert running.stderr is not None
    assert running.stderr.read() == ""
    assert running.wait(60) == 141
