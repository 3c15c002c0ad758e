"""What a batch's SOURCE names: folders, patterns, manifests, URLs; and the names that items get."""

from __future__ import annotations

import json
import os
from pathlib import Path, PurePosixPath

import fsspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recon3d.batch.ids import check_id, ids_of, key_of, safe_id
from recon3d.batch.options import ItemOptions
from recon3d.batch.source import Broken, Item, find_items
from recon3d.batch.storage import Unsteady, fetch, open_place, publish
from recon3d.errors import InputError, MissingExtraError, UsageError

PLAIN = ItemOptions()


def files(root: Path, *names: str) -> Path:
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"some bytes")
    return root


def found(
    source: str | Path, wanted: str = "auto", leave_out: Path | None = None
) -> dict[str, tuple[str, str]]:
    """Return (kind, last part of the uri) by id; nothing may be broken."""
    items = list(find_items(str(source), PLAIN, wanted, leave_out))  # type: ignore[arg-type]
    assert all(isinstance(item, Item) for item in items)
    return {item.id: (item.kind, PurePosixPath(item.uri).name) for item in items if isinstance(item, Item)}


def broken(source: Path) -> list[tuple[str, str]]:
    """Return the line and the reason of each broken row."""
    return [
        (one.name.rpartition(":")[2], str(one.error))
        for one in find_items(str(source), PLAIN)
        if isinstance(one, Broken)
    ]


# ---- folders and patterns ----


def test_a_folder_is_searched_with_all_that_is_in_it(tmp_path: Path) -> None:
    files(tmp_path, "take10.mp4", "take2.mp4", "day 1/eve.MOV", "day 1/deep/er/p.jpg", "notes.txt", "x.npz")
    assert found(tmp_path) == {
        "take2": ("clip", "take2.mp4"),
        "take10": ("clip", "take10.mp4"),
        "day 1/eve": ("clip", "eve.MOV"),
        "day 1/deep/er/p": ("photo", "p.jpg"),
    }
    assert list(found(tmp_path))[:2] == ["take2", "take10"]
    assert list(found(tmp_path, "photo")) == ["day 1/deep/er/p"]
    assert "day 1/deep/er/p" not in found(tmp_path, "clip")


def test_hidden_files_results_and_the_results_folder_are_left_out(tmp_path: Path) -> None:
    files(tmp_path, "a.mp4", ".b.mp4", ".cache/c.mp4", "out/a/overlay.mp4", "out/a/own.mp4", "other/x/y.mp4")
    files(tmp_path, "old/a/capture.npz", "old/a/overlay.mp4", "old/a/mesh.jpg", "old/a/mine.mp4")
    assert set(found(tmp_path, leave_out=tmp_path / "out")) == {"a", "other/x/y", "old/a/mine"}
    assert set(found(tmp_path / "**" / "*.mp4", leave_out=tmp_path / "out")) == {
        "a", "other/x/y", "old/a/mine",
    }  # fmt: skip


def test_links_to_folders_lead_nowhere_and_links_to_files_count(tmp_path: Path) -> None:
    files(tmp_path, "in/a.mp4", "elsewhere.mp4")
    (tmp_path / "in" / "round").symlink_to(tmp_path / "in")
    (tmp_path / "in" / "b.mp4").symlink_to(tmp_path / "elsewhere.mp4")
    (tmp_path / "in" / "gone.mp4").symlink_to(tmp_path / "nothing.mp4")
    os.mkfifo(tmp_path / "in" / "pipe.mp4")
    assert set(found(tmp_path / "in")) == {"a", "b"}


def test_numbered_images_are_a_clip_only_where_clips_are_wanted(tmp_path: Path) -> None:
    files(tmp_path, *(f"shot/f_{k:03d}.png" for k in range(3)), "mixed/a.png", "mixed/b1.png", "one/i_1.png")
    assert found(tmp_path, "clip") == {"shot": ("clip", "shot")}
    assert set(found(tmp_path)) >= {"shot/f_000", "mixed/a"}
    pattern = found(tmp_path / "shot" / "f_%03d.png")
    assert list(pattern.values()) == [("clip", "f_%03d.png")]


def test_a_file_that_is_named_is_taken_whatever_it_is_called(tmp_path: Path) -> None:
    files(tmp_path, "take.dat", "p.png")
    assert found(tmp_path / "take.dat") == {"take": ("clip", "take.dat")}
    assert found(tmp_path / "p.png") == {"p": ("photo", "p.png")}


def test_the_mark_changes_with_the_file(tmp_path: Path) -> None:
    path = files(tmp_path, "a.mp4") / "a.mp4"

    def mark() -> str:
        (item,) = find_items(str(path), PLAIN)
        assert isinstance(item, Item)
        return item.mark

    before = mark()
    assert before == mark()
    os.utime(path, ns=(1, 1))
    assert before != mark()


@pytest.mark.parametrize(
    ("source", "reason"),
    [("nothing", "nothing: no such file"), ("empty", "no videos or images found"), ("*.mp4", "found")],
)
def test_a_source_that_names_nothing_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, reason: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=reason):
        find_items(source, PLAIN)


# ---- names ----


def test_files_that_would_share_a_name_keep_their_suffix() -> None:
    paths = [
        "a.mp4",
        "a.mov",
        "b.mp4",
        "b/c.mp4",
        "B/c.mp4",
        "eve.mp4",
        "eve.face2.mp4",
        "d/E.mp4",
        "d/e.mkv",
    ]
    ids = ids_of(paths)
    assert ids[:3] == ["a.mp4", "a.mov", "b.mp4"]
    assert ids[5:] == ["eve", "eve.face2.mp4", "d/E.mp4", "d/e.mkv"]
    assert len({key_of(name) for name in ids}) == len(ids)
    assert dict(zip(paths, ids, strict=True)) == dict(zip(paths[::-1], ids_of(paths[::-1]), strict=True))


def test_no_name_leads_out_of_the_folder_or_hides() -> None:
    odd = [
        "../../etc/passwd",
        "/abs/x",
        "a/../b",
        "C:\\x",
        ".hidden",
        "...",
        "",
        "con",
        "a\nb",
        "\udcff",
        "x" * 400,
    ]
    for text in (*odd, "ledger.sqlite", "Ledger.sqlite-journal"):
        name = safe_id(text)
        parts = name.split("/")
        assert not name.startswith("/") and ".." not in parts and "" not in parts
        assert all(not part.startswith(".") and part.isprintable() for part in parts)
        assert all(len(part.encode()) <= 200 for part in parts)
        assert not parts[0].casefold().startswith("ledger.")
        assert safe_id(name) == name


@given(st.lists(st.text(min_size=1, max_size=12), max_size=8, unique=True))
def test_ids_are_safe_and_unique_whatever_the_paths(paths: list[str]) -> None:
    ids = ids_of(paths)
    assert len({key_of(name) for name in ids}) == len(ids)
    for name in ids:
        assert safe_id(name) == name
        assert not any(other != name and key_of(other).startswith(f"{key_of(name)}/") for other in ids)


@pytest.mark.parametrize("text", ["../x", "/x", ".x", "a/", "a//b", "x.face2", "a:b", "ledger.sqlite"])
def test_an_id_that_is_no_safe_name_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="cannot be a folder's name"):
        check_id(text)


# ---- manifests ----


def test_a_csv_manifest_gives_ids_and_options(tmp_path: Path) -> None:
    files(tmp_path, "in/a.mp4", "in/b.mp4", "p.jpg", "other.bin")
    rows = "path,id,kind,smooth,face,_note\nin/a.mp4,hero/01,,0.2,largest,best\nin/b.mp4,,,,,\np.jpg,,,,,\n"
    (tmp_path / "m.csv").write_text(rows + "other.bin,raw,photo,,,\n", encoding="utf-8-sig")
    items = {item.id: item for item in find_items(str(tmp_path / "m.csv"), PLAIN) if isinstance(item, Item)}
    assert {name: item.kind for name, item in items.items()} == {
        "hero/01": "clip", "in/b": "clip", "p": "photo", "raw": "photo",
    }  # fmt: skip
    assert items["hero/01"].uri == str(tmp_path / "in" / "a.mp4")
    assert (items["hero/01"].options.smooth, items["hero/01"].options.face) == (0.2, "largest")
    assert items["in/b"].options == PLAIN


def test_a_jsonl_manifest_gives_the_same_as_a_csv_one(tmp_path: Path) -> None:
    files(tmp_path, "a.mp4")
    values = {
        "path": "a.mp4",
        "id": "x",
        "smooth": 0.25,
        "face": 2,
        "side_by_side": True,
        "format": "livelink,glb",
    }
    (tmp_path / "m.jsonl").write_text(json.dumps(values) + "\n\n")
    keys = ",".join(values)
    (tmp_path / "m.csv").write_text(f'{keys}\na.mp4,x,0.25,2,true,"livelink,glb"\n')
    (ours,) = find_items(str(tmp_path / "m.jsonl"), PLAIN)
    (theirs,) = find_items(str(tmp_path / "m.csv"), PLAIN)
    assert ours == theirs
    assert isinstance(ours, Item) and ours.options.format == ("livelink", "glb") and ours.options.face == "2"


def test_broken_rows_are_told_with_their_line_and_the_rest_is_taken(tmp_path: Path) -> None:
    files(tmp_path, "a.mp4")
    (tmp_path / "m.csv").write_text(
        "path,id,kind,smooth\na.mp4,a,,\n,b,,\ngone.mp4,c,,\na.mp4,d,film,\na.mp4,e,,much\na.mp4,f,,7\n"
        "a.mp4,../g,,\na.mp4,h,,0.5,too,many\n"
    )
    assert [line for line, _ in broken(tmp_path / "m.csv")] == ["3", "4", "5", "6", "7", "8", "9"]
    reasons = [reason for _, reason in broken(tmp_path / "m.csv")]
    for reason, words in zip(
        reasons,
        ("no path", "no such file", "clip or photo", "a number", "from 0 to 1", "cannot be", "6 values"),
        strict=True,
    ):
        assert words in reason and "\n" not in reason
    good = [item for item in find_items(str(tmp_path / "m.csv"), PLAIN) if isinstance(item, Item)]
    assert [item.id for item in good] == ["a"]


def test_broken_lines_of_jsonl_are_told(tmp_path: Path) -> None:
    files(tmp_path, "a.mp4")
    lines = [
        '{"path": "a.mp4"}',
        "{",
        "[1]",
        '{"path": 3}',
        '{"path": "a.mp4", "id": "b", "smoth": 1}',
        "[" * 99999,
    ]
    (tmp_path / "m.ndjson").write_text("\n".join(lines))
    told = broken(tmp_path / "m.ndjson")
    assert [line for line, _ in told] == ["2", "3", "4", "5", "6"]
    assert "there is no option 'smoth'" in told[3][1]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path,id\na.mp4,x\na.mp4,X\n", "lines 2 and 3 have the same id 'X'"),
        ("path\na.mp4\n./a.mp4\n", "lines 2 and 3 have the same path"),
        ("path,smoth\na.mp4,1\n", "there is no option 'smoth'"),
        ("file\na.mp4\n", "no column 'path'"),
        ("path,path\na,b\n", "two columns 'path'"),
        ("path\n", "no rows"),
        ("", "is empty"),
    ],
)
def test_a_manifest_that_is_wrong_as_a_whole_is_refused(tmp_path: Path, text: str, reason: str) -> None:
    files(tmp_path, "a.mp4")
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises((InputError, UsageError), match=reason):
        list(find_items(str(tmp_path / "m.csv"), PLAIN))


def test_a_manifest_that_is_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.csv").write_bytes(b"path\n\xff\xfe\n")
    with pytest.raises(InputError, match="not a text in UTF-8"):
        list(find_items(str(tmp_path / "m.csv"), PLAIN))


# ---- other places ----


@pytest.fixture
def bucket() -> str:
    store = fsspec.filesystem("memory")
    store.rm("/bucket", recursive=True) if store.exists("/bucket") else None
    for name in ("a.mp4", "day/b.mov", "day/c.txt", "day/.d.mp4", "old/e/capture.npz", "old/e/overlay.mp4"):
        store.pipe(f"/bucket/{name}", b"bytes of " + name.encode())
    return "memory://bucket"


def test_a_url_is_searched_like_a_folder(bucket: str) -> None:
    assert found(bucket) == {"a": ("clip", "a.mp4"), "day/b": ("clip", "b.mov")}
    assert found(f"{bucket}/day/*.mov") == {"b": ("clip", "b.mov")}
    assert found(f"{bucket}/day/c.txt") == {"c": ("clip", "c.txt")}
    with pytest.raises(InputError, match="found"):
        find_items(f"{bucket}/nothing", PLAIN)


def test_a_manifest_may_lie_at_a_url_and_name_others(bucket: str, tmp_path: Path) -> None:
    fsspec.filesystem("memory").pipe("/bucket/m.csv", b"path\nday/b.mov\nmemory://bucket/a.mp4\ngone.mp4\n")
    items = list(find_items(f"{bucket}/m.csv", PLAIN))
    good = {item.id: item.uri for item in items if isinstance(item, Item)}
    assert good == {"day/b": "memory://bucket/day/b.mov", "bucket/a": "memory://bucket/a.mp4"}
    assert [str(one.error) for one in items if isinstance(one, Broken)] == [
        "memory://bucket/gone.mp4: no such file"
    ]


def test_a_remote_file_is_fetched_under_its_own_name_up_to_a_size(bucket: str, tmp_path: Path) -> None:
    path = fetch(f"{bucket}/day/b.mov", tmp_path, 1000)
    assert (path.name, path.read_bytes()) == ("b.mov", b"bytes of day/b.mov")
    with pytest.raises(InputError, match="larger than"):
        fetch(f"{bucket}/a.mp4", tmp_path, 5)
    with pytest.raises(InputError, match="no such file"):
        fetch(f"{bucket}/gone.mp4", tmp_path, 5)


def test_results_are_published_with_the_capture_last(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["x/livelink.csv", "x/capture.npz"]
    files(tmp_path, *names)
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/out/x/capture.npz", b"older")
    put, seen = store.put_file, []

    def watched(local: str, remote: str, **options: object) -> None:
        seen.append((PurePosixPath(remote).name, store.exists("/bucket/out/x/capture.npz")))
        put(local, remote, **options)

    monkeypatch.setattr(type(store), "put_file", staticmethod(watched))
    publish([tmp_path / name for name in names], tmp_path, f"{bucket}/out")
    assert seen == [("livelink.csv", False), ("capture.npz", False)]
    assert store.cat("/bucket/out/x/capture.npz") == b"some bytes"


def test_a_driver_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    if importlib.util.find_spec("s3fs"):
        pytest.skip("it is installed")
    with pytest.raises(MissingExtraError, match=r"^s3://takes: .* pip install s3fs$"):
        open_place("s3://takes")
    with pytest.raises(UsageError, match="nonsense"):
        open_place("nonsense://takes")


def test_a_place_that_does_not_answer_may_be_tried_again(tmp_path: Path) -> None:
    with pytest.raises((Unsteady, InputError)):
        fetch("http://127.0.0.1:9/a.mp4", tmp_path, 1000)
