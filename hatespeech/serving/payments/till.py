"""Closes a rail for a while if its facilitator leaves settlements open.

A reply whose settlement has an unknown outcome goes out, because it may have been paid for. So
everything would be free while a facilitator settles nothing and answers nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Final

UNKNOWN_IN_A_ROW: Final = 3
# Between known outcomes others may hide, such as those of one buyer's odd payments.
UNKNOWN_IN_A_WHILE: Final = 20
WHILE_SECONDS: Final = 600.0
CLOSED_SECONDS: Final = 30
# More settlements than this wait for a turn, and get none if the till closes meanwhile.
AT_ONCE: Final = 64

log = logging.getLogger(__name__)


class Till:
    """Counts the unknown outcomes of one rail."""

    def __init__(self, rail: str) -> None:
        self.turns = asyncio.Semaphore(AT_ONCE)
        self._rail = rail
        self._in_a_row = 0
        self._unknown: list[float] = []
        self._closed_until = 0.0

    @property
    def is_closed(self) -> bool:
        """Whether no payment may be taken now."""
        return time.monotonic() < self._closed_until

    def note(self, *, known: bool) -> None:
        """Note the outcome of a settlement."""
        if known:
            self._in_a_row = 0
            return
        now = time.monotonic()
        self._in_a_row += 1
        self._unknown = [when for when in self._unknown if now - when < WHILE_SECONDS] + [now]
        if self._in_a_row >= UNKNOWN_IN_A_ROW or len(self._unknown) >= UNKNOWN_IN_A_WHILE:
            self._closed_until = now + CLOSED_SECONDS
            log.error(
                "%s: too many settlements without an outcome: closed for %d s",
                self._rail,
                CLOSED_SECONDS,
            )
