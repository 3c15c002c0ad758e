"""Fault injection, soak and determinism: that they see faults, and small real runs of each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from trust_tools import determinism, faults, sandbox, soak, tiny

if not sys.platform.startswith("linux"):
    pytest.skip("the tools look into /proc", allow_module_level=True)


def test_lost_and_different_results_are_seen(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "capture.npz").write_bytes(b"1")
        (tmp_path / name / "overlay.mp4").write_bytes(b"2")
    reference = tiny.contents(tmp_path)
    assert tiny.faults_of({"a", "b"}, tiny.contents(tmp_path), reference) == []
    (tmp_path / "a" / "capture.npz").write_bytes(b"other")
    (tmp_path / "b" / "overlay.mp4").unlink()
    found = tiny.contents(tmp_path)
    assert tiny.faults_of({"a", "b"}, found, reference) == [
        "a/capture.npz differs",
        "b/overlay.mp4 is missing",
    ]
    assert tiny.faults_of({"b"}, found, reference) == ["b/overlay.mp4 is missing"]
    assert tiny.faults_of(set(), found, reference) == []
    assert tiny.unreadable(tmp_path, {"a"})  # "other" is no capture


def test_what_differs_between_undisturbed_runs_counts_by_presence() -> None:
    reference = tiny.steady({"a/x": "1", "a/y": "2"}, {"a/x": "1", "a/y": "3"})
    assert reference == {"a/x": "1", "a/y": ""}
    assert tiny.faults_of({"a"}, {"a/x": "1", "a/y": "4"}, reference) == []


def test_all_that_a_process_started_is_found_and_killed() -> None:
    inner = f"import subprocess; subprocess.run([{sys.executable!r}, '-c', 'import time; time.sleep(60)'])"
    process = subprocess.Popen([sys.executable, "-c", inner], start_new_session=True)
    assert sandbox.settled(lambda: len(sandbox.family(process.pid)) == 1, 20)
    (child,) = sandbox.family(process.pid)
    assert soak.sample(process.pid, time.perf_counter()).handles > 3
    sandbox.kill_group(process.pid)
    process.wait()
    assert faults._gone([child], 20)


def test_growth_is_measured() -> None:
    assert soak.slope([5.0] * 10) == pytest.approx(0)
    assert soak.slope([3.0 + 2 * k for k in range(10)]) == pytest.approx(2)


def test_ways_that_differ_are_told(tmp_path: Path) -> None:
    first = determinism.Way("one", {"a": "1"}, {"a": "x"})
    how = determinism.Way("two", {"a": "2"}, {"a": "x"})
    other = determinism.Way("three", {"a": "2"}, {"a": "y"})
    assert determinism.table([first, how], "threads")[1]
    rows, agree = determinism.table([first, how, other], "threads")
    assert not agree
    assert rows[1].endswith("| 0 of 1 | 0 of 1 |")


def test_killed_again_and_again_video_loses_nothing(tmp_path: Path) -> None:
    score = faults.Score()
    bench = faults.prepare("video", tmp_path, 2, 1, score, "livelink")
    faults.kill_at_random(bench, 2, Random(1), score)
    assert score.wrong == []
    assert score.kills.total() == 2
    assert score.rounds >= 1
    assert "| killed: " in faults.report({"video": score}, 2, 1)
    # And damage that no run repaired would be seen.
    shutil.rmtree(bench.out / "take-0001")
    bench.check_all(bench.out, "damaged", score)
    assert score.wrong


@pytest.mark.slow
@pytest.mark.parametrize("command", ["video", "batch"])
def test_faults_of_all_kinds_lose_nothing(tmp_path: Path, command: str) -> None:
    score = faults.Score()
    bench = faults.prepare(command, tmp_path, 4, 2, score)
    faults.kill_at_random(bench, 6, Random(2), score)
    faults.full_disk(bench, tmp_path, score)
    faults.jumping_clock(bench, score)
    assert score.wrong == []


@pytest.mark.slow
def test_a_small_soak_is_flat(tmp_path: Path) -> None:
    tiny.write_clips(tmp_path / "clips", 12)
    samples, failed = soak.soak(tmp_path / "clips", tmp_path / "out", 1, "livelink")
    assert failed == []
    assert len(samples) == 12
    assert samples[-1].handles <= samples[2].handles + 2
    assert "open file handles" in soak.report(samples, failed, 1, tiny.FRAMES)


@pytest.mark.slow
def test_the_same_clip_gives_the_same_bytes(tmp_path: Path) -> None:
    ways = determinism.clip_ways(tmp_path, 1, 12, [1])
    assert determinism.table(ways, "threads")[1]
    assert os.listdir(tmp_path / "out-0") == ["take-0000"]  # noqa: PTH208
