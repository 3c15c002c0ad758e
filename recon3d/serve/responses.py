"""Responses that take a while: files, archives and event streams, and what may end them early."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from pathlib import Path

from starlette.requests import ClientDisconnect
from starlette.responses import FileResponse, StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from recon3d.serve.archive import stream_zip
from recon3d.serve.problems import answer

#: What is said of a file that somebody deletes while it is asked for.
GONE = "the job has no such file any more"


class File(FileResponse):
    """A file in larger pieces than usual: each is a trip to another thread and back."""

    chunk_size = 1 << 19

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await _unless_gone(super().__call__, [Path(self.path)], scope, receive, send)


class Archive(StreamingResponse):
    """A zip archive that is made while it is sent."""

    def __init__(self, entries: Sequence[tuple[str, Path]], when: float, disposition: str) -> None:
        """See ``stream_zip``; ``disposition`` is the header that names it."""
        headers = {"Content-Disposition": disposition}
        pieces: Iterator[bytes] = stream_zip(entries, when)
        super().__init__(pieces, media_type="application/zip", headers=headers)
        self._paths = [path for _, path in entries]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        await _unless_gone(super().__call__, self._paths, scope, receive, send)


class Events(StreamingResponse):
    """Server-sent events; ``over`` is called when they end, even if they never began."""

    def __init__(self, content: AsyncIterator[str], over: Callable[[], object]) -> None:
        """Note what to send."""
        super().__init__(content, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send them."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._over()


async def _unless_gone(
    call: Callable[[Scope, Receive, Send], Awaitable[None]],
    paths: Sequence[Path],
    scope: Scope,
    receive: Receive,
    send: Send,
) -> None:
    """Send a response; of a job that is deleted meanwhile say so, or break off if it has begun."""
    begun = False

    async def noted(message: Message) -> None:
        nonlocal begun
        begun = begun or message["type"] == "http.response.start"
        await send(message)

    try:
        await call(scope, receive, noted)
    except (OSError, RuntimeError, ClientDisconnect):
        if all(path.is_file() for path in paths):
            raise
        if not begun:
            await answer(404, GONE)(scope, receive, send)
