"""Records of text files: the dialects of CSV and TSV, a limit on a record, blocks of records."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, Final, NoReturn

# Without this limit one record could fill the memory.
MAX_RECORD_CHARS: Final = 4 * 1024 * 1024
csv.field_size_limit(MAX_RECORD_CHARS)
BLOCK_CHARS: Final = 1024 * 1024

# RFC 4180; fields are quoted only if they need it.
CSV_DIALECT: Final[dict[str, Any]] = {"delimiter": ",", "strict": True}
# IANA's: fields between tabs as they are, without quotes, and with no tab or line break inside.
TSV_DIALECT: Final[dict[str, Any]] = {
    "delimiter": "\t",
    "quoting": csv.QUOTE_NONE,
    "quotechar": None,
}


class TooMuchTextError(Exception):
    """A file has more characters than its reader takes."""


class Lines:
    """The lines of a text file; raises :class:`csv.Error` if a record has too many characters.

    The reader sets ``chars`` to 0 after each record, which may have several lines. ``most`` is how
    many characters the file may have, since a compressed one of megabytes may never end.
    """

    def __init__(self, text: io.TextIOWrapper, most: int | None = None) -> None:
        self.chars = 0
        self._text = text
        self._most = math.inf if most is None else most

    def __iter__(self) -> Iterator[str]:
        total = 0
        while line := self._text.readline(MAX_RECORD_CHARS + 1):
            self.chars += len(line)
            if self.chars > MAX_RECORD_CHARS:
                raise csv.Error("record too long")
            total += len(line)
            if total > self._most:
                raise TooMuchTextError
            yield line


def blocks_of(rows: Iterator[Any], count: int, chars: Callable[[Any], int]) -> Iterator[list[Any]]:
    """Yield lists of at most ``count`` rows; a list ends at ``BLOCK_CHARS`` characters."""
    block: list[Any] = []
    size = 0
    for row in rows:
        block.append(row)
        size += chars(row)
        if len(block) == count or size >= BLOCK_CHARS:
            yield block
            block, size = [], 0
    if block:
        yield block


def read_object(line: str) -> dict[str, Any]:
    """Return the JSON object of a line.

    Raises :class:`ValueError` or :class:`RecursionError` for anything else, and for NaN and
    Infinity, which only Python accepts.
    """
    record = json.loads(line, parse_constant=_refuse)
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record


def _refuse(_constant: str) -> NoReturn:
    raise ValueError("only Python accepts it")
