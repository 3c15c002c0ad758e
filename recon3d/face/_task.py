"""Runs the networks inside MediaPipe's ``face_landmarker.task`` with LiteRT, without MediaPipe."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from recon3d.assets import fetch, read_member
from recon3d.errors import AssetError

Floats = npt.NDArray[np.float32]

DETECTOR = "face_detector.tflite"
LANDMARKS = "face_landmarks_detector.tflite"
BLENDSHAPES = "face_blendshapes.tflite"
#: The largest network holds 2.6 MB; a file that unpacks to more than this is not ours.
_MAX_NETWORK_BYTES = 32_000_000


class Network:
    """One TFLite network with one input. Not thread-safe: give each thread its own."""

    def __init__(self, model: bytes, threads: int) -> None:
        """Build the interpreter from a flatbuffer; ``threads`` is LiteRT's thread count."""
        from ai_edge_litert.interpreter import Interpreter

        try:
            with _without_notices():
                self._interpreter: Any = Interpreter(model_content=model, num_threads=threads)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise AssetError(f"a face network cannot be loaded ({str(error).splitlines()[0]})") from error
        self._input = int(self._interpreter.get_input_details()[0]["index"])
        self._outputs = {str(d["name"]): int(d["index"]) for d in self._interpreter.get_output_details()}

    def __call__(self, values: Floats) -> dict[str, Floats]:
        """Run one batch; return every output by its name."""
        self._interpreter.set_tensor(self._input, values)
        self._interpreter.invoke()
        return {name: self._interpreter.get_tensor(index) for name, index in self._outputs.items()}


def load_network(member: str, *, path: str | Path | None = None, threads: int | None = None) -> Network:
    """Load one network of the task file.

    Args:
        member: :data:`DETECTOR`, :data:`LANDMARKS` or :data:`BLENDSHAPES`.
        path: The task file; by default the verified download.
        threads: LiteRT's thread count; by default as many as the machine has cores, at most 4.

    Raises:
        AssetError: The file cannot be had, or is not a task file.
    """
    model = read_member(path or fetch("face_landmarker"), member, max_bytes=_MAX_NETWORK_BYTES)
    return Network(model, threads or min(4, os.cpu_count() or 1))


@contextmanager
def _without_notices() -> Iterator[None]:
    """Hold back the ``INFO:`` line that LiteRT's C++ side writes to standard error; pass on the rest.

    It has no switch for that, and the line would stand in the output of every command.
    """
    try:
        descriptor = sys.__stderr__.fileno() if sys.__stderr__ else None
    except (OSError, ValueError):
        descriptor = None
    if descriptor is None:
        yield
        return
    sys.__stderr__.flush()  # type: ignore[union-attr]  # checked above
    kept = os.dup(descriptor)
    with tempfile.TemporaryFile() as held:
        os.dup2(held.fileno(), descriptor)
        try:
            yield
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)
            held.seek(0)
            for line in held.read().splitlines(keepends=True):
                if not line.startswith(b"INFO:"):
                    os.write(descriptor, line)
