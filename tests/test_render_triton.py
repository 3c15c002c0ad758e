"""The GPU's visibility, run by Triton's interpreter. Not in the default run: Triton takes a gigabyte of disk.

pip install triton && pytest -m slow tests/test_render_triton.py
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow
pytest.importorskip("triton", reason="Triton is not installed")

_COMPARE = """
import torch
from recon3d.render.rasterize import rasterize

generator = torch.Generator().manual_seed(0)
low, high = torch.tensor([-8, -8, -0.5]), torch.tensor([28, 22, 3.0])
for dtype in (torch.float32, torch.float64):
    verts = torch.rand(2, 45, 3, generator=generator) * (high - low) + low
    verts[0, 3] = float("nan")
    verts, faces = verts.to(dtype), torch.arange(45).reshape(-1, 3)
    for cull in (False, True):
        pictures = [
            rasterize(verts, faces, (20, 14), cull_backfaces=cull, near=0.3, backend=name).triangle
            for name in ("triton", "numba")
        ]
        print(int((pictures[0] != pictures[1]).sum()), int((pictures[0] >= 0).sum()))
print(int((rasterize(verts[:, :0], faces[:0], (5, 4), backend="triton").triangle >= 0).sum()))
"""


def test_the_same_triangle_at_every_pixel_as_the_compiled_kernel() -> None:
    # The interpreter must be asked for before Triton is imported.
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(
        [sys.executable, "-c", _COMPARE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    *pairs, nothing = done.stdout.splitlines()
    assert nothing == "0" and len(pairs) == 4
    for pair in pairs:
        different, covered = map(int, pair.split())
        assert different == 0 and covered > 80
