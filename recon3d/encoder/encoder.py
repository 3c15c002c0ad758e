"""Asking the encoder about faces in pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from recon3d._threads import one_thread
from recon3d.encoder.crop import CutOut
from recon3d.encoder.network import EncoderNetwork, images_of
from recon3d.encoder.weights import load_weights
from recon3d.head import HeadModel
from recon3d.resources import resource_path

Floats = npt.NDArray[np.float32]

#: The weights that come with recon3d.
DEFAULT_WEIGHTS = "assets/encoder.safetensors"
_BATCH = 16


@dataclass(frozen=True)
class Told:
    """What the encoder tells of n faces.

    Attributes:
        expression: (n,52) ARKit units in [0,1].
        variance: (n,52) what it expects of the square of its error.
        shape: (n,S) identity coefficients, standard deviations.
        rotation: (n,3,3) head to camera, for a camera whose axis goes through the face.
        presence: (n,) how sure it is that there is a face, [0,1].
    """

    expression: Floats
    variance: Floats
    shape: Floats
    rotation: Floats
    presence: Floats


class FaceEncoder:
    """The encoder with its weights. Not thread-safe."""

    def __init__(self, network: EncoderNetwork) -> None:
        """Use a network that is ready; ``open_encoder`` reads one."""
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def tell(self, faces: Sequence[CutOut]) -> Told:
        """Look at faces, a few at a time."""
        parts = [self._tell(faces[k : k + _BATCH]) for k in range(0, len(faces), _BATCH)]
        columns = (
            zip(*parts, strict=True) if parts else ([np.zeros((0, *s), np.float32)] for s in self._sizes())
        )
        return Told(*(np.concatenate(column) for column in columns))

    def _tell(self, faces: Sequence[CutOut]) -> tuple[Floats, ...]:
        pixels = torch.from_numpy(np.stack([face.pixels for face in faces]))
        points = torch.from_numpy(np.stack([face.points for face in faces]))
        images = images_of(pixels).contiguous(memory_format=torch.channels_last)
        with one_thread():
            told = self._network(images, points)
        columns = (told.expression, told.expression_spread.exp(), told.shape, told.rotation)
        return *(column.numpy() for column in columns), torch.sigmoid(told.presence).numpy()

    def _sizes(self) -> tuple[tuple[int, ...], ...]:
        return (52,), (52,), (self._network.config.shapes,), (3, 3), ()


def open_encoder(path: str | Path | None = None, head: HeadModel | None = None) -> FaceEncoder:
    """Open the encoder that comes with recon3d, or another one.

    Args:
        path: Weights; None takes those that come with recon3d.
        head: The head model that it is to be used with.

    Raises:
        AssetError: The weights are missing, damaged, of another version, or for another head model.
    """
    return FaceEncoder(load_weights(path or resource_path(DEFAULT_WEIGHTS), head))
