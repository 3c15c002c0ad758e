"""Looks at an installation: what is there, whether it works, and what to do about what does not.

Every check gives facts, and none raises: a check that fails in a way that nobody foresaw is a fact, too.
Nothing here touches the network unless it is asked to.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from recon3d._version import __version__
from recon3d.assets import (
    FACE_LANDMARKER,
    HEAD_MANIFEST,
    MANIFEST,
    PAGE_MANIFEST,
    TRAINING_MANIFEST,
    Asset,
    cache_folder,
    check_file,
    fetch,
    is_offline,
)
from recon3d.errors import MissingExtraError, Recon3DError, UsageError
from recon3d.licenses import extra_requirements, extras_of, requirements_of

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from packaging.requirements import Requirement

    from recon3d.head import HeadModel

#: ``absent``: not there, and only needed by who wants it. ``failed``: the default use needs it.
State = Literal["ok", "absent", "warning", "failed"]

_LITTLE_SPACE = 1e9
_LITTLE_MEMORY = 3e9
#: Landmark errors of the self-test, % of the distance between the outer corners of the eyes: measured is
#: 0.8, what people notice is several times that.
_GOOD, _BAD = 3.0, 10.0
#: Side of the self-test's picture, px; and how far away the head stands, m.
_SIDE, _DISTANCE = 480, 0.7

REINSTALL = "install recon3d anew: pip install -c constraints.txt ."


@dataclass(frozen=True)
class Fact:
    """One thing that was found out.

    Attributes:
        name: What it is about.
        state: How it is.
        text: What was found, one line.
        advice: What to do; empty where nothing needs to be done.
        figures: The same for programs.
    """

    name: str
    state: State
    text: str
    advice: str = ""
    figures: dict[str, object] = field(default_factory=dict)


Check = Callable[[], Iterable[Fact]]


def examine(*, fetching: bool = False) -> Iterator[Fact]:
    """Yield all facts, each when it is known; the last ones, of the self-test, take a few seconds.

    Args:
        fetching: Download the face networks' file if it is missing: the only use of the network.
    """
    checks: tuple[tuple[str, Check], ...] = (
        ("recon3d", _machine),
        ("dependencies", _dependencies),
        ("extras", _extras),
        ("torch", _torch),
        ("rasterizers", _rasterizers),
        ("model files", lambda: _models(fetching)),
        ("folders", _folders),
        ("self-test", _self_test),
    )
    for name, check in checks:
        try:
            yield from check()
        except Recon3DError as error:
            yield Fact(name, "failed", _one_line(error), REINSTALL)
        except Exception as error:  # that is what a doctor is for
            yield Fact(name, "failed", f"{type(error).__name__}: {_one_line(error)}", REINSTALL)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:600]


# ---- the machine ----


def _machine() -> Iterator[Fact]:
    yield Fact("recon3d", "ok", __version__, figures={"version": __version__})
    python = f"{platform.python_version()} ({platform.python_implementation()})"
    yield Fact("python", "ok", python, figures={"version": platform.python_version()})
    yield Fact("platform", "ok", f"{platform.platform()}, {platform.machine()}")
    cores = os.cpu_count() or 1
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else cores
    text = f"{usable} cores" + (f" of {cores}" if usable != cores else "")
    yield Fact("processor", "ok", text, figures={"cores": cores, "usable": usable})
    yield _memory()


def _memory() -> Fact:
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return Fact("memory", "ok", "not known: this system does not tell")
    few = total < _LITTLE_MEMORY
    advice = "large photographs and several --workers need more" if few else ""
    return Fact("memory", "warning" if few else "ok", f"{total / 1e9:.1f} GB", advice, {"bytes": total})


# ---- what is installed ----


def _dependencies() -> Iterator[Fact]:
    for wanted in requirements_of():
        version = _version_of(wanted)
        figures: dict[str, object] = {"version": version, "wanted": str(wanted.specifier)}
        advice = f"pip install -c constraints.txt '{wanted.name}{wanted.specifier}'"
        if version is None:
            yield Fact(wanted.name, "failed", "not installed", advice, figures)
        elif not wanted.specifier.contains(version, prereleases=True):
            yield Fact(wanted.name, "failed", f"{version}, but {wanted.specifier} is needed", advice, figures)
        else:
            yield Fact(wanted.name, "ok", version, figures=figures)


def _extras() -> Iterator[Fact]:
    for extra in extras_of():
        wanted = extra_requirements(extra)
        missing = [one for one in wanted if not _is_met(one)]
        figures: dict[str, object] = {
            "installed": not missing,
            "packages": {one.name: _version_of(one) for one in wanted},
        }
        if missing:
            text = f"not complete: lacks {', '.join(f'{one.name}{one.specifier}' for one in missing)}"
            advice = f"if you want it: pip install -c constraints.txt '.[{extra}]'"
            yield Fact(f"extra {extra}", "absent", text, advice, figures)
        else:
            text = ", ".join(f"{one.name} {_version_of(one)}" for one in wanted)
            yield Fact(f"extra {extra}", "ok", text, figures=figures)


def _version_of(wanted: Requirement) -> str | None:
    try:
        return metadata.version(wanted.name)
    except metadata.PackageNotFoundError:
        return None


def _is_met(wanted: Requirement) -> bool:
    version = _version_of(wanted)
    return version is not None and wanted.specifier.contains(version, prereleases=True)


def _torch() -> Iterator[Fact]:
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library that it needs is not there
        yield Fact("torch devices", "failed", f"torch cannot be loaded: {_one_line(error)}", REINSTALL)
        return
    devices = ["cpu"]
    if torch.cuda.is_available():
        devices += [f"cuda:{k} ({torch.cuda.get_device_name(k)})" for k in range(torch.cuda.device_count())]
    figures: dict[str, object] = {"devices": devices, "threads": torch.get_num_threads()}
    text = f"{', '.join(devices)}; {torch.get_num_threads()} threads"
    yield Fact("torch devices", "ok", text, figures=figures)


# ---- what draws ----


def _rasterizers() -> Iterator[Fact]:
    import torch

    from recon3d.render.rasterize import BACKENDS, default_backend

    device = torch.device("cpu")
    for name in BACKENDS:
        usual = name == default_backend(device)
        label, figures = f"rasterizer {name}", dict[str, object](default=usual)
        try:
            if not _draws(name):
                yield Fact(label, "failed", "draws a triangle wrongly", "report it, please", figures)
            else:
                yield Fact(label, "ok", "works" + (", used by default" if usual else ""), figures=figures)
        except (MissingExtraError, UsageError) as error:
            yield Fact(label, "absent", _one_line(error), figures=figures)
        except Exception as error:  # a compiler that is not there, a driver that does not fit
            needed = usual or name == "torch"
            text = f"does not work: {type(error).__name__}: {_one_line(error)}"
            advice = REINSTALL if needed else "nothing, while others work"
            yield Fact(label, "failed" if needed else "absent", text, advice, figures)


def _draws(backend: str) -> bool:
    """Draw one triangle over the lower left half of 8×8 pixels, and look at it."""
    import torch

    from recon3d.render.rasterize import rasterize

    if backend == "triton" and not torch.cuda.is_available():
        raise UsageError("needs an NVIDIA GPU")
    device = "cuda" if backend == "triton" else "cpu"
    corners = torch.tensor([[[0.0, 0.2, 1.0], [0.0, 8.2, 1.0], [8.0, 8.2, 1.0]]], device=device)
    faces = torch.tensor([[0, 1, 2]], device=device)
    seen = rasterize(corners, faces, (8, 8), backend=backend).mask[0].cpu()
    return bool((seen == torch.ones(8, 8).tril(-1).bool()).all())


# ---- files and folders ----


def _models(fetching: bool) -> Iterator[Fact]:
    mode = "RECON3D_OFFLINE forbids downloads" if is_offline() else "downloads are allowed"
    yield Fact("model cache", "ok", f"{cache_folder()}; {mode}", figures={"offline": is_offline()})
    for asset in MANIFEST.values():
        if fetching:
            try:
                fetch(asset.name, quiet=True)
            except Recon3DError as error:
                yield Fact(f"fetching {asset.filename}", "failed", _one_line(error), "see the reasons named")
        yield _model(asset, needed=True)
    for asset in (HEAD_MANIFEST | PAGE_MANIFEST | TRAINING_MANIFEST).values():
        yield _model(asset, needed=False)


def _model(asset: Asset, *, needed: bool) -> Fact:
    """Say whether a verified copy of a file is in the cache, and what happens if not."""
    problem = check_file(asset.path, asset)
    figures: dict[str, object] = {"path": str(asset.path), "size": asset.size, "verified": problem is None}
    name, size = f"model {asset.filename}", f"{asset.size / 1e6:.1f} MB"
    if problem is None:
        return Fact(name, "ok", f"{size}, sha256 verified; {asset.purpose}", figures=figures)
    there = problem != "not there"
    text = f"damaged: {problem}" if there else f"not downloaded ({size}); {asset.purpose}"
    if not needed:
        advice = f"delete {asset.path}" if there else "nothing: it is fetched when it is asked for"
        return Fact(name, "warning" if there else "absent", text, advice, figures)
    if is_offline():
        advice = f"run 'recon3d models --fetch' without RECON3D_OFFLINE, or copy the file to {asset.path}"
        return Fact(name, "failed", text, advice, figures)
    return Fact(name, "warning", text, "recon3d models --fetch (or the first photograph does it)", figures)


def _folders() -> Iterator[Fact]:
    cached = all(check_file(asset.path, asset) is None for asset in MANIFEST.values())
    advice = "set RECON3D_CACHE to a folder that can be written"
    yield _folder("cache folder", cache_folder(), "warning" if cached else "failed", advice)
    try:
        temporary = Path(tempfile.gettempdir())
    except FileNotFoundError as error:  # none of the usual places can be written
        yield Fact(
            "temporary folder", "failed", _one_line(error), "set TMPDIR to a folder that can be written"
        )
        return
    yield _folder("temporary folder", temporary, "failed", "set TMPDIR to a folder that can be written")


def _folder(name: str, path: Path, otherwise: State, advice: str) -> Fact:
    """Say whether a folder can be written, or made where it is missing; and how much space it has."""
    try:
        place = next(one for one in (path, *path.absolute().parents) if one.exists())
        with tempfile.TemporaryFile(dir=place) as file:
            file.write(b"recon3d")
        free = shutil.disk_usage(place).free
    except OSError as error:
        reason = error.strerror or type(error).__name__
        figures: dict[str, object] = {"path": str(path), "writable": False}
        return Fact(name, otherwise, f"{path}: cannot be written ({reason})", advice, figures)
    figures = {"path": str(path), "writable": True, "free": free}
    text = f"{path}: can be written, {free / 1e9:.1f} GB free"
    if free < _LITTLE_SPACE:
        return Fact(name, "warning", text, "free some space: clips need more", figures)
    return Fact(name, "ok", text, figures=figures)


# ---- does it work? ----


class _Watch:
    """Takes the time of steps, ms."""

    def __init__(self) -> None:
        self.times: dict[str, float] = {}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.times[step] = round(1e3 * (time.perf_counter() - start), 1)


def _self_test() -> Iterator[Fact]:
    """Draw the open head, find its face, and fit it: the whole way of a photograph."""
    import numpy as np

    from recon3d.pipeline import Reconstructor

    watch, worker = _Watch(), Reconstructor()
    with watch("load the head"):
        _ = worker.head
    with watch("draw it"):
        pixels, truth = _draw(worker.head)
    if check_file(FACE_LANDMARKER.path, FACE_LANDMARKER) is not None:
        yield Fact("self-test", "absent", f"{_told(watch)}; not looked for its face: no face networks",
                   "recon3d doctor --fetch", {"ms": watch.times})  # fmt: skip
        return
    with watch("load the networks"):
        worker.prepare()
    with watch("find its face"):
        found = worker.faces.find(pixels)
    if not found:
        yield Fact(
            "self-test", "failed", f"{_told(watch)}; no face was found", REINSTALL, {"ms": watch.times}
        )
        return
    with watch("find and fit it"):
        fitted = worker.reconstruct(pixels)[0].landmarks68[0]
    eyes = np.linalg.norm(truth[36] - truth[45])
    error = float(100 * np.linalg.norm(fitted - truth, axis=1).mean() / eyes)
    state: State = "ok" if error < _GOOD else "warning" if error < _BAD else "failed"
    text = f"{_told(watch)}; landmarks off by {error:.1f} % of the eyes' distance"
    advice = "" if state == "ok" else f"at most {_GOOD:.0f} % was expected: please report it, with --json"
    yield Fact("self-test", state, text, advice, {"ms": watch.times, "error_percent": round(error, 2)})


def _told(watch: _Watch) -> str:
    return ", ".join(f"{step} {ms:.0f} ms" for step, ms in watch.times.items())


def _draw(head: HeadModel) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.float32]]:
    """Draw a head at rest that looks into the camera: (S, S, 3) pixels, and its 68 landmarks, px."""
    import torch

    from recon3d.conventions import FRONTAL
    from recon3d.head.contour import landmarks68
    from recon3d.render.camera import Camera
    from recon3d.render.shading import render_head

    with torch.no_grad():
        rest = head.unposed(torch.zeros(1, head.num_shape), torch.zeros(1, head.num_expression))
        verts = rest @ torch.tensor(FRONTAL, dtype=rest.dtype).T
        verts = verts - verts.mean((0, 1)) + torch.tensor([0.0, 0.0, _DISTANCE])
        camera = Camera.create(1.5 * _SIDE, (_SIDE, _SIDE))
        image = render_head(verts, head.faces, camera, head.colors, supersample=2).image[0]
        points = landmarks68(head, camera.project(verts)[..., :2])[0]
    return (image * 255 + 0.5).clamp(0, 255).byte().numpy(), points.numpy()
