"""How many threads torch uses for the small jobs of a photograph."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch work in the calling thread alone, and give it back its threads afterwards.

    The jobs of a photograph take a millisecond or less each. Shared between threads they are no faster on an
    idle machine, and several times as slow on a busy one, where every job ends in waiting for the thread that
    was put off.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def use_one_thread() -> None:
    """Let torch work in the calling thread alone, from now on; for threads of our own."""
    import torch

    torch.set_num_threads(1)
