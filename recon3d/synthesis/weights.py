"""The neural renderer's weights."""

from __future__ import annotations

from recon3d.network_files import NetworkFile
from recon3d.synthesis.painter import FacePainter, PainterConfig

#: The weights that come with recon3d.
SHIPPED = "assets/painter.safetensors"
#: Of the network's structure; weights of another one are refused.
FORMAT = "recon3d-painter/1"

_FILE = NetworkFile(FORMAT, lambda config: FacePainter(PainterConfig(**config)))
save_painter, load_painter = _FILE.save, _FILE.load
