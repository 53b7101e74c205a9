"""The labels of the model and the names of its recommended thresholds. The ground floor."""

from __future__ import annotations

from typing import Final, Literal, get_args

Label = Literal["hate", "abusing", "neutral", "spam"]
# In the order of the model's outputs.
LABELS: Final[tuple[Label, ...]] = get_args(Label)

# Thresholds that a checkpoint may recommend. A request asks for them by name.
ThresholdName = Literal["balanced", "strict"]
THRESHOLD_NAMES: Final[tuple[str, ...]] = get_args(ThresholdName)
