"""Accuracy, precision, recall and F1 over texts that have one of the four labels each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import (  # type: ignore[import-untyped]  # scikit-learn ships no types
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)

from hatespeech.labels import LABELS


@dataclass(frozen=True)
class ClassFigures:
    """One label's precision, recall, F1 (each 0 to 1) and number of texts."""

    precision: float
    recall: float
    f1: float
    texts: int


@dataclass(frozen=True)
class SourceFigures:
    """One source's accuracy, macro-F1 over the labels that it has, and number of texts."""

    accuracy: float
    macro_f1: float
    texts: int


@dataclass(frozen=True)
class CorpusFigures:
    """A model's figures on one corpus; ``confusion[true, predicted]`` counts texts."""

    accuracy: float
    macro_f1: float
    by_class: dict[str, ClassFigures]
    by_source: dict[str, SourceFigures]
    confusion: NDArray[np.int64]


def measure(
    scores: NDArray[np.floating], labels: Sequence[int], sources: Sequence[str]
) -> CorpusFigures:
    """Compute figures from scores or logits ``[texts, labels]``.

    Each text has a label, an index into ``LABELS``, and a source. Means leave out labels without
    texts.
    """
    true, predicted = np.array(labels), scores.argmax(axis=1)
    every = list(range(len(LABELS)))
    precision, recall, f1, counts = precision_recall_fscore_support(
        true, predicted, labels=every, zero_division=0.0
    )
    by_source = {}
    origin = np.array(sources)
    for source in sorted(set(sources)):
        rows = origin == source
        by_source[source] = SourceFigures(
            float(accuracy_score(true[rows], predicted[rows])),
            macro_f1(true[rows], predicted[rows]),
            int(rows.sum()),
        )
    return CorpusFigures(
        float(accuracy_score(true, predicted)),
        macro_f1(true, predicted),
        {
            name: ClassFigures(float(precision[i]), float(recall[i]), float(f1[i]), int(counts[i]))
            for i, name in enumerate(LABELS)
        },
        by_source,
        confusion_matrix(true, predicted, labels=every),
    )


def macro_f1(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Return the mean F1 over the labels that occur in ``labels``."""
    present = np.unique(labels)
    return float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0.0))
