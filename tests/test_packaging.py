"""What is built of the checkout, as far as that takes seconds; ``tools/check_packaging.py`` installs it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))

from check_packaging import (  # noqa: E402
    PYTHONS,
    Failed,
    build,
    contents,
    interpreters,
    is_heavy,
    rebuilt,
    run,
    sdist_problems,
    wheel_problems,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return build(tmp_path_factory.mktemp("dist"))


def without(archive: Path, target: Path, *left_out: str) -> Path:
    """Copy a wheel without some of its files."""
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            if name not in left_out:
                new.writestr(name, old.read(name))
    return target


def test_the_wheel_holds_what_it_should(built: tuple[Path, Path]) -> None:
    assert wheel_problems(built[0]) == []


def test_what_a_wheel_lacks_or_has_too_much_is_told(built: tuple[Path, Path], tmp_path: Path) -> None:
    poor = without(built[0], tmp_path / "poor.whl", "recon3d/py.typed", "recon3d/cli.py")
    with zipfile.ZipFile(poor, "a") as archive:
        archive.writestr("tests/test_cli.py", "")
    assert wheel_problems(poor) == [
        "recon3d/cli.py is missing", "recon3d/py.typed is missing",
        *["tests/test_cli.py does not belong into it"] * 2,
    ]  # fmt: skip


def test_the_sdist_holds_what_it_should_and_makes_the_same_wheel(
    built: tuple[Path, Path], tmp_path: Path
) -> None:
    wheel, sdist = built
    assert sdist_problems(sdist) == []
    assert contents(rebuilt(sdist, tmp_path)) == contents(wheel)


def test_the_image_gets_all_that_the_wheel_is_made_of(built: tuple[Path, Path], tmp_path: Path) -> None:
    """What .dockerignore leaves is enough for the Dockerfile's pip install."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert lines[0] == "*"
    for name in [line[1:] for line in lines if line.startswith("!")]:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    assert (tmp_path / "constraints.txt").is_file()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path / "dist", cwd=tmp_path)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert contents(wheel) == contents(built[0])


def test_the_dockerfile_says_what_it_has_to() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    pinned = re.search(
        r"^torch==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert pinned is not None and f"torch=={pinned[1]} --index-url" in text
    last = text.split("\nFROM ")[-1]
    assert "RECON3D_OFFLINE=1" in last and re.search(r"^USER 1000$", last, re.MULTILINE)
    assert 'ENTRYPOINT ["recon3d"]' in last and "pip install" not in last


@pytest.mark.skipif(shutil.which("hadolint") is None, reason="hadolint is not installed")
def test_hadolint_has_nothing_to_say() -> None:
    done = subprocess.run(["hadolint", "Dockerfile"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_constraints_name_each_package_once_for_every_python() -> None:
    """A pin for some Pythons needs another one for the rest."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    wanted = [Requirement(line) for line in lines if line and not line.startswith("#")]
    for version in PYTHONS:
        here = {**default_environment(), "python_version": version, "python_full_version": f"{version}.0"}
        valid = [one.name for one in wanted if one.marker is None or one.marker.evaluate(here)]
        assert sorted(valid) == sorted({one.name for one in wanted}), version


def test_interpreters_are_found_by_their_version() -> None:
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = interpreters([here, "3.99"])
    assert list(found) == [here]
    assert run(found[here], "-c", "import sys; print(sys.version_info[1])").strip() == here.split(".")[1]
    with pytest.raises(Failed, match="ended with 3"):
        run(found[here], "-c", "raise SystemExit(3)")


def test_a_pytorch_for_gpus_is_known_by_what_it_brings() -> None:
    assert is_heavy({"torch": ("2.13.0", ""), "nvidia-cublas": ("13", "")})
    assert not is_heavy({"torch": ("2.13.0+cpu", ""), "numpy": ("2", "")})
