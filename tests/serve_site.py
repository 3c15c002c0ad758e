"""A real server of ``recon3d serve`` for tests, on a port of this machine, and a client for it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import requests
import uvicorn

from recon3d._cli_serve import _listen, server_config
from recon3d.serve.app import API, Service, create_app
from recon3d.serve.settings import ServeSettings

#: Seconds that anything may take on a busy machine.
PATIENCE = 240.0


@dataclass
class Site:
    """A server that runs, and a client's view of it."""

    service: Service
    url: str
    session: requests.Session = field(default_factory=requests.Session)

    def ask(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request to the API."""
        return self.session.request(method, f"{self.url}{API}{path}", timeout=PATIENCE, **options)

    def send(self, *files: tuple[str, bytes], **fields: Any) -> requests.Response:
        """Upload files: (name, content)."""
        parts = [("files", (name, content, "application/octet-stream")) for name, content in files]
        return self.ask("POST", "/jobs", files=parts, data=fields)

    def submit(self, name: str, content: bytes, **fields: Any) -> str:
        """Upload a file that has to be taken; return its job's id."""
        response = self.send((name, content), **fields)
        assert response.status_code == 201, response.text
        (job,) = response.json()["jobs"]
        return str(job["id"])

    def job(self, job: str) -> dict[str, Any]:
        """Return a job."""
        response = self.ask("GET", f"/jobs/{job}")
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.json()
        return found

    def wait(self, job: str, *states: str) -> dict[str, Any]:
        """Wait until a job has one of some states; by default: until it is over."""
        wanted = states or ("done", "failed", "cancelled")
        until = time.monotonic() + PATIENCE
        while (found := self.job(job))["state"] not in wanted:
            assert time.monotonic() < until, found
            time.sleep(0.05)
        return found


@contextmanager
def served(data: Path, **changes: Any) -> Iterator[Site]:
    """Serve a folder; no workers unless told otherwise."""
    settings = replace(ServeSettings(data, port=0, workers=0, min_free=0), **changes)
    listener = _listen(settings.host, 0)
    settings = replace(settings, port=listener.getsockname()[1])
    service = Service.open(settings)
    server = uvicorn.Server(server_config(create_app(service)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    try:
        until = time.monotonic() + PATIENCE
        while not server.started:
            assert thread.is_alive() and time.monotonic() < until
            time.sleep(0.01)
        yield Site(service, f"http://127.0.0.1:{settings.port}")
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        listener.close()
        service.close()
