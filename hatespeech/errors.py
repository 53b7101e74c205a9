"""Every error the service can answer with, and how each one shows itself.

The tree is closed: a front knows these classes and nothing else, and turns anything that is not
among them into :class:`InternalError`.

    ServiceError
    ├── ValidationError        422  the caller's input is not what the contract asks for
    ├── TooLargeError          413  the input is well-formed, and more than this service reads
    ├── UnauthorizedError      401  no token, or a wrong one
    ├── NotFoundError          404  there is no such route, or no such job for this caller
    ├── MethodNotAllowedError  405  the route is there, for another method
    ├── UnsupportedMediaError  415  the body is of a type that this route does not read
    ├── RateLimitedError       429  this caller asks more often than a caller may
    ├── OverloadedError        429  all callers together ask for more than there is room for
    ├── UnhealthyError         503  loading, or the device broke and the worker is being replaced
    └── InternalError          500  a fault of ours that concerns this input alone
    SettingsError              an environment variable holds a bad value; the start stops
    CheckpointError            a checkpoint folder is missing, damaged or inconsistent

A message is one line, names the field, and never quotes the caller's text: it may be logged and
may travel through other people's systems. The errors from 401 to 429 exist over HTTP only.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import ClassVar


class ServiceError(Exception):
    """An error with a place in the contract: ``code`` for programs, ``message`` for people."""

    code: ClassVar[str]
    http_status: ClassVar[int]
    retry_after: int | None = None  # seconds after which the same request may fare better

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        """Return ``<code>: <message>``, the form that queue clients and batch items get."""
        return f"{self.code}: {self.message}"


class ValidationError(ServiceError):
    """The caller's input is not what the contract asks for."""

    code = "validation"
    http_status = 422


class TooLargeError(ServiceError):
    """The input is well-formed, and more than this service reads."""

    code = "too_large"
    http_status = 413


class UnauthorizedError(ServiceError):
    """No token, or a wrong one."""

    code = "unauthorized"
    http_status = 401


class NotFoundError(ServiceError):
    """There is no such route, or no such job for this caller."""

    code = "not_found"
    http_status = 404


class MethodNotAllowedError(ServiceError):
    """The route is there, for another method."""

    code = "method_not_allowed"
    http_status = 405


class UnsupportedMediaError(ServiceError):
    """The body is of a type that this route does not read."""

    code = "unsupported_media"
    http_status = 415


class RateLimitedError(ServiceError):
    """This caller asks more often than one caller may."""

    code = "rate_limited"
    http_status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class OverloadedError(ServiceError):
    """All callers together ask for more than there is room for."""

    code = "overloaded"
    http_status = 429
    retry_after = 1


class UnhealthyError(ServiceError):
    """Nothing can be scored yet, or no longer: loading, or the device broke."""

    code = "unhealthy"
    http_status = 503
    retry_after = 5


class InternalError(ServiceError):
    """A fault of the service that concerns this input alone."""

    code = "internal"
    http_status = 500


class SettingsError(Exception):
    """An environment variable holds a bad value; the message names it and what is allowed."""


class CheckpointError(Exception):
    """A checkpoint folder is missing, damaged or inconsistent; the message says which and how."""


def describe_exception(exc: BaseException) -> str:
    """Return an exception's type and place, fit for a log.

    Never its message: libraries like to quote what they could not read, and that is user text.
    """
    frames = traceback.extract_tb(exc.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(exc).__name__}{place}"
