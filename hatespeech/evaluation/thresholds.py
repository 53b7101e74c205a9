"""Thresholds that a checkpoint recommends, and what a threshold finds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hatespeech.labels import FLAGS, LABELS, LABELS_OF

RECOMMENDED_FLAGS: Final = tuple(flag for flag in FLAGS if flag != "neutral")
STRICT_PRECISION: Final = 0.9
STRICT_RECALL: Final = 0.5  # a strict threshold that finds less is not recommended
THRESHOLDS_VERSION: Final = 2  # raised when they are chosen in another way
THRESHOLDS: Final = np.round(np.arange(0.01, 1.0, 0.01), 2)  # the candidates


def recommend(scores: NDArray[np.float64], labels: NDArray[np.int64]) -> dict[str, Any]:
    """Return the thresholds for ``config.json``, chosen on the dev set's ``scores``.

    ``balanced`` has the best F1 of each label and of ``toxic``. ``strict`` is the lowest threshold,
    not below ``balanced``, with a precision of ``STRICT_PRECISION``, if its recall is at least
    ``STRICT_RECALL``; otherwise there is none. A label without texts gets no threshold. A name
    without any threshold is left out.
    """
    balanced, strict = {}, {}
    for flag in RECOMMENDED_FLAGS:
        score, true = _score_and_truth(flag, scores, labels)
        if not true.any():
            continue
        flagged = score[:, None] >= THRESHOLDS
        right = (flagged & true[:, None]).sum(axis=0)
        precision = right / np.maximum(flagged.sum(axis=0), 1)
        recall = right / true.sum()
        best = int((2 * right / (flagged.sum(axis=0) + true.sum())).argmax())
        balanced[flag] = float(THRESHOLDS[best])
        good = (precision >= STRICT_PRECISION) & (recall >= STRICT_RECALL)
        good[:best] = False
        if good.any():
            strict[flag] = float(THRESHOLDS[good.argmax()])
    named = {"balanced": balanced, "strict": strict}
    return {"version": THRESHOLDS_VERSION, **{name: each for name, each in named.items() if each}}


def flagged_figures(
    scores: NDArray[np.float64], labels: NDArray[np.int64], thresholds: Mapping[str, float]
) -> dict[str, tuple[float, float]]:
    """Return precision and recall of each threshold; nan if they are undefined."""
    figures = {}
    for flag, least in thresholds.items():
        score, true = _score_and_truth(flag, scores, labels)
        flagged = score >= least
        right = float((flagged & true).sum())
        figures[flag] = (
            right / float(flagged.sum()) if flagged.any() else float("nan"),
            right / float(true.sum()) if true.any() else float("nan"),
        )
    return figures


def _score_and_truth(
    flag: str, scores: NDArray[np.float64], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each text's score for a label or ``toxic``, and whether its label says so."""
    meant = [LABELS.index(name) for name in LABELS_OF[flag]]
    return scores[:, meant].sum(axis=1), np.isin(labels, meant)
