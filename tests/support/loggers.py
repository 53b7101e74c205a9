"""Loggers that a program in this process sets up, as if it had the process to itself."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

from hatespeech import logs

NAMES = (logs.LOGGER, "uvicorn.error", "uvicorn.access", "asyncio")


@contextlib.contextmanager
def loggers_kept() -> Iterator[None]:
    """Give the program's loggers back what they had before."""
    loggers = [logging.getLogger(name) for name in NAMES]
    before = [(each.handlers, each.level, each.propagate) for each in loggers]
    try:
        yield
    finally:
        for each, (handlers, level, propagate) in zip(loggers, before, strict=True):
            each.handlers, each.propagate = handlers, propagate
            each.setLevel(level)
