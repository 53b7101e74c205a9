"""A row's way in and out, the same for every engine that scores here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hatespeech.bulk.engines.base import RowScore
from hatespeech.contract import TextScore, locate_error, parse_request
from hatespeech.errors import ServiceError
from hatespeech.labels import LABELS
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


def row_of(result: TextScore | ServiceError) -> RowScore:
    """Return what a row gets for a text's outcome."""
    if isinstance(result, ServiceError):
        return RowScore(None, None, None, str(locate_error(result, "text")))
    scores = tuple(result.scores)
    return RowScore(scores, LABELS[scores.index(max(scores))], result.windows, None)
