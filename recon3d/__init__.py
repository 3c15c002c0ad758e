"""recon3d: photographs and video of faces in, rigged ARKit-ready 3D heads out."""

from recon3d._version import __version__

__all__ = ["__version__"]
