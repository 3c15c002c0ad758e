"""``recon3d serve``: opens the socket, says where, and serves until Ctrl-C."""

from __future__ import annotations

import os
import socket
import threading
import webbrowser
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from recon3d._cli_report import Reporter
from recon3d.errors import MissingExtraError, OutputError, UsageError

if TYPE_CHECKING:
    import uvicorn

    from recon3d.serve.settings import ServeSettings

#: The token, where it is not to be seen among the processes' command lines.
TOKEN_VARIABLE = "RECON3D_TOKEN"

#: Connections at a time; more are answered 503.
_MOST_CONNECTIONS = 256
_SHUTDOWN_SECONDS = 3


@dataclass(frozen=True)
class ServeOptions:
    """The options of the command, as they are given."""

    host: str
    port: int
    token: str | None
    allowed_hosts: tuple[str, ...]
    keep: str
    max_upload: str
    max_duration: str
    max_files: int
    max_jobs: int
    data: Path | None
    workers: int
    head: Path | None
    open_browser: bool


def require_serve() -> None:
    """Import what the server is made of.

    Raises:
        MissingExtraError: Something of it is not installed.
    """
    try:
        import fastapi
        import python_multipart
        import uvicorn  # noqa: F401

        _ = fastapi, python_multipart
    except ModuleNotFoundError as error:
        raise MissingExtraError(f"the server needs {error.name}: pip install 'recon3d[serve]'") from error


def run_serve(options: ServeOptions, reporter: Reporter) -> int:
    """Serve until Ctrl-C, which is how it ends well; return the exit status.

    Raises:
        MissingExtraError: The extra is not installed.
        UsageError: An option is wrong, or the address or the folder cannot be had.
        OutputError: The folder cannot be written.
    """
    require_serve()
    from recon3d.serve.app import Service, create_app

    settings, made_token = _settings(options)
    os.umask(0o077)  # uploads and results are their owner's alone; the workers inherit it
    with _listen(settings.host, settings.port) as listener:
        settings = replace(settings, port=listener.getsockname()[1])
        service = Service.open(settings)
        try:
            _tell(settings, made_token, options.open_browser, reporter)
            with suppress(KeyboardInterrupt):
                _serve(create_app(service), listener)
        finally:
            service.close()
    return 0


def _settings(options: ServeOptions) -> tuple[ServeSettings, bool]:
    """Return the settings, and whether a token was made."""
    from recon3d.serve.settings import ServeSettings, choose_token, parse_bytes, parse_seconds

    token, made = choose_token(options.host, options.token or os.environ.get(TOKEN_VARIABLE))
    settings = ServeSettings(
        data=options.data or _data_folder(),
        host=options.host,
        port=options.port,
        token=token,
        allowed_hosts=options.allowed_hosts,
        keep=parse_seconds(options.keep, "--keep"),
        max_upload=parse_bytes(options.max_upload, "--max-upload"),
        max_duration=parse_seconds(options.max_duration, "--max-duration"),
        max_files=options.max_files,
        max_jobs=options.max_jobs,
        workers=options.workers,
        head=options.head,
    )
    return settings, made


def _data_folder() -> Path:
    from platformdirs import user_data_dir

    return Path(user_data_dir("recon3d", appauthor=False)) / "serve"


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        UsageError: The address cannot be had.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            if os.name == "posix":  # elsewhere it would let two servers share the port
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(128)
        except BaseException:
            listener.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UsageError(
            f"cannot serve at {host}:{port} ({reason}); choose another --port or --host"
        ) from error
    return listener


def _tell(settings: ServeSettings, made_token: bool, open_browser: bool, reporter: Reporter) -> None:
    """Say where the page is; the token only if it was made here, or nobody would know it."""
    address = page_address(settings)
    secret = f"{address}?token={quote(settings.token, safe='')}" if settings.token else address
    shown = secret if made_token else address
    if reporter.as_json:
        reporter.done(settings.data, "", url=shown)
    elif not reporter.quiet or made_token:
        print(f"{shown}  (Ctrl-C ends)", flush=True)
    if open_browser:
        threading.Timer(0.5, webbrowser.open, (secret,)).start()


def page_address(settings: ServeSettings) -> str:
    """Return the page's address, for a browser on this machine where that is possible."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.host, settings.host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/"


def server_config(app: Callable[..., Any]) -> uvicorn.Config:
    """Return how the application is served."""
    import uvicorn

    return uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,  # addresses may hold the token
        lifespan="on",
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
        server_header=False,
        proxy_headers=False,
        ws="none",
    )


def _serve(app: Callable[..., Any], listener: socket.socket) -> None:
    import uvicorn

    server = uvicorn.Server(server_config(app))
    server.run(sockets=[listener])
    if not server.started:
        raise OutputError("the server could not be started; what it said stands above")
