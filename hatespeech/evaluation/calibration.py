"""Calibrated probabilities: the temperature, the biases, and how far they are off.

A trained network is more confident than it is accurate. Dividing its logits by one number, the
temperature, corrects most of that (Guo and others 2017, https://arxiv.org/abs/1706.04599). Training
also weighs rare labels more and adds texts of its own, so the network predicts some labels more
often than they occur; one number for each label, added to its logit, corrects that. Of the biases
only that share is applied which predicts the labels best: the whole of them hides rare labels.
Training folds both into the head's last layer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]  # ships no types
from scipy.special import log_softmax, softmax  # type: ignore[import-untyped]  # nor here

from hatespeech.evaluation.figures import macro_f1

Logits = NDArray[np.float32]  # [texts, labels]
Labels = NDArray[np.int64]  # [texts]

BINS: Final = 15
TEMPERATURES: Final = (0.25, 4.0)  # range of the search
BIAS_SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)  # of equally good ones, the smallest


@dataclass(frozen=True)
class Calibration:
    """The temperature, the labels' biases, and what they do to the texts they were fitted on."""

    temperature: float
    biases: tuple[float, ...]  # added to the divided logits
    error_before: float  # expected calibration error, 0 to 1
    error_after: float

    def apply(self, logits: Logits) -> Logits:
        """Return calibrated logits."""
        return np.asarray(logits / self.temperature + np.array(self.biases), dtype=np.float32)

    def undo(self, logits: Logits) -> Logits:
        """Return the logits that :meth:`apply` made into these."""
        return np.asarray((logits - np.array(self.biases)) * self.temperature, dtype=np.float32)


def calibrate(logits: Logits, labels: Labels) -> Calibration:
    """Return the temperature and the biases with the least cross-entropy.

    The biases are then scaled by the one of ``BIAS_SHARES`` with the best macro-F1.
    """
    rows = np.arange(len(labels))

    def loss(parameters: NDArray[np.float64]) -> float:
        moved = logits * parameters[0] + parameters[1:]
        return -float(log_softmax(moved, axis=1)[rows, labels].mean())

    factors = (1 / TEMPERATURES[1], 1 / TEMPERATURES[0])
    columns = range(logits.shape[1])
    start = np.array([1.0, *(0.0 for _ in columns)])
    found = minimize(loss, start, bounds=[factors, *((None, None) for _ in columns)]).x
    fitted = found[1:] - found[1:].mean()  # what all labels share changes nothing
    biases = max(
        (share * fitted for share in BIAS_SHARES),
        key=lambda part: macro_f1(labels, (logits * found[0] + part).argmax(axis=1)),
    )
    calibration = Calibration(
        round(1 / float(found[0]), 4), tuple(round(float(b), 4) for b in biases), 0.0, 0.0
    )
    return replace(
        calibration,
        error_before=expected_calibration_error(logits, labels),
        error_after=expected_calibration_error(calibration.apply(logits), labels),
    )


def probabilities(logits: Logits) -> NDArray[np.float64]:
    """Return scores ``[texts, labels]``, rows summing to 1."""
    scores: NDArray[np.float64] = softmax(logits.astype(np.float64), axis=1)
    return scores


def expected_calibration_error(logits: Logits, labels: Labels) -> float:
    """Return the mean distance between confidence and accuracy over all bins, weighted by texts."""
    confidence, accuracy, counts = reliability(logits, labels)
    return float((np.abs(confidence - accuracy) * counts).sum() / counts.sum())


def reliability(
    logits: Logits, labels: Labels
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """Return mean confidence, accuracy and number of texts of each bin that has texts.

    The confidence is the probability of the most probable label.
    """
    scores = probabilities(logits)
    confidence, right = scores.max(axis=1), scores.argmax(axis=1) == labels
    bins = np.minimum((confidence * BINS).astype(int), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    held = counts > 0
    means = [np.bincount(bins, each, BINS)[held] / counts[held] for each in (confidence, right)]
    return means[0], means[1], counts[held]
