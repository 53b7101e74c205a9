"""What replies hold, counted in one pass: for a log line, for a minute, for the metrics."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from hatespeech.contract import TextScore, Timing
from hatespeech.errors import CODES
from hatespeech.labels import FLAGS, LABELS, WARNINGS

# Upper bounds of buckets; the last bucket has none. Scores get narrow ones at both ends, where most
# of them lie.
SCORE_BOUNDS: Final = (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SECONDS_BOUNDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0),
)
OUTCOMES: Final = ("finished", "failed", "stopped", "returned")  # of jobs
WINDOW_BOUNDS: Final = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0)

Counts = dict[str, int]  # not Counter, which takes several times as long


def add_counts(counts: Counts, more: Mapping[str, int]) -> None:
    """Add counts to others in place."""
    for key, count in more.items():
        counts[key] = counts.get(key, 0) + count


@dataclass
class Tally:
    """What one or several replies hold. A count of zero may be missing."""

    texts: int = 0  # with and without scores
    tokens: int = 0  # that the device read for them
    queue_ms: float = 0.0
    compute_ms: float = 0.0
    labels: Counts = field(default_factory=dict)
    flagged: Counts = field(default_factory=dict)
    warnings: Counts = field(default_factory=dict)
    failed: Counts = field(default_factory=dict)  # texts without scores, by code

    def add(self, other: Tally) -> None:
        """Add what another one counted."""
        self.texts += other.texts
        self.tokens += other.tokens
        self.queue_ms += other.queue_ms
        self.compute_ms += other.compute_ms
        add_counts(self.labels, other.labels)
        add_counts(self.flagged, other.flagged)
        add_counts(self.warnings, other.warnings)
        add_counts(self.failed, other.failed)

    def fields(self) -> dict[str, Any]:
        """Return the fields of a JSON line; empty if there was no text."""
        if not self.texts:
            return {}
        counts = {
            "labels": self.labels,
            "flagged": self.flagged,
            "warnings": self.warnings,
            "failed": self.failed,
        }
        return {
            "texts": self.texts,
            "tokens": self.tokens,
            "queue_ms": round(self.queue_ms, 1),
            "compute_ms": round(self.compute_ms, 1),
            **{name: dict(counter) for name, counter in counts.items() if counter},
        }

    def __str__(self) -> str:
        """Return the same in words; empty if there was no text."""
        if not self.texts:
            return ""
        parts = [
            f"{self.texts} text{'s' * (self.texts != 1)}",
            f"{self.tokens} token{'s' * (self.tokens != 1)}",
            f"queue {self.queue_ms:.1f} ms",
            f"compute {self.compute_ms:.1f} ms",
            *(f"{label} {count}" for label, count in self.labels.items()),
        ]
        named = (("flagged", self.flagged), ("warnings", self.warnings), ("failed", self.failed))
        for name, counter in named:
            if counter:
                parts.append(f"{name}: " + " ".join(f"{key} {n}" for key, n in counter.items()))
        return ", ".join(parts)


class Buckets:
    """A histogram: values counted by the bucket they fall into, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value; a bucket holds its upper bound."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.sum += value

    def cumulative(self) -> Iterator[tuple[float, int]]:
        """Yield each upper bound, the last of which is infinite, and the values up to it."""
        total = 0
        for bound, count in zip((*self._bounds, math.inf), self._counts, strict=True):
            total += count
            yield bound, total


class Totals:
    """What all replies of this process held. Count from one thread; others may read."""

    def __init__(self) -> None:
        # A rate needs the zero before the first one, so what can be counted is there at the start.
        self.tally = Tally(
            labels=dict.fromkeys(LABELS, 0),
            flagged=dict.fromkeys(FLAGS, 0),
            warnings=dict.fromkeys(WARNINGS, 0),
        )
        # Of texts, requests and jobs, by code; fronts have codes of their own, too.
        self.errors: Counts = dict.fromkeys(CODES, 0)
        self.jobs: Counts = dict.fromkeys(OUTCOMES, 0)  # that ended, by how
        self.texts_by_protocol: Counts = {}
        self.scores = {label: Buckets(SCORE_BOUNDS) for label in LABELS}
        self.windows = Buckets(WINDOW_BOUNDS)
        self.queue_seconds = Buckets(SECONDS_BOUNDS)
        self.compute_seconds = Buckets(SECONDS_BOUNDS)

    def count(self, items: Sequence[TextScore], timing: Timing, protocol: str) -> Tally:
        """Count one reply; return what it holds."""
        tally = Tally(len(items), timing.tokens, timing.queue_ms, timing.compute_ms)
        buckets = [self.scores[label].observe for label in LABELS]
        for item in items:
            if item.error is not None:
                add_counts(tally.failed, {item.error.code: 1})
                continue
            if item.label is not None and item.windows is not None:
                tally.labels[item.label] = tally.labels.get(item.label, 0) + 1
                self.windows.observe(item.windows)
            scores = (item.hate, item.abusing, item.neutral, item.spam)  # in the order of LABELS
            for observe, score in zip(buckets, scores, strict=True):
                if score is not None:
                    observe(score)
            if item.flagged:
                add_counts(tally.flagged, dict.fromkeys(item.flagged, 1))
            if item.warnings:
                add_counts(tally.warnings, dict.fromkeys(item.warnings, 1))
        if timing.tokens:
            self.queue_seconds.observe(timing.queue_ms / 1e3)
            self.compute_seconds.observe(timing.compute_ms / 1e3)
        self.tally.add(tally)
        add_counts(self.errors, tally.failed)
        add_counts(self.texts_by_protocol, {protocol: len(items)})
        return tally
