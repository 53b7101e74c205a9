"""Our scores beside another service's: what a migration needs to know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata, spearmanr  # type: ignore[import-untyped]  # ships no types
from sklearn.metrics import cohen_kappa_score, roc_auc_score  # type: ignore[import-untyped]  # nor

from hatespeech.bulk import RunError
from hatespeech.evaluation.intervals import Estimate, share
from hatespeech.evaluation.labelled import Labelled
from hatespeech.evaluation.results import SHOWN_CHARS, flag_scores, halves
from hatespeech.evaluation.scoring import Scores
from hatespeech.evaluation.thresholds import THRESHOLDS
from hatespeech.evaluation.truths import NAMES, decided

SHOWN: Final = 20


@dataclass(frozen=True)
class Disagreement:
    """A text that the two rank differently."""

    file: str
    row: int
    ours: float
    theirs: float
    truth: str | None
    text: str | None  # only with --include-text


@dataclass(frozen=True)
class Comparison:
    """How the two agree, over the texts that both scored."""

    name: str
    flag: str  # which of our scores is compared
    texts: int
    rank_correlation: float | None  # Spearman's; None if one of the two is constant
    our_area: float | None  # under the ROC curve, by the labels; None without labels of both kinds
    their_area: float | None
    their_threshold: float
    our_threshold: float | None  # that reproduces their decisions best; None if they decide alike
    agree: Estimate  # share of equal decisions, on the half that it was not chosen on
    kappa: float | None  # Cohen's, there
    disagreements: list[Disagreement]


def other_scores(values: Sequence[Any], name: str, source: str) -> NDArray[np.float64]:
    """Return another service's scores, NaN for a missing one.

    Raises :class:`RunError` for a value that is not a number.
    """
    found = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        if value is None or value == "":
            continue
        try:
            found[row] = float(value)
        except (TypeError, ValueError):
            raise RunError(f"{source}: column {name}, row {row + 1}: must be a number") from None
    return found


def compare(
    rows: Labelled,
    scores: Scores,
    theirs: NDArray[np.float64],
    name: str,
    flag: str,
    their_threshold: float,
    include_text: bool,
) -> Comparison:
    """Compare our score of ``flag`` with theirs; every row has both."""
    ours = flag_scores(scores, flag)
    positive, negative = decided(rows.truths, flag)
    labelled = positive | negative
    both_kinds = bool(positive.any() and negative.any())
    varied = len(set(ours)) > 1 and len(set(theirs)) > 1
    decisions = theirs >= their_threshold
    first = halves(rows)
    least = reproducing(ours[first], decisions[first])
    same, kappa = Estimate(None), None
    if least is not None and (~first).any():
        equal = (ours[~first] >= least) == decisions[~first]
        same = share(int(equal.sum()), len(equal))
        if decisions[~first].any() and not decisions[~first].all():
            kappa = float(cohen_kappa_score(ours[~first] >= least, decisions[~first]))
    return Comparison(
        name,
        flag,
        len(rows),
        float(spearmanr(ours, theirs).statistic) if varied else None,
        float(roc_auc_score(positive[labelled], ours[labelled])) if both_kinds else None,
        float(roc_auc_score(positive[labelled], theirs[labelled])) if both_kinds else None,
        their_threshold,
        least,
        same,
        kappa,
        _disagreements(rows, ours, theirs, include_text),
    )


def comparison_lines(found: Comparison) -> list[str]:
    """Return the comparison in a few sentences."""
    lines = []
    if found.rank_correlation is not None:
        lines.append(
            f"{found.flag} and {found.name} rank {found.texts:,} texts with a correlation of "
            f"{found.rank_correlation:.3f} (Spearman)"
        )
    if found.our_area is not None:
        lines.append(
            f"area under the ROC curve: {found.our_area:.3f} ours, {found.their_area:.3f} theirs"
        )
    if found.our_threshold is None:
        lines.append(f"at {found.their_threshold:g} they decide every text alike")
    else:
        lines.append(
            f"{found.flag} from {found.our_threshold:g} decides like {found.name} from "
            f"{found.their_threshold:g} in {found.agree} of the other half"
        )
    return lines


def reproducing(ours: NDArray[np.float64], decisions: NDArray[np.bool_]) -> float | None:
    """Return the threshold that decides most texts as they do; ``None`` if they decide all alike.

    Of equally good ones it is the middle.
    """
    if decisions.all() or not decisions.any():
        return None
    equal = ((ours[:, None] >= THRESHOLDS) == decisions[:, None]).sum(axis=0)
    best = np.flatnonzero(equal == equal.max())
    return float(THRESHOLDS[best[len(best) // 2]])


def _disagreements(
    rows: Labelled, ours: NDArray[np.float64], theirs: NDArray[np.float64], include_text: bool
) -> list[Disagreement]:
    """Return the texts whose ranks differ most, copies of a text once."""
    apart = np.abs(rankdata(ours) - rankdata(theirs))
    found: dict[str, Disagreement] = {}
    for place in np.argsort(-apart, kind="stable"):
        text = rows.texts[place]
        if len(found) == SHOWN or not apart[place]:
            break
        found.setdefault(
            text,
            Disagreement(
                rows.files[place],
                rows.rows[place],
                float(ours[place]),
                float(theirs[place]),
                NAMES.get(int(rows.truths[place])),
                text[:SHOWN_CHARS] if include_text else None,
            ),
        )
    return list(found.values())
