"""How many threads torch uses for small jobs, and several such jobs side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@contextmanager
def one_thread() -> Iterator[int]:
    """Let torch work in the calling thread alone, and give it back its threads afterwards.

    Yields how many it had.

    The jobs of a photograph take a millisecond or less each. Shared between threads they are no faster on an
    idle machine, and several times as slow on a busy one, where every job ends in waiting for the thread that
    was put off.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield before
    finally:
        torch.set_num_threads(before)


def use_one_thread() -> None:
    """Let torch work in the calling thread alone, from now on; for threads of our own."""
    import torch

    torch.set_num_threads(1)


def side_by_side(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Yield ``function(item)`` of each item, in their order, several computed at a time.

    Torch's operations let go of Python's lock, so threads are enough; within each of them torch works alone.
    Few items are taken in advance: memory stays flat however many there are.
    """
    if threads < 2:
        yield from map(function, items)
        return
    with ThreadPoolExecutor(threads, initializer=use_one_thread) as pool:
        waiting: deque[Future[Result]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
