"""What the summary and the report show, counted block by block.

It keeps counts, histograms and a few rows, so memory does not grow with the input. The statistics
of several files add up to those of all of them.
"""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from hatespeech.errors import read_error
from hatespeech.labels import FLAGS, LABELS

# A score is counted by the thousandths that it reaches, from 0 to 1 itself, in float32, as a
# threshold is compared.
STEPS: Final = 1000
_REACHED: Final = (np.arange(STEPS + 1) / STEPS).astype(np.float32)
EXAMPLES: Final = 10
SHOWN_CHARS: Final = 280
# Of a column to group by: distinct values that are counted, and characters kept of each.
GROUPS: Final = 1000
NAME_CHARS: Final = 100
ERROR: Final = "error"  # beside the labels, in the counts of a group

# Scores of one text may differ by as much between two runs: it stands in another batch.
PRECISION: Final = 1e-5

Scores = NDArray[np.float32]
Rounded = NDArray[np.int32]  # scores in units of PRECISION


class Columns(NamedTuple):
    """The columns of the input that the report shows."""

    id: str | None = None
    groups: Sequence[str] = ()

    @property
    def names(self) -> list[str]:
        """All of them."""
        return [*self.groups, *([self.id] if self.id is not None else [])]


NO_COLUMNS: Final = Columns()


@dataclass(frozen=True)
class Example:
    """A row for the report to show."""

    file: str  # of OUT; "" if OUT is one file
    row: int  # from 1, within that file
    scores: tuple[float, ...]  # in the order of FLAGS
    label: str
    id: str | None
    text: str | None  # only with --include-text


@dataclass(frozen=True)
class ScoredBlock:
    """Consecutive rows of one file, as they are written."""

    file: str
    first: int  # number of the first row
    scores: pa.Table  # with the columns of SCORES
    texts: Sequence[Any]
    columns: Mapping[str, Sequence[str]]  # the values of the columns that the report shows


class Ranking:
    """The rows that are worth most, of copies of a text only the first.

    Copies have the same scores when these are rounded to :data:`PRECISION`. So the rows do not
    depend on the blocks or files in which they come; now and then rounding parts two copies.
    """

    def __init__(self) -> None:
        # A heap of (worth, -place, rounded scores, row); the first one is replaced first. ``place``
        # is the number of the row among all rows, so that no two entries have the same one.
        self._heap: list[tuple[int, int, Rounded, Example]] = []

    def candidates(self, worth: Rounded, rounded: Rounded) -> Iterator[int]:
        """Yield the places of rows to add, the best first; each must be added.

        ``rounded`` has the rounded scores of the rows, in the order of FLAGS.
        """
        better = worth > self._least
        for *_, kept, _ in self._heap:
            if not better.any():
                return
            better &= (rounded != kept).any(axis=1)
        left = np.flatnonzero(better)
        while len(left):
            place = int(left[np.argmax(worth[left])])  # of equal ones the first
            if worth[place] <= self._least:
                return
            yield place
            left = left[(rounded[left] != rounded[place]).any(axis=1)]

    def add(self, worth: int, place: int, rounded: Rounded, example: Example) -> None:
        """Add a row that :meth:`candidates` named."""
        push = heapq.heappush if len(self._heap) < EXAMPLES else heapq.heapreplace
        push(self._heap, (worth, -place, rounded, example))

    def merge(self, other: Ranking, rows: int) -> None:
        """Add the rows of what comes after the first ``rows`` rows."""
        for worth, place, rounded, example in other._sorted():
            if worth <= self._least:
                return
            if all((rounded != kept).any() for *_, kept, _ in self._heap):
                self.add(worth, rows - place, rounded, example)

    @property
    def examples(self) -> list[Example]:
        """The rows, the one that is worth most first."""
        return [example for *_, example in self._sorted()]

    @property
    def _least(self) -> float:
        """What a row must be worth more than."""
        return self._heap[0][0] if len(self._heap) == EXAMPLES else -math.inf

    def _sorted(self) -> list[tuple[int, int, Rounded, Example]]:
        return sorted(self._heap, key=lambda entry: entry[:2], reverse=True)


@dataclass
class GroupCounts:
    """The rows of each value of a column, by label or error."""

    values: dict[str, Counter[str]] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)  # of values beyond the first GROUPS

    def add(self, values: Sequence[str], labels: Sequence[str]) -> None:
        """Count rows; ``labels`` has a label or ``error`` for each."""
        for (value, label), count in Counter(zip(values, labels, strict=True)).items():
            self._of(value[: NAME_CHARS + 1])[label] += count

    def merge(self, other: GroupCounts) -> None:
        """Add the rows that come after these."""
        for value, counts in other.values.items():
            self._of(value).update(counts)
        self.others.update(other.others)

    def _of(self, value: str) -> Counter[str]:
        if value not in self.values and len(self.values) == GROUPS:
            return self.others
        return self.values.setdefault(value, Counter())


@dataclass
class Statistics:
    """Counts over all rows."""

    columns: Columns = NO_COLUMNS
    keep_texts: bool = False
    rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)  # by code
    warnings: Counter[str] = field(default_factory=Counter)  # by code; a row may have several
    long_texts: int = 0  # read in several windows
    # [FLAGS, STEPS + 1]: rows by the last thousandth that their score reaches.
    bins: NDArray[np.int64] = field(
        default_factory=lambda: np.zeros((len(FLAGS), STEPS + 1), np.int64)
    )
    highest: dict[str, Ranking] = field(default_factory=lambda: {flag: Ranking() for flag in FLAGS})
    least_certain: Ranking = field(default_factory=Ranking)
    groups: dict[str, GroupCounts] = field(default_factory=dict)
    empty: Counter[str] = field(default_factory=Counter)  # rows without a value, by column

    def __post_init__(self) -> None:
        self.groups = {name: GroupCounts() for name in self.columns.groups}

    def of_next_file(self) -> Statistics:
        """Return empty statistics of the same kind, for :meth:`merge`."""
        return Statistics(self.columns, self.keep_texts)

    def add(self, block: ScoredBlock) -> None:
        """Count rows."""
        errors = block.scores["error"].to_pylist()
        labels = block.scores["label"].to_pylist()
        self.errors.update(code_of(error) for error in errors if error is not None)
        scored = np.array([error is None for error in errors], dtype=bool)
        for name, counts in self.groups.items():
            counts.add(block.columns[name], [label or ERROR for label in labels])
        self.empty.update({name: block.columns[name].count("") for name in self.columns.names})
        table = block.scores.filter(pa.array(scored))
        self.labels.update(label for label in labels if label is not None)
        for warnings in table["warnings"].drop_null().to_pylist():
            self.warnings.update(warnings.split(","))
        self.long_texts += pc.sum(pc.greater(table["windows"], 1)).as_py() or 0
        scores = np.column_stack([table[flag].to_numpy() for flag in FLAGS])
        for counts_of_flag, values in zip(self.bins, scores.T, strict=True):
            reached = np.searchsorted(_REACHED, values, side="right") - 1
            counts_of_flag += np.bincount(reached, minlength=STEPS + 1)
        places = np.flatnonzero(scored)
        rounded = np.rint(scores / PRECISION).astype(np.int32)
        certainty = rounded[:, : len(LABELS)].max(axis=1, initial=0)
        rankings = [*zip(self.highest.values(), rounded.T, strict=True)]
        for ranking, worth in [*rankings, (self.least_certain, -certainty)]:
            for place in ranking.candidates(worth, rounded):
                index = int(places[place])
                example = self._example(block, index, scores[place], labels[index])
                ranking.add(int(worth[place]), self.rows + index, rounded[place], example)
        self.rows += len(errors)

    def merge(self, other: Statistics) -> None:
        """Add the statistics of the rows that come after these."""
        self.labels.update(other.labels)
        self.errors.update(other.errors)
        self.warnings.update(other.warnings)
        self.long_texts += other.long_texts
        self.bins += other.bins
        for flag, ranking in self.highest.items():
            ranking.merge(other.highest[flag], self.rows)
        self.least_certain.merge(other.least_certain, self.rows)
        for name, counts in self.groups.items():
            counts.merge(other.groups[name])
        self.empty.update(other.empty)
        self.rows += other.rows

    @property
    def scored(self) -> int:
        """Number of rows that have scores."""
        return self.rows - self.errors.total()

    def flagged(self, flag: str) -> NDArray[np.int64]:
        """Return the number of rows that reach each threshold: 0, 0.001, 0.002 … 1."""
        found: NDArray[np.int64] = self.bins[FLAGS.index(flag)][::-1].cumsum()[::-1]
        return found

    def counts(self) -> dict[str, Any]:
        """Return the counts, as the receipt keeps them."""
        return {
            "rows": self.rows,
            "labels": {label: self.labels[label] for label in LABELS},
            "errors": dict(sorted(self.errors.items())),
            "warnings": dict(sorted(self.warnings.items())),
            "long_texts": self.long_texts,
        }

    def _example(self, block: ScoredBlock, index: int, scores: Scores, label: str) -> Example:
        identity = self.columns.id
        return Example(
            block.file,
            block.first + index,
            tuple(scores.tolist()),
            label,
            None if identity is None else block.columns[identity][index][: NAME_CHARS + 1],
            str(block.texts[index])[: SHOWN_CHARS + 1] if self.keep_texts else None,
        )


def code_of(written: str) -> str:
    """Return the code of an error as the score files hold it."""
    error = read_error(written)
    return "internal" if error is None else error.code
