"""Builds wheel and sdist, looks into both, and installs them as users would, for every Python that is here.

Needs hatchling (``pip install hatchling``); pipx and uv are tried where they are found::

    python tools/check_packaging.py [--pythons 3.10,3.12] [--heavy] [--report FILE]

For each Python from 3.10 to 3.13 a fresh environment is made, and pip is asked first what it would install
with ``-c constraints.txt``. If that brings a PyTorch for GPUs, several GB, then (without ``--heavy``) all but
PyTorch and what only it needs is installed, and only what works without it is run; the report says so. Exit
status 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import email
import email.message
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

ROOT = Path(__file__).resolve().parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
#: Largest wheel and sdist, bytes: tracked files stay below 40 MiB in all.
LARGEST = 40 << 20
#: What has to be in a wheel, beside the modules.
WANTED = (
    "recon3d/py.typed",
    "recon3d/_data/assets/README.md",
    "recon3d/_data/assets/encoder.safetensors",
    "recon3d/_data/assets/painter.safetensors",
    "recon3d/_data/assets/name_maps/unity.toml",
    "recon3d/_data/flame_model/README.md",
    "recon3d/_data/flame_model/open_head.npz",
    "recon3d/export/_report/page.html",
    "recon3d/training/configs/stage1.toml",
)
#: What has to be in an sdist, at its top.
WANTED_SOURCE = ("README.md", "LICENSE", "CONVENTIONS.md", "constraints.txt", "pyproject.toml", "PKG-INFO")
#: Packages that only a PyTorch for GPUs needs.
_FOR_GPUS = re.compile(r"nvidia-|cuda-|triton$")
#: What a photograph leaves.
RESULTS = ("capture.npz", "mesh.obj", "mesh.mtl", "mesh.jpg", "mesh.glb", "overlay.jpg", "arkit.json")


@dataclass
class Report:
    """What was looked at and what came of it; printed as it goes."""

    lines: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def say(self, line: str) -> None:
        """Add a line."""
        self.lines.append(line)
        print(line, flush=True)

    def check(self, what: str, problems: Sequence[str]) -> None:
        """Add what was looked at, and all that is wrong with it."""
        self.say(f"- {what}: " + ("; ".join(problems) if problems else "good"))
        self.problems += [f"{what}: {problem}" for problem in problems]

    @contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Note that a step was done, and how long it took; or why it failed."""
        start = time.perf_counter()
        try:
            yield
        except (Failed, OSError) as error:
            self.check(what, [str(error)])
        else:
            self.say(f"- {what}: good ({time.perf_counter() - start:.1f} s)")


class Failed(Exception):
    """A command did not do what it should; the text is one line."""


def run(
    *command: str | Path,
    cwd: Path | None = None,
    status: Collection[int] = (0,),
    env: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Run a command; return its standard output.

    Raises:
        Failed: It ended with another status, or showed a traceback.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**environment, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode not in status or "Traceback" in done.stderr:
        tail = " / ".join((done.stderr or done.stdout).strip().splitlines()[-6:])
        raise Failed(f"{Path(command[0]).name} {command[1]} ended with {done.returncode}: {tail}")
    return done.stdout


# ---- building, and looking at what was built ----


def build(folder: Path) -> tuple[Path, Path]:
    """Build wheel and sdist of the checkout into a folder; return both.

    Raises:
        Failed: They cannot be built.
    """
    run(sys.executable, "-m", "hatchling", "build", "-d", folder, cwd=ROOT)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def wheel_problems(wheel: Path) -> list[str]:
    """Return what is wrong with a wheel's contents."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        about = email.message_from_bytes(_member(archive, "METADATA"))
        entries = _member(archive, "entry_points.txt").decode()
    modules = {p.relative_to(ROOT).as_posix() for p in (ROOT / "recon3d").rglob("*.py")}
    missing = sorted({*WANTED, *modules} - set(names))
    strange = [name for name in names if not re.match(r"recon3d(-[\w.]+\.dist-info)?/", name)]
    strange += [name for name in names if re.search(r"(^|/)(tests?|tools|__pycache__)/|\.pyc$", name)]
    problems = [f"{name} is missing" for name in missing]
    problems += [f"{name} does not belong into it" for name in strange]
    if not any(name.endswith("licenses/LICENSE") for name in names):
        problems.append("the licence is missing")
    if "recon3d = recon3d.cli:main" not in entries:
        problems.append("the console script is missing")
    if wheel.stat().st_size > LARGEST:
        problems.append(f"{wheel.stat().st_size / 2**20:.0f} MiB, at most {LARGEST >> 20} are wanted")
    return problems + metadata_problems(about)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    (found,) = (one for one in archive.namelist() if re.fullmatch(rf"[^/]*\.dist-info/{name}", one))
    return archive.read(found)


def metadata_problems(about: email.message.Message) -> list[str]:
    """Return what is wrong with a package's metadata."""
    version = re.search(r'__version__ = "(.+)"', (ROOT / "recon3d/_version.py").read_text(encoding="utf-8"))
    assert version is not None
    wanted = {
        "Name": "recon3d",
        "Version": version[1],
        "License-Expression": "Apache-2.0",
        "Requires-Python": ">=3.10",
        "Description-Content-Type": "text/markdown",
    }
    problems = [
        f"{key} is {about[key]!r}, not {value!r}" for key, value in wanted.items() if about[key] != value
    ]
    extras = set(about.get_all("Provides-Extra") or ())
    problems += [
        f"extra {name} is missing" for name in ("cluster", "serve", "train", "usd") if name not in extras
    ]
    needed = " ".join(about.get_all("Requires-Dist") or ())
    return problems + [f"{name} is not required" for name in ("torch", "numpy", "av") if name not in needed]


def sdist_problems(sdist: Path) -> list[str]:
    """Return what is wrong with an sdist's contents."""
    with tarfile.open(sdist) as archive:
        names = {member.name.split("/", 1)[-1] for member in archive if member.isfile()}
        links = [member.name for member in archive if not (member.isfile() or member.isdir())]
    wanted = {*WANTED_SOURCE, "flame_model/open_head.npz", "assets/encoder.safetensors", "tests/conftest.py"}
    problems = [f"{name} is missing" for name in sorted(wanted - names)]
    problems += [f"{name} is no plain file" for name in links]
    problems += [
        f"{name} does not belong into it" for name in names if re.search(r"__pycache__|\.pyc$", name)
    ]
    if sdist.stat().st_size > LARGEST:
        problems.append(f"{sdist.stat().st_size / 2**20:.0f} MiB, at most {LARGEST >> 20} are wanted")
    return problems


def contents(wheel: Path) -> dict[str, str]:
    """Return the files of a wheel and their hashes; RECORD itself, which lists them, is left out."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
            if not name.endswith("/RECORD")
        }


def rebuilt(sdist: Path, folder: Path) -> Path:
    """Build a wheel out of an sdist alone; return it.

    Raises:
        Failed: It cannot be built.
    """
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (source,) = folder.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "wheel", cwd=source)
    (wheel,) = (folder / "wheel").glob("*.whl")
    return wheel


# ---- installing ----


def interpreters(versions: Collection[str]) -> dict[str, Path]:
    """Find a working interpreter of each version: through PATH, pyenv, uv and the py launcher."""
    return {version: found for version in versions if (found := _interpreter(version)) is not None}


def _interpreter(version: str) -> Path | None:
    for candidate in _candidates(version):
        try:
            said = run(
                candidate, "-c", "import sys; print(*sys.version_info[:2], sep='.'); print(sys.executable)"
            )
        except (Failed, OSError):
            continue
        number, path = said.splitlines()
        if number == version:
            return Path(path)
    return None


def _candidates(version: str) -> Iterator[Path]:
    if (found := shutil.which(f"python{version}")) is not None:
        yield Path(found)
    if shutil.which("pyenv"):
        try:
            root, names = run("pyenv", "root").strip(), run("pyenv", "versions", "--bare").split()
            yield from (
                Path(root, "versions", n, "bin", "python") for n in names if n.startswith(f"{version}.")
            )
        except Failed:
            pass
    if shutil.which("uv"):
        with suppress(Failed):
            yield Path(run("uv", "python", "find", "--no-python-downloads", version).strip())


def fresh(python: Path, folder: Path) -> Path:
    """Make a virtual environment with today's pip; return its interpreter.

    Raises:
        Failed: It cannot be made.
    """
    run(python, "-m", "venv", folder)
    inside = folder / "bin" / "python"
    run(inside, "-m", "pip", "install", "--quiet", "--upgrade", "pip")
    return inside


def resolved(python: Path, wheel: Path) -> dict[str, tuple[str, str]]:
    """Ask pip what it would install; return version and address of each package, downloading none of them.

    Raises:
        Failed: The constraints cannot be met.
    """
    dry = (python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-")
    report = run(*dry, "--only-binary", ":all:", "-c", ROOT / "constraints.txt", wheel)
    return {
        one["metadata"]["name"].lower(): (one["metadata"]["version"], one["download_info"]["url"])
        for one in json.loads(report)["install"]
    }


def is_heavy(packages: Mapping[str, tuple[str, str]]) -> bool:
    """Tell whether the PyTorch among packages is one for GPUs."""
    return any(_FOR_GPUS.match(name) for name in packages)


def install(python: Path, package: Path, packages: Mapping[str, tuple[str, str]], whole: bool) -> None:
    """Install a wheel or sdist into an environment, or (not ``whole``) all but PyTorch.

    Raises:
        Failed: It cannot be installed.
    """
    pip = (python, "-m", "pip", "install", "--quiet")
    if whole:
        run(*pip, "-c", ROOT / "constraints.txt", package)
        return
    others = [
        f"{name}=={version}"
        for name, (version, _) in packages.items()
        if name not in ("torch", "recon3d") and not _FOR_GPUS.match(name)
    ]
    run(*pip, "--no-deps", "--only-binary", ":all:", *others)
    run(*pip, "--no-deps", package)


def use(script: Path, photo: Path, folder: Path) -> None:
    """Use an installed recon3d as a user would, away from the checkout.

    Raises:
        Failed: Something does not work.
    """
    folder.mkdir(exist_ok=True)
    cached = {} if "RECON3D_CACHE" in os.environ else {"RECON3D_CACHE": str(folder.parent / "cache")}
    if not run(script, "--version", cwd=folder).startswith("recon3d "):
        raise Failed("recon3d --version does not tell the version")
    run(script, "doctor", "--fetch", cwd=folder, env=cached)
    run(script, "photo", photo, "--out", "heads", cwd=folder, env=cached)
    made = folder / "heads" / photo.stem
    missing = [name for name in RESULTS if not (made / name).is_file() or not (made / name).stat().st_size]
    if missing:
        raise Failed(f"recon3d photo left out {', '.join(missing)}")


def use_without_torch(python: Path, folder: Path) -> None:
    """Use what works of an installation without PyTorch, and see that the rest says what is missing.

    Raises:
        Failed: Something does not work.
    """
    folder.mkdir(exist_ok=True)
    script = python.with_name("recon3d")
    place = run(python, "-c", "import recon3d._version as v, pathlib; print(pathlib.Path(v.__file__).parent)")
    run(python, "-m", "compileall", "-q", place.strip())
    if not run(script, "--version", cwd=folder).startswith("recon3d "):
        raise Failed("recon3d --version does not tell the version")
    for words in (("--help",), ("photo", "--help"), ("licenses",)):
        run(script, *words, cwd=folder)
    if "FAIL  torch: not installed" not in run(script, "doctor", cwd=folder, status=(1,)):
        raise Failed("recon3d doctor does not say that torch is missing")


def check_python(report: Report, version: str, python: Path, built: Sequence[Path], args: Settings) -> None:
    """Install wheel and sdist for one Python, and use them."""
    report.say(f"\n## Python {version} ({run(python, '-V').strip().removeprefix('Python ')})\n")
    inside = fresh(python, args.work / f"python{version}")
    try:
        packages = resolved(inside, built[0])
    except Failed as error:
        report.check("the constraints", [str(error)])
        return
    version_of_torch, address = packages["torch"]
    whole = args.heavy or not is_heavy(packages)
    report.say(
        f"- {len(packages)} packages are found; torch {version_of_torch} is {address.rsplit('/', 1)[-1]}"
    )
    if not whole:
        report.say("- NOT RUN here: photographs. That PyTorch is one for GPUs, of several GB; without it:")
    for package in built if whole else built[:1]:
        label = "sdist" if package.suffix == ".gz" else "wheel"
        with report.step(f"{label} installed"):
            install(inside, package, packages, whole)
        with report.step("used" if whole else "compiled, and --version, --help, licenses, doctor"):
            if whole:
                use(inside.with_name("recon3d"), args.photo, args.work / f"use{version}-{label}")
            else:
                use_without_torch(inside, args.work / f"use{version}-{label}")
    shutil.rmtree(inside.parent.parent)


def check_pipx(report: Report, python: Path, wheel: Path, args: Settings) -> None:
    """Install with pipx, and use it."""
    report.say("\n## pipx\n")
    home = args.work / "pipx"
    env = {"PIPX_HOME": str(home), "PIPX_BIN_DIR": str(home / "bin"), "PIPX_MAN_DIR": str(home / "man")}
    with report.step("installed and used"):
        limits = f"--pip-args=-c {ROOT / 'constraints.txt'}"
        run("pipx", "install", "--python", python, limits, wheel, env=env)
        use(home / "bin" / "recon3d", args.photo, args.work / "use-pipx")
    shutil.rmtree(home, ignore_errors=True)


def check_uv(
    report: Report, versions: Collection[str], light: Path | None, wheel: Path, args: Settings
) -> None:
    """Resolve with uv for every Python; install as a tool where that brings no PyTorch for GPUs."""
    report.say("\n## uv\n")
    limits = ("-c", ROOT / "constraints.txt")
    for version in versions:
        with report.step(f"every extra for the servers and formats resolved for Python {version}"):
            extras = [part for name in EXTRAS for part in ("--extra", name)]
            run(
                "uv",
                "pip",
                "compile",
                "--quiet",
                "--python-version",
                version,
                *limits,
                *extras,
                ROOT / "pyproject.toml",
            )
    home = args.work / "uv"
    if light is None:
        report.say("- NOT RUN here: uv tool install; no Python gets a PyTorch without GPUs")
        return
    env = {"UV_TOOL_DIR": str(home / "tools"), "UV_TOOL_BIN_DIR": str(home / "bin")}
    with report.step("installed as a tool and used"):
        run("uv", "tool", "install", "--quiet", "--python", light, *limits, wheel, env=env)
        use(home / "bin" / "recon3d", args.photo, args.work / "use-uv")
    shutil.rmtree(home, ignore_errors=True)


#: Extras that uv resolves: all but those that need compilers, or other packages of several GB.
EXTRAS = ("cluster", "docs", "onnx", "serve", "stream", "tables", "train", "usd")


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    pythons: tuple[str, ...]
    heavy: bool
    photo: Path
    work: Path


def _astronaut(folder: Path) -> Path:
    """Write the photograph that is used unless another one is named: public domain, from scikit-image."""
    import skimage.data
    from PIL import Image

    path = folder / "astronaut.png"
    photo = Image.fromarray(skimage.data.astronaut())  # type: ignore[no-untyped-call]
    photo.save(path)
    return path


def check(args: Settings) -> Report:
    """Do all of it."""
    report = Report()
    report.say("# Packaging\n")
    wheel, sdist = build(args.work / "dist")
    report.check(f"{wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB", wheel_problems(wheel))
    report.check(f"{sdist.name}, {sdist.stat().st_size / 1e6:.1f} MB", sdist_problems(sdist))
    same = contents(rebuilt(sdist, args.work / "rebuilt")) == contents(wheel)
    report.check("a wheel built from the sdist", [] if same else ["differs from the one of the checkout"])
    found = interpreters(args.pythons)
    for version in args.pythons:
        if version in found:
            check_python(report, version, found[version], (wheel, sdist), args)
        else:
            report.say(f"\n## Python {version}\n\n- NOT RUN: it is not installed here")
    light = None
    for python in found.values():
        probe = fresh(python, args.work / "probe")
        if args.heavy or not is_heavy(resolved(probe, wheel)):
            light = python
        shutil.rmtree(args.work / "probe")
        if light is not None:
            break
    if shutil.which("pipx") and light is not None:
        check_pipx(report, light, wheel, args)
    else:
        report.say("\n## pipx\n\n- NOT RUN: there is no pipx here, or no PyTorch without GPUs for it")
    if shutil.which("uv"):
        check_uv(report, args.pythons, light, wheel, args)
    else:
        report.say("\n## uv\n\n- NOT RUN: there is no uv here")
    return report


def main() -> int:
    """Read the command line, check, and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--pythons", default=",".join(PYTHONS), help="versions, with commas")
    parser.add_argument(
        "--heavy", action="store_true", help="install a PyTorch for GPUs, too, if pip wants it"
    )
    parser.add_argument("--photo", type=Path, help="a photograph of a face; scikit-image's by default")
    parser.add_argument("--work", type=Path, help="folder to work in; a temporary one by default")
    parser.add_argument("--report", type=Path, help="write what was printed here as well")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="recon3d-packaging-") as temporary:
        work = (given.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        photo = given.photo.resolve() if given.photo else _astronaut(work)
        report = check(Settings(tuple(given.pythons.split(",")), given.heavy, photo, work))
    report.say(f"\n{len(report.problems)} problems")
    if given.report:
        given.report.write_text("\n".join(report.lines) + "\n", encoding="utf-8")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
