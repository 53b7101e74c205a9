"""A file of thresholds that someone chose for one checkpoint: evaluate.py writes it.

``THRESHOLDS_FILE`` names it. A request then asks for its thresholds by their name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from hatespeech.errors import SettingsError, ValidationError
from hatespeech.labels import THRESHOLD_NAMES, Flag

NAME = r"[a-z][a-z0-9_-]{0,31}"


class _ThresholdsFile(BaseModel):
    """What is read of the file; it also says by which data and figures it was chosen."""

    model_config = ConfigDict(strict=True)

    name: Annotated[str, Field(pattern=rf"^{NAME}$")]
    version: Annotated[str, Field(pattern=r"^[\w.-]{1,32}$")]
    model: str
    thresholds: Annotated[
        dict[Flag, Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]], Field(min_length=1)
    ]


@dataclass(frozen=True)
class NamedThresholds:
    """Thresholds with a name; the version changes whenever the numbers do."""

    name: str
    version: str
    numbers: Mapping[str, float]  # by label, or toxic

    def to_dict(self) -> dict[str, Any]:
        """Return the object that replies hold."""
        return {"name": self.name, "version": self.version, **self.numbers}

    @classmethod
    def load(cls, path: Path, model_id: str) -> Self:
        """Read a file; raise :class:`SettingsError` if it is not one, or is for another model."""
        try:
            found = _ThresholdsFile.model_validate_json(path.read_bytes())
        except OSError as exc:
            raise SettingsError(f"THRESHOLDS_FILE={path}: {exc.strerror}") from None
        except pydantic.ValidationError as exc:
            place = ".".join(str(part) for part in exc.errors(include_input=False)[0]["loc"])
            fault = f"its {place} is missing or wrong" if place else "it is not a JSON object"
            raise SettingsError(
                f"THRESHOLDS_FILE={path} is not a file of thresholds: {fault}"
            ) from None
        if found.name in THRESHOLD_NAMES:
            raise SettingsError(
                f"THRESHOLDS_FILE={path}: the name {found.name} is for what a model recommends"
            )
        if found.model != model_id:
            raise SettingsError(
                f"THRESHOLDS_FILE={path} was made for {found.model}, but this model is {model_id}; "
                "evaluate.py --write-thresholds makes one"
            )
        return cls(found.name, found.version, {str(k): v for k, v in found.thresholds.items()})


def read_thresholds(written: str) -> str | dict[str, float]:
    """Read what a command line or a form says of thresholds: a name, or ``label=number,…``.

    Labels and names are checked where requests are read. Raises :class:`ValidationError` for
    anything else.
    """
    if "=" not in written:
        return written.strip()
    found: dict[str, float] = {}
    for part in written.split(","):
        label, _, number = part.partition("=")
        try:
            found[label.strip()] = float(number)
        except ValueError:
            raise ValidationError(
                "must be a name, or label=number joined by commas", field="thresholds"
            ) from None
    return found


def version_of(numbers: Mapping[str, float], model: str) -> str:
    """Return the version of thresholds: eight digits over the numbers and the model's id."""
    parts = json.dumps([sorted(numbers.items()), model])
    return hashlib.sha256(parts.encode()).hexdigest()[:8]
