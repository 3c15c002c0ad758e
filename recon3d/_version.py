"""The one place the version is written."""

__version__ = "0.1.0"
#: What files say of their maker, where their format has room for it.
GENERATOR = f"recon3d {__version__}"
