"""Names: labels, what a threshold may be set for, thresholds, ways to explain, warnings.

Imports nothing of the package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, get_args

Label = Literal["hate", "abusing", "neutral", "spam"]
# In the order of the model's outputs.
LABELS: Final[tuple[Label, ...]] = get_args(Label)

# What a threshold may be set for: a label, or ``toxic``, which is a score but not a label.
Flag = Literal["hate", "abusing", "neutral", "spam", "toxic"]
FLAGS: Final[tuple[Flag, ...]] = get_args(Flag)

# The labels whose probabilities add up to each of them.
LABELS_OF: Final[Mapping[str, tuple[Label, ...]]] = {
    **{label: (label,) for label in LABELS},
    "toxic": ("hate", "abusing"),
}

# Thresholds that a checkpoint may recommend; a request can ask for them by name.
THRESHOLD_NAMES: Final = ("balanced", "strict")

# Ways to explain a score by its words.
Explanation = Literal["shapley", "leave_one_out"]
EXPLANATIONS: Final[tuple[Explanation, ...]] = get_args(Explanation)

# Why the scores of a text may mean nothing, in the order in which replies name them.
WarningCode = Literal["unread", "language"]
WARNINGS: Final[tuple[WarningCode, ...]] = get_args(WarningCode)
