"""How far annotators agree with each other: the ceiling of what a model can be measured by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hatespeech.evaluation.truths import Truths


@dataclass(frozen=True)
class Agreement:
    """Figures over the texts that at least two annotators labelled."""

    annotators: int
    texts: int
    alpha: float | None  # Krippendorff's; None if all labels are one
    all_agree: float  # share of texts
    ties: int  # texts without a majority, which count for no other figure
    annotator_and_others: float | None  # share of labels that are the others' majority
    model_and_others: float | None  # how often the model is, by the same majorities


def majority(labels: Sequence[int]) -> int:
    """Return the most frequent label, 0 if there is none or if two are."""
    counted = Counter(label for label in labels if label).most_common(2)
    if not counted or (len(counted) == 2 and counted[0][1] == counted[1][1]):
        return 0
    return counted[0][0]


def majorities(annotations: NDArray[np.uint8]) -> Truths:
    """Return the majority of each row of ``[texts, annotators]``."""
    return np.array([majority(row) for row in annotations.tolist()], dtype=np.uint8)


def agreement(annotations: NDArray[np.uint8], predicted: NDArray[np.int64]) -> Agreement | None:
    """Return the agreement over ``[texts, annotators]``; ``None`` if no text has two labels.

    ``predicted`` is the index of the model's label.
    """
    held = (annotations != 0).sum(axis=1) > 1
    rows, answers = annotations[held], predicted[held]
    if not len(rows):
        return None
    theirs: list[bool] = []
    models: list[bool] = []
    for labels, answer in zip(rows.tolist(), answers.tolist(), strict=True):
        for index, label in enumerate(labels):
            others = majority([*labels[:index], *labels[index + 1 :]])
            if label and others:
                theirs.append(label == others)
                models.append(bool((1 << answer) & others))
    return Agreement(
        annotations.shape[1],
        len(rows),
        krippendorff_alpha(rows),
        float(np.mean([len({label for label in row if label}) == 1 for row in rows.tolist()])),
        int((majorities(rows) == 0).sum()),
        float(np.mean(theirs)) if theirs else None,
        float(np.mean(models)) if models else None,
    )


def krippendorff_alpha(annotations: NDArray[np.uint8]) -> float | None:
    """Return Krippendorff's alpha for nominal labels, where 0 is a missing one.

    After K. Krippendorff, *Computing Krippendorff's Alpha-Reliability* (2011), section C: 1 is full
    agreement, 0 what chance gives. ``None`` if all labels are one, for which it is not defined.
    """
    values = np.unique(annotations[annotations != 0])
    counts = np.stack([(annotations == value).sum(axis=1) for value in values], axis=1)
    totals = counts.sum(axis=1)
    counts, totals = counts[totals > 1], totals[totals > 1]
    # Pairs of labels of one text, weighted so that each label counts once.
    pairs = (counts / (totals - 1)[:, None]).T @ counts
    pairs -= np.diag((counts / (totals - 1)[:, None]).sum(axis=0))
    sums = pairs.sum(axis=0)
    whole = sums.sum()
    expected = (whole**2 - (sums**2).sum()) / (whole - 1)
    if expected <= 0:
        return None
    return float(1 - (whole - np.trace(pairs)) / expected)
