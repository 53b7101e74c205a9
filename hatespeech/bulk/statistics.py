"""What the summary and the report show, collected while the output is written.

It keeps counts, histograms and a few examples, so memory is bounded.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from hatespeech.errors import read_error
from hatespeech.labels import FLAGS, LABELS

BINS: Final = 40
EXAMPLES: Final = 10
SHOWN_CHARS: Final = 280


@dataclass(frozen=True)
class Example:
    """A row for the report to show."""

    file: str
    row: int  # from 1, within its file
    scores: tuple[float, ...]  # in the order of FLAGS
    label: str
    text: str | None  # only with --include-text


@dataclass
class Statistics:
    """Counts over all rows."""

    keep_texts: bool = False
    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)  # by code
    warnings: Counter[str] = field(default_factory=Counter)  # by code; a row may have several
    long_texts: int = 0  # read in several windows
    # Of each score, in the order of FLAGS.
    bins: list[list[int]] = field(default_factory=lambda: [[0] * BINS for _ in FLAGS])
    # Heaps of (certainty, -row number in the run, example); the first one is replaced first.
    _most: list[tuple[float, int, Example]] = field(default_factory=list)
    _least: list[tuple[float, int, Example]] = field(default_factory=list)

    def add(self, file: str, first: int, texts: Sequence[Any], scores: pa.Table) -> None:
        """Count rows of one file; ``first`` is the number of the first of them."""
        read = (*FLAGS, "label", "windows", "warnings", "error")
        columns = [scores[name].to_pylist() for name in read]
        for index, (*row, label, windows, warnings, error) in enumerate(zip(*columns, strict=True)):
            self.rows += 1
            if error is not None:
                self.errors[code_of(error)] += 1
                continue
            self.labels[label] += 1
            self.warnings.update(warnings.split(",") if warnings else ())
            self.long_texts += windows > 1
            for counts, score in zip(self.bins, row, strict=True):
                counts[min(int(score * BINS), BINS - 1)] += 1
            certainty = max(row[: len(LABELS)])
            for heap, worth in ((self._most, certainty), (self._least, -certainty)):
                if len(heap) < EXAMPLES or worth > heap[0][0]:
                    text = str(texts[index])[: SHOWN_CHARS + 1] if self.keep_texts else None
                    example = Example(file, first + index, tuple(row), label, text)
                    _keep(heap, worth, -self.rows, example)

    def merge(self, other: Statistics) -> None:
        """Add the statistics of the rows that come after these."""
        for mine, theirs in (
            (self.labels, other.labels),
            (self.errors, other.errors),
            (self.warnings, other.warnings),
        ):
            mine.update(theirs)
        self.long_texts += other.long_texts
        self.bins = [
            [a + b for a, b in zip(mine, theirs, strict=True)]
            for mine, theirs in zip(self.bins, other.bins, strict=True)
        ]
        for heap, found in ((self._most, other._most), (self._least, other._least)):
            for worth, place, example in sorted(found, reverse=True):
                _keep(heap, worth, place - self.rows, example)
        self.rows += other.rows

    @property
    def most_certain(self) -> list[Example]:
        """Rows whose label's score is largest, the most certain first."""
        return [example for _, _, example in sorted(self._most, reverse=True)]

    @property
    def least_certain(self) -> list[Example]:
        """Rows whose label's score is smallest, the least certain first."""
        return [example for _, _, example in sorted(self._least, reverse=True)]

    def counts(self) -> dict[str, Any]:
        """Return the counts, as the receipt keeps them."""
        return {
            "rows": self.rows,
            "labels": {label: self.labels[label] for label in LABELS},
            "errors": dict(sorted(self.errors.items())),
            "warnings": dict(sorted(self.warnings.items())),
            "long_texts": self.long_texts,
        }


def code_of(written: str) -> str:
    """Return the code of an error as the score files hold it."""
    error = read_error(written)
    return "internal" if error is None else error.code


def _keep(
    heap: list[tuple[float, int, Example]], worth: float, place: int, example: Example
) -> None:
    """Add an example if it is worth more than another; of copies of one text only the first."""
    if (len(heap) == EXAMPLES and worth <= heap[0][0]) or any(
        _alike(each.scores, example.scores) for _, _, each in heap
    ):
        return
    push = heapq.heappush if len(heap) < EXAMPLES else heapq.heapreplace
    push(heap, (worth, place, example))


def _alike(left: Sequence[float], right: Sequence[float]) -> bool:
    """Say whether two rows' scores are equal, but for the small differences between batches."""
    return all(abs(a - b) < 1e-6 for a, b in zip(left, right, strict=True))
