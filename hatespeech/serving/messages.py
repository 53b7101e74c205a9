"""Bodies in, errors out: what is read strictly, and what a fault looks like to its caller."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import math
import sqlite3
from collections.abc import Awaitable, Iterator, Mapping
from typing import Any, NoReturn, TypeVar
from urllib.parse import parse_qsl

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from hatespeech.errors import (
    InternalError,
    MethodNotAllowedError,
    NotFoundError,
    ServiceError,
    TooLargeError,
    UnhealthyError,
    UnsupportedMediaError,
    ValidationError,
    describe_exception,
)

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

MAX_QUERY_FIELDS = 16


def error_response(
    scope: Scope, error: ServiceError, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """Return the contract's error body under its status; note the code for the metrics."""
    scope.setdefault("state", {})["error_type"] = error.code
    extra = dict(headers or {})
    if error.retry_after is not None:
        extra["Retry-After"] = str(error.retry_after)
    body = {"error": error.message, "error_type": error.code}
    return JSONResponse(body, error.http_status, extra)


async def read_json(request: Request) -> Any:
    """Read a JSON body.

    Raises :class:`UnsupportedMediaError` for another type, :class:`ValidationError` for what is no
    UTF-8, no JSON, or JSON only to Python (NaN, Infinity).
    """
    require_media_type(request, "application/json")
    raw = await request.body()
    try:
        with collecting_no_garbage():
            return json.loads(raw.decode("utf-8"), parse_constant=_refuse, parse_float=_finite)
    except UnicodeDecodeError:
        raise ValidationError("body: is not UTF-8") from None
    except ValueError as exc:  # also: numbers of too many digits
        place = f" at line {exc.lineno}" if isinstance(exc, json.JSONDecodeError) else ""
        raise ValidationError(f"body: is not valid JSON{place}") from None
    except RecursionError:
        raise ValidationError("body: is nested too deeply") from None


@contextlib.contextmanager
def collecting_no_garbage() -> Iterator[None]:
    """Keep Python from looking for garbage again and again among millions of new objects.

    It made a large body take four times as long, for everybody who waits for this event loop.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _refuse(_constant: str) -> NoReturn:
    raise ValueError("no JSON")


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        raise ValueError("no JSON reply could hold it")
    return value


def require_media_type(request: Request, expected: str) -> None:
    """Raise :class:`UnsupportedMediaError` unless the body is declared to be ``expected``."""
    given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if given != expected:
        raise UnsupportedMediaError(f"body: must be {expected}")


def read_query(request: Request, names: tuple[str, ...]) -> dict[str, str]:
    """Read the query string; each name at most once, and none but ``names``.

    Raises :class:`ValidationError`, also for percent-encoded bytes that are no UTF-8.
    """
    try:
        pairs = parse_qsl(
            request.scope["query_string"].decode("ascii"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=MAX_QUERY_FIELDS,
        )
    except UnicodeDecodeError:
        raise ValidationError("query: is not UTF-8") from None
    except ValueError:
        raise ValidationError(f"query: holds more than {MAX_QUERY_FIELDS} fields") from None
    fields: dict[str, str] = {}
    for name, value in pairs:
        if name not in names:
            allowed = ", ".join(names) or "nothing"
            raise ValidationError(f"query: holds an unknown field; known: {allowed}")
        if name in fields:
            raise ValidationError(f"{name}: give it once")
        fields[name] = value
    return fields


async def until_gone(request: Request, work: Awaitable[Answer]) -> Answer:
    """Await ``work``, and cancel it if the client hangs up: nobody would read the answer.

    Raises ``ClientDisconnect`` then.
    """

    async def hang_up() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(hang_up())
    try:
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        gone.result()  # a body that breaks a limit
        raise ClientDisconnect
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


def allowed_methods(request: Request) -> list[str]:
    """Return the methods of a path. Starlette names those of the first route that has it only."""
    routes = request.app.router.routes
    return [
        method
        for method in ("GET", "HEAD", "POST")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes
        )
    ]


def install_error_handlers(app: FastAPI) -> None:
    """Answer every exception that has a status by the contract; FastAPI's own quote the input."""

    async def service_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, ServiceError)  # noqa: S101 - it is registered for nothing else
        return error_response(request.scope, exc)

    async def http_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, HTTPException)  # noqa: S101 - it is registered for nothing else
        error: ServiceError
        headers = exc.headers
        if exc.status_code == 404:
            error = NotFoundError("there is no such path")
        elif exc.status_code == 405:
            allowed = ", ".join(allowed_methods(request))
            error = MethodNotAllowedError(f"method: this path takes {allowed}")
            headers = {"Allow": allowed}
        elif exc.status_code == 413:
            error = TooLargeError("body: is larger than this service reads")
        elif exc.status_code < 500:
            error = ValidationError("body: cannot be read")
        else:
            error = InternalError("the request could not be answered")
        return error_response(request.scope, error, headers)

    async def request_error(request: Request, exc: Exception) -> Response:
        assert isinstance(exc, RequestValidationError)  # noqa: S101 - as above
        place = [str(part) for part in exc.errors()[0]["loc"] if part not in ("query", "path")]
        error = ValidationError(f"{'.'.join(place)}: is not what it must be")
        return error_response(request.scope, error)

    async def file_error(request: Request, exc: Exception) -> Response:
        log.error("JOBS_DB: %s", describe_exception(exc))
        error = UnhealthyError("jobs cannot be stored at present; try again")
        return error_response(request.scope, error)

    app.add_exception_handler(sqlite3.Error, file_error)
    app.add_exception_handler(ServiceError, service_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, request_error)
