"""three.js, which draws the heads in the page: taken out of the package that the asset manifest names."""

from __future__ import annotations

import io
import tarfile
import threading
from dataclasses import dataclass, field

from recon3d.assets import THREE_JS, check_file, fetch, is_offline
from recon3d.errors import AssetError

#: Path below /static/three/ to the member of the package.
_MEMBERS = {
    "build/three.module.js": "package/build/three.module.js",
    "build/three.core.js": "package/build/three.core.js",
    "addons/loaders/GLTFLoader.js": "package/examples/jsm/loaders/GLTFLoader.js",
    "addons/controls/OrbitControls.js": "package/examples/jsm/controls/OrbitControls.js",
    "addons/utils/BufferGeometryUtils.js": "package/examples/jsm/utils/BufferGeometryUtils.js",
    "addons/utils/SkeletonUtils.js": "package/examples/jsm/utils/SkeletonUtils.js",
}
_LARGEST = 4_000_000

_OFFLINE = "three.js is not here: run recon3d models --fetch where there is a network, then reload this page"
_COMING = "three.js is being downloaded; reload this page in a moment"


@dataclass
class Library:
    """The files of three.js, once they are here; a few MB of memory. Thread-safe."""

    files: dict[str, bytes] = field(default_factory=dict)
    problem: str | None = _OFFLINE

    def start(self) -> None:
        """Read the files, downloading them first if need be; not in the caller's time."""
        if check_file(THREE_JS.path, THREE_JS) is not None and not is_offline():
            self.problem = _COMING
        threading.Thread(target=self.load, name="recon3d-three", daemon=True).start()

    def load(self) -> None:
        """Read the files; what goes wrong is noted in ``problem``."""
        try:
            self.files = _read(fetch(THREE_JS.name, quiet=True).read_bytes())
            self.problem = None
        except (AssetError, OSError):
            self.problem = _OFFLINE

    def look_again(self) -> None:
        """Read the files if somebody has fetched them meanwhile."""
        if self.problem == _OFFLINE and check_file(THREE_JS.path, THREE_JS) is None:
            self.load()


def _read(package: bytes) -> dict[str, bytes]:
    """Return the files that the page needs; the package's sha256 is known to be right.

    Raises:
        AssetError: One is missing.
    """
    found = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(package), mode="r:gz") as archive:
            for name, member in _MEMBERS.items():
                file = archive.extractfile(member)
                if file is None:
                    raise KeyError(member)
                found[name] = file.read(_LARGEST)
    except (KeyError, tarfile.TarError, OSError, EOFError) as error:
        raise AssetError(f"{THREE_JS.filename}: holds not what the page needs ({error})") from error
    return found
