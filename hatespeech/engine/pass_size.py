"""How many tokens the next forward pass may read, so that nobody waits long for it to end.

A text that arrives during a pass waits for its end. So a pass holds about ``PASS_SECONDS`` of work,
as far as the speed of the passes before tells, and never more than what fits into memory.
"""

from __future__ import annotations

import logging
import math
import threading
from typing import Final

from hatespeech.model.packing import ROWS_AT_ONCE

log = logging.getLogger(__name__)

# Of work in one pass, on every device. A GPU works on a batch of this much time at its full speed,
# because the time to launch its kernels is a fifth of it. A fast GPU reads ``MAX_BATCH_TOKENS`` in
# less, and then memory is the limit.
PASS_SECONDS: Final = 0.05
# However slow the device is: with fewer rows than this, or half of it in each of two lanes, a CPU
# multiplies less efficiently (benchmarks/beside_bulk.py).
SMALLEST_PASS: Final = 320
# After running out of memory the size is halved, but not below the longest sequence.
SMALLEST_BUDGET: Final = 512
# Tokens of a part of ``ROWS_AT_ONCE`` when the next tweet, of 30 or so, does not fit any more.
FULL_PART: Final = ROWS_AT_ONCE - 32
# What one pass counts for in the mean speed.
WEIGHT: Final = 0.25


class PassSize:
    """The size of the next pass. Any thread may feed and ask it.

    ``max_tokens`` is the most that any pass may read. ``speed``, in tokens a second, is a first
    measurement, such as the warm-up's. Without one, the first pass is the smallest. ``seconds`` is
    how long a pass may take, ``PASS_SECONDS`` by default; if that is infinite, because nobody
    waits, each pass is as large as memory allows.
    """

    def __init__(
        self, max_tokens: int, speed: float | None = None, seconds: float | None = None
    ) -> None:
        self._max_tokens = max_tokens
        self._speed = speed
        self._seconds = PASS_SECONDS if seconds is None else seconds
        self._lock = threading.Lock()  # of what a pass changes

    @property
    def tokens(self) -> int:
        """How many tokens the next pass may read."""
        if math.isinf(self._seconds):
            return self._max_tokens
        timely = 0.0 if self._speed is None else self._speed * self._seconds
        return int(min(self._max_tokens, max(timely, SMALLEST_PASS)))

    def tokens_of_lane(self, lanes: int) -> int:
        """How many tokens the next pass may read in one of so many equal lanes of a CPU.

        A lane reads in parts, and a small last part costs nearly as much as a full one.
        """
        share = self.tokens // lanes
        if lanes == 1 or share < FULL_PART:
            return share
        parts = min(round(share / FULL_PART), self._max_tokens // lanes // FULL_PART)
        return parts * FULL_PART

    def passed(self, tokens: int, seconds: float) -> None:
        """Take note of a pass that succeeded."""
        if tokens < self.tokens // 2 and seconds < self._seconds:
            return  # a small pass is slow for each of its tokens, and says little of a full one
        speed = tokens / seconds
        with self._lock:
            before = speed if self._speed is None else self._speed
            self._speed = before + WEIGHT * (speed - before)

    def out_of_memory(self, tokens: int) -> None:
        """Take note, and log, that a pass of so many tokens did not fit into memory."""
        # The minimum, because both halves of a batch may fail, too.
        with self._lock:
            self._max_tokens = max(min(self._max_tokens, tokens // 2), SMALLEST_BUDGET)
        log.warning("out of memory: a batch now reads at most %d tokens", self._max_tokens)
