"""Closes a rail for a while if its facilitator leaves settlements open.

A reply whose settlement has an unknown outcome goes out, because it may have been paid for. So
everything would be free while a facilitator settles nothing and answers nothing. If it is only one
buyer's odd payments that it leaves open, the rail is closed to this buyer alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from typing import Final

UNKNOWN_IN_A_ROW: Final = 3  # settlements of one buyer, or buyers
# Between known outcomes others may hide, such as those of one buyer's odd payments.
UNKNOWN_IN_A_WHILE: Final = 20
WHILE_SECONDS: Final = 600.0
CLOSED_SECONDS: Final = 30
# More settlements than this wait for a turn, and get none if the till closes meanwhile.
AT_ONCE: Final = 64

log = logging.getLogger(__name__)


class Till:
    """Counts the unknown outcomes of one rail; a buyer is an address, in whatever case."""

    def __init__(self, rail: str) -> None:
        self.turns = asyncio.Semaphore(AT_ONCE)
        self._rail = rail
        self._in_a_row: Counter[str] = Counter()  # by buyer
        self._unknown: list[float] = []
        self._closed_until = 0.0
        self._closed_to: dict[str, float] = {}  # until when, by buyer

    def is_closed_to(self, buyer: str) -> bool:
        """Say whether no payment of this buyer may be taken now."""
        until = max(self._closed_until, self._closed_to.get(buyer.lower(), 0.0))
        return time.monotonic() < until

    def note(self, buyer: str, *, known: bool) -> None:
        """Note the outcome of a settlement."""
        if known:
            self._in_a_row.clear()
            return
        now, buyer = time.monotonic(), buyer.lower()
        self._in_a_row[buyer] += 1
        self._unknown = [when for when in self._unknown if now - when < WHILE_SECONDS] + [now]
        if len(self._in_a_row) >= UNKNOWN_IN_A_ROW or len(self._unknown) >= UNKNOWN_IN_A_WHILE:
            self._closed_until = now + CLOSED_SECONDS
            whom = ""
        elif self._in_a_row[buyer] >= UNKNOWN_IN_A_ROW:
            still = {other: until for other, until in self._closed_to.items() if now < until}
            self._closed_to = {**still, buyer: now + CLOSED_SECONDS}
            whom = " to one buyer"
        else:
            return
        log.error(
            "%s: too many settlements without an outcome: closed%s for %d s",
            self._rail,
            whom,
            CLOSED_SECONDS,
        )
