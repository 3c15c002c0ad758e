"""Workers on a Ray cluster: one actor each, which loads its models once. Extra ``[cluster]``."""

from __future__ import annotations

import importlib.util
import logging
import math
import os
import re
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recon3d.batch.pool import Died, Ended, Event, StartFailed
from recon3d.batch.task import Outcome, Start, Task
from recon3d.errors import InputError, MissingExtraError, Recon3DError, UsageError

if TYPE_CHECKING:
    from recon3d.batch.work import Setup

_ADDRESS = re.compile(r"(ray://)?(?P<host>[^\s/:@]+|\[[0-9a-fA-F:]+\]):(?P<port>\d{1,5})")
#: Where Ray notes the cluster that was last started on this machine.
_NOTE = ("ray", "ray_current_cluster")
#: Seconds to wait for the port of a cluster.
_KNOCK = 5.0
#: Seconds between two counts of the cluster's cores: nodes come and go.
_COUNT_EVERY = 10.0
#: Seconds without an answer of the cluster's head after which it is given up.
_SILENCE = 25.0
#: So many actors may die one after another while they start.
_START_DEATHS = 6


def find_cluster(given: str) -> str | None:
    """Return the address of the Ray cluster to use, or None for this machine's processes.

    ``auto`` is the cluster that RAY_ADDRESS names, or one that runs on this machine.

    Raises:
        UsageError: It is no address.
        MissingExtraError: A cluster is wanted, and Ray is not installed.
    """
    if given == "local":
        return None
    named = os.environ.get("RAY_ADDRESS", "") if given == "auto" else given
    if not named or named == "local":
        return _running_here() if _installed() else None
    if _ADDRESS.fullmatch(named) is None and named != "auto":
        raise UsageError(f"--cluster {named!r}: auto, local, ray://host:port or host:port is wanted")
    if not _installed():
        raise MissingExtraError(f'--cluster {named} needs Ray: pip install "recon3d[cluster]"')
    return named


def _installed() -> bool:
    return importlib.util.find_spec("ray") is not None


def _running_here() -> str | None:
    """Return the address of a cluster that runs on this machine."""
    folder = Path(os.environ.get("RAY_TMPDIR", tempfile.gettempdir()))
    try:
        address = folder.joinpath(*_NOTE).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return None
    match = _ADDRESS.fullmatch(address)
    return address if match is not None and _answers(match["host"], int(match["port"])) else None


def _answers(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host.strip("[]"), port), timeout=_KNOCK):
            return True
    except (OSError, OverflowError):
        return False


def open_cluster(address: str, setup: Setup, workers: int | None) -> tuple[RayPool, int, str]:
    """Return a pool on a cluster, how many workers it may have now, and where they are.

    Raises:
        InputError: The cluster cannot be reached.
        UsageError: It has no core for a worker.
    """
    ours = connect(address)
    models = replace(setup.models, threads=setup.models.threads or 1)  # a worker has one core
    plain = replace(setup, models=replace(models, device="cpu"))
    pool = RayPool(plain, workers, ours=ours)
    if models.device != "cpu":
        pool = RayPool(plain, workers, gpu_start=replace(setup, models=models), ours=ours)
    most = pool.most()
    if most < 1:
        pool.close()
        raise UsageError(f"the Ray cluster {address} has no core for a worker")
    return pool, most, f"on the Ray cluster {address}"


def connect(address: str) -> bool:
    """Connect to a cluster; return whether that was not done before.

    Raises:
        InputError: It cannot be reached.
    """
    match = _ADDRESS.fullmatch(address)
    if match is not None and not _answers(match["host"], int(match["port"])):
        raise InputError(f"--cluster {address}: nobody answers there; is the cluster up?")
    ray = import_ray()
    if ray.is_initialized():
        return False
    sys.stdout = _Quiet(sys.stdout)
    try:
        with _own_signals():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except Exception as error:  # Ray has many
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--cluster {address}: cannot be joined ({reason})") from error
    return True


def import_ray() -> Any:
    """Import Ray, which then tells nobody about its use.

    Raises:
        MissingExtraError: It is not installed.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray warns of a default that will change; the workers hide no GPUs from themselves.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        import ray
    except ImportError as error:
        raise MissingExtraError('a cluster needs Ray: pip install "recon3d[cluster]"') from error
    return ray


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keep our answer to SIGTERM: Ray puts its own in the place."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        with suppress(ValueError):  # not in the main thread
            signal.signal(signal.SIGTERM, before)


class _Quiet:
    """Standard output without what Ray's own thread prints to it: it is for programs to read."""

    def __init__(self, stream: Any) -> None:
        self.inner = stream

    def write(self, text: str) -> int:
        """Write what is not Ray's."""
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return int(self.inner.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class Actor:
    """A worker of a cluster; Ray makes one of it in a process of its own."""

    def node(self) -> str:
        """Return the id of the node that it is on."""
        import ray

        return str(ray.get_runtime_context().get_node_id())

    def open(self, start: Start) -> tuple[str, str] | None:
        """Load everything; return the class and the text of what went wrong."""
        from ray.util.metrics import Counter

        try:
            self._work = start()
        except Recon3DError as error:
            return type(error).__name__, str(error)
        # For Ray's dashboard.
        self._items = Counter("recon3d_items", "Items done or failed.", ("state",))
        self._frames = Counter("recon3d_frames", "Frames of items that are done.")
        return None

    def run(self, task: Task) -> Outcome:
        """Do a task."""
        outcome = self._work(task, lambda step, done, total: None)
        if task.step != "part" and not outcome.parts:
            self._items.inc(1, {"state": "failed" if outcome.error else "done"})
        if outcome.frames:
            self._frames.inc(outcome.frames)
        return outcome


@dataclass
class _Member:
    """An actor, seen from outside; ``ref`` is what it is at: to start, a task, or nothing."""

    handle: Any
    ref: Any
    ready: bool = False
    task: Task | None = None
    reason: str = ""
    gpu: bool = False
    node: str = ""

    def takes(self, task: Task, gpus: bool) -> bool:
        """Tell whether it can be given a task; photographs go to the GPUs, where the cluster has some."""
        return self.ready and self.task is None and (self.gpu or not gpus or task.kind != "photo")


class RayPool:
    """A pool of actors; ``recon3d.batch.pool.Pool`` tells what the methods do."""

    def __init__(
        self, start: Start, workers: int | None, *, gpu_start: Start | None = None, ours: bool = False
    ) -> None:
        """Use the cluster that this process is connected to.

        Args:
            start: Called in each actor first.
            workers: How many there may be; None: as many as the cluster has cores, at any time.
            gpu_start: Called instead in actors that have a GPU: as many as the cluster has. None: none has.
            ours: Leave the cluster at the end.
        """
        self._ray = import_ray()
        self._start, self._gpu_start, self._given, self._ours = start, gpu_start, workers, ours
        self._class = self._ray.remote(max_restarts=0, max_task_retries=0, num_cpus=1)(Actor)
        self._members: list[_Member] = []
        self._deaths = 0
        self._cores, self._gpus, self._counted = 0, 0, -math.inf
        self._head, self._heard = self._find_head(), time.monotonic()

    def _find_head(self) -> tuple[str, int] | None:
        """Return host and port of the cluster's head; None where only Ray's client can reach it."""
        if self._ray.util.client.ray.is_connected():
            return None
        match = _ADDRESS.fullmatch(self._ray.get_runtime_context().gcs_address)
        return None if match is None else (match["host"], int(match["port"]))

    def most(self) -> int:
        """Return how many workers there may be now."""
        if time.monotonic() - self._counted >= _COUNT_EVERY and self._listen():
            self._counted = time.monotonic()
            with self._plain():
                resources = self._ray.cluster_resources()
            self._cores = int(resources.get("CPU", 0))
            self._gpus = 0 if self._gpu_start is None else int(resources.get("GPU", 0))
        return self._cores if self._given is None else self._given

    def want(self, count: int) -> None:
        """See to it that so many workers are there, or start: no more than the pool may have."""
        while len(self._members) < min(count, self.most()):
            with_gpu = sum(one.gpu for one in self._members)
            self._members.append(self._new(gpu=with_gpu < self._gpus))

    def workers(self) -> int:
        """Return how many workers there are, those that start included."""
        return len(self._members)

    def takes(self, task: Task) -> bool:
        """Tell whether a worker can be given a task now."""
        return any(one.takes(task, self._gpus > 0) for one in self._members)

    def idle(self) -> bool:
        """Tell whether any worker has nothing to do."""
        return any(one.ready and one.task is None for one in self._members)

    def give(self, task: Task) -> None:
        """Give a task to an idle worker."""
        member = next(one for one in self._members if one.takes(task, self._gpus > 0))
        member.task = task
        with self._plain():
            member.ref = member.handle.run.options(name=f"recon3d {task.id}").remote(task)

    def events(self, seconds: float) -> list[Event]:
        """Wait for something to happen, so long at most; return it.

        Raises:
            Recon3DError: Workers cannot start, or the cluster is gone.
        """
        refs = [one.ref for one in self._members if one.ref is not None]
        if not refs:
            time.sleep(min(seconds, 0.1))
            return []
        with self._plain():
            over, _ = self._ray.wait(refs, num_returns=1, timeout=seconds)
            if over:
                over, _ = self._ray.wait(refs, num_returns=len(refs), timeout=0)
            elif time.monotonic() - self._heard > _COUNT_EVERY:
                self._listen()
        found: list[Event] = []
        for member in [one for one in self._members if one.ref in over]:
            found += self._read(member)
        return found

    def kill(self, task: Task, reason: str) -> None:
        """Kill the worker that is at a task; that it has died is among the next events."""
        for member in self._members:
            if member.task is not None and member.task.key == task.key:
                member.reason = reason
                with self._plain():
                    self._ray.kill(member.handle)

    def close(self) -> None:
        """End all workers at once."""
        for member in self._members:
            with suppress(Exception):  # it is gone, or the whole cluster is
                self._ray.kill(member.handle)
        self._members.clear()
        if self._ours:
            with suppress(Exception):
                self._ray.shutdown()
            if isinstance(sys.stdout, _Quiet):
                sys.stdout = sys.stdout.inner

    def _read(self, member: _Member) -> list[Event]:
        try:
            answer = self._ray.get(member.ref)
        except self._ray.exceptions.RayActorError as error:
            return self._bury(member, error)
        except self._ray.exceptions.RayTaskError as error:  # a fault of ours, or of what Ray unpickles
            return self._bury(member, error)
        except Exception as error:
            raise _gone(error) from error
        member.ref = None
        if member.task is not None:
            task, member.task = member.task, None
            return [Ended(task, answer)]
        if not member.node:
            member.node = answer
            with self._plain():
                member.ref = member.handle.open.remote(self._gpu_start if member.gpu else self._start)
            return []
        if answer is not None:
            raise _raised(*answer)
        member.ready, self._deaths = True, 0
        return []

    def _listen(self) -> bool:
        """Find out whether the cluster is still there; return whether it may be asked something.

        Raises:
            InputError: It is gone. (Ray itself ends this process after a minute, with a message of its own.)
        """
        now = time.monotonic()
        if self._head is None or _answers(*self._head):
            self._heard = now
        elif now - self._heard > _SILENCE:
            self._ours = False  # leaving it would be waiting for it
            raise _gone("its head does not answer")
        return self._heard == now

    def _bury(self, member: _Member, error: Exception) -> list[Event]:
        """Take a dead actor away; ``want`` makes another one."""
        self._members.remove(member)
        with suppress(Exception):
            self._ray.kill(member.handle)
        reason = _why(error)
        vanished = not member.reason and bool(member.node) and self._is_gone(member.node)
        if not member.ready:
            self._deaths += 1
            if self._deaths >= _START_DEATHS:
                raise StartFailed(f"workers of the cluster die while they start ({reason})")
        if member.task is None:
            return []
        return [Died(member.task, member.reason or f"its worker died ({reason})", blamed=not vanished)]

    def _new(self, *, gpu: bool) -> _Member:
        with self._plain():
            handle = self._class.options(num_gpus=1).remote() if gpu else self._class.remote()
            return _Member(handle, handle.node.remote(), gpu=gpu)

    def _is_gone(self, node: str) -> bool:
        """Tell whether a node is gone. Ray itself takes half a minute to be sure of that."""
        try:
            facts = next((one for one in self._ray.nodes() if one["NodeID"] == node), None)
        except Exception:  # Ray has many; that the cluster is gone shows elsewhere
            return False
        if facts is None or not facts["Alive"]:
            return True
        # From outside of the cluster its nodes may have no way to us.
        inside = not self._ray.util.client.ray.is_connected()
        return inside and not _answers(facts["NodeManagerAddress"], int(facts["NodeManagerPort"]))

    @contextmanager
    def _plain(self) -> Iterator[None]:
        """Turn what Ray raises into one line."""
        try:
            yield
        except Recon3DError:
            raise
        except Exception as error:  # Ray has many
            raise _gone(error) from error


def _why(error: Exception) -> str:
    """Return in one line why an actor has died."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = next((line for line in lines if "because" in line or "died" in line or "exit" in line), None)
    return (told or " ".join(lines) or type(error).__name__)[:200]


def _raised(kind: str, text: str) -> Recon3DError:
    """Return the error that a worker told of."""
    import recon3d.errors as errors

    known = getattr(errors, kind, Recon3DError)
    return known(text) if issubclass(known, Recon3DError) else Recon3DError(text)


def _gone(error: Exception | str) -> InputError:
    reason = " ".join(str(error).split())[:200]
    return InputError(f"the Ray cluster is gone ({reason}); nothing is lost, the same command goes on")
