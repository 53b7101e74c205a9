"""Groups of texts: whose are called toxic wrongly, and whose are missed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hatespeech.evaluation.figures import macro_f1
from hatespeech.evaluation.intervals import Estimate, share
from hatespeech.evaluation.labelled import Labelled
from hatespeech.evaluation.truths import FLAG_BITS, Truths, decided, indices

SHOWN_GROUPS: Final = 40  # of a column, the largest
SHOWN_GAPS: Final = 5
GAP_TEXTS: Final = 20  # a group with fewer texts of a kind has no gap worth a name


@dataclass(frozen=True)
class GroupResult:
    """The figures of one group of texts."""

    column: str
    group: str
    texts: int
    accuracy: float
    macro_f1: float | None  # over the labels that the group has; None without the four labels
    false_positives: Estimate  # share of the texts that are not of the flag
    false_negatives: Estimate  # share of those that are


@dataclass(frozen=True)
class Gap:
    """A group whose errors are more frequent than those of the other texts."""

    column: str
    group: str
    errors: str  # "false positives" or "false negatives"
    group_share: Estimate
    others_share: Estimate
    apart: bool  # the two intervals do not overlap


def group_results(
    labelled: Labelled, predicted: NDArray[np.int64], flag: str, columns: Sequence[str]
) -> tuple[list[GroupResult], dict[str, int]]:
    """Return the figures of each column's largest groups, and how many groups are left out."""
    found: list[GroupResult] = []
    left_out = {}
    for column in columns:
        values = _names(labelled, column)
        names, sizes = np.unique(values, return_counts=True)
        largest = sorted(sorted(zip(-sizes, names, strict=True))[:SHOWN_GROUPS], key=lambda x: x[1])
        if len(names) > SHOWN_GROUPS:
            left_out[column] = len(names) - SHOWN_GROUPS
        for _, name in largest:
            rows = values == name
            single = indices(labelled.truths[rows])
            right = (1 << predicted[rows]) & labelled.truths[rows] != 0
            positives, negatives = _errors(labelled.truths[rows], predicted[rows], flag)
            found.append(
                GroupResult(
                    column,
                    str(name),
                    int(rows.sum()),
                    float(right.mean()),
                    None if single is None else macro_f1(single, predicted[rows]),
                    share(*positives),
                    share(*negatives),
                )
            )
    return found, left_out


def _names(labelled: Labelled, column: str) -> NDArray[np.str_]:
    values = labelled.columns[column]
    return np.array(["(none)" if value in (None, "") else str(value) for value in values])


def _errors(
    truths: Truths, predicted: NDArray[np.int64], flag: str
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return false positives of how many, and false negatives of how many."""
    of, apart = decided(truths, flag)
    called = ((1 << predicted) & FLAG_BITS[flag]) != 0
    wrong, missed = int((apart & called).sum()), int((of & ~called).sum())
    return (wrong, int(apart.sum())), (missed, int(of.sum()))


def find_gaps(
    labelled: Labelled, predicted: NDArray[np.int64], flag: str, groups: Sequence[GroupResult]
) -> list[Gap]:
    """Return the largest gaps of each column: groups with more errors than all other texts."""
    found: list[tuple[float, Gap]] = []
    for each in groups:
        rows = _names(labelled, each.column) == each.group
        inside = _errors(labelled.truths[rows], predicted[rows], flag)
        outside = _errors(labelled.truths[~rows], predicted[~rows], flag)
        names = ("false positives", "false negatives")
        for name, (hits, total), others in zip(names, inside, outside, strict=True):
            if total < GAP_TEXTS or others[1] < GAP_TEXTS:
                continue
            one, rest = share(hits, total), share(*others)
            difference = hits / total - others[0] / others[1]
            if difference > 0:
                apart = (one.low or 0.0) > (rest.high or 1.0)
                found.append((difference, Gap(each.column, each.group, name, one, rest, apart)))
    found.sort(key=lambda pair: -pair[0])
    return [gap for _, gap in found[:SHOWN_GAPS]]
