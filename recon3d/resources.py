"""Finds the data files that ship with the package: trained weights and the open head."""

from __future__ import annotations

from pathlib import Path

from recon3d.errors import AssetError

_PACKAGE = Path(__file__).resolve().parent


#: The head model that comes with recon3d.
OPEN_HEAD = "flame_model/open_head.npz"


def resource_path(relative: str) -> Path:
    """Return the path of a shipped file such as ``"flame_model/open_head.npz"``.

    An installed wheel carries it under ``recon3d/_data``; a checkout at the top of the repository.

    Raises:
        AssetError: The file is in neither place (a damaged installation).
    """
    for root in (_PACKAGE / "_data", _PACKAGE.parent):
        if (root / relative).is_file():
            return root / relative
    raise AssetError(f"{relative} is missing from this installation of recon3d: reinstall the package")
