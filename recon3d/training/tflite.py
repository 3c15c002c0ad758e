"""Reads the weights of networks out of TFLite files, for torch modules of the same structure.

Such a file is a flatbuffer: a list of operators in the order in which they run, each naming the tensors
that it reads. Constant tensors may be stored as float16 and pass a DEQUANTIZE operator, which is skipped
here. Batch normalisation was folded into the convolutions before the files that we read were written.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from recon3d.errors import AssetError

Floats = npt.NDArray[np.float32]
#: The name of a module that has weights, and the module.
Slot: TypeAlias = tuple[str, nn.Conv2d | nn.PReLU]

_MARK = b"TFL3"
#: Axes of TFLite's weights in torch's order: OHWI to OIHW, 1HWC to C1HW, 11C to C11.
_LAYOUTS = {"CONV_2D": (0, 3, 1, 2), "DEPTHWISE_CONV_2D": (3, 0, 1, 2), "PRELU": (2, 0, 1)}
#: What reading a damaged flatbuffer raises: offsets and counts are taken from the file itself.
_DAMAGE = (struct.error, ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError)


class Layer(NamedTuple):
    """One operator with weights, in torch's layout; ``bias`` is None for PRELU."""

    kind: str
    weight: Floats
    bias: Floats | None


def read_limited(path: Path, max_bytes: int) -> bytes:
    """Return a file's content, or its first ``max_bytes`` + 1 bytes if it is larger.

    Raises:
        AssetError: The file cannot be read.
    """
    try:
        with path.open("rb") as stream:
            return stream.read(max_bytes + 1)
    except OSError as error:
        raise AssetError(f"{path.name}: cannot be read ({error.strerror or error})") from error


def is_tflite(content: bytes) -> bool:
    """Tell whether a file says of itself that it is a TFLite network."""
    return content[4:8] == _MARK


def read_layers(model: bytes, label: str, *, max_bytes: int) -> list[Layer]:
    """Return a network's convolutions and PReLUs in the order in which they run.

    Args:
        model: The flatbuffer.
        label: What error messages call the file.
        max_bytes: A file that is larger is refused.

    Raises:
        AssetError: The bytes are damaged, or no network of floats.
    """
    if not is_tflite(model) or len(model) > max_bytes:
        raise AssetError(f"{label}: is not a TFLite network")
    try:
        return list(_layers(model))
    except _DAMAGE as error:
        raise AssetError(f"{label}: is damaged, or not a TFLite network; fetch it anew") from error


def weight_slots(network: nn.Module) -> list[Slot]:
    """Return the modules with weights, in the order in which they were registered."""
    return [(name, m) for name, m in network.named_modules() if isinstance(m, (nn.Conv2d, nn.PReLU))]


def fill_slots(slots: Sequence[Slot], layers: Sequence[Layer], label: str, wanted: str) -> dict[str, Tensor]:
    """Lay a file's layers into as many slots, checking that each fits.

    Args:
        slots: Modules in the order in which they run; only their kinds and shapes are asked for.
        layers: Of the file.
        label: What error messages call the file.
        wanted: What they call the network that is wanted.

    Returns:
        A state dict, float32, of the module whose slots these are.

    Raises:
        AssetError: A layer does not fit, or holds values that are not numbers.
    """
    state: dict[str, Tensor] = {}
    for (name, module), layer in zip(slots, layers, strict=True):
        if layer.kind != _kind(module):
            raise other_network(label, f"{layer.kind} where {name} should be {_kind(module)}", wanted)
        values = {"weight": layer.weight}
        if getattr(module, "bias", None) is not None:
            if layer.bias is None:
                raise other_network(label, f"no bias for {name}", wanted)
            values["bias"] = layer.bias
        elif layer.bias is not None and layer.bias.any():
            raise other_network(label, f"a bias for {name}, which has none", wanted)
        for part, array in values.items():
            shape = tuple(getattr(module, part).shape)
            if array.shape != shape:
                raise other_network(label, f"{name}.{part} of shape {array.shape} instead of {shape}", wanted)
            if not np.isfinite(array).all():
                raise AssetError(f"{label}: {name}.{part} holds values that are not numbers; fetch it anew")
            state[f"{name}.{part}"] = torch.from_numpy(np.ascontiguousarray(array))
    return state


def other_network(label: str, what: str, wanted: str) -> AssetError:
    """Return the error of a file that is whole but holds something else."""
    return AssetError(f"{label}: holds another network or version ({what}); {wanted} is wanted")


def _kind(module: nn.Conv2d | nn.PReLU) -> str:
    """Return TFLite's name of a layer."""
    if isinstance(module, nn.PReLU):
        return "PRELU"
    return "CONV_2D" if module.groups == 1 else "DEPTHWISE_CONV_2D"


# ---- the flatbuffer ----


def _layers(model: bytes) -> Iterator[Layer]:
    """Yield the operators that have weights, in the order in which they run."""
    from ai_edge_litert import schema_py_generated as schema

    kinds = schema.BuiltinOperator
    with_weights = {getattr(kinds, name): name for name in _LAYOUTS}
    root = schema.Model.GetRootAs(model, 0)
    graph = root.Subgraphs(0)
    stored: dict[int, int] = {}  # float32 tensor -> the float16 constant that it is made of
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        code = _builtin(root.OperatorCodes(operator.OpcodeIndex()))
        if code == kinds.DEQUANTIZE:
            stored[operator.Outputs(0)] = operator.Inputs(0)
        elif code in with_weights:
            names = [stored.get(tensor, tensor) for tensor in operator.InputsAsNumpy()[1:].tolist()]
            values = [_constant(root, graph, tensor, schema.TensorType) for tensor in names]
            kind = with_weights[code]
            yield Layer(kind, _torch_layout(kind, values[0]), values[1] if len(values) > 1 else None)


def _builtin(code: Any) -> int:
    """Return what an operator is: older files tell it in a field of one byte."""
    return max(code.BuiltinCode(), code.DeprecatedBuiltinCode())


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
