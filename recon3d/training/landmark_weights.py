"""Reads the weights of MediaPipe's face landmark network out of its file, for our trunk to start from.

The file is a TFLite flatbuffer: a list of operators in the order in which they run, each naming the
tensors that it reads. Constant tensors are stored as float16 and pass a DEQUANTIZE operator, which is
skipped here. Batch normalisation was folded into the convolutions before the file was written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recon3d.assets import fetch, read_member
from recon3d.encoder.trunk import FaceTrunk, LandmarkHead
from recon3d.errors import AssetError
from recon3d.face._task import LANDMARKS

Floats = npt.NDArray[np.float32]
_Slot: TypeAlias = tuple[str, nn.Conv2d | nn.PReLU]

#: The network holds 2.5 MB; a file that is larger than this is not it.
_MAX_BYTES = 32_000_000
_TFLITE_MARK = b"TFL3"
#: Axes of TFLite's weights in torch's order: OHWI to OIHW, 1HWC to C1HW, 11C to C11.
_LAYOUTS = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2), "PRELU": (2, 0, 1)}
#: What reading a damaged flatbuffer raises: offsets and counts are taken from the file itself.
_DAMAGE = (struct.error, ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError)


class LandmarkWeights(NamedTuple):
    """State dicts, float32, of :class:`~recon3d.encoder.trunk.FaceTrunk` and ``LandmarkHead``."""

    trunk: dict[str, Tensor]
    head: dict[str, Tensor]


class _Layer(NamedTuple):
    """One operator with weights, in torch's layout; ``bias`` is None for PRELU."""

    kind: str
    weight: Floats
    bias: Floats | None


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
    try:
        with found.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except OSError as error:
        raise AssetError(f"{found.name}: cannot be read ({error.strerror or error})") from error
    if content[4:8] != _TFLITE_MARK:
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
    if model[4:8] != _TFLITE_MARK or len(model) > _MAX_BYTES:
        raise AssetError(f"{label}: is not a TFLite network")
    try:
        layers = list(_layers(model))
    except _DAMAGE as error:
        raise AssetError(f"{label}: is damaged, or not a TFLite network; fetch it anew") from error
    with torch.device("meta"):  # only names and shapes are asked for
        trunk, head = _slots(FaceTrunk()), _slots(LandmarkHead())
    wanted = len(trunk) + len(head)
    if len(layers) != wanted:
        raise _other_network(label, f"{len(layers)} layers with weights instead of {wanted}")
    return LandmarkWeights(
        _fill(trunk, layers[: len(trunk)], label), _fill(head, layers[len(trunk) :], label)
    )


def _slots(network: nn.Module) -> list[_Slot]:
    """Return the layers with weights, by name, in the order in which they run."""
    return [(name, m) for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.PReLU))]


def _fill(slots: list[_Slot], layers: list[_Layer], label: str) -> dict[str, Tensor]:
    """Lay the file's layers into the network's slots, checking that each fits."""
    state: dict[str, Tensor] = {}
    for (name, module), layer in zip(slots, layers, strict=True):
        if layer.kind != _kind(module):
            raise _other_network(label, f"{layer.kind} where {name} should be {_kind(module)}")
        values = {"weight": layer.weight}
        if getattr(module, "bias", None) is not None:
            if layer.bias is None:
                raise _other_network(label, f"no bias for {name}")
            values["bias"] = layer.bias
        elif layer.bias is not None and layer.bias.any():
            raise _other_network(label, f"a bias for {name}, which has none")
        for part, array in values.items():
            shape = tuple(getattr(module, part).shape)
            if array.shape != shape:
                raise _other_network(label, f"{name}.{part} of shape {array.shape} instead of {shape}")
            if not np.isfinite(array).all():
                raise AssetError(f"{label}: {name}.{part} holds values that are not numbers; fetch it anew")
            state[f"{name}.{part}"] = torch.from_numpy(np.ascontiguousarray(array))
    return state


def _kind(module: nn.Conv2d | nn.PReLU) -> str:
    """Return TFLite's name of a layer."""
    if isinstance(module, nn.PReLU):
        return "PRELU"
    return "CONV_2D" if module.groups == 1 else "DEPTHWISE_CONV_2D"


def _other_network(label: str, what: str) -> AssetError:
    return AssetError(
        f"{label}: holds another network or version ({what}); "
        "the landmark network of face_landmarker.task float16/1 is wanted"
    )


# ---- the flatbuffer ----


def _layers(model: bytes) -> Iterator[_Layer]:
    """Yield the operators that have weights, in the order in which they run."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    with_weights = {getattr(kinds, name): name for name in _LAYOUTS}
    root = schema.Model.GetRootAs(model, 0)
    graph = root.Subgraphs(0)
    stored: dict[int, int] = {}  # float32 tensor -> the float16 constant that it is made of
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = root.OperatorCodes(operator.OpcodeIndex()).BuiltinCode()
        if code == kinds.DEQUANTIZE:
            stored[operator.Outputs(0)] = operator.Inputs(0)
        elif code in with_weights:
            names = [stored.get(tensor, tensor) for tensor in operator.InputsAsNumpy()[1:].tolist()]
            values = [_constant(root, graph, tensor, schema.TensorType) for tensor in names]
            kind = with_weights[code]
            yield _Layer(kind, _torch_layout(kind, values[0]), values[1] if len(values) > 1 else None)


def _torch_layout(kind: str, weight: Floats) -> Floats:
    """Bring weights from TFLite's layout to torch's; a PReLU's are a vector there."""
    moved = weight.transpose(_LAYOUTS[kind])
    return moved.reshape(-1) if kind == "PRELU" else moved


def _constant(root: Any, graph: Any, index: int, types: Any) -> Floats:
    """Return the value of a constant tensor as float32."""
    tensor = graph.Tensors(index)
    dtypes = {types.FLOAT16: "<f2", types.FLOAT32: "<f4"}
    data = root.Buffers(tensor.Buffer()).DataAsNumpy()
    values = np.frombuffer(data.tobytes(), dtypes[tensor.Type()])
    return values.reshape(tensor.ShapeAsNumpy()).astype(np.float32)
