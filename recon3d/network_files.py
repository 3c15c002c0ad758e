"""Weights of our own networks on disk: safetensors, half precision, with what they are for written inside."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from recon3d.errors import AssetError
from recon3d.files import atomic_path
from recon3d.head import HeadModel

_Network = TypeVar("_Network", bound=nn.Module)


@dataclass(frozen=True)
class NetworkFile(Generic[_Network]):
    """Files of one kind of network.

    Attributes:
        form: Name and version of its structure, "recon3d-encoder/2"; files of another one are refused.
        build: Makes the network from the fields of its configuration, which it keeps as ``config``.
    """

    form: str
    build: Callable[[dict[str, Any]], _Network]

    def save(self, path: Path, network: _Network, head: HeadModel) -> None:
        """Write a network's weights, for heads of this model.

        Raises:
            OutputError: The file cannot be written.
        """
        tensors = {
            name: (value.half() if value.is_floating_point() else value).contiguous().cpu()
            for name, value in network.state_dict().items()
        }
        config: Any = network.config
        about = {"format": self.form, "head": head.form, "config": json.dumps(asdict(config))}
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=about)

    def load(self, path: str | Path, head: HeadModel | None = None) -> _Network:
        """Read a network, ready to be used; ``head``: that it is to be used with, None skips that check.

        Raises:
            AssetError: The file is missing, damaged, of another version, or for another head model.
        """
        path, kind = Path(path), self.form.removeprefix("recon3d-").split("/")[0]
        about, tensors = _read(path, kind)
        if about.get("format") != self.form:
            found = about.get("format", "no version")
            raise AssetError(f"{path}: {kind} weights of {found}; {self.form} is wanted")
        if head is not None and about.get("head") != head.form:
            raise AssetError(
                f"{path}: {kind} weights for the head {about.get('head')}; {head.form} is wanted"
            )
        try:
            network = self.build(json.loads(about["config"]))
            network.load_state_dict(tensors)
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise AssetError(f"{path}: {kind} weights that do not fit this version of recon3d") from error
        return network.eval().requires_grad_(False)


def _read(path: Path, kind: str) -> tuple[dict[str, str], dict[str, torch.Tensor]]:
    """What a file says about itself, and its tensors."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
            return file.metadata() or {}, tensors
    except OSError as error:
        raise AssetError(f"{path}: no {kind} weights there ({error.strerror or 'cannot be read'})") from error
    except SafetensorError as error:
        raise AssetError(f"{path}: damaged, or not a safetensors file; train or fetch it anew") from error
