"""Calibrated probabilities, and recommended thresholds.

A trained network is more confident than it is accurate. Dividing its logits by one number, the
temperature, corrects most of that (Guo and others 2017, https://arxiv.org/abs/1706.04599). Training
also weighs rare labels more and adds texts of its own, so the network predicts some labels more
often than they occur; one number for each label, added to its logit, corrects that. All five are
fitted on the dev set and folded into the head's last layer, so the checkpoint's format does not
change. Of the biases only that share is applied which predicts the labels best: the whole of them
hides rare labels.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.optimize import minimize  # type: ignore[import-untyped]  # ships no types
from scipy.special import log_softmax, softmax  # type: ignore[import-untyped]  # nor here
from torch import Tensor

from hatespeech.labels import FLAGS, LABELS
from hatespeech.training.evaluation import macro_f1

Logits = NDArray[np.float32]  # [texts, labels]
Labels = NDArray[np.int64]  # [texts]

BINS: Final = 15
TEMPERATURES: Final = (0.25, 4.0)  # range of the search
BIAS_SHARES: Final = (0.0, 0.25, 0.5, 0.75, 1.0)  # of equally good ones, the smallest
RECOMMENDED_FLAGS: Final = tuple(flag for flag in FLAGS if flag != "neutral")
STRICT_PRECISION: Final = 0.9
STRICT_RECALL: Final = 0.5  # a strict threshold that finds less is not recommended
THRESHOLDS_VERSION: Final = 2  # raised when they are chosen in another way
THRESHOLDS: Final = np.round(np.arange(0.01, 1.0, 0.01), 2)  # the candidates


@dataclass(frozen=True)
class Calibration:
    """The temperature, the labels' biases, and the expected calibration error (0 to 1) on dev."""

    temperature: float
    biases: tuple[float, ...]  # added to the divided logits
    dev_before: float
    dev_after: float

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
    start = np.array([1.0, *(0.0 for _ in LABELS)])
    found = minimize(loss, start, bounds=[factors, *((None, None) for _ in LABELS)]).x
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
        dev_before=expected_calibration_error(logits, labels),
        dev_after=expected_calibration_error(calibration.apply(logits), labels),
    )


def probabilities(logits: Logits) -> NDArray[np.float64]:
    """Return scores ``[texts, labels]``, rows summing to 1."""
    scores: NDArray[np.float64] = softmax(logits.astype(np.float64), axis=1)
    return scores


def fold(state: Mapping[str, Tensor], calibration: Calibration) -> dict[str, Tensor]:
    """Return a state dict whose logits are those of ``state``, calibrated."""
    weight, bias = state["linear2.weight"], state["linear2.bias"]
    added = torch.tensor(calibration.biases, dtype=bias.dtype, device=bias.device)
    return {
        **state,
        "linear2.weight": weight / calibration.temperature,
        "linear2.bias": bias / calibration.temperature + added,
    }


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


def draw_reliability(before: Logits, after: Logits, labels: Labels, path: Path) -> None:
    """Draw accuracy over confidence, before and after calibration, as a small PNG."""
    figure = Figure(figsize=(4.2, 3.8), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="dotted")
    for logits, name, style in ((before, "before", "--"), (after, "after", "-")):
        confidence, accuracy, _ = reliability(logits, labels)
        error = expected_calibration_error(logits, labels)
        axes.plot(
            confidence, accuracy, style, marker="o", markersize=3, label=f"{name}: {error:.3f}"
        )
    axes.set(xlim=(0.2, 1), ylim=(0.2, 1), xlabel="confidence", ylabel="accuracy")
    axes.legend(title="expected calibration error", fontsize=8, title_fontsize=8)
    figure.savefig(path, metadata={"Software": None})


def recommend(scores: NDArray[np.float64], labels: Labels) -> dict[str, Any]:
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
    scores: NDArray[np.float64], labels: Labels, thresholds: Mapping[str, float]
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
    flag: str, scores: NDArray[np.float64], labels: Labels
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return each text's score for a label or ``toxic``, and whether its label says so."""
    names = ("hate", "abusing") if flag == "toxic" else (flag,)
    meant = [LABELS.index(name) for name in LABELS if name in names]
    return scores[:, meant].sum(axis=1), np.isin(labels, meant)
