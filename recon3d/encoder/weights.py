"""The encoder's weights: safetensors, half precision, with what they are for written inside."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from recon3d.encoder.network import EncoderConfig, EncoderNetwork
from recon3d.errors import AssetError
from recon3d.files import atomic_path
from recon3d.head import HeadModel

#: Of the network's structure; weights of another one are refused.
FORMAT = "recon3d-encoder/2"


def save_weights(path: Path, network: EncoderNetwork, head: HeadModel) -> None:
    """Write a network's weights, for heads of this model.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    about = {"format": FORMAT, "head": head.form, "config": json.dumps(asdict(network.config))}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=about)


def load_weights(path: str | Path, head: HeadModel | None = None) -> EncoderNetwork:
    """Read a network, ready to be used.

    Args:
        path: A file of ``save_weights``.
        head: The head model that it is to be used with; None skips that check.

    Raises:
        AssetError: The file is missing, damaged, of another version, or for another head model.
    """
    path = Path(path)
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise AssetError(
            f"{path}: no encoder weights there ({error.strerror or 'cannot be read'})"
        ) from error
    except SafetensorError as error:
        raise AssetError(f"{path}: damaged, or not a safetensors file; train or fetch it anew") from error
    if about.get("format") != FORMAT:
        found = about.get("format", "no version")
        raise AssetError(f"{path}: encoder weights of {found}; {FORMAT} is wanted")
    if head is not None and about.get("head") != head.form:
        raise AssetError(f"{path}: encoder weights for the head {about.get('head')}; {head.form} is wanted")
    return _filled(path, about, {name: value.float() for name, value in tensors.items()})


def _filled(path: Path, about: dict[str, str], tensors: dict[str, torch.Tensor]) -> EncoderNetwork:
    try:
        network = EncoderNetwork(EncoderConfig(**json.loads(about["config"])))
        missing, unknown = network.load_state_dict(tensors, strict=False)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AssetError(f"{path}: encoder weights that do not fit this version of recon3d") from error
    missing = [name for name in missing if not name.endswith("num_batches_tracked")]
    if missing or unknown:
        raise AssetError(f"{path}: encoder weights that do not fit this version of recon3d")
    return network.eval().requires_grad_(False)
