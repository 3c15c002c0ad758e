"""Live Link Face takes: against a recorded one, and against how other programs read the format."""

from __future__ import annotations

import itertools
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation
from toy_head import toy_arrays, toy_capture, write_toy_head

from recon3d.capture import Capture
from recon3d.conventions import ARKIT_NAMES, FRONTAL, LEFT_EYE, RIGHT_EYE
from recon3d.errors import InputError, OutputError, UsageError
from recon3d.export import export
from recon3d.export._angles import from_angles, to_angles, unit_gaze
from recon3d.export._resample import at_rate, regular_times, resample
from recon3d.export._still import camera_vertices
from recon3d.export.livelink import file_name, read_livelink, timecode, write_livelink
from recon3d.export.options import ExportOptions
from recon3d.head import HeadModel, load_head

RECORDING = Path(__file__).resolve().parents[2] / "shared" / "data" / "livelink" / "rom_3.csv"
needs_recording = pytest.mark.skipif(not RECORDING.is_file(), reason="the shared data are not here")
SOURCE_RATE = ExportOptions(fps=0)
UNITS = [name[0].upper() + name[1:] for name in ARKIT_NAMES]
ANGLES = [f"{part}{axis}" for part in ("Head", "LeftEye", "RightEye") for axis in ("Yaw", "Pitch", "Roll")]
HEADER = ["Timecode", "BlendShapeCount", *UNITS, *ANGLES]


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> HeadModel:
    return load_head(write_toy_head(tmp_path_factory.mktemp("head") / "toy.npz"))


@pytest.fixture(scope="module")
def recorded(toy: HeadModel) -> Capture:
    return read_livelink(RECORDING, toy)


def cells(path: Path) -> list[list[str]]:
    return [line.split(",") for line in path.read_text(encoding="ascii").splitlines()]


def column(rows: list[list[str]], name: str) -> np.ndarray:
    index = rows[0].index(name)
    return np.array([float(row[index]) for row in rows[1:]])


def written(capture: Capture, head: HeadModel, path: Path, **options: Any) -> list[list[str]]:
    write_livelink(capture, head, path, ExportOptions(**options))
    return cells(path)


def importer_seconds(rows: list[list[str]]) -> np.ndarray:
    """The times as Epic's importer takes them: four fields, the last one in sixtieths, with its fraction."""
    fields = [[float(f) for f in row[0].split(":")] for row in rows[1:]]
    return np.array([h * 3600 + m * 60 + s + f / 60 for h, m, s, f in fields])


def turning(head: HeadModel, angles: Sequence[Sequence[float]], **changes: Any) -> Capture:
    """A capture whose head has the given yaw, pitch and roll (rad), the neck straight."""
    pose = np.zeros((len(angles), 5, 3))
    pose[:, 0] = (Rotation.from_matrix(FRONTAL) * from_angles(np.array(angles))).as_rotvec()
    return toy_capture(head, len(angles), pose=pose, **changes)


# ---- the recorded take ----


@needs_recording
def test_the_form_is_the_recordings(recorded: Capture, toy: HeadModel, tmp_path: Path) -> None:
    write_livelink(recorded, toy, tmp_path / "take.csv", SOURCE_RATE)
    ours, theirs = (path.read_bytes() for path in (tmp_path / "take.csv", RECORDING))
    assert ours.splitlines()[0] == theirs.splitlines()[0]
    row = re.compile(rb"\d\d:\d\d:\d\d:[0-5]\d\.\d{3},61(,-?\d\.\d{10}){61}\n")
    for text in (theirs, ours):
        assert all(row.fullmatch(line) for line in text.splitlines(keepends=True)[1:])
    assert len(ours.splitlines()) == len(theirs.splitlines()) == 4031


@needs_recording
def test_reading_and_writing_gives_the_recording_again(
    recorded: Capture, toy: HeadModel, tmp_path: Path
) -> None:
    ours, theirs = written(recorded, toy, tmp_path / "take.csv", fps=0.0), cells(RECORDING)
    for name in UNITS:
        index = theirs[0].index(name)
        differing = [(b[index], a[index]) for a, b in zip(ours, theirs, strict=True) if a[index] != b[index]]
        # The app went beyond 1 once in 209,560 values; a capture ends there.
        assert differing in ([], [("1.0033375025", "1.0000000000")]), name
    for name in ANGLES:
        assert np.abs(column(ours, name) - column(theirs, name)).max() < 2e-7, name
    started = importer_seconds(theirs)
    assert np.abs(importer_seconds(ours) - (started - started[0])).max() < 1.01e-3 / 60


@needs_recording
def test_a_recording_becomes_a_capture(recorded: Capture, toy: HeadModel) -> None:
    assert (recorded.fps, len(recorded), recorded.source) == (30.0, 4030, "rom_3.csv")
    assert recorded.head == toy.id
    assert recorded.timestamps[-1] == pytest.approx(134.382, abs=1e-3)
    assert recorded.tracked.all()
    np.testing.assert_array_equal(recorded.expression, recorded.arkit)
    assert not recorded.shape.any()
    # The middle between the eyes is straight ahead, 0.6 m away.
    vertices = camera_vertices(recorded, toy, 17).numpy()
    eyes = [vertices[(toy.weights[:, j] == 1).numpy()].mean(0) for j in (LEFT_EYE, RIGHT_EYE)]
    np.testing.assert_allclose(np.mean(eyes, axis=0), [0, 0, 0.6], atol=2e-3)


@needs_recording
def test_units_turn_the_eyes_as_the_app_says(recorded: Capture) -> None:
    """The recorded eye angles, unit, signs, order and all, follow from the recorded units: unit by unit."""
    theirs = cells(RECORDING)
    for side in ("Left", "Right"):
        ours = -to_angles(unit_gaze(recorded.arkit, side))
        for axis, values in zip(("Yaw", "Pitch", "Roll"), ours.T, strict=True):
            true = column(theirs, f"{side}Eye{axis}")
            # The app's optical axis is .068 rad off the line of sight, which shows in roll (yaw times pitch).
            assert np.corrcoef(values, true)[0, 1] > (0.85 if axis == "Roll" else 0.99), (side, axis)
            assert np.abs(values - true).max() < 0.12, (side, axis)


def test_units_turn_the_open_heads_eyeballs_as_gaze_says() -> None:
    """The eyeballs of the head that ships, turned by its units, look where ``unit_gaze`` does."""
    head = load_head()
    rng = np.random.default_rng(0)
    for side, joint in (("Left", LEFT_EYE), ("Right", RIGHT_EYE)):
        ball = (head.weights[:, joint] > 0.99).numpy() & head.regions["eyeballs"]
        for ways in itertools.product(("Out", "In"), ("Up", "Down")):
            units = np.zeros((1, 52), np.float32)
            units[0, [ARKIT_NAMES.index(f"eyeLook{way}{side}") for way in ways]] = rng.uniform(0.1, 0.6, 2)
            rest = head.v_template[ball].numpy()
            moved = head.unposed(torch.zeros(1, head.num_shape), torch.tensor(units))[0, ball].numpy()
            found, _ = Rotation.align_vectors(moved - moved.mean(0), rest - rest.mean(0))
            looks = [turn.apply([0, 0, 1]) for turn in (found, unit_gaze(units, side)[0])]
            assert np.rad2deg(np.arccos(looks[0] @ looks[1])) < 2


# ---- rates and timecodes ----


def test_sixty_rows_a_second_unless_told_otherwise(toy: HeadModel, tmp_path: Path) -> None:
    capture = toy_capture(toy, 26)  # 25 frames a second: one second
    rows = written(capture, toy, tmp_path / "take.csv")
    assert [row[0] for row in rows[1:4]] == ["00:00:00:00.000", "00:00:00:01.000", "00:00:00:02.000"]
    assert [rows[60][0], rows[61][0]] == ["00:00:00:59.000", "00:00:01:00.000"]
    assert len(rows) == 62
    assert {row[1] for row in rows[1:]} == {"61"}
    values = np.array([column(rows, name) for name in UNITS]).T
    np.testing.assert_allclose(values[::12], capture.arkit[::5], atol=5e-11)
    np.testing.assert_allclose(
        values[6], capture.arkit[2] * 0.5 + capture.arkit[3] * 0.5, atol=1e-6
    )  # at 0.1 s


@pytest.mark.parametrize(("fps", "rows"), [(30.0, 31), (24.0, 25), (60000 / 1001, 61), (0.0, 26)])
def test_other_rates_keep_the_true_time(toy: HeadModel, tmp_path: Path, fps: float, rows: int) -> None:
    capture = toy_capture(toy, 26)
    found = importer_seconds(written(capture, toy, tmp_path / "take.csv", fps=fps))
    assert len(found) == rows
    wanted = capture.timestamps if fps == 0 else np.arange(rows) / fps
    np.testing.assert_allclose(found, wanted, atol=0.51e-3 / 60)
    again = read_livelink(tmp_path / "take.csv", toy)
    assert again.fps == pytest.approx(fps or 25.0, rel=1e-4)
    np.testing.assert_allclose(again.timestamps, wanted, atol=1e-3 / 60)


def test_timecodes() -> None:
    assert timecode(0) == "00:00:00:00.000"
    assert timecode(59.9999999) == "00:01:00:00.000"  # rounding carries
    assert timecode(3661.5) == "01:01:01:30.000"
    assert timecode(86400 + 1 / 60) == "00:00:00:01.000"


def test_resampling_keeps_frames_and_ends(toy: HeadModel) -> None:
    capture = toy_capture(
        toy, 4, timestamps=np.array([1.0, 1.04, 1.07, 1.17]), tracked=[True, False, True, True]
    )
    same = resample(capture, capture.timestamps, 25.0)
    for name in ("expression", "arkit", "pose", "translation", "landmarks68", "box", "score", "tracked"):
        np.testing.assert_array_equal(getattr(same, name), getattr(capture, name), err_msg=name)
    times = regular_times(capture.timestamps, 60.0)
    assert (times[0], len(times)) == (1.0, 12)
    assert times[-2] < 1.17 < times[-1]
    taken = at_rate(capture, 60.0)
    np.testing.assert_array_equal(taken.arkit[[0, -1]], capture.arkit[[0, -1]])
    middle = resample(capture, np.array([1.019, 1.021, 1.055, 1.056]), 25.0)
    assert middle.tracked.tolist() == [True, False, False, True]
    np.testing.assert_allclose(middle.arkit[2], capture.arkit[1:3].mean(0), atol=1e-6)
    photo = toy_capture(toy)
    np.testing.assert_array_equal(at_rate(photo, 60.0).arkit, photo.arkit)
    for fps in (-1.0, float("nan"), 1e6):
        with pytest.raises(UsageError, match="the frame rate is"):
            at_rate(capture, fps)


def test_rotations_turn_the_short_way_at_an_even_pace(toy: HeadModel) -> None:
    capture = turning(toy, [[-0.4, 0, 0], [0.4, 0, 0]], timestamps=np.array([0.0, 1.0]))
    yaw = to_angles(Rotation.from_matrix(FRONTAL) * Rotation.from_rotvec(at_rate(capture, 8.0).pose[:, 0]))
    np.testing.assert_allclose(yaw[:, 0], np.linspace(-0.4, 0.4, 9), atol=1e-6)
    np.testing.assert_allclose(yaw[:, 1:], 0, atol=1e-6)


# ---- angles ----


@pytest.mark.parametrize(
    ("angles", "moved"),
    [
        ((0.3, 0, 0), (1, 0)),  # to the subject's left, which is the picture's right: the nose goes right
        ((0, 0.3, 0), (0, -1)),  # up: the nose goes up, which is towards smaller y
    ],
)
def test_signs_of_yaw_and_pitch(
    toy: HeadModel, tmp_path: Path, angles: tuple[float, ...], moved: tuple[int, int]
) -> None:
    capture = turning(toy, [angles])
    rows = written(capture, toy, tmp_path / "take.csv")
    assert [column(rows, n)[0] for n in ANGLES[:3]] == pytest.approx(angles, abs=1e-6)
    ahead = Rotation.from_rotvec(capture.pose[0, 0]).apply([0, 0, 1])  # where the nose points, camera space
    assert ahead[2] < 0
    assert np.sign(np.round(ahead[:2], 6)).tolist() == list(moved)


def test_sign_of_roll(toy: HeadModel, tmp_path: Path) -> None:
    capture = turning(toy, [(0, 0, 0.3)])
    rows = written(capture, toy, tmp_path / "take.csv")
    assert [column(rows, n)[0] for n in ANGLES[:3]] == pytest.approx((0, 0, 0.3), abs=1e-6)
    points = camera_vertices(capture, toy, 0).numpy()
    left, right = (points[(toy.weights[:, j] == 1).numpy()].mean(0) for j in (LEFT_EYE, RIGHT_EYE))
    assert left[1] < right[1]  # the left side is the higher one; camera space points down


def test_a_head_that_faces_the_camera_has_no_angles(toy: HeadModel, tmp_path: Path) -> None:
    rows = written(turning(toy, [(0, 0, 0)], arkit=np.zeros((1, 52))), toy, tmp_path / "take.csv")
    assert np.abs([column(rows, name)[0] for name in ANGLES]).max() < 1e-6
    assert "-0.0000000000" not in (tmp_path / "take.csv").read_text()


@pytest.mark.parametrize(
    ("unit", "factor"), [("radians", 1.0), ("degrees", 180 / np.pi), ("normalized", 2 / np.pi)]
)
def test_units_of_angles(toy: HeadModel, tmp_path: Path, unit: Any, factor: float) -> None:
    capture = toy_capture(toy, 3)
    plain = written(capture, toy, tmp_path / "plain.csv")
    scaled = written(capture, toy, tmp_path / "scaled.csv", angles=unit)
    for name in ANGLES:
        np.testing.assert_allclose(column(scaled, name), factor * column(plain, name), atol=1e-8)
    again = read_livelink(tmp_path / "scaled.csv", toy, unit)
    np.testing.assert_allclose(
        again.pose[:, 3], read_livelink(tmp_path / "plain.csv", toy).pose[:, 3], atol=1e-6
    )
    if unit == "degrees":  # which needs no telling
        np.testing.assert_array_equal(read_livelink(tmp_path / "scaled.csv", toy).pose, again.pose)


def test_eyes_of_a_head_without_units_are_its_joints(tmp_path: Path) -> None:
    arrays = toy_arrays()
    del arrays["expression_names"]
    np.savez(tmp_path / "flame.npz", **arrays)
    head = load_head(tmp_path / "flame.npz")
    pose = np.zeros((1, 5, 3))
    pose[0, [0, LEFT_EYE, RIGHT_EYE]] = [[np.pi, 0, 0], [0, 0.2, 0], [0.1, 0, 0]]
    rows = written(toy_capture(head, pose=pose), head, tmp_path / "take.csv")
    found = [column(rows, name)[0] for name in ANGLES[3:]]
    assert found == pytest.approx([-0.2, 0, 0, 0, 0.1, 0], abs=1e-6)
    pose[0, [LEFT_EYE, RIGHT_EYE]] = 0
    capture = toy_capture(head, pose=pose)
    rows = written(capture, head, tmp_path / "take.csv")
    wanted = -to_angles(unit_gaze(capture.arkit, "Left"))[0]
    assert [column(rows, name)[0] for name in ANGLES[3:6]] == pytest.approx(wanted, abs=1e-6)


# ---- the file's name ----


def test_file_names(toy: HeadModel, tmp_path: Path) -> None:
    capture = toy_capture(toy, source="my_clip (2).mp4")
    assert file_name(capture) == "my-clip-2_1_recon3d.csv"
    assert file_name(capture, ExportOptions(slate="Szene 4/b", take=12, subject="Jürgen")) == (
        "Szene-4-b_12_Jürgen.csv"
    )
    (path,) = export(capture, toy, tmp_path, "livelink", options=ExportOptions(slate="a", take=3))
    assert path == tmp_path / "a_3_recon3d.csv"
    with pytest.raises(UsageError, match=r"the slate '\.\./' holds no letter and no digit"):
        file_name(capture, ExportOptions(slate="../"))
    with pytest.raises(UsageError, match="the take is -1"):
        file_name(capture, ExportOptions(take=-1))


@pytest.mark.parametrize("code", ["ascii", "utf-8"])
def test_file_names_can_be_written_everywhere(
    toy: HeadModel, monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: code)
    for slate in ("take \U0001d54f\udce2 7", "\U0001d54f" * 300 + "7", "7" + "ä" * 300):
        name = file_name(toy_capture(toy), ExportOptions(slate=slate))
        assert "7" in name or code == "utf-8"
        assert len(name.encode(code)) < 255, "what a disk takes"


def test_nothing_half_written(toy: HeadModel, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot be written"):
        write_livelink(toy_capture(toy), toy, tmp_path / "missing" / "take.csv")
    with pytest.raises(UsageError, match="no unit of angles 'gradians'"):
        write_livelink(toy_capture(toy), toy, tmp_path / "take.csv", ExportOptions(angles="gradians"))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


# ---- files of other programs ----


def take(path: Path, times: Sequence[str], header: Sequence[str] = HEADER, **values: float) -> Path:
    """A small take with the given values in every row."""
    row = ["61", *(f"{values.get(name, 0):.4f}" for name in header[2:])]
    lines = [",".join(header), *(",".join([time, *row]) for time in times)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def edited(path: Path, **lines: str) -> Path:
    """Replace lines by number (``l3=...``)."""
    text = path.read_text(encoding="utf-8").split("\n")
    for key, line in lines.items():
        text[int(key[1:]) - 1] = line
    path.write_text("\n".join(text), encoding="utf-8")
    return path


TIMES = [f"10:00:00:{2 * k:02d}.000" for k in range(5)]


def test_header_of_later_apps_other_order_and_windows_lines(toy: HeadModel, tmp_path: Path) -> None:
    header = ["Timecode", "BlendshapeCount", "jawopen", "Extra", "EyeBlinkLeft", "MouthClose"]
    path = take(tmp_path / "take.csv", TIMES, header, jawopen=0.5, EyeBlinkLeft=0.25, Extra=7)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    capture = read_livelink(path, toy)
    wanted = np.zeros(52, np.float32)
    wanted[[ARKIT_NAMES.index("jawOpen"), ARKIT_NAMES.index("eyeBlinkLeft")]] = 0.5, 0.25
    np.testing.assert_array_equal(capture.arkit, np.tile(wanted, (5, 1)))
    assert not capture.pose[:, 1:].any()


def test_semicolons_and_blank_lines(toy: HeadModel, tmp_path: Path) -> None:
    path = take(tmp_path / "take.csv", TIMES, JawOpen=0.5)
    path.write_text(path.read_text().replace(",", ";").replace("\n", "\n\n"))
    assert read_livelink(path, toy).arkit[:, ARKIT_NAMES.index("jawOpen")].tolist() == [0.5] * 5


def test_rows_without_a_face_hold_their_neighbour(toy: HeadModel, tmp_path: Path) -> None:
    path = take(tmp_path / "take.csv", TIMES, JawOpen=0.5)
    row = path.read_text().splitlines()[2]
    edited(path, l2=f"{TIMES[0]},0", l4=f"{TIMES[2]},0,{row.split(',', 2)[2].replace('0.5', '0.9')}")
    edited(path, l5=path.read_text().splitlines()[4][:90])
    capture = read_livelink(path, toy)
    assert capture.tracked.tolist() == [False, True, False, False, True]
    assert capture.score.tolist() == [0, 1, 0, 0, 1]
    assert capture.arkit[:, ARKIT_NAMES.index("jawOpen")].tolist() == [0.5] * 5


@pytest.mark.parametrize("base", [24, 25, 30, 50, 60, 120])
@pytest.mark.parametrize("step", [1, 2])
def test_what_the_frame_field_counts_is_found(toy: HeadModel, tmp_path: Path, base: int, step: int) -> None:
    frames = range(base - 7, base * 2 + 9, step)
    times = [f"00:00:{5 + k // base:02d}:{k % base:02d}.250" for k in frames]
    del times[11]  # a dropped frame
    capture = read_livelink(take(tmp_path / "take.csv", times), toy)
    assert capture.fps == pytest.approx(base / step)
    assert capture.timestamps[-1] == pytest.approx((frames[-1] - frames[0]) / base)


def test_over_midnight(toy: HeadModel, tmp_path: Path) -> None:
    times = ["23:59:59:58.000", "23:59:59:59.000", "00:00:00:00.000", "00:00:00:01.000"]
    np.testing.assert_allclose(
        read_livelink(take(tmp_path / "take.csv", times), toy).timestamps * 60, [0, 1, 2, 3]
    )


def test_units_beyond_their_range_are_cut(toy: HeadModel, tmp_path: Path) -> None:
    capture = read_livelink(take(tmp_path / "cal.csv", TIMES, JawOpen=1.2, MouthClose=-0.1), toy)
    assert capture.arkit.max() == 1
    assert capture.arkit.min() == 0


def test_a_recorded_head_turn_arrives(toy: HeadModel, tmp_path: Path) -> None:
    capture = read_livelink(take(tmp_path / "t.csv", TIMES, HeadYaw=0.3, HeadPitch=-0.2, HeadRoll=0.1), toy)
    found = to_angles(Rotation.from_matrix(FRONTAL) * Rotation.from_rotvec(capture.pose[:, 0]))
    np.testing.assert_allclose(found, np.tile([0.3, -0.2, 0.1], (5, 1)), atol=1e-6)
    assert not capture.pose[:, 1:].any()
    points = capture.landmarks68
    assert ((points > 0) & (points < capture.image_size)).all()
    vertices = camera_vertices(capture, toy, 0)
    pixels = capture.focal * vertices[:, :2] / vertices[:, 2:] + torch.as_tensor(capture.principal)
    np.testing.assert_allclose(points[0], toy.landmarks(pixels[None].float(), "ibug68")[0], atol=1e-2)


def row_with(**values: str) -> str:
    return ",".join([TIMES[1], "61", *(values.get(name, "0.1") for name in HEADER[2:])])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nonsense" + ",0.1" * 62, r"line 3: the timecode is 'nonsense', HH:MM:SS:FF\.mmm is wanted"),
        (row_with(JawOpen="wide"), "line 3: JawOpen is 'wide', a number is wanted"),
        (row_with(JawOpen=""), "line 3: JawOpen is '', a number is wanted"),
        (row_with(JawOpen="37.5"), "line 3: JawOpen is 37.5, units go from 0 to 1"),
        (row_with(JawOpen="nan"), "line 3: JawOpen is nan, units go from 0 to 1"),
        (row_with(HeadYaw="inf"), "line 3: HeadYaw is not finite"),
        (TIMES[1] + ",many" + ",0.1" * 61, "line 3: BlendShapeCount is 'many', a number is wanted"),
        ("09:00:00:00.000,61" + ",0.1" * 61, "line 3: the timecode runs backwards"),
    ],
)
def test_wrong_cells_are_named(toy: HeadModel, tmp_path: Path, line: str, message: str) -> None:
    path = edited(take(tmp_path / "take.csv", TIMES), l3=line)
    with pytest.raises(InputError, match=message) as caught:
        read_livelink(path, toy)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"name,age\nEve,3\n", "its first line names no Timecode and ARKit units"),
        (b"Timecode,BlendShapeCount\n", "its first line names no Timecode and ARKit units"),
        (b"\xff\xfe\x00\x01" * 50, "not a Live Link Face recording"),
        (",".join(HEADER).encode(), "holds no frame with a face"),
        (f"{','.join(HEADER)}\n{TIMES[0]},0\n".encode(), "holds no frame with a face"),
        (b"", "is empty"),
    ],
)
def test_files_that_are_no_takes(toy: HeadModel, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "take.csv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_livelink(path, toy)


# ---- the command line ----


def recon3d(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["recon3d", *map(str, arguments)], capture_output=True, text=True, check=False)


def test_export_of_a_take(tmp_path: Path) -> None:
    path = take(tmp_path / "eve.csv", TIMES, JawOpen=0.5, HeadYaw=0.2)
    done = recon3d(
        "export", path, "--out", tmp_path / "out", "--format", "livelink,csv,glb", "--fps", 30,
        "--angles", "degrees", "--slate", "s1", "--take", 4, "--subject", "Eve",
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    folder = tmp_path / "out" / "eve"
    assert {p.name for p in folder.iterdir()} >= {"s1_4_Eve.csv", "curves.csv"}
    assert any(p.suffix == ".glb" for p in folder.iterdir())
    rows = cells(folder / "s1_4_Eve.csv")
    assert len(rows) == 6  # 5 rows, 1/30 s apart
    assert column(rows, "HeadYaw")[0] == pytest.approx(np.rad2deg(0.2), abs=1e-5)


def test_bad_options_say_so(tmp_path: Path) -> None:
    path = take(tmp_path / "eve.csv", TIMES)
    arguments = ("export", path, "--out", tmp_path / "out", "--format", "csv")
    done = recon3d(*arguments, "--fps", "5000")
    assert done.returncode == 2
    assert done.stderr.startswith("recon3d: the frame rate is 5000; choose")
    done = recon3d(*arguments, "--map", "unreal")
    assert done.returncode == 2
    assert done.stderr.startswith("recon3d: there is no name map 'unreal'; choose unity, vrm")
    assert not (tmp_path / "out").exists()
