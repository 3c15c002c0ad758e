"""Working ahead: the next items are made in the background while the last one is used."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


def prefetched(items: Iterable[Item], depth: int = 8) -> Iterator[Item]:
    """Yield the same items in the same order, up to ``depth`` of them made in advance by another thread.

    What the items raise is raised here. The thread ends, and the items are closed, before this generator
    is gone, however that comes about.

    Args:
        items: Taken up in the other thread only.
        depth: At least 1; that many items are kept in memory.
    """
    worker = _Worker(items, max(1, depth))
    worker.start()
    try:
        yield from worker.results()
    finally:
        worker.stop()


class _Worker(threading.Thread, Generic[Item]):
    """Fills a queue with (item, None), and at the end puts (None, the error or None)."""

    def __init__(self, items: Iterable[Item], depth: int) -> None:
        super().__init__(name="recon3d-prefetch", daemon=True)
        self._items = items
        self._queue: queue.Queue[Item | _End] = queue.Queue(depth)
        self._stopped = threading.Event()

    def run(self) -> None:
        error: BaseException | None = None
        items = iter(self._items)
        try:
            for item in items:
                self._queue.put(item)
                if self._stopped.is_set():
                    break
        except BaseException as caught:
            error = caught
        finally:
            if isinstance(items, Generator):
                items.close()
        self._queue.put(_End(error))

    def results(self) -> Iterator[Item]:
        while not isinstance(item := self._queue.get(), _End):
            yield item
        if item.error is not None:
            raise item.error

    def stop(self) -> None:
        """End the thread: it may be waiting for room in the queue, so that is made until it has gone."""
        self._stopped.set()
        while self.is_alive():
            try:
                self._queue.get(timeout=0.02)
            except queue.Empty:
                continue
        self.join()


class _End:
    """The last thing in the queue."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error
