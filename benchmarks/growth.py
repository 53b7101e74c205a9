"""What a process holds, sampled while it works, and whether it grows.

A sample adds up a process and the processes that it has started. The growth is the slope of a line
through the means of blocks of time. Samples within the same seconds are alike, but
the means of blocks are nearly independent, so the slope's standard error holds for them.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from types import TracebackType
from typing import Final, Self

from hatespeech.memory import MIB
from tests.support.memory import resident

SAMPLE_SECONDS: Final = 0.25
BLOCKS: Final = 20  # fewer if there are too few samples
LEAST_BLOCKS: Final = 6
# A slope counts as growth if it is this many standard errors above what is allowed.
ERRORS: Final = 3.0


@dataclass(frozen=True)
class Kind:
    """One thing that is sampled, and the growth that is allowed."""

    name: str
    unit: float  # of the figures shown, in those sampled
    hourly: float  # what it may grow in an hour, in that unit
    settling: float  # what it may add besides, in the part that is measured

    def allowed(self, hours: float, settling: float) -> float:
        """Return the slope, an hour, that is allowed; ``settling`` multiplies the second part."""
        return self.hourly + settling * self.settling / hours


# In the order of a sample.
KINDS: Final = (
    Kind("resident memory, MiB", MIB, 4, 4),
    Kind("open files", 1, 1, 2),
    Kind("threads", 1, 1, 2),
    Kind("database, MiB", MIB, 1, 2),
)


@dataclass(frozen=True)
class Growth:
    """The slope of one kind."""

    kind: Kind
    first: float  # mean of the first block
    last: float  # mean of the last block
    slope: float  # an hour
    error: float  # standard error of the slope
    allowed: float  # slope

    @property
    def grows(self) -> bool:
        """Whether it grows significantly faster than allowed."""
        return self.slope - ERRORS * self.error > self.allowed


def growth(
    kind: Kind, times: Sequence[float], values: Sequence[float], settling: float = 1.0
) -> Growth:
    """Fit a line through samples, taken at ``times`` in seconds."""
    points = _means([second / 3600 for second in times], [each / kind.unit for each in values])
    hours = [hour for hour, _ in points]
    held = [value for _, value in points]
    middle, mean = fmean(hours), fmean(held)
    spread = sum((hour - middle) ** 2 for hour in hours)
    slope = sum((hour - middle) * (value - mean) for hour, value in points) / spread
    left = sum((value - mean - slope * (hour - middle)) ** 2 for hour, value in points)
    error = math.sqrt(left / (len(points) - 2) / spread)
    measured = (times[-1] - times[0]) / 3600
    return Growth(kind, held[0], held[-1], slope, error, kind.allowed(measured, settling))


def _means(hours: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    """Return the mean time and value of each block of samples."""
    count = len(hours)
    blocks = min(BLOCKS, count // 2)
    if blocks < LEAST_BLOCKS:
        raise ValueError(f"{count} samples are too few")
    edges = [count * block // blocks for block in range(blocks + 1)]
    return [
        (fmean(hours[start:end]), fmean(values[start:end]))
        for start, end in itertools.pairwise(edges)
    ]


class Sampler:
    """Samples a process, the leader of a session, until the ``with`` block ends."""

    def __init__(self, process: int, database: Path | None) -> None:
        self.times: list[float] = []  # seconds since the first sample
        self.held: dict[str, list[float]] = {}  # by the name of a kind
        self._process = process
        self._database = database
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample_all, name="sampler")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    def growths(self, warm_up: float, settling: float) -> list[Growth]:
        """Return the growth of each kind after so many seconds."""
        first = next(i for i, second in enumerate(self.times) if second >= warm_up)
        return [
            growth(kind, self.times[first:], self.held[kind.name][first:], settling)
            for kind in KINDS
            if kind.name in self.held
        ]

    def _sample_all(self) -> None:
        begun = time.monotonic()
        while not self._ended.wait(SAMPLE_SECONDS):
            now = time.monotonic() - begun
            found = self._sample()
            if found is None:  # the process has ended; the traffic says so
                return
            self.times.append(now)
            for name, value in found.items():
                self.held.setdefault(name, []).append(value)

    def _sample(self) -> Mapping[str, float] | None:
        sums = [0.0, 0.0, 0.0]
        for folder in session(self._process):
            # A process that ends meanwhile holds nothing.
            with contextlib.suppress(OSError, LookupError):
                each = (resident("VmRSS", folder), _count(folder / "fd"), _count(folder / "task"))
                sums = [left + right for left, right in zip(sums, each, strict=True)]
        if not sums[0]:
            return None
        if self._database is not None:
            sums.append(size_of(self._database))
        return {kind.name: value for kind, value in zip(KINDS, sums, strict=False)}


def session(leader: int) -> list[Path]:
    """Return the folders in /proc of the processes in a session."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(") ")[2].split()
            if int(fields[3]) == leader:
                found.append(folder)
    return found


def _count(folder: Path) -> int:
    return sum(1 for _ in folder.iterdir())


def size_of(database: Path) -> int:
    """Return the bytes of a SQLite file and of what lies beside it, such as its log."""
    total = 0
    for path in database.parent.glob(f"{database.name}*"):
        with contextlib.suppress(FileNotFoundError):
            total += path.stat().st_size
    return total
