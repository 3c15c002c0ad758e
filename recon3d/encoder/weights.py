"""The encoder's weights."""

from __future__ import annotations

from recon3d.encoder.network import EncoderConfig, EncoderNetwork
from recon3d.network_files import NetworkFile

#: Of the network's structure; weights of another one are refused.
FORMAT = "recon3d-encoder/3"

_FILE = NetworkFile(FORMAT, lambda config: EncoderNetwork(EncoderConfig(**config)))
save_weights, load_weights = _FILE.save, _FILE.load
