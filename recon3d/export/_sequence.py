"""Mesh sequences: a folder with one posed mesh a frame, for programs that play geometry.

The meshes are in the scene of the animated GLB (metres, +Y up; see ``recon3d/export/_motion.py``), head
motion included. Files are numbered from 1. A sequence has no times: at a variable frame rate ask for ``fps``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import numpy as np

from recon3d.conventions import GLOBAL
from recon3d.export._motion import Motion, motion_of
from recon3d.export._still import Floats, as_array, as_batch, check_head
from recon3d.export.options import ExportOptions
from recon3d.files import atomic_folder

if TYPE_CHECKING:
    from recon3d.capture import Capture
    from recon3d.head import HeadModel

#: Frames posed at a time: what bounds the memory, whatever the clip's length.
BATCH = 64


def write_sequence(
    capture: Capture,
    head: HeadModel,
    target: Path,
    suffix: str,
    encode: Callable[[Floats], bytes],
    options: ExportOptions,
    beside: Mapping[str, bytes] = MappingProxyType({}),
) -> list[Path]:
    """Write ``frame_000001`` … into a folder that appears, or is replaced, when all of it is there.

    Args:
        capture: Of a clip; a photograph is one frame.
        head: The model that the capture was made with.
        target: The folder.
        suffix: Ending of the files.
        encode: Makes a file's bytes of its vertices (V, 3) m.
        options: ``fps`` resamples.
        beside: Further files of the folder.

    Returns:
        The folder.

    Raises:
        InputError: The capture belongs to another head model.
        OutputError: The folder cannot be written, or somebody else's files are in its place.
    """
    check_head(capture, head)
    motion = motion_of(capture, head, options)
    with atomic_folder(target) as temporary:
        for name, data in beside.items():
            (temporary / name).write_bytes(data)
        for number, vertices in enumerate(posed(capture, head, motion), start=1):
            (temporary / f"frame_{number:06d}{suffix}").write_bytes(encode(vertices))
    return [target]


def posed(capture: Capture, head: HeadModel, motion: Motion) -> Iterator[Floats]:
    """Yield the head's vertices (V, 3) m in the scene, frame after frame."""
    import torch
    from scipy.spatial.transform import Rotation

    shape = as_batch(capture.shape, head)
    moved = (motion.root - motion.joints[GLOBAL]).astype(np.float32)
    for start in range(0, len(motion), BATCH):
        rows = slice(start, start + BATCH)
        turned = motion.rotations[rows]
        pose = Rotation.from_quat(turned.reshape(-1, 4)).as_rotvec().reshape(*turned.shape[:2], 3)
        with torch.no_grad():
            out = head(
                shape.expand(len(turned), -1),
                torch.as_tensor(motion.weights[rows]).to(shape),
                torch.as_tensor(pose).to(shape),
            )
        yield from as_array(out.vertices) + moved[rows, None]
