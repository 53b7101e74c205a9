"""Logging to standard error, as text or JSON lines.

Standard output is for replies. A message never holds a text, and an exception is logged by its type
and place (:func:`describe_exception`), never by its message.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

from typing_extensions import override

from hatespeech.cli import say
from hatespeech.settings import EngineSettings

LOGGER: Final = "hatespeech"  # the package: every logger of ours is below it
FIELDS: Final = "fields"  # log.info(…, extra={FIELDS: {"request_id": …}})


class JsonFormatter(logging.Formatter):
    """Writes one JSON object per line: time (UTC, ISO 8601), level, logger, message, fields."""

    @override
    def format(self, record: logging.LogRecord) -> str:
        return json.dumps(
            {
                "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
                "level": record.levelname,
                "logger": record.name,
                "message": record.getMessage(),
                **getattr(record, FIELDS, {}),
            }
        )


def configure(settings: EngineSettings) -> None:
    """Send the package's log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    if settings.log_format == "json":
        handler.setFormatter(JsonFormatter())
    else:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)-7s %(message)s"))
    # Not the root logger: libraries may log the texts that they are given.
    ours = logging.getLogger(LOGGER)
    ours.handlers = [handler]
    ours.setLevel(settings.log_level)
    ours.propagate = False


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
