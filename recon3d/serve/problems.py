"""Refusing a request: a status, one line in JSON, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from recon3d.serve.schema import Problem

#: Seconds after which a client may ask again.
RETRY_AFTER = 10


class Refused(Exception):
    """A request cannot be done; the text is for whoever sent it."""

    def __init__(self, status: int, text: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(text)
        self.status, self.text = status, text
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers.setdefault("Retry-After", str(RETRY_AFTER))


def answer(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the response to a request that is refused."""
    return JSONResponse(Problem(error=text).model_dump(), status, dict(headers or {}))


def answer_problems(app: FastAPI) -> None:
    """Answer everything that goes wrong in the same form."""

    async def refused(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, Refused)
        return answer(error.status, error.text, error.headers)

    async def plain(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        text = error.detail or HTTPStatus(error.status_code).phrase
        return answer(error.status_code, str(text), error.headers)

    async def invalid(_: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        return answer(422, explain(error.errors()))

    app.add_exception_handler(Refused, refused)
    app.add_exception_handler(HTTPException, plain)
    app.add_exception_handler(RequestValidationError, invalid)


def explain(errors: object) -> str:
    """Say in one line what pydantic found wrong first."""
    if not (isinstance(errors, (list, tuple)) and errors):
        return "not what is wanted here"
    first = errors[0]
    place = ".".join(str(part) for part in first.get("loc", ()) if part not in ("path", "query", "body"))
    text = " ".join(str(first.get("msg", "")).split())
    return f"{place}: {text}" if place else text


def documented(*statuses: int) -> dict[int | str, dict[str, object]]:
    """Return what OpenAPI is to say of these statuses."""
    return {status: {"model": Problem, "description": HTTPStatus(status).phrase} for status in statuses}
