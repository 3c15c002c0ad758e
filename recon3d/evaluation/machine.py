"""Timing a call, and what a figure must say of the machine that it was measured on."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from statistics import median


def machine_facts() -> dict[str, object]:
    """Return date, processor, cores, threads, load and versions."""
    import torch

    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": load,
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def peak_megabytes() -> float:
    """Return the largest resident memory of this process so far, MB; NaN where it cannot be told."""
    if sys.platform == "win32":
        return float("nan")
    import resource

    unit = 1e-6 if sys.platform == "darwin" else 1024e-6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def median_ms(call: Callable[[], object], seconds: float, *, least: int = 5) -> float:
    """Median wall time of a call, ms, over as many calls as fit into ``seconds`` (at least ``least``)."""
    call()
    call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < least or time.perf_counter() < end:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return 1e3 * median(times)


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
