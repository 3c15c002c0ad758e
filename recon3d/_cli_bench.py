"""``recon3d bench``: figures of this machine, in a table or as one line of JSON."""

from __future__ import annotations

import json
from pathlib import Path


def run_bench_render(
    head: Path | None, seconds: float, backend: str | None, threads: int | None, as_json: bool
) -> None:
    """Measure the renderer and print; with ``as_json`` the last line is one object.

    Raises:
        Recon3DError: The head or the rasterizer cannot be had.
    """
    import torch

    from recon3d.evaluation.bench_render import bench_render
    from recon3d.evaluation.machine import machine_facts

    if threads is not None:
        torch.set_num_threads(threads)
    facts = machine_facts()
    if not as_json:
        print("  ".join(f"{key} {value}" for key, value in facts.items()))
    figures: dict[str, float | None] = {}
    for name, value in bench_render(head, seconds, backend):
        figures[name] = value
        if not as_json:
            shown = "-" if value is None else f"{value:.2f}" if isinstance(value, float) else str(value)
            print(f"{name:32s} {shown:>10s}", flush=True)
    if as_json:
        print(json.dumps({**figures, "machine": facts}))
