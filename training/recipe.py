"""Hyper-parameters, and the one error training shows to people."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MINI_ENCODER: Final = "mini"
MAX_TOKENS: Final = 512  # the longest sequence RoBERTa reads, <s> and </s> included


class TrainingError(Exception):
    """Training cannot start or go on; one line that names file, line or field, never a text."""


@dataclass(frozen=True)
class Recipe:
    """Everything but the data that decides what the weights become."""

    seed: int
    epochs: int
    patience: int  # epochs without a better dev macro-F1 after which fine-tuning ends
    batch_size: int  # texts per optimiser step
    learning_rate: float
    class_weights: tuple[float, ...] | None  # None: from the training set's label counts
    pretrain_epochs: int  # of masked-language modelling over the same texts, before fine-tuning
    pretrain_learning_rate: float
    long_share: float  # long texts made from short ones, per text of the training set
    token_dropout: float  # share of tokens replaced by <mask> while fine-tuning
    warmup: float = 0.06  # share of the steps
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    mask_share: float = 0.2  # tokens hidden in masked-language modelling
    joined_share: float = 0.1  # texts that pre-training sees joined into long ones
    class_weight_power: float = 0.3  # weight = (relative label frequency) ** -power


MINI: Final = Recipe(
    seed=13,
    epochs=3,
    patience=2,
    batch_size=64,
    learning_rate=5e-4,
    class_weights=None,
    pretrain_epochs=3,
    pretrain_learning_rate=1e-3,
    long_share=0.015,
    token_dropout=0.1,
)

# A pre-trained encoder knows all of its positions and needs neither pre-training nor long texts.
PRETRAINED: Final = Recipe(
    seed=13,
    epochs=4,
    patience=2,
    batch_size=32,
    learning_rate=1e-5,
    class_weights=None,
    pretrain_epochs=0,
    pretrain_learning_rate=0.0,
    long_share=0.0,
    token_dropout=0.0,
)
