"""A look at the first texts: a column of numbers or links shows before hours are spent on it."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

log = logging.getLogger(__name__)

SAMPLED_FILES: Final = 20
# Fewer rows say nothing; and a few words may be texts, where many are labels or languages.
LEAST_ROWS: Final = 5
LEAST_WORDS: Final = 50
# Below this share of texts there is a warning.
LEAST_TEXTS: Final = 0.1
# Characters of a value that are looked at. Some patterns take time by the square of their number.
LOOKED_AT: Final = 256

EMPTY: Final = "empty"
WORDS: Final = "single words"
NUMBER: Final = re.compile(r"[-+]?[\d.,:/_ TZ-]*\d[\d.,:/_ TZ+%-]*")
LINK: Final = re.compile(r"(?:\w+://|www\.)\S+", re.IGNORECASE)
IDENTIFIER: Final = re.compile(r"@?[\w.:/-]*[\d_@:/-][\w.:/-]*", re.ASCII)
WORD: Final = re.compile(r"[\x21-\x7f]+")


class TextSample:
    """Looks at the first values of the text column, as the check of the inputs meets them."""

    def __init__(self) -> None:
        self._found: Counter[str] = Counter()

    def add(self, value: Any) -> None:
        """Look at a value."""
        self._found[kind_of(value)] += 1

    def warn(self, column: str) -> None:
        """Log a warning if hardly any of the values is a text."""
        said = what_is_there(self._found)
        if said is not None:
            log.warning("the column %s has hardly any texts: %s (--text-column)", column, said)


def kind_of(value: Any) -> str:
    """Return what a value of the text column looks like: ``text``, or what a message calls it."""
    if not isinstance(value, str):
        return EMPTY if value is None else "not strings"
    text = value.strip()[:LOOKED_AT]
    if not text:
        return EMPTY
    for pattern, kind in (
        (NUMBER, "numbers or dates"),
        (LINK, "links"),
        (IDENTIFIER, "identifiers"),
        (WORD, WORDS),
    ):
        if pattern.fullmatch(text):
            return kind
    return "text"


def what_is_there(found: Counter[str]) -> str | None:
    """Return what a sample of values has instead of texts; ``None`` if it has enough of them."""
    rows = found.total()
    least = LEAST_WORDS if found[WORDS] > rows // 2 else LEAST_ROWS
    if rows < least or found["text"] >= LEAST_TEXTS * rows:
        return None
    others: Iterable[tuple[str, int]] = (pair for pair in found.most_common() if pair[0] != "text")
    parts = [f"{count / rows:.0%} are {kind}" for kind, count in others]
    return f"of the first {rows:,} rows looked at, {' and '.join(parts)}"
