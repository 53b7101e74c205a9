"""Thresholds for a wish: chosen on one half of the texts, measured on the other."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hatespeech.bulk import RunError
from hatespeech.evaluation.intervals import Estimate, share
from hatespeech.evaluation.labelled import Labelled
from hatespeech.evaluation.results import flag_scores, halves
from hatespeech.evaluation.scoring import Scores
from hatespeech.evaluation.thresholds import THRESHOLDS
from hatespeech.evaluation.truths import decided
from hatespeech.labels import THRESHOLD_NAMES
from hatespeech.named_thresholds import NAME, version_of

LEAST_FLAGGED: Final = 10  # a precision of fewer texts promises nothing


@dataclass(frozen=True)
class Wish:
    """What a threshold shall do; exactly one of the wishes is set."""

    precision: float | None = None
    recall: float | None = None
    reviews: float | None = None  # the share of all texts that a person can look at
    cost: tuple[float, float] | None = None  # of a false positive, and of a false negative

    def __str__(self) -> str:
        if self.cost is not None:
            return (
                f"least cost, {self.cost[0]:g} a false positive, {self.cost[1]:g} a false negative"
            )
        if self.reviews is not None:
            return f"at most {self.reviews:.2%} of the texts for review"
        if self.recall is not None:
            return f"recall {self.recall:g}"
        return f"precision {self.precision:g}"


@dataclass(frozen=True)
class Choice:
    """A threshold, and what it does on the half that it was not chosen on."""

    flag: str
    threshold: float | None  # None if no threshold does what was wished
    chosen_on: int  # texts
    measured_on: int
    precision: Estimate
    recall: Estimate
    flagged: Estimate  # share of the texts
    cost: float | None  # for each 1,000 texts, if the wish has costs
    kept: bool | None  # the interval reaches what was wished; None if nothing was promised


def choose(labelled: Labelled, scores: Scores, wish: Wish, flags: Sequence[str]) -> list[Choice]:
    """Return the threshold of each flag."""
    first = halves(labelled)
    found = []
    for flag in flags:
        positive, negative = decided(labelled.truths, flag)
        counted = positive | negative
        values = flag_scores(scores, flag)
        here, there = first & counted, ~first & counted
        threshold = best_threshold(values[here], positive[here], wish)
        found.append(
            _measured(flag, threshold, int(here.sum()), values[there], positive[there], wish)
        )
    return found


def best_threshold(
    values: NDArray[np.float64], true: NDArray[np.bool_], wish: Wish
) -> float | None:
    """Return the candidate that does what is wished and finds the most, or the most rightly."""
    flagged = values[:, None] >= THRESHOLDS
    right = (flagged & true[:, None]).sum(axis=0)
    count = flagged.sum(axis=0)
    if wish.cost is not None:
        positive, negative = wish.cost
        costs = positive * (count - right) + negative * (true.sum() - right)
        return float(THRESHOLDS[costs.argmin()])
    if wish.recall is not None:  # the highest that still finds so many: the surest
        good = right >= wish.recall * true.sum()
        return float(THRESHOLDS[good][-1]) if good.any() else None
    if wish.reviews is not None:
        good = count <= wish.reviews * len(values)
    else:
        good = (count >= LEAST_FLAGGED) & (right >= (wish.precision or 0) * count)
    return float(THRESHOLDS[good][0]) if good.any() else None


def _measured(
    flag: str,
    threshold: float | None,
    chosen_on: int,
    values: NDArray[np.float64],
    true: NDArray[np.bool_],
    wish: Wish,
) -> Choice:
    none = Estimate(None)
    if threshold is None:
        return Choice(flag, None, chosen_on, len(values), none, none, none, None, None)
    flagged = values >= threshold
    right, count = int((flagged & true).sum()), int(flagged.sum())
    precision, recall = share(right, count), share(right, int(true.sum()))
    reviewed = share(count, len(values))
    cost = kept = None
    if wish.cost is not None:
        missed = int(true.sum()) - right
        cost = 1000 * (wish.cost[0] * (count - right) + wish.cost[1] * missed) / len(values)
    elif wish.reviews is not None:
        kept = reviewed.low is not None and reviewed.low <= wish.reviews
    elif wish.recall is not None:
        kept = recall.high is not None and recall.high >= wish.recall
    elif wish.precision is not None:
        kept = precision.high is not None and precision.high >= wish.precision
    return Choice(flag, threshold, chosen_on, len(values), precision, recall, reviewed, cost, kept)


def require_name(path: Path) -> None:
    """Raise :class:`RunError` if a request could not send a file's name as its thresholds'."""
    if re.fullmatch(NAME, path.stem) is None or path.stem in THRESHOLD_NAMES:
        raise RunError(
            f"--write-thresholds {path}: the file's name names the thresholds: small letters, "
            f"digits, - and _, a letter first, and not {' or '.join(THRESHOLD_NAMES)}"
        )


def write_thresholds(
    path: Path, choices: Sequence[Choice], wish: Wish, model: str | None, labelled: Labelled
) -> dict[str, Any]:
    """Write the file that ``THRESHOLDS_FILE`` takes; return its content.

    The name of the thresholds is the file's, which :func:`require_name` has checked. Raises
    :class:`RunError` if there is no threshold, or no model to write it for.
    """
    numbers = {each.flag: each.threshold for each in choices if each.threshold is not None}
    if not numbers:
        raise RunError(f"--write-thresholds {path}: no threshold does what was wished")
    if model is None:
        raise RunError(f"--write-thresholds {path}: the scores do not say which model gave them")
    content = {
        "name": path.stem,
        "version": version_of(numbers, model),
        "model": model,
        "thresholds": numbers,
        "wish": str(wish),
        "data": {"sha256": labelled.sha256, "rows": len(labelled)},
        "measured": {each.flag: asdict(each) for each in choices},
    }
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return content
