"""Errors over HTTP: those that only HTTP has, the status of each, and the replies they make.

    ServiceError (:mod:`hatespeech.errors`)
    ├── UnauthorizedError      401  unauthorized
    ├── PaymentRequiredError   402  payment_required
    ├── NotFoundError          404  not_found
    ├── MethodNotAllowedError  405  method_not_allowed
    ├── UnsupportedMediaError  415  unsupported_media
    ├── RateLimitedError       429  rate_limited
    └── UnfinishedError        504  unfinished

A reply has its error's status and the body ``{"error": "<field>: <message>", "error_type":
"<code>"}``. If the request made a job, the body has its ``id`` too.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Final

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Match
from starlette.types import Scope

from hatespeech.errors import (
    InternalError,
    OverloadedError,
    ServiceError,
    TooLargeError,
    UnhealthyError,
    UnreadError,
    ValidationError,
)
from hatespeech.serving.compat.protocol import protocol_of
from hatespeech.serving.jobs.store import StoreError

log = logging.getLogger(__name__)


class UnauthorizedError(ServiceError):
    """The request has no token or a wrong one."""

    code = "unauthorized"


class PaymentRequiredError(ServiceError):
    """The request has no token, and its payment is missing or not taken."""

    code = "payment_required"


class NotFoundError(ServiceError):
    """This route does not exist, or this caller has no such job."""

    code = "not_found"


class MethodNotAllowedError(ServiceError):
    """The route exists, but not for this method."""

    code = "method_not_allowed"


class UnsupportedMediaError(ServiceError):
    """This route does not read bodies of this type."""

    code = "unsupported_media"


class RateLimitedError(ServiceError):
    """This caller sends more requests than one caller may."""

    code = "rate_limited"

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnfinishedError(ServiceError):
    """The wait is over, or the job was cancelled, and there is no result."""

    code = "unfinished"


# What a system says that has run out of disk, open files, processes or memory. The
# request is not to blame: it may succeed later, or on another server.
EXHAUSTED: Final = frozenset(
    {
        errno.EAGAIN,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
        errno.ENOSPC,
    }
)

STATUSES: Final[Mapping[type[ServiceError], int]] = {
    UnauthorizedError: 401,
    PaymentRequiredError: 402,
    NotFoundError: 404,
    MethodNotAllowedError: 405,
    TooLargeError: 413,
    UnsupportedMediaError: 415,
    UnreadError: 422,
    ValidationError: 422,
    RateLimitedError: 429,
    OverloadedError: 429,
    InternalError: 500,
    UnhealthyError: 503,
    UnfinishedError: 504,
}


def error_response(
    scope: Scope,
    error: ServiceError,
    headers: Mapping[str, str] | None = None,
    job_id: str | None = None,
) -> JSONResponse:
    """Return the contract's error body with its status; note the code for the metrics.

    On a path of another service's protocol both are that protocol's.
    """
    scope.setdefault("state", {})["error_type"] = error.code
    extra = dict(headers or {})
    if error.retry_after is not None:
        extra["Retry-After"] = str(error.retry_after)
    status, body = protocol_of(scope).answer(scope, error, status_of(error))
    if job_id is not None:
        body["id"] = job_id
    return JSONResponse(body, status, extra)


def status_of(error: ServiceError) -> int:
    """Return an error's status: that of its class or, for a protocol's own, of the one above."""
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def allowed_methods(request: Request) -> list[str]:
    """Return the methods of a path. Starlette names only those of its first route."""
    allowed = []
    for method, meant in (("GET", "GET"), ("HEAD", "GET"), ("POST", "POST")):
        scope = {**request.scope, "method": meant}
        if any(route.matches(scope)[0] is Match.FULL for route in request.app.router.routes):
            allowed.append(method)
    return allowed


def install_error_handlers(app: FastAPI) -> None:
    """Answer every exception as the contract says; FastAPI's own answers quote the input."""

    @app.exception_handler(ServiceError)
    async def service_error(request: Request, exc: ServiceError) -> Response:
        return error_response(request.scope, exc)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, exc: HTTPException) -> Response:
        error: ServiceError
        headers = exc.headers
        if exc.status_code == 404:
            error = NotFoundError("this path does not exist")
        elif exc.status_code == 405:
            allowed = ", ".join(allowed_methods(request))
            error = MethodNotAllowedError(f"this path allows {allowed}", field="method")
            headers = {"Allow": allowed}
        elif exc.status_code == 413:
            error = TooLargeError("is too large for this service", field="body")
        elif exc.status_code < 500:
            error = ValidationError("cannot be read", field="body")
        else:
            error = InternalError("the request could not be answered")
        return error_response(request.scope, error, headers)

    @app.exception_handler(RequestValidationError)
    async def request_error(request: Request, exc: RequestValidationError) -> Response:
        place = [str(part) for part in exc.errors()[0]["loc"] if part not in ("query", "path")]
        error = ValidationError("is invalid", field=".".join(place))
        return error_response(request.scope, error)

    @app.exception_handler(StoreError)
    async def store_error(request: Request, _exc: StoreError) -> Response:
        # The store has logged why.
        error = UnhealthyError("jobs cannot be stored now; try again")
        return error_response(request.scope, error)

    @app.exception_handler(OSError)
    async def system_error(request: Request, exc: OSError) -> Response:
        if exc.errno not in EXHAUSTED:
            raise exc
        log.error("the system is short of something: %s", errno.errorcode[exc.errno])
        error = UnhealthyError("this server is short of disk, memory or open files; try again")
        return error_response(request.scope, error)
