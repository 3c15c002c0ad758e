"""A batch on a real Ray cluster: node processes on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_tasks import Acts, Told, enter, noted, run
from face_clips import face_frames, write_clip
from test_cli import recon3d

from recon3d.batch.ledger import Ledger, open_ledger
from recon3d.batch.ray_workers import RayPool, connect, find_cluster, import_ray
from recon3d.batch.run import Limits
from recon3d.errors import InputError, MissingExtraError, UsageError

pytest.importorskip("ray")
#: Of the nodes' shared memory, bytes: nothing large goes through it.
_STORE = 80_000_000


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster of one node with one core; tests may add nodes, and take them away."""
    import_ray()
    from ray.cluster_utils import Cluster

    before = os.environ.get("PYTHONPATH")
    # The workers must find batch_tasks.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (str(Path(__file__).parent), before)))
    head = {"num_cpus": 1, "object_store_memory": _STORE, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=head)
    yield started
    started.shutdown()
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with open_ledger(tmp_path / "ledger.sqlite") as opened:
        opened.begin_run({})
        yield opened


def pool(cluster: Any, folder: Path, workers: int | None = None) -> RayPool:
    return RayPool(Acts(str(folder)), workers, ours=connect(cluster.address))


def test_whoever_dies_all_items_are_done_but_the_killers(
    cluster: Any, ledger: Ledger, tmp_path: Path
) -> None:
    enter(ledger, ["once-1", "kill-1", "bad-1", "long-1", *(f"ok-{k}" for k in range(20)), "hang-1"])
    told: Told = run(ledger, pool(cluster, tmp_path), tmp_path, Limits(retries=1, timeout=6))
    states = {row.id: row.state for row in ledger.rows()}
    assert {name: state for name, state in states.items() if state != "done"} == {
        "kill-1": "poisoned", "hang-1": "poisoned", "bad-1": "failed",
    }  # fmt: skip
    tasks = [name for name, *_ in noted(tmp_path)]
    assert (tasks.count("once-1"), tasks.count("kill-1"), tasks.count("bad-1")) == (2, 2, 1)
    assert tasks.count("long-1") == 5 and all(tasks.count(f"ok-{k}") == 1 for k in range(20))
    assert "its worker died" in told.outcomes["kill-1"].reason
    assert "took longer than 6 s" in told.outcomes["hang-1"].reason
    assert all("\n" not in reason for _, _, reason in told.tries)


@pytest.mark.slow
def test_a_node_that_goes_takes_nothing_with_it(cluster: Any, ledger: Ledger, tmp_path: Path) -> None:
    enter(ledger, [f"slow-{k}" for k in range(60)])
    node = cluster.add_node(num_cpus=1, object_store_memory=_STORE)
    watched = pool(cluster, tmp_path)
    events, begun = watched.events, time.monotonic()
    gone = False

    def with_a_loss(seconds: float) -> Any:
        nonlocal gone
        if (
            not gone
            and len({line.split()[3] for line in _lines(tmp_path)}) == 2
            and len(_lines(tmp_path)) > 8
        ):
            gone = True
            cluster.remove_node(node, allow_graceful=False)
        return events(seconds)

    watched.events = with_a_loss  # type: ignore[method-assign]
    run(ledger, watched, tmp_path, Limits(retries=0))
    assert gone and time.monotonic() - begun < 120
    assert ledger.counts()["done"] == 60, "no item is blamed for it"


def _lines(folder: Path) -> list[str]:
    path = folder / "noted"
    return path.read_text().splitlines() if path.is_file() else []


@pytest.mark.slow
def test_two_nodes_make_the_bytes_that_one_machine_makes(cluster: Any, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for k in range(4):
        write_clip(tmp_path / "in" / f"take{k}.mp4", face_frames(12 + k, (160, 120)))
    node = cluster.add_node(num_cpus=1, object_store_memory=_STORE)
    try:
        far = recon3d(
            "batch", "in", "--out", "far", "-f", "livelink", "--cluster", cluster.address, cwd=tmp_path
        )
    finally:
        cluster.remove_node(node)
    assert far.status == 0
    assert far.err.splitlines()[0] == f"recon3d: 4 to do, 2 workers on the Ray cluster {cluster.address}"
    near = recon3d("batch", "in", "--out", "near", "-f", "livelink", "--cluster", "local", cwd=tmp_path)
    assert near.status == 0
    for k in range(4):
        for name in ("capture.npz", "livelink.csv"):
            ours, theirs = (tmp_path / out / f"take{k}" / name for out in ("far", "near"))
            assert ours.read_bytes() == theirs.read_bytes()


def test_which_cluster_is_meant(cluster: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))  # no cluster is noted there
    assert find_cluster("auto") is None and find_cluster("local") is None
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(cluster.address)
    assert find_cluster("auto") == cluster.address
    (tmp_path / "ray" / "ray_current_cluster").write_text("127.0.0.1:9")
    assert find_cluster("auto") is None, "left by one that is gone"
    monkeypatch.setenv("RAY_ADDRESS", "ray://head:10001")
    assert find_cluster("auto") == "ray://head:10001"
    assert find_cluster("ray://other:10001") == "ray://other:10001"
    for wrong in ("head", "http://head:1", "ray://head", "head:port"):
        with pytest.raises(UsageError, match="ray://host:port or host:port"):
            find_cluster(wrong)
    with pytest.raises(InputError, match="nobody answers"):
        connect("127.0.0.1:9")
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"
    monkeypatch.setattr("recon3d.batch.ray_workers._installed", lambda: False)
    with pytest.raises(MissingExtraError, match=r"recon3d\[cluster\]"):
        find_cluster("ray://head:10001")
