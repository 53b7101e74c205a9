"""JSON arrays of objects, read item by item: the file is never in memory as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Final

from hatespeech.formats.records import MAX_RECORD_CHARS

BLANK: Final = re.compile(r"[ \t\r\n]*")
# A JSON string has no raw line break, so this is between tokens. It begins with the break: blanks
# before one would be read again from each of them.
BREAK: Final = re.compile(r"[\r\n][ \t\r\n]*")
_decode = json.JSONDecoder().raw_decode


class NotAnArrayError(ValueError):
    """The file does not hold one array of objects; the message says what it has instead."""


def array_items(pieces: Iterator[str]) -> Iterator[str]:
    """Yield the objects of a JSON array as they are written, each on one line.

    ``pieces`` are the text, cut anywhere. Raises :class:`NotAnArrayError`.
    """
    text = _Pieces(pieces)
    first = text.next_sign()
    if first != "[":
        lines = "; a file with an object on each line is JSONL" if first == "{" else ""
        raise NotAnArrayError(f"is not an array of objects{lines}")
    text.skip()
    sign = text.next_sign()
    while sign != "]":
        if sign != "{":
            raise NotAnArrayError("holds something else than an object")
        yield BREAK.sub(" ", text.value())
        sign = text.next_sign()
        if sign == ",":
            text.skip()
            sign = "{" if text.next_sign() == "{" else ","
        elif sign != "]":
            raise NotAnArrayError("has something else than a comma after an object")
    text.skip()
    if text.next_sign():
        raise NotAnArrayError("has something after the end of the array")


class _Pieces:
    """A text that is read as far as it is needed."""

    def __init__(self, pieces: Iterator[str]) -> None:
        self._pieces = pieces
        self._text = ""
        self._at = 0

    def next_sign(self) -> str:
        """Return the next character that is not blank, without taking it; ``""`` at the end."""
        while True:
            blank = BLANK.match(self._text, self._at)
            self._at = blank.end() if blank else self._at
            if self._at < len(self._text) or not self._more():
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Take one character."""
        self._at += 1

    def value(self) -> str:
        """Take a JSON value; return it as it is written."""
        while True:
            try:
                _, end = _decode(self._text, self._at)
            except RecursionError:
                raise NotAnArrayError("is nested too deeply") from None
            except ValueError:  # broken, or not all of it is there
                there = len(self._text) - self._at
                if there > MAX_RECORD_CHARS or not self._more(max(1, there)):
                    raise NotAnArrayError(
                        f"is broken, or longer than {MAX_RECORD_CHARS} characters"
                    ) from None
                continue
            value = self._text[self._at : end]
            self._at = end
            return value

    def _more(self, least: int = 1) -> bool:
        """Read at least so many characters more, if there are as many; return whether any came."""
        parts = [self._text[self._at :]]
        count = 0
        while count < least and (piece := next(self._pieces, "")):
            parts.append(piece)
            count += len(piece)
        self._text, self._at = "".join(parts), 0
        return count > 0
