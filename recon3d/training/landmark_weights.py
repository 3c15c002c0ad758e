"""Reads the weights of MediaPipe's face landmark network out of its file, for our trunk to start from."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from recon3d.assets import fetch, read_member
from recon3d.encoder.trunk import FaceTrunk, LandmarkHead
from recon3d.face._task import LANDMARKS
from recon3d.training.tflite import (
    fill_slots,
    is_tflite,
    other_network,
    read_layers,
    read_limited,
    weight_slots,
)

#: The network holds 2.5 MB; a file that is larger than this is not it.
_MAX_BYTES = 32_000_000
_WANTED = "the landmark network of face_landmarker.task float16/1"


class LandmarkWeights(NamedTuple):
    """State dicts, float32, of :class:`~recon3d.encoder.trunk.FaceTrunk` and ``LandmarkHead``."""

    trunk: dict[str, Tensor]
    head: dict[str, Tensor]


def pretrained_trunk(path: str | Path | None = None) -> tuple[FaceTrunk, LandmarkHead]:
    """Return the trunk and the landmark head with MediaPipe's weights.

    Args:
        path: As for :func:`load_landmark_weights`.

    Raises:
        AssetError: The file cannot be had, or holds another network.
    """
    weights = load_landmark_weights(path)
    trunk, head = FaceTrunk(), LandmarkHead()
    trunk.load_state_dict(weights.trunk)
    head.load_state_dict(weights.head)
    return trunk, head


def load_landmark_weights(path: str | Path | None = None) -> LandmarkWeights:
    """Read the weights from a file.

    Args:
        path: ``face_landmarker.task``, or the ``face_landmarks_detector.tflite`` inside it; by default the
            verified download.

    Raises:
        AssetError: The file cannot be had, is damaged, or holds another network or version.
    """
    found = Path(path) if path is not None else fetch("face_landmarker")
    content = read_limited(found, _MAX_BYTES)
    if not is_tflite(content):
        content = read_member(found, LANDMARKS, max_bytes=_MAX_BYTES)
    return parse_landmark_weights(content, label=found.name)


def parse_landmark_weights(model: bytes, *, label: str = LANDMARKS) -> LandmarkWeights:
    """Turn the bytes of ``face_landmarks_detector.tflite`` into state dicts.

    Args:
        model: The flatbuffer.
        label: What error messages call the file.

    Raises:
        AssetError: The bytes are damaged, or are another network or version.
    """
    layers = read_layers(model, label, max_bytes=_MAX_BYTES)
    with torch.device("meta"):  # only names and shapes are asked for
        trunk, head = weight_slots(FaceTrunk()), weight_slots(LandmarkHead())
    wanted = len(trunk) + len(head)
    if len(layers) != wanted:
        raise other_network(label, f"{len(layers)} layers with weights instead of {wanted}", _WANTED)
    return LandmarkWeights(
        fill_slots(trunk, layers[: len(trunk)], label, _WANTED),
        fill_slots(head, layers[len(trunk) :], label, _WANTED),
    )
