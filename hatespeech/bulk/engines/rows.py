"""A row's way in and out, the same for every engine that scores here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hatespeech.contract import Prediction, TextScore, parse_request
from hatespeech.errors import ServiceError
from hatespeech.settings import EngineSettings


def read_values(
    values: Sequence[Any], settings: EngineSettings
) -> tuple[Sequence[str], Mapping[int, ServiceError]]:
    """Return texts fit to be scored, and the faults of those that are not, by their place.

    The limits are the service's for one text; those of a request mean nothing here.
    """
    if not values:
        return [], {}
    unlimited = settings.model_copy(
        update={"max_texts_per_request": len(values), "max_request_chars": 2**63}
    )
    request = parse_request({"texts": list(values)}, unlimited)
    return request.texts, request.faults


def row_of(outcome: Prediction | ServiceError) -> TextScore:
    """Return what a row gets for a text's outcome; an error names the field ``text``."""
    if isinstance(outcome, ServiceError):
        outcome = outcome.at("text")
    return TextScore.of("", outcome, None)
