"""The encoder as an ONNX file, for other runtimes."""

from __future__ import annotations

import json
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor, nn

from recon3d.encoder.crop import CROP_SIZE
from recon3d.encoder.network import Encoded, EncoderNetwork
from recon3d.encoder.weights import FORMAT
from recon3d.errors import MissingExtraError
from recon3d.files import atomic_path

#: Names of the file's inputs and outputs; what they hold is told by ``EncoderNetwork.forward``.
INPUTS, OUTPUTS = ("images", "points"), Encoded._fields


class _Plain(nn.Module):
    """The network with a tuple for an answer."""

    def __init__(self, network: EncoderNetwork) -> None:
        super().__init__()
        self._network = network

    def forward(self, images: Tensor, points: Tensor) -> tuple[Tensor, ...]:
        return tuple(self._network(images, points))


def export_onnx(network: EncoderNetwork, path: Path) -> None:
    """Write a network as one ONNX file, for any number of faces at a time.

    Raises:
        MissingExtraError: The packages for it are not installed.
        OutputError: The file cannot be written.
    """
    if find_spec("onnx") is None or find_spec("onnxscript") is None:
        raise MissingExtraError("ONNX files need more packages: pip install 'recon3d[onnx]'")
    example = torch.rand(3, 3, CROP_SIZE, CROP_SIZE), torch.rand(3, 478, 3)
    faces = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        _Plain(network).eval(),
        example,
        dynamo=True,
        verbose=False,
        optimize=False,
        input_names=list(INPUTS),
        output_names=list(OUTPUTS),
        dynamic_shapes={"images": {0: faces}, "points": {0: faces}},
    )
    assert program is not None
    about = {"format": FORMAT, "config": json.dumps(asdict(network.config))}
    program.model.metadata_props.update(about)
    with atomic_path(path) as temporary:
        program.save(temporary)
