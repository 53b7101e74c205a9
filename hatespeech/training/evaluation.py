"""Predictions of a model that is being trained, and how well it tells hate from the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tqdm import tqdm

from hatespeech.evaluation.figures import CorpusFigures, measure
from hatespeech.labels import LABELS
from hatespeech.model.network import CustomModel
from hatespeech.training.corpus import Corpus
from hatespeech.training.sequences import encode

BATCH: Final = 64


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
    logits = compute_logits(model, tokenizer, corpus.texts)
    return measure(logits, corpus.labels, corpus.sources)


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
