"""The HTTP API, and the page that uses it."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import importlib.util
import mimetypes
import re
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Path, Query, Request
from pydantic import ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.types import ASGIApp

from recon3d._version import __version__
from recon3d.errors import InputError
from recon3d.serve.library import Library
from recon3d.serve.pool import Pool
from recon3d.serve.problems import Refused, answer_problems, documented, explain
from recon3d.serve.responses import GONE, Archive, Events, File
from recon3d.serve.schema import (
    ID_PATTERN,
    Health,
    Job,
    JobList,
    Kind,
    Limits,
    Options,
    ResultFile,
    State,
    Submitted,
    Version,
    WorkerState,
)
from recon3d.serve.security import Guard
from recon3d.serve.settings import ServeSettings
from recon3d.serve.sniff import sniff
from recon3d.serve.storage import CLIP_FORMATS, PHOTO_FORMATS, Storage, archive_stem
from recon3d.serve.store import NewJob, QueueFull, Record, Store
from recon3d.serve.uploads import FILES, Form, receive

API = "/api/v1"
_OVER = (State.done, State.failed, State.cancelled)
#: Seconds between two looks at a job whose events somebody follows; and how long a stream may last.
_EVENT_SECONDS, _STREAM_SECONDS = 0.25, 900.0

JobId = Annotated[str, Path(pattern=ID_PATTERN, description="A job's id.")]


@dataclass
class Service:
    """All that the requests share."""

    settings: ServeSettings
    storage: Storage
    store: Store
    pool: Pool
    library: Library = field(default_factory=Library)
    stopping: bool = False
    _counts: dict[str, int] = field(default_factory=dict)
    _guard: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def open(settings: ServeSettings) -> Service:
        """Open the data folder.

        Raises:
            UsageError: It holds something else, or another server uses it.
            OutputError: It cannot be written.
        """
        storage = Storage(settings.data)
        try:
            store = Store(storage.queue)
        except BaseException:
            storage.close()
            raise
        return Service(settings, storage, store, Pool(store, storage, settings))

    def start(self) -> None:
        """Start the workers."""
        self.pool.start()
        self.library.start()

    def close(self) -> None:
        """Stop everything and let go of the data folder."""
        self.stopping = True
        self.pool.stop()
        self.store.close()
        self.storage.close()

    @contextmanager
    def one_of(self, what: str, most: int) -> Iterator[None]:
        """Count who is in this block.

        Raises:
            Refused: ``most`` are in it already.
        """
        with self._guard:
            if self._counts.get(what, 0) >= most:
                raise Refused(503, f"{most} {what} are going on already; try again in a moment")
            self._counts[what] = self._counts.get(what, 0) + 1
        try:
            yield
        finally:
            with self._guard:
                self._counts[what] -= 1

    def find(self, job: str) -> Record:
        """Return a job.

        Raises:
            Refused: There is none.
        """
        record = self.store.get(job)
        if record is None:
            raise Refused(404, "there is no such job; it may have been deleted")
        return record

    def shown(self, record: Record, waiting: list[int] | None = None) -> Job:
        """Return a job as clients see it; ``waiting``: the numbers of those that wait, if at hand."""
        settings = self.settings
        ahead = 0
        if record.state is State.waiting:
            numbers = self.store.waiting_numbers() if waiting is None else waiting
            ahead = sum(number < record.number for number in numbers)
        return Job(
            id=record.id,
            name=record.name,
            kind=record.kind,
            size=record.size,
            state=record.state,
            created=record.created,
            started=record.started,
            finished=record.finished,
            expires=None if record.finished is None else record.finished + settings.keep,
            ahead=ahead,
            progress=self.pool.progress(record.id) if record.state is State.running else None,
            error=record.error,
            options=record.options,
            frames=record.frames,
            persons=len({stored.person for stored in record.files}),
            files=[
                ResultFile(name=one.name, person=one.person, media_type=one.media_type, size=one.size)
                for one in record.files
            ],
        )


def create_app(service: Service) -> ASGIApp:
    """Return the application; its lifespan starts and closes the service."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await run_in_threadpool(service.close)

    app = FastAPI(
        title="recon3d",
        version=__version__,
        summary="Photographs and clips of faces in, rigged ARKit-ready 3D heads out; all on this machine.",
        openapi_url=f"{API}/openapi.json",
        docs_url=None,  # those pages come from elsewhere
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    answer_problems(app)
    app.include_router(_api(service))
    app.include_router(_page(service))
    return Guard(app, service.settings)


# ---- jobs ----


def _api(service: Service) -> APIRouter:
    denied = documented(401, 403, 421) if service.settings.token else documented(403, 421)
    api = APIRouter(prefix=API, responses=denied)
    _add_jobs(api, service)
    _add_results(api, service)
    _add_facts(api, service)
    return api


def _add_jobs(api: APIRouter, service: Service) -> None:
    settings = service.settings

    @api.post(
        "/jobs",
        status_code=201,
        responses=documented(400, 408, 413, 415, 422, 429, 503, 507),
        openapi_extra={"requestBody": _form_document(settings)},
    )
    async def submit(request: Request) -> Submitted:
        """Upload photographs and clips; each becomes a job.

        All of them are taken, or none. What a file is, is told by its content.
        """
        _check_room(service, request)
        with service.one_of("uploads", settings.max_uploads):
            form = await receive(request, service.storage, settings)
            records = await run_in_threadpool(_queue, service, form)
        return Submitted(jobs=[service.shown(record) for record in records])

    @api.get("/jobs", responses=documented(422))
    def jobs(
        limit: Annotated[int, Query(ge=1, le=200, description="At most so many.")] = 50,
        offset: Annotated[int, Query(ge=0, le=1_000_000, description="Leave out so many.")] = 0,
    ) -> JobList:
        """List the jobs, the newest first."""
        waiting = service.store.waiting_numbers()
        found = [service.shown(record, waiting) for record in service.store.newest(limit, offset)]
        return JobList(jobs=found, total=service.store.count())

    @api.get("/jobs/{id}", responses=documented(404, 422))
    def job(id: JobId) -> Job:
        """Tell how a job stands."""
        return service.shown(service.find(id))

    @api.get(
        "/jobs/{id}/events",
        response_class=StreamingResponse,
        responses={
            200: {
                "description": "An event whenever the job changes, until it is over; its data is a Job.",
                "content": {"text/event-stream": {"schema": _EVENT}},
            },
            **documented(404, 422, 503),
        },
    )
    async def events(id: JobId) -> StreamingResponse:
        """Follow a job, as server-sent events."""
        await run_in_threadpool(service.find, id)
        places = service.one_of("event streams", settings.max_streams)
        places.__enter__()  # left when the stream ends, which is after this function does
        return Events(_events(service, id), lambda: _leave(places))

    @api.post("/jobs/{id}/cancel", responses=documented(404, 409, 422))
    def cancel(id: JobId) -> Job:
        """Give up a job that waits or runs."""
        if not service.store.cancel(id):
            record = service.find(id)
            raise Refused(409, f"the job is over already: {record.state.value}")
        service.pool.tell()
        record = service.find(id)
        if service.pool.progress(id) is None:
            service.pool.remove_files(id)
        return service.shown(record)

    @api.delete("/jobs/{id}", status_code=204, responses=documented(404, 422))
    def delete(id: JobId) -> Response:
        """Delete a job with its upload and its results, whatever it is doing."""
        if not service.store.delete(id):
            service.find(id)
        service.pool.tell()
        service.pool.purge()
        return Response(status_code=204)


_EVENT = {
    "type": "object",
    "required": ["data"],
    "properties": {"data": {"type": "string", "contentMediaType": "application/json"}},
}


def _leave(places: AbstractContextManager[None]) -> None:
    places.__exit__(None, None, None)


def _check_room(service: Service, request: Request) -> None:
    """Refuse an upload that cannot be taken before its first byte is read.

    Raises:
        Refused: The queue or the disk is full.
    """
    settings = service.settings
    if service.store.open_jobs() >= settings.max_jobs:
        raise _full(settings)
    announced = request.headers.get("content-length", "")
    wanted = min(int(announced) if announced.isdecimal() else 0, settings.max_upload)
    if service.storage.free_bytes() < settings.min_free + wanted:
        raise Refused(507, "the disk of this server is nearly full; delete jobs, or choose another --data")


def _full(settings: ServeSettings) -> Refused:
    return Refused(429, f"{settings.max_jobs} jobs wait or run already; try again when some are done")


def _queue(service: Service, form: Form) -> list[Record]:
    """Make a job of every file of a form.

    Raises:
        Refused: One of them is none that can be done, or an option is wrong, or the queue is full.
    """
    made: list[NewJob] = []
    try:
        options = _options(form)
        for upload in form.uploads:
            kind = sniff(upload.path, upload.name)
            made.append(NewJob(uuid.uuid4().hex, upload.name, kind, upload.size, options))
        for upload, job in zip(form.uploads, made, strict=True):
            service.storage.adopt(upload.path, job.id)
        service.store.add(made, service.settings.max_jobs)
    except BaseException as error:
        form.remove()
        for job in made:
            service.pool.remove_files(job.id)
        if isinstance(error, InputError):
            raise Refused(415, str(error)) from error
        if isinstance(error, QueueFull):
            raise _full(service.settings) from error
        raise
    service.pool.tell()
    return [service.find(job.id) for job in made]


def _options(form: Form) -> Options:
    """Read the fields that are no files.

    Raises:
        Refused: One is wrong.
    """
    given = {name: values if name == "formats" else values[-1] for name, values in form.fields.items()}
    try:
        return Options.model_validate(given)
    except ValidationError as error:
        raise Refused(422, explain(error.errors())) from error


def _form_document(settings: ServeSettings) -> dict[str, Any]:
    """Describe the form of an upload for OpenAPI."""
    options = Options.model_json_schema()
    file = {"type": "string", "format": "binary"}
    given = {
        "type": "array", "items": file, "minItems": 1, "maxItems": settings.max_files,
        "description": "Photographs (JPEG, PNG, WebP, TIFF, HEIC ...) and clips (MP4, MOV, MKV, WebM ...).",
    }  # fmt: skip
    schema = {
        "type": "object",
        "required": [FILES],
        "properties": {FILES: given, **options["properties"]},
        "additionalProperties": False,
    }
    return {"required": True, "content": {"multipart/form-data": {"schema": schema}}}


async def _events(service: Service, job: str) -> AsyncIterator[str]:
    """Yield an event whenever a job changes, until it is over."""
    told, until = "", time.monotonic() + _STREAM_SECONDS
    quiet = 0.0
    while not service.stopping and time.monotonic() < until:
        record = await run_in_threadpool(service.store.get, job)
        if record is None:
            yield "event: deleted\ndata: {}\n\n"
            return
        shown = await run_in_threadpool(service.shown, record)
        text = shown.model_dump_json()
        if text != told:
            told, quiet = text, 0.0
            yield f"data: {text}\n\n"
        if record.state in _OVER:
            return
        await asyncio.sleep(_EVENT_SECONDS)
        quiet += _EVENT_SECONDS
        if quiet >= 15:
            quiet = 0.0
            yield ": still here\n\n"


# ---- results ----


def _add_results(api: APIRouter, service: Service) -> None:
    @api.get(
        "/jobs/{id}/files/{name}",
        response_class=FileResponse,
        responses={
            200: {"description": "The file.", "content": {"*/*": {"schema": _BINARY}}},
            400: {"description": "The part of the file that is asked for is none."},
            206: {"description": "The part of the file that was asked for."},
            416: {"description": "There is no such part of the file."},
            **documented(404, 422),
        },
    )
    def download(id: JobId, name: Annotated[str, Path(max_length=120, min_length=1)]) -> FileResponse:
        """Download one of the files that a job lists."""
        record = service.find(id)
        for stored in record.files:
            if stored.name == name:
                path = service.storage.path(id, stored)
                if path is None:
                    raise Refused(404, GONE)
                called = f"{archive_stem(record.name)}-{stored.name}"
                return File(path, media_type=stored.media_type, filename=called)
        raise Refused(404, "the job has no such file")

    @api.get(
        "/jobs/{id}/archive",
        response_class=StreamingResponse,
        responses={
            200: {"description": "A zip archive.", "content": {"application/zip": {"schema": _BINARY}}},
            **documented(404, 409, 422),
        },
    )
    def archive(id: JobId) -> StreamingResponse:
        """Download all files of a job as one zip archive: a folder for each person."""
        record = service.find(id)
        if record.state is not State.done:
            raise Refused(409, f"there are no results: the job is {record.state.value}")
        stem = archive_stem(record.name)
        entries = []
        for stored in record.files:
            path = service.storage.path(id, stored)
            if path is not None:
                folder = stem if stored.person == 1 else f"{stem}.face{stored.person}"
                entries.append((f"{folder}/{stored.file}", path))
        # The name in the header is plain; browsers that know better find the true one beside it.
        plain = re.sub(r"[^A-Za-z0-9._-]", "_", stem)
        disposition = f"attachment; filename=\"{plain}.zip\"; filename*=UTF-8''{quote(stem)}.zip"
        return Archive(entries, record.finished or record.created, disposition)


_BINARY = {"type": "string", "format": "binary"}


# ---- facts ----


def _add_facts(api: APIRouter, service: Service) -> None:
    settings = service.settings

    @api.get("/health")
    def health() -> Health:
        """Tell whether jobs get done."""
        workers = [
            WorkerState(state=one.state, restarts=one.restarts, problem=one.problem)
            for one in service.pool.attendants
        ]
        free = service.storage.free_bytes()
        bad = any(one.problem for one in workers) or free < settings.min_free
        return Health(
            status="degraded" if bad else "ok",
            waiting=service.store.count(State.waiting),
            running=service.store.count(State.running),
            free_bytes=free,
            workers=workers,
        )

    @api.get("/version")
    def version() -> Version:
        """Tell what is running here, and what it takes."""
        service.library.look_again()
        return Version(
            version=__version__,
            head=settings.head.name if settings.head else "open_head.npz",
            formats={Kind.photo: _installed(PHOTO_FORMATS[0]), Kind.clip: _installed(CLIP_FORMATS[0])},
            viewer=service.library.problem is None,
            viewer_problem=service.library.problem,
            limits=Limits(
                max_upload=settings.max_upload,
                max_duration=settings.max_duration,
                max_files=settings.max_files,
                max_jobs=settings.max_jobs,
                keep=settings.keep,
            ),
        )


def _installed(formats: Iterable[str]) -> list[str]:
    """Leave out the formats whose packages are missing."""
    has_usd = importlib.util.find_spec("pxr") is not None
    return [name for name in formats if name != "usd" or has_usd]


# ---- the page ----

_IMPORT_MAP = re.compile(r'<script type="importmap">(.*?)</script>', re.DOTALL)


def _page(service: Service) -> APIRouter:
    folder = files("recon3d.serve.page")
    parts = {one.name: one.read_bytes() for one in folder.iterdir() if one.name.endswith((".css", ".js"))}
    html = folder.joinpath("page.html").read_text(encoding="utf-8")
    policy = _policy(html)
    page = APIRouter(include_in_schema=False)

    @page.get("/")
    async def index() -> Response:
        return Response(
            html, media_type="text/html; charset=utf-8", headers={"Content-Security-Policy": policy}
        )

    @page.get("/static/three/{name:path}")
    async def three(name: str) -> Response:
        content = service.library.files.get(name)
        return _static(name, content)

    @page.get("/static/{name}")
    async def static(name: str) -> Response:
        return _static(name, parts.get(name))

    @page.get("/favicon.ico")
    async def icon() -> Response:
        return Response(status_code=204)

    return page


def _static(name: str, content: bytes | None) -> Response:
    """Return a file of the page; the names are looked up, never opened."""
    if content is None:
        raise Refused(404, "there is no such file")
    kind = "text/javascript" if name.endswith(".js") else mimetypes.guess_type(name)[0] or "text/plain"
    return Response(content, media_type=f"{kind}; charset=utf-8", headers={"Cache-Control": "no-cache"})


def _policy(html: str) -> str:
    """Return the page's Content-Security-Policy: its own files, and the one import map in it."""
    found = _IMPORT_MAP.search(html)
    assert found is not None
    digest = base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()
    return (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; img-src 'self' blob:; "
        "media-src 'self'; connect-src 'self' blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )
