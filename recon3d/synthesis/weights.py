"""The neural renderer's weights."""

from __future__ import annotations

from pathlib import Path

from recon3d.head import HeadModel
from recon3d.network_files import load_network, save_network
from recon3d.synthesis.painter import FacePainter, PainterConfig

#: Of the network's structure; weights of another one are refused.
FORMAT = "recon3d-painter/1"


def save_painter(path: Path, painter: FacePainter, head: HeadModel) -> None:
    """Write a painter's weights, for heads of this model.

    Raises:
        OutputError: The file cannot be written.
    """
    save_network(path, painter, painter.config, FORMAT, head)


def load_painter(path: str | Path, head: HeadModel | None = None) -> FacePainter:
    """Read a painter, ready to be used; ``head``: that it is to be used with, None skips that check.

    Raises:
        AssetError: The file is missing, damaged, of another version, or for another head model.
    """
    return load_network(path, lambda config: FacePainter(PainterConfig(**config)), FORMAT, head)
