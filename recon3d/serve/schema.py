"""What the HTTP API takes and answers, as types; its OpenAPI document is made of them."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from recon3d.serve.storage import CLIP_FORMATS, PHOTO_FORMATS

#: Ids that the server makes: 32 hexadecimal digits.
ID_PATTERN = "^[0-9a-f]{32}$"


class State(str, Enum):
    """Where a job stands."""

    waiting = "waiting"
    running = "running"
    done = "done"
    failed = "failed"
    cancelled = "cancelled"


class Kind(str, Enum):
    """What was uploaded, by its content."""

    photo = "photo"
    clip = "clip"


Format = Literal[
    "obj", "glb", "arkit", "overlay", "livelink", "report", "csv", "json", "bvh", "usd", "glb-skeleton",
    "glb-curves",
]  # fmt: skip


def _split(value: object) -> object:
    """Take "glb,obj" and ["glb,obj"], as the command line does."""
    texts = [value] if isinstance(value, str) else value
    if isinstance(texts, list) and all(isinstance(text, str) for text in texts):
        return list(dict.fromkeys(part.strip() for text in texts for part in text.split(",") if part.strip()))
    return value


class Options(BaseModel):
    """How files are to be done; what does not concern their kind is left alone."""

    model_config = ConfigDict(extra="forbid")

    formats: Annotated[
        list[Format],
        BeforeValidator(_split),
        Field(max_length=20, description="Files to make; those of recon3d photo and video by default."),
    ] = []
    faces: Annotated[int, Field(ge=1, le=8, description="At most so many faces or persons.")] = 8
    smooth: Annotated[float, Field(ge=0, le=1, description="Clips: smoothing in time; 0 is none.")] = 0.5
    focal: Annotated[
        str,
        Field(
            pattern=r"^(\d{1,5}(\.\d{1,3})?(mm)?)?$",
            description="Focal length: pixels (1200), or mm on 35 mm film (50mm); empty: found out.",
        ),
    ] = ""
    refine: Annotated[bool, Field(description="Photographs: fit the colours after the landmarks.")] = False
    delight: Annotated[bool, Field(description="Take the photograph's light out of the texture.")] = False

    def formats_of(self, kind: Kind) -> list[str]:
        """Return the formats that are to be made of a photograph, or of a clip."""
        known, usual = PHOTO_FORMATS if kind is Kind.photo else CLIP_FORMATS
        return [name for name in self.formats if name in known] or list(usual)


class Progress(BaseModel):
    """How far a job is."""

    step: str = Field(description="What is done at the moment: loading, tracking, solving, overlay, writing.")
    done: int = Field(ge=0, description="Frames that have gone through this step.")
    total: int | None = Field(ge=0, description="Frames that there are, where that is known.")


class ResultFile(BaseModel):
    """A file that can be downloaded."""

    name: str = Field(description="Its name in /jobs/{id}/files/{name}.")
    person: int = Field(ge=1, description="Whose it is; 1 is the most prominent.")
    media_type: str
    size: int = Field(ge=0, description="Bytes.")


class Job(BaseModel):
    """One uploaded file and what becomes of it."""

    id: str = Field(pattern=ID_PATTERN)
    name: str = Field(description="What the uploader called the file; to be shown, nothing else.")
    kind: Kind
    size: int = Field(ge=0, description="Bytes of the upload.")
    state: State
    created: float = Field(description="Seconds since 1970.")
    started: float | None
    finished: float | None
    expires: float | None = Field(description="When upload and results will be deleted.")
    ahead: int = Field(ge=0, description="Waiting jobs that come before this one.")
    progress: Progress | None
    error: str | None = Field(description="Why it failed, in one line.")
    options: Options
    frames: int = Field(ge=0, description="Frames of the clip, once it is done; 1 for a photograph.")
    persons: int = Field(ge=0, description="Heads that were made.")
    files: list[ResultFile]


class JobList(BaseModel):
    """Some of the jobs, the newest first."""

    jobs: list[Job]
    total: int = Field(ge=0, description="How many there are in all.")


class Submitted(BaseModel):
    """The jobs that a request made, one a file, in the files' order."""

    jobs: list[Job]


class Problem(BaseModel):
    """Why a request was refused."""

    error: str = Field(description="One line: what, and what to do.")


class WorkerState(BaseModel):
    """One of the processes that do the jobs."""

    state: Literal["starting", "idle", "busy", "stopped"]
    restarts: int = Field(ge=0, description="How often it had to be replaced.")
    problem: str | None = Field(description="What keeps it from doing jobs, if anything does.")


class Health(BaseModel):
    """Whether jobs get done."""

    status: Literal["ok", "degraded"]
    waiting: int = Field(ge=0)
    running: int = Field(ge=0)
    free_bytes: int = Field(ge=0, description="On the disk of the results.")
    workers: list[WorkerState]


class Limits(BaseModel):
    """What is refused above."""

    max_upload: int = Field(description="Bytes of one request.")
    max_duration: float = Field(description="Seconds of a clip.")
    max_files: int = Field(description="Files of one request.")
    max_jobs: int = Field(description="Jobs that wait or run at a time.")
    keep: float = Field(description="Seconds for which finished jobs are kept.")


class Version(BaseModel):
    """What is running here."""

    version: str
    head: str = Field(description="File name of the head model.")
    formats: dict[Kind, list[str]] = Field(description="Formats by kind of upload.")
    viewer: bool = Field(description="Whether the page can show heads in 3D.")
    viewer_problem: str | None = Field(description="What to do about it if not.")
    limits: Limits
