"""recon3d: photographs and video of faces in, rigged ARKit-ready 3D heads out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from recon3d._version import __version__

if TYPE_CHECKING:
    from recon3d._video_api import reconstruct_video
    from recon3d.capture import Capture
    from recon3d.head import load_head
    from recon3d.media.image import read_image
    from recon3d.pipeline import Reconstructor, reconstruct

__all__ = [
    "Capture", "Reconstructor", "__version__", "load_head", "read_image", "reconstruct", "reconstruct_video",
]  # fmt: skip

# Imported when asked for: torch alone takes a second, and ``recon3d --help`` needs none of it.
_HOMES = {
    "Capture": "recon3d.capture",
    "Reconstructor": "recon3d.pipeline",
    "load_head": "recon3d.head",
    "read_image": "recon3d.media.image",
    "reconstruct": "recon3d.pipeline",
    "reconstruct_video": "recon3d._video_api",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'recon3d' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
