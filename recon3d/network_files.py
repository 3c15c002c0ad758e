"""Weights of our own networks on disk: safetensors, half precision, with what they are for written inside."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from recon3d.errors import AssetError
from recon3d.files import atomic_path
from recon3d.head import HeadModel

_Network = TypeVar("_Network", bound=nn.Module)


def save_network(path: Path, network: nn.Module, config: Any, form: str, head: HeadModel) -> None:
    """Write a network's weights, for heads of this model.

    Args:
        path: The file.
        network: The network.
        config: The dataclass that it was built from.
        form: Name and version of its structure, "recon3d-encoder/2".
        head: The head model.

    Raises:
        OutputError: The file cannot be written.
    """
    tensors = {
        name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
        for name, value in network.state_dict().items()
    }
    about = {"format": form, "head": head.form, "config": json.dumps(asdict(config))}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=about)


def load_network(
    path: str | Path, build: Callable[[dict[str, Any]], _Network], form: str, head: HeadModel | None = None
) -> _Network:
    """Read a network, ready to be used.

    Args:
        path: A file of ``save_network``.
        build: Makes the network from the fields of its configuration.
        form: As for ``save_network``; other ones are refused.
        head: The head model that it is to be used with; None skips that check.

    Raises:
        AssetError: The file is missing, damaged, of another version, or for another head model.
    """
    path, kind = Path(path), form.removeprefix("recon3d-").split("/")[0]
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise AssetError(f"{path}: no {kind} weights there ({error.strerror or 'cannot be read'})") from error
    except SafetensorError as error:
        raise AssetError(f"{path}: damaged, or not a safetensors file; train or fetch it anew") from error
    if about.get("format") != form:
        raise AssetError(f"{path}: {kind} weights of {about.get('format', 'no version')}; {form} is wanted")
    if head is not None and about.get("head") != head.form:
        raise AssetError(f"{path}: {kind} weights for the head {about.get('head')}; {head.form} is wanted")
    return _filled(path, kind, build, about, {name: value.float() for name, value in tensors.items()})


def _filled(
    path: Path,
    kind: str,
    build: Callable[[dict[str, Any]], _Network],
    about: dict[str, str],
    tensors: dict[str, torch.Tensor],
) -> _Network:
    try:
        network = build(json.loads(about["config"]))
        network.load_state_dict(tensors)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise AssetError(f"{path}: {kind} weights that do not fit this version of recon3d") from error
    return network.eval().requires_grad_(False)
