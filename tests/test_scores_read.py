"""Expressions that others saved, and our own curve files read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from toy_head import toy_capture, write_toy_head

from recon3d.conventions import ARKIT_NAMES
from recon3d.errors import InputError
from recon3d.export import export
from recon3d.export._scores_read import looks_like_scores, read_scores
from recon3d.head import load_head

Array = npt.NDArray[Any]

#: MediaPipe's: its neutral, then the units by letter; no tongue.
NAMES = ("_neutral", *sorted(set(ARKIT_NAMES) - {"tongueOut"}))
TONGUE = ARKIT_NAMES.index("tongueOut")
UNITS = np.random.default_rng(0).uniform(0, 1, (4, 52)).round(6)
UNITS[:, TONGUE] = 0


def categories(row: Array, key: str = "categoryName") -> list[dict[str, Any]]:
    values = {"_neutral": 1e-6, **dict(zip(ARKIT_NAMES, row.tolist(), strict=True))}
    return [{"index": k, "score": values[name], key: name, "displayName": ""} for k, name in enumerate(NAMES)]


def by_name(row: Array) -> dict[str, float]:
    return dict(zip(ARKIT_NAMES, row.tolist(), strict=True))


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def check(
    path: Path, times: object = (0, 1 / 30, 2 / 30, 3 / 30), units: Array = UNITS, **options: Any
) -> None:
    assert looks_like_scores(path)
    found = read_scores(path, **options)
    np.testing.assert_allclose(found.units, units, atol=1e-9)
    np.testing.assert_allclose(found.times, times, atol=1e-9)
    assert found.tracked.all()


DOCUMENTS: dict[str, object] = {
    "lists of categories": [categories(row) for row in UNITS],
    "python's names": [categories(row, "category_name") for row in UNITS],
    "objects of scores": [by_name(row) for row in UNITS],
    "lower case": [{k.lower(): v for k, v in by_name(row).items()} for row in UNITS],
    "lists of faces": [[categories(row), categories(1 - row)] for row in UNITS],
    "javascript's results": [
        {"faceLandmarks": [], "faceBlendshapes": [{"categories": categories(row), "headIndex": -1}]}
        for row in UNITS
    ],
    "in frames": {"fps": 30, "frames": [{"blendshapes": by_name(row)} for row in UNITS]},
    "in blendshapes": {"blendshapes": [categories(row) for row in UNITS]},
    "in seconds": [{"time": 7 + k / 30, "scores": by_name(row)} for k, row in enumerate(UNITS)],
    "in milliseconds": [{"timestamp_ms": 1000 * k / 30, **by_name(row)} for k, row in enumerate(UNITS)],
    "in an unnamed unit": [{"timestamp": 5e9 + 1e6 * k / 30, **by_name(row)} for k, row in enumerate(UNITS)],
    "times beside": {"timestamps_ms": [0, 100 / 3, 200 / 3, 100], "data": [by_name(row) for row in UNITS]},
    "frame numbers": [{"frame": 100 + k, **by_name(row)} for k, row in enumerate(UNITS)],
}


@pytest.mark.parametrize("case", DOCUMENTS)
def test_json(tmp_path: Path, case: str) -> None:
    check(written(tmp_path / "scores.json", DOCUMENTS[case]))


@pytest.mark.parametrize(
    "document",
    [
        by_name(UNITS[0]),
        categories(UNITS[0]),
        {"blendshapes": categories(UNITS[0])},
        {"scores": by_name(UNITS[0])},
        {"faceBlendshapes": [{"categories": categories(row)} for row in UNITS[:2]]},
    ],
)
def test_json_of_a_single_frame(tmp_path: Path, document: object) -> None:
    check(written(tmp_path / "photo.json", document), [0], UNITS[:1])


def test_rates(tmp_path: Path) -> None:
    frames = {"frames": [by_name(row) for row in UNITS]}
    check(written(tmp_path / "a.json", {"fps": 50, **frames}), np.arange(4) / 50)
    check(written(tmp_path / "a.json", {"fps": 50, **frames}), np.arange(4) / 10, fps=10)
    check(written(tmp_path / "a.json", frames), np.arange(4) / 30)


def test_frames_without_a_face(tmp_path: Path) -> None:
    rows: list[object] = [None, {"time": 0.1, "faceBlendshapes": []}]
    rows += [{"time": 0.2, **by_name(UNITS[0])}, None, {"time": 0.4, "tracked": False, **by_name(UNITS[1])}]
    found = read_scores(written(tmp_path / "a.json", rows))
    assert found.tracked.tolist() == [False, False, True, False, False]
    np.testing.assert_allclose(found.units, UNITS[[0, 0, 0, 0, 1]], err_msg="an eased frame keeps its values")
    np.testing.assert_allclose(found.times, [0, 0, 0.1, 0.2, 0.3], atol=1e-12)


def table(header: list[str], columns: list[Array], delimiter: str = ",") -> str:
    rows = zip(*(column.tolist() for column in columns), strict=True)
    lines = [header, *([f"{value:.6f}" for value in row] for row in rows)]
    return "\n".join(delimiter.join(line) for line in lines) + "\n"


def test_csv(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(52)
    names, columns = [ARKIT_NAMES[k] for k in order], [UNITS[:, k] for k in order]
    path = tmp_path / "scores.csv"
    check(written(path, table(names, columns)))
    check(written(path, "\ufeff" + table([n.upper() for n in names], columns, ";")))
    check(
        written(path, table(["time", "_neutral", *names], [np.arange(4) / 30, UNITS[:, 0], *columns])),
        atol_s(4),
    )
    check(written(path, table(["Frame", *names], [np.arange(4) + 7, *columns])), np.arange(4) / 25, fps=25)
    spread = table(
        ["timestamp_ms", "head_x", *names], [np.array([0, 10, 40, 41]), UNITS[:, 1], *columns], "\t"
    )
    check(written(path, spread), [0, 0.01, 0.04, 0.041])


def atol_s(count: int) -> Array:
    """Times at 30 a second as a table with six decimals has them."""
    return (np.arange(count) / 30).round(6)


def test_csv_with_gaps_and_few_units(tmp_path: Path) -> None:
    text = (
        "time_s,jawOpen,eyeBlink_L,tracked,note\n0,.5,.25,1,\n\n0.1,,,1,\n0.2,1.02,-0.01,1,x\n0.3,.5,.5,0,y\n"
    )
    found = read_scores(written(tmp_path / "a.csv", text))
    jaw, blink = ARKIT_NAMES.index("jawOpen"), ARKIT_NAMES.index("eyeBlinkLeft")
    assert found.units[:, [jaw, blink]].tolist() == [[0.5, 0.25], [0.5, 0.25], [1, 0], [0.5, 0.5]]
    assert np.delete(found.units, [jaw, blink], 1).max() == 0
    assert found.tracked.tolist() == [True, False, True, False]
    assert found.times.tolist() == [0, 0.1, 0.2, 0.3]


@pytest.mark.parametrize("format", ["arkit", "csv", "json"])
def test_our_own_files_come_back(tmp_path: Path, format: str) -> None:
    head = load_head(write_toy_head(tmp_path / "toy.npz"))
    times = np.array([0.0, 0.04, 0.09, 0.12])
    tracked = np.array([True, False, True, True])
    capture = toy_capture(head, 4, timestamps=times, tracked=tracked)
    (path,) = export(capture, head, tmp_path / "out", format)
    found = read_scores(path)
    np.testing.assert_allclose(found.units, capture.arkit, atol=6e-7)
    np.testing.assert_allclose(found.times, times, atol=1e-6)
    np.testing.assert_array_equal(found.tracked, tracked)
    (photo,) = export(toy_capture(head), head, tmp_path / "photo", format)
    assert read_scores(photo).times.tolist() == [0]


def test_what_looks_like_scores(tmp_path: Path) -> None:
    live = written(tmp_path / "take.csv", "Timecode,BlendShapeCount,EyeBlinkLeft\n")
    other = written(tmp_path / "other.csv", "a,b\n1,2\n")
    binary = tmp_path / "clip.csv"
    binary.write_bytes(bytes(range(256)))
    for path in (live, other, binary, tmp_path / "missing.csv", tmp_path):
        assert not looks_like_scores(path)
    with pytest.raises(InputError, match="is a Live Link Face take, no table of scores"):
        read_scores(live)


ROW = by_name(UNITS[0])
BAD: dict[str, tuple[object, str]] = {
    "empty": ("", "is empty"),
    "cut": ('[{"jawOpen": 0.5', r"damaged JSON \(Expecting"),
    "deep": ("[" * 100_000, "damaged JSON"),
    "deep but whole": ("[" * 500 + "]" * 500, "holds no scores|no frame holds scores"),
    "no frames": ([], "no frame holds scores of the ARKit units"),
    "nothing but null": ([None, None], "no frame holds scores of the ARKit units"),
    "numbers": ([1, 2], "frame 0: holds no scores of the ARKit units"),
    "other names": ([{"smile": 0.5}], "frame 0: holds no scores"),
    "other categories": ([ROW, [{"categoryName": "cat", "score": 1}]], "frame 1: holds no scores"),
    "other document": ({"model": "x", "points": [1, 2]}, "the frame: holds no scores"),
    "word": ([ROW, {"jawOpen": "wide"}], "frame 1: jawOpen is 'wide', a number is wanted"),
    "bool": ([{"jawOpen": True}], "frame 0: jawOpen is 'True'"),
    "missing score": ([[{"categoryName": "jawOpen", "value": None}]], "frame 0: jawOpen is missing"),
    "nan": ('[{"jawOpen": NaN}]', "frame 0: jawOpen is 'nan'"),
    "huge": ('[{"jawOpen": 1' + 400 * "0" + "}]", "frame 0: jawOpen is '1000"),
    "percent": ([ROW, {"jawOpen": 55}], "frame 1: jawOpen is 55, units go from 0 to 1"),
    "backwards": ([{"t": 1, **ROW}, {"t": 0.5, **ROW}], "frame 1: the time runs backwards"),
    "half timed": ([{"t": 1, **ROW}, ROW], "frame 1: has no t, as others have"),
    "time": ([{"time": "now", **ROW}], "frame 0: time is 'now', a number is wanted"),
    "times": ({"timestamps": [1], "frames": [ROW, ROW]}, "timestamps is no list of 2 times"),
    "fps": ({"fps": -3, "frames": [ROW]}, "fps is '-3', a number is wanted"),
    "table": ({"columns": ["jawOpen"], "data": [[0.5], [0.5, 1]]}, "row 1: has 2 columns, the header has 1"),
    "table of none": ({"columns": ["jawOpen"], "data": [7]}, "row 0: has none, the header has 1"),
    "csv without units": ("a,b\n1,2\n", r"not a file of expressions \(its columns name no ARKit units\)"),
    "csv without rows": ("jawOpen,time\n", "no frame holds scores"),
    "csv short": ("jawOpen,time\n1,0\n0.5\n", "line 3: has 1 columns, the header has 2"),
    "csv word": ("jawOpen,time\n1,0\nx,1\n", "line 3: jawOpen is 'x', a number is wanted"),
    "csv half": ("jawOpen,mouthClose\n1,\n", "line 2: mouthClose is missing, a number is wanted"),
    "csv quote": ('jawOpen\n"' + 200_000 * "x", "damaged table"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_one_line(tmp_path: Path, case: str) -> None:
    content, message = BAD[case]
    path = written(tmp_path / "bad.txt", content)
    with pytest.raises(InputError, match=message) as caught:
        read_scores(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300


def test_no_text_and_too_much(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.csv").write_bytes(b"jawOpen\n\xff\xfe\n")
    with pytest.raises(InputError, match=r"not a file of expressions \(it is no text\)"):
        read_scores(tmp_path / "a.csv")
    with pytest.raises(InputError, match="no such file"):
        read_scores(tmp_path / "missing.json")
    monkeypatch.setattr("recon3d.export._scores_read.MAX_BYTES", 5)
    with pytest.raises(InputError, match="too large for a file of expressions"):
        read_scores(tmp_path / "a.csv")
