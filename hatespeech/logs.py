"""Logging to standard error, as text or JSON lines, in UTC.

Standard output is for replies. A message never holds a text, and an exception is logged by its type
and place (:func:`describe_exception`), never by its message. What libraries log goes the same way:
uvicorn's and the Runpod SDK's lines as they are, all others by their place alone, because they may
quote what they were given.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import warnings
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Final, TypeAlias

from typing_extensions import override

from hatespeech.cli import say
from hatespeech.errors import describe_exception
from hatespeech.settings import EngineSettings, mistyped

LOGGER: Final = "hatespeech"  # the package: every logger of ours is below it
FIELDS: Final = "fields"  # log.info(…, extra={FIELDS: {"request_id": …}})

ExceptionInfo: TypeAlias = (
    tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]
)


class JsonFormatter(logging.Formatter):
    """Writes one JSON object per line: time (UTC, ISO 8601), level, logger, message, fields."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": written_time(record),
                "level": record.levelname,
                "logger": record.name,
                "message": record.getMessage(),
                **({"exception": _describe(record.exc_info)} if record.exc_info else {}),
                **getattr(record, FIELDS, {}),
            }
        )


class TextFormatter(logging.Formatter):
    """Writes one line: time, level, message and, if there is one, an exception's type and place."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    @override
    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage().rstrip("\n")
        record.asctime = written_time(record)
        line = self.formatMessage(record)
        return f"{line}: {_describe(record.exc_info)}" if record.exc_info else line


def written_time(record: logging.LogRecord) -> str:
    """Return when a record was made, in UTC by ISO 8601, to the millisecond."""
    when = datetime.fromtimestamp(record.created, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _describe(info: ExceptionInfo) -> str:
    return "" if info[1] is None else describe_exception(info[1])


def log_the_rest() -> None:
    """Log what Python would print by itself: warnings, exceptions, and what libraries log.

    For a program that has the process to itself, after :func:`configure`.
    """
    log = logging.getLogger(LOGGER)

    def uncaught(_kind: object, exc: BaseException, _trace: object) -> None:
        log.critical("the program failed: %s", describe_exception(exc))

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if args.exc_value is not None:
            log.error("a thread failed: %s", describe_exception(args.exc_value))

    def unraisable(args: sys.UnraisableHookArgs) -> None:
        if args.exc_value is not None:
            log.error("an exception was ignored: %s", describe_exception(args.exc_value))

    def warned(
        _message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: object
    ) -> None:
        log.warning("%s at %s:%d", category.__name__, Path(filename).name, lineno)

    sys.excepthook = uncaught
    threading.excepthook = in_thread
    sys.unraisablehook = unraisable
    warnings.showwarning = warned  # type: ignore[assignment]  # the names of its parameters differ
    logging.lastResort = _Libraries(logging.WARNING)


class _Libraries(logging.Handler):
    """Takes what is logged where nobody listens; Python would print the message."""

    @override
    def emit(self, record: logging.LogRecord) -> None:
        logging.getLogger(LOGGER).log(
            record.levelno,
            "%s logged something at %s:%d",
            record.name,
            record.filename,
            record.lineno,
            exc_info=record.exc_info,
        )


def configure(settings: EngineSettings, *others: str) -> None:
    """Send the package's log to standard error, and that of ``others``, whose lines hold no text.

    These are logged from ``INFO`` on, however low the level is: below, they tell more.
    """
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(TextFormatter())
    # Not the root logger: libraries may log the texts that they are given.
    level = logging.getLevelNamesMapping()[settings.log_level]
    for name in (LOGGER, *others):
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(level if name == LOGGER else max(logging.INFO, level))
        logger.propagate = False


def warn_of_mistyped(
    environment: Mapping[str, str], settings: type[EngineSettings] = EngineSettings
) -> None:
    """Log a line for each variable that nothing reads and that was meant as a setting, it seems.

    In a program without a log, Python writes it to standard error.
    """
    log = logging.getLogger(LOGGER)
    for variable, name in mistyped(settings, environment):
        log.warning("%s is not a setting; did you mean %s?", variable, name)


class _PastBars(logging.Handler):
    @override
    def emit(self, record: logging.LogRecord) -> None:
        say(self.format(record))


@contextlib.contextmanager
def shown_logs(formatter: logging.Formatter, level: int | str) -> Iterator[None]:
    """Show what the package logs, past any progress bar; restore its logger at the end."""
    handler = _PastBars()
    handler.setFormatter(formatter)
    # Not the root logger: libraries log what they were given.
    log = logging.getLogger(LOGGER)
    before = log.handlers, log.level
    log.handlers = [handler]
    log.setLevel(level)
    try:
        yield
    finally:
        log.handlers = before[0]
        log.setLevel(before[1])
