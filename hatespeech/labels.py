"""The model's labels and the names of recommended thresholds. Imports nothing of the package."""

from __future__ import annotations

from typing import Final, Literal, get_args

Label = Literal["hate", "abusing", "neutral", "spam"]
# In the order of the model's outputs.
LABELS: Final[tuple[Label, ...]] = get_args(Label)

# Thresholds that a checkpoint may recommend; a request can ask for them by name.
ThresholdName = Literal["balanced", "strict"]
THRESHOLD_NAMES: Final[tuple[str, ...]] = get_args(ThresholdName)
