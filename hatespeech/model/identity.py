"""What a checkpoint folder's ``config.json`` says of the model, read without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from hatespeech.labels import FLAGS, THRESHOLD_NAMES
from hatespeech.text.normalizer import NORMALIZER_VERSION

WEIGHTS: Final = "model.safetensors"
TOKENIZER: Final = "tokenizer.json"
CONFIG: Final = "config.json"


def model_id_of(name: str, sha256: Mapping[str, str]) -> str:
    """Return ``name@`` and 12 hex digits over weights, tokenizer and the normaliser's version."""
    parts = "\n".join((sha256[WEIGHTS], sha256[TOKENIZER], NORMALIZER_VERSION))
    return f"{name}@{hashlib.sha256(parts.encode()).hexdigest()[:12]}"


def thresholds_of(values: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the named thresholds among ``values``, which also holds their version.

    Raises :class:`ValueError` for an unknown name or a number that is not from 0 to 1.
    """
    if not isinstance(values, dict):
        raise ValueError("thresholds must be an object")
    named = {name: values[name] for name in THRESHOLD_NAMES if name in values}
    for name, thresholds in named.items():
        if not isinstance(thresholds, dict) or not thresholds.keys() <= set(FLAGS):
            raise ValueError(f"thresholds.{name} must hold numbers for {', '.join(FLAGS)}")
        for value in thresholds.values():
            if type(value) not in (int, float) or not 0 <= value <= 1:
                raise ValueError(f"thresholds.{name} must hold numbers from 0 to 1")
    return named


def find_thresholds(model_id: str, folders: Iterable[Path]) -> dict[str, dict[str, float]] | None:
    """Return what a model recommends, by its folder; ``None`` if none of the folders is its own."""
    for folder in folders:
        try:
            config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
            if model_id_of(config["name"], config["sha256"]) == model_id:
                return thresholds_of(config.get("thresholds", {}))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue  # not a checkpoint; loading it would say why
    return None
