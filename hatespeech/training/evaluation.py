"""Predictions, the figures of a model card, and the picture of the confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn.metrics import (  # type: ignore[import-untyped]  # scikit-learn ships no types
    accuracy_score,
    confusion_matrix,
    f1_score,
    precision_recall_fscore_support,
)
from tokenizers import Tokenizer
from tqdm import tqdm

from hatespeech.labels import LABELS
from hatespeech.model.network import CustomModel
from hatespeech.training.corpus import Corpus
from hatespeech.training.sequences import encode

BATCH: Final = 64


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


@torch.inference_mode()
def compute_logits(
    model: CustomModel, tokenizer: Tokenizer, texts: Sequence[str], doing: str = "evaluating"
) -> NDArray[np.float32]:
    """Return logits ``[texts, labels]``, computed in the model's own data type.

    Puts the model into evaluation mode. ``doing`` is the text of the progress bar.
    """
    model.eval()
    ids = encode(tokenizer, texts)
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    logits = np.zeros((len(ids), len(LABELS)), dtype=np.float32)
    for start in tqdm(range(0, len(order), BATCH), desc=doing, leave=False, disable=None):
        part = order[start : start + BATCH]
        logits[part] = model.forward_sequences([ids[i] for i in part]).float().cpu().numpy()
    return logits


def evaluate(model: CustomModel, tokenizer: Tokenizer, corpus: Corpus) -> CorpusFigures:
    """Return the model's figures on a corpus."""
    return measure(compute_logits(model, tokenizer, corpus.texts), corpus)


def measure(logits: NDArray[np.float32], corpus: Corpus) -> CorpusFigures:
    """Compute figures from a corpus's logits; means leave out labels without texts."""
    labels, predicted, sources = np.array(corpus.labels), logits.argmax(axis=1), corpus.sources
    every = list(range(len(LABELS)))
    precision, recall, f1, counts = precision_recall_fscore_support(
        labels, predicted, labels=every, zero_division=0.0
    )
    by_source = {}
    origin = np.array(sources)
    for source in sorted(set(sources)):
        rows = origin == source
        by_source[source] = SourceFigures(
            float(accuracy_score(labels[rows], predicted[rows])),
            macro_f1(labels[rows], predicted[rows]),
            int(rows.sum()),
        )
    return CorpusFigures(
        float(accuracy_score(labels, predicted)),
        macro_f1(labels, predicted),
        {
            name: ClassFigures(float(precision[i]), float(recall[i]), float(f1[i]), int(counts[i]))
            for i, name in enumerate(LABELS)
        },
        by_source,
        confusion_matrix(labels, predicted, labels=every),
    )


def macro_f1(labels: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    """Return the mean F1 over the labels that occur in ``labels``."""
    present = np.unique(labels)
    return float(f1_score(labels, predicted, labels=present, average="macro", zero_division=0.0))


@dataclass(frozen=True)
class FunctionalFigures:
    """How well hate is told from the rest on invented texts; shares from 0 to 1."""

    texts: int
    balanced_accuracy: float  # mean of the recall of hate and the recall of the rest
    hate_found: float
    neutral_called_hate: float
    abusing_called_hate: float


def functional_figures(metrics: CorpusFigures) -> FunctionalFigures:
    """Return the figures about hate, from those on the invented texts."""
    hate, others = LABELS.index("hate"), [i for i, label in enumerate(LABELS) if label != "hate"]
    called, totals = metrics.confusion[:, hate], metrics.confusion.sum(axis=1)
    found = float(called[hate] / totals[hate])
    wrong = float(called[others].sum() / totals[others].sum())
    shares = dict(zip(LABELS, called / np.maximum(totals, 1), strict=True))
    return FunctionalFigures(
        int(totals.sum()),
        (found + 1 - wrong) / 2,
        found,
        float(shares["neutral"]),
        float(shares["abusing"]),
    )


def draw_confusion(confusion: NDArray[np.int64], path: Path) -> None:
    """Draw the confusion matrix as a small PNG; a row shows shares of one true label."""
    totals = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(totals, 1)
    figure = Figure(figsize=(4.2, 3.8), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(LABELS)), LABELS)
    axes.set_yticks(range(len(LABELS)), LABELS)
    axes.set_xlabel("predicted")
    axes.set_ylabel("labelled")
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.5 else "black"
        text = f"{share:.0%}\n{confusion[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    figure.savefig(path, metadata={"Software": None})
