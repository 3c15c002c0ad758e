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
SHIPPED = "assets/encoder.safetensors"
_BATCH = 16
#: However sure it is that there is none, a face was found by others.
_LEAST_PRESENCE = 0.01


@dataclass(frozen=True)
class Told:
    """What the encoder tells of n faces.

    Attributes:
        expression: (n,52) ARKit units in [0,1].
        variance: (n,52) what it expects of the square of its error; more where it doubts that there is a
            face.
        shape: (n,S) identity coefficients, standard deviations.
        rotation: (n,3,3) head to camera, for a camera whose axis goes through the face.
        place: (n,3) where the head lies in the cut-out, weak perspective, as ``Encoded`` tells it.
        presence: (n,) how sure it is that there is a face, [0,1].
    """

    expression: Floats
    variance: Floats
    shape: Floats
    rotation: Floats
    place: Floats
    presence: Floats


class FaceEncoder:
    """The encoder with its weights. Not thread-safe."""

    def __init__(self, network: EncoderNetwork) -> None:
        """Use a network that is ready; ``open_encoder`` reads one."""
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def tell(self, faces: Sequence[CutOut]) -> Told:
        """Look at faces, a few at a time."""
        return self.joined([self._tell(faces[k : k + _BATCH]) for k in range(0, len(faces), _BATCH)])

    def joined(self, parts: Sequence[Told]) -> Told:
        """Put what was told of several lots of faces together."""
        rows = [tuple(vars(part).values()) for part in (self._nothing(), *parts)]
        return Told(*(np.concatenate(column) for column in zip(*rows, strict=True)))

    @torch.inference_mode()
    def _tell(self, faces: Sequence[CutOut]) -> Told:
        pixels = torch.from_numpy(np.stack([face.pixels for face in faces]))
        points = torch.from_numpy(np.stack([face.points for face in faces]))
        images = images_of(pixels).contiguous(memory_format=torch.channels_last)
        with one_thread():
            told = self._network(images, points)
        presence = torch.sigmoid(told.presence)
        variance = told.expression_spread.exp() / presence.clamp_min(_LEAST_PRESENCE)[:, None]
        columns = (told.expression, variance, told.shape, told.rotation, told.place, presence)
        return Told(*(column.numpy() for column in columns))

    def _nothing(self) -> Told:
        sizes = (52,), (52,), (self._network.config.shapes,), (3, 3), (3,), ()
        return Told(*(np.zeros((0, *size), np.float32) for size in sizes))


def choose_encoder(wanted: str | Path | bool, head: HeadModel) -> FaceEncoder | None:
    """Open the encoder that is wanted for a head.

    Args:
        wanted: True for the one that comes with recon3d; its ARKit units mean the same on every head that has
            them. A file, trained for this head; or False for none.
        head: The head.

    Raises:
        AssetError: As ``open_encoder``.
    """
    if wanted is False or not head.knows_arkit:
        return None
    return open_encoder(resource_path(SHIPPED)) if wanted is True else open_encoder(wanted, head.in_units)


def open_encoder(path: str | Path, head: HeadModel | None = None) -> FaceEncoder:
    """Open an encoder.

    Args:
        path: Weights that training wrote.
        head: The head model that it is to be used with.

    Raises:
        AssetError: The weights are missing, damaged, of another version, or for another head model.
    """
    return FaceEncoder(load_weights(path, head))
