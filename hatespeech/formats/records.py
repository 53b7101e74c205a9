"""Records of files of text: a limit on one, and blocks of them."""

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
PIECE_CHARS: Final = 64 * 1024


class PythonNumberError(ValueError):
    """The number is NaN or Infinity, which Python's ``json`` writes and JSON does not have."""


class TooMuchTextError(Exception):
    """A file has more characters than its reader takes."""


class Lines:
    """The lines of a text file; raises :class:`csv.Error` if a record has too many characters.

    The reader sets ``chars`` to 0 after each record, which may have several lines. ``most`` is how
    many characters the file may have, since a compressed one of megabytes may never end.
    """

    def __init__(self, text: io.TextIOWrapper, most: int | None = None) -> None:
        self.chars = self._total = 0
        self._text = text
        self._most = math.inf if most is None else most

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(MAX_RECORD_CHARS + 1):
            self.chars += len(line)
            if self.chars > MAX_RECORD_CHARS:
                raise csv.Error("record too long")
            self._count(line)
            yield line

    def pieces(self) -> Iterator[str]:
        """Yield the same text in pieces of one size, without limits on a record."""
        while piece := self._text.read(PIECE_CHARS):
            self._count(piece)
            yield piece

    def _count(self, text: str) -> None:
        self._total += len(text)
        if self._total > self._most:
            raise TooMuchTextError


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

    Raises :class:`ValueError` or :class:`RecursionError` for anything else, and
    :class:`PythonNumberError` for NaN and Infinity.
    """
    record = json.loads(line, parse_constant=_refuse)
    if not isinstance(record, dict):
        raise ValueError("not an object")
    return record


def _refuse(_constant: str) -> NoReturn:
    raise PythonNumberError
