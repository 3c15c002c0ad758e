"""The encoder's weights."""

from __future__ import annotations

from pathlib import Path

from recon3d.encoder.network import EncoderConfig, EncoderNetwork
from recon3d.head import HeadModel
from recon3d.network_files import load_network, save_network

#: Of the network's structure; weights of another one are refused.
FORMAT = "recon3d-encoder/3"


def save_weights(path: Path, network: EncoderNetwork, head: HeadModel) -> None:
    """Write a network's weights, for heads of this model.

    Raises:
        OutputError: The file cannot be written.
    """
    save_network(path, network, network.config, FORMAT, head)


def load_weights(path: str | Path, head: HeadModel | None = None) -> EncoderNetwork:
    """Read a network, ready to be used; ``head``: that it is to be used with, None skips that check.

    Raises:
        AssetError: The file is missing, damaged, of another version, or for another head model.
    """
    return load_network(path, lambda config: EncoderNetwork(EncoderConfig(**config)), FORMAT, head)
