"""The fuzzer sees what must not happen, and finds nothing of it in a small run over the real command line."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from trust_tools import corpus, fuzz

if not hasattr(os, "wait4"):
    pytest.skip("the fuzzer needs POSIX", allow_module_level=True)

#: Misbehaves by what the input is called; speaks as recon3d does otherwise.
PROGRAM = """
import json, os, pathlib, signal, sys, time
names = sys.argv[sys.argv.index("--") + 1 :]
out = pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
failed = False
for name in names:
    if "traceback" in name:
        raise RuntimeError("fault")
    if "unexpected" in name:
        print(f"recon3d: {name}: unexpected error: ValueError: x", file=sys.stderr)
        failed = True
        continue
    if "hang" in name:
        time.sleep(60)
    if "death" in name:
        os.kill(os.getpid(), signal.SIGSEGV)
    if "outside" in name:
        pathlib.Path("../guard/precious.txt").write_text("touched")
    if "elsewhere" in name:
        pathlib.Path("/tmp", f"trust-test-{os.getpid()}").touch()
        pathlib.Path("/tmp", f"trust-test-{os.getpid()}").unlink()
    if "leftover" in name:
        pathlib.Path(os.environ["TMPDIR"], "left").touch()
    if "half" in name:
        (out / name).mkdir(parents=True)
        (out / name / "capture.npz").write_bytes(b"PK half")
    if "silent" in name:
        continue
    if "line" in name:
        print("warning: something", file=sys.stderr)
    if "bad" in name:
        print(f"recon3d: {name}: no good", file=sys.stderr)
        failed = True
        continue
    print(f"{name} -> {out / name}", flush=True)
sys.exit(failed and "status" not in names[0])
"""


def judged(folder: Path, *names: str, fate: corpus.Fate = "either") -> dict[str, str]:
    """Run the program on inputs of these names; return the inputs blamed by fault."""
    (folder / "program.py").write_text(PROGRAM)
    cases = [
        corpus.Case("kind", name, lambda path: path.write_bytes(b"x") and None, fate, named=True)
        for name in names
    ]
    tally = fuzz.Tally()
    program = [sys.executable, str(folder / "program.py")]
    fuzz.Fuzzer(folder, folder / "keep", program, 1.5).do(
        fuzz.Run("photo", cases, [], False, {}, True), tally
    )
    assert tally.inputs == len(names)
    return {p.fault: p.case.name if p.case else p.detail for p in tally.problems}


def test_nothing_is_said_of_good_behaviour(tmp_path: Path) -> None:
    assert judged(tmp_path, "good", "bad", "also good") == {}
    assert not (tmp_path / "keep").exists()


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        ("unexpected", "unexpected"),
        ("hang", "hang"),
        ("death", "death"),
        ("half", "half"),
        ("silent", "silent"),
        ("line", "line"),
        ("bad", "fate"),
    ],
)
def test_a_fault_is_seen_and_blamed_on_its_input(tmp_path: Path, name: str, fault: str) -> None:
    found = judged(tmp_path, "first", name, "last", fate="done")
    assert fault in found
    if fault not in ("line", "half"):  # those are the run's
        assert found[fault] == name
    kept = list((tmp_path / "keep").iterdir())
    assert len(kept) == 1
    assert fault in (kept[0] / "report.txt").read_text()


def test_a_traceback_is_seen(tmp_path: Path) -> None:
    assert {"traceback", "silent"} <= judged(tmp_path, "traceback", "after it").keys()


def test_the_wrong_exit_status_is_seen(tmp_path: Path) -> None:
    assert judged(tmp_path, "bad status") == {"status": "0, 1 is wanted"}


@pytest.mark.parametrize(
    ("name", "where"), [("outside", "precious.txt"), ("elsewhere", "trust-test"), ("leftover", "left")]
)
def test_writing_outside_is_seen(tmp_path: Path, name: str, where: str) -> None:
    assert where in judged(tmp_path, name)["outside"]


def test_inputs_are_the_same_for_the_same_seed(tmp_path: Path) -> None:
    for number in range(0, 60, 7):
        written = []
        for folder in ("one", "two"):
            case = corpus.make_case(corpus.PICTURES, 3, number, "photo")
            path = tmp_path / folder / f"{number}"
            path.parent.mkdir(exist_ok=True)
            case.place(path)
            written.append(
                (case.name, path.read_bytes() if path.is_file() and not path.is_symlink() else None)
            )
        assert written[0] == written[1]


#: Quick ones; the rest, and more of these, are for the tool.
KINDS = {
    "photo": (
        "valid",
        "truncated",
        "bits flipped",
        "zeros in the middle",
        "two files in one",
        "bad metadata",
        "lying size",
        "lying TIFF",
        "program or list",
        "noise",
        "folder of pictures",
        "empty",
        "pipe",
        "socket",
        "link to itself",
        "links in a circle",
        "link to /dev/zero",
        "link to outside",
        "missing",
        "odd name",
    ),
    "video": (
        "truncated",
        "header bits flipped",
        "lying MP4 boxes",
        "lying AVI headers",
        "playlist",
        "sound only",
        "numbered images",
        "no series",
        "noise",
        "empty",
        "pipe",
        "links in a circle",
        "folder with a file's name",
        "missing",
        "valid",
    ),
    "export": (
        "valid",
        "valid text",
        "truncated",
        "pickle inside",
        "pickle",
        "fields missing",
        "wrong shapes",
        "wrong types",
        "wild values",
        "wild times",
        "nasty texts",
        "nasty members",
        "take with wrong rows",
        "take that leaps",
        "JSON that is no take",
        "zip bomb",
        "empty",
        "pipe",
        "links in a circle",
        "odd name",
    ),
}


@pytest.mark.parametrize("command", KINDS)
def test_the_command_line_takes_whatever_it_is_given(tmp_path: Path, command: str) -> None:
    table = fuzz.COMMANDS[command].table
    numbers = [list(table).index(kind) for kind in KINDS[command]]
    cases = [corpus.make_case(table, 5, number, command) for number in numbers]
    tally = fuzz.Tally()
    options = {"photo": ["-f", "arkit"], "video": ["-f", "livelink"], "export": ["-f", "glb,livelink"]}[
        command
    ]
    fuzzer = fuzz.Fuzzer(tmp_path, None, fuzz.RECON3D, fuzz.PATIENCE)
    fuzzer.do(fuzz.Run(command, cases, options, True, {}, False), tally)
    assert tally.problems == []
    assert tally.inputs == len(cases)
    assert tally.fates["valid", "done"] == 1
    assert f"| inputs | {len(cases)} |" in fuzz.report({command: tally}, 5)
