"""From a value of the text column to a text, and from a result to a row, for every engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hatespeech.contract import Prediction, TextScore, parse_request
from hatespeech.errors import ServiceError
from hatespeech.settings import EngineSettings


def read_values(
    values: Sequence[Any], settings: EngineSettings
) -> tuple[Sequence[str], Mapping[int, ServiceError]]:
    """Return the texts, and the errors of those that can't be scored, by index.

    The service's limits on one text apply; its limits on a request do not.
    """
    if not values:
        return [], {}
    unlimited = settings.model_copy(
        update={"max_texts_per_request": len(values), "max_request_chars": 2**63}
    )
    request = parse_request({"texts": list(values)}, unlimited)
    return request.texts, request.faults


def row_of(outcome: Prediction | ServiceError) -> TextScore:
    """Return the row for a text's outcome; an error names the field ``text``."""
    if isinstance(outcome, ServiceError):
        outcome = outcome.at("text")
    return TextScore.of("", outcome, None)
