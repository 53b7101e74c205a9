"""What a request costs: units of text to read.

A unit is up to 1,000 characters of one text, read once. ``robust`` reads a text twice. ``explain``
reads it once more for each set of words that it tries, up to two units at a time, because a window
of 512 tokens has about 2,000 characters. A text that cannot be scored costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from hatespeech.contract import ScoreRequest
from hatespeech.labels import Explanation
from hatespeech.serving.payments.rail import PaidWork

UNIT_CHARS: Final = 1000
WINDOW_UNITS: Final = 2


def work_of(request: ScoreRequest) -> PaidWork:
    """Return what a request of the contract costs."""
    texts = (text for i, text in enumerate(request.texts) if i not in request.faults)
    return work_of_texts(texts, request.explain, robust=request.robust)


def work_of_texts(texts: Iterable[str], explain: Explanation | None, *, robust: bool) -> PaidWork:
    """Return what it costs to score texts."""
    costs = [text_units(text, explain, robust=robust) for text in texts]
    return PaidWork(len(costs), max(1, sum(costs)))


def text_units(text: str, explain: Explanation | None, *, robust: bool) -> int:
    """Return the units of one text."""
    units = max(1, math.ceil(len(text) / UNIT_CHARS))
    readings = 2 if robust else 1
    if explain is None:
        return units * readings
    from hatespeech.engine.explanation import count_readings  # it needs NumPy, this module doesn't

    more = count_readings(text, explain) - 1
    return units * readings + more * min(units, WINDOW_UNITS)


def in_smallest_unit(price: str, decimals: int) -> int | None:
    """Return a price in a token's smallest unit; ``None`` if that is not a whole number."""
    amount = Decimal(price).scaleb(decimals)
    return int(amount) if amount == amount.to_integral_value() else None
