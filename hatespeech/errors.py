"""Every error that the engine and the contract raise.

The tree is closed: a front turns any exception that is not in it into :class:`InternalError`.

    ServiceError
    ├── ValidationError   validation   the input breaks the contract
    ├── TooLargeError     too_large    the input is well-formed but exceeds a limit
    ├── UnreadError       unread       the checkpoint can't read the text, and must not guess
    ├── OverloadedError   overloaded   the queue is full
    ├── UnhealthyError    unhealthy    the model is loading, the device failed, or a stop
    └── InternalError     internal     the service failed on this input alone
    SettingsError         an environment variable holds a bad value; the program does not start
    CheckpointError       a checkpoint folder is missing, damaged or inconsistent

:mod:`hatespeech.serving.http_errors` adds the errors that only HTTP has, and the statuses.

An error keeps its code, field and message apart until a front writes it out. The message is one
line and never quotes the caller's text, because logs and other systems see it.
"""

from __future__ import annotations

import copy
import re
import traceback
from pathlib import Path
from typing import ClassVar, Final, Self

_WRITTEN: Final = re.compile(
    r"(?P<code>[a-z_]+): (?:(?P<field>[A-Za-z_-]+(?:\[\d+\])?(?:\.\w+)?): )?"
    r"(?P<message>[^\r\n]{1,200})"
)


class ServiceError(Exception):
    """An error that the contract describes.

    ``code`` is for programs and ``message`` for people. ``field`` names the part of the request
    that is wrong, such as ``texts[3]``.
    """

    code: ClassVar[str]
    blames_input: ClassVar[bool] = False  # only such an error has a field
    retry_after: int | None = None  # seconds after which the same request may succeed

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.field = field

    def at(self, field: str) -> Self:
        """Return this error for another field; unchanged if the input is not to blame."""
        if not self.blames_input:
            return self
        moved = copy.copy(self)
        moved.field = field
        return moved

    @property
    def line(self) -> str:
        """``<field>: <message>``, for people."""
        return self.message if self.field is None else f"{self.field}: {self.message}"

    def __str__(self) -> str:
        """Return ``<code>: <field>: <message>``, as failed jobs and items hold it."""
        return f"{self.code}: {self.line}"


class ValidationError(ServiceError):
    """The input breaks the contract."""

    code = "validation"
    blames_input = True


class TooLargeError(ServiceError):
    """The input is well-formed but exceeds a limit of this service."""

    code = "too_large"
    blames_input = True


class UnreadError(ServiceError):
    """The checkpoint can't read this text, and `ON_UNREAD` is `refuse`."""

    code = "unread"
    blames_input = True


class OverloadedError(ServiceError):
    """The queue has no room for this request."""

    code = "overloaded"
    retry_after = 1


class UnhealthyError(ServiceError):
    """The model is loading, the device failed, or the worker is being stopped."""

    code = "unhealthy"
    retry_after = 5


class InternalError(ServiceError):
    """The service failed on this input alone."""

    code = "internal"


class SettingsError(Exception):
    """An environment variable holds a bad value; the message names both and what is allowed."""


class CheckpointError(Exception):
    """A checkpoint folder is missing, damaged or inconsistent; the message says which and how."""


# The errors that a worker writes for a job or a text.
_KINDS: Final[dict[str, type[ServiceError]]] = {
    kind.code: kind
    for kind in (
        ValidationError,
        TooLargeError,
        UnreadError,
        OverloadedError,
        UnhealthyError,
        InternalError,
    )
}
CODES: Final = tuple(_KINDS)


def read_error(written: str) -> ServiceError | None:
    """Return the error whose ``str`` is this line, or ``None`` if the line is not one of ours."""
    found = _WRITTEN.fullmatch(written)
    if found is None or found["code"] not in _KINDS:
        return None
    return _KINDS[found["code"]](found["message"], field=found["field"])


def describe_exception(exc: BaseException) -> str:
    """Return an exception's type and place in the code, for a log.

    Its message is left out: libraries often quote what they could not read, which may be a text.
    """
    frames = traceback.extract_tb(exc.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(exc).__name__}{place}"
