"""Sends what the Runpod SDK logs to our log, in its form and without texts."""

from __future__ import annotations

import io
import logging
from typing import Any, Final

from runpod.serverless.modules.rp_logger import RunPodLogger
from typing_extensions import override

from hatespeech.logs import FIELDS

log = logging.getLogger(__name__)

# Below INFO the SDK logs every input and reply.
LEVELS: Final = {"TIP": logging.INFO, "WARN": logging.WARNING, "ERROR": logging.ERROR}
# Our line about a job says more: the SDK's "Finished." also ends a job that failed.
SAID_BETTER: Final = frozenset({"Started.", "Finished."})


def write(
    _logger: RunPodLogger, message: Any, message_level: str = "INFO", job_id: str | None = None
) -> None:
    """Log one line of the SDK; takes the place of ``RunPodLogger.log``."""
    if message_level not in ("INFO", *LEVELS):
        return
    line = str(message)
    level = logging.DEBUG if line in SAID_BETTER else LEVELS.get(message_level, logging.INFO)
    fields = {} if job_id is None else {"job_id": job_id, "requestId": job_id}
    prefix = "" if job_id is None else f"job {job_id}: "
    log.log(level, "%s%s", prefix, line.replace("\n", " "), extra={FIELDS: fields})


class LoggedLines(io.TextIOBase):
    """A standard output for the SDK, which prints a line now and then beside its log."""

    @override
    def write(self, text: str) -> int:
        if text.strip():
            log.info("%s", text.strip())
        return len(text)


def install() -> None:
    """Have the SDK log here, and take away the handler that it gives to all other libraries."""
    RunPodLogger.log = write
    logging.getLogger().handlers = []


def keep_handlers_of_uvicorn() -> None:
    """Keep the SDK's development server from changing uvicorn's log."""
    from uvicorn.config import LOGGING_CONFIG  # a queue worker has no uvicorn

    LOGGING_CONFIG.update(formatters={}, handlers={}, loggers={})
