"""What ``--thresholds`` asks for: numbers, or the name of those that the model recommends."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from hatespeech.bulk import RunError
from hatespeech.contract import parse_request
from hatespeech.errors import ServiceError
from hatespeech.named_thresholds import NamedThresholds, read_thresholds
from hatespeech.settings import EngineSettings

OPTION: Final = "--thresholds"


def asked_thresholds(given: str, settings: EngineSettings, local_model: bool) -> dict[str, Any]:
    """Return thresholds as replies have them: numbers by label or ``toxic``, and any name.

    ``local_model`` says whether the model is on this machine, which then knows the names. Raises
    :class:`RunError`, and the errors of a checkpoint that can't be read.
    """
    try:
        request = parse_request({"text": "any", "thresholds": read_thresholds(given)}, settings)
        if request.wanted is None:
            return dict(request.thresholds or {})
        if not local_model:
            raise RunError(
                f"{OPTION}: the model is not on this machine; give numbers, such as hate=0.7"
            )
        named = request.resolve(_by_name(settings)).named
    except ServiceError as error:
        label = (error.field or "").removeprefix("thresholds").removeprefix(".")
        raise RunError(f"{OPTION}: {f'{label} ' if label else ''}{error.message}") from None
    return named.to_dict() if named else {}


def _by_name(settings: EngineSettings) -> Mapping[str, NamedThresholds]:
    from hatespeech.engine.predictor import choose_folder, named_thresholds, own_thresholds
    from hatespeech.model.checkpoint import describe  # loads torch

    checkpoint = describe(choose_folder(settings))
    return named_thresholds(checkpoint, own_thresholds(checkpoint, settings))
