"""The trust tools, which are scripts beside each other, for the tests to import."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tools" / "trust"))

import corpus
import corpus_clips
import corpus_takes
import determinism
import faults
import fuzz
import sandbox
import soak
import tiny

__all__ = [
    "corpus",
    "corpus_clips",
    "corpus_takes",
    "determinism",
    "faults",
    "fuzz",
    "sandbox",
    "soak",
    "tiny",
]
