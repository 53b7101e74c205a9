"""How a file of text is written, as far as its name does not say it."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

SEPARATORS: Final[Mapping[str, str]] = {
    ",": "commas",
    ";": "semicolons",
    "\t": "tabs",
    "|": "vertical bars",
}
# A field that a reader of CSV would take for a quoted one, or for the beginning of one.
QUOTED: Final = re.compile(r'"(?:[^"]++|"")*+"?')
# What scores, labels, warnings, errors and the model's id are written with.
IN_SCORES: Final = re.compile(r"[\w ,.:'()@+-]")


@dataclass(frozen=True)
class Dialect:
    """What the caller says of CSV and TSV, in and out; the encoding is that of files that are read.

    ``quoted`` says whether fields are in double quotes where they need it; ``None`` means that CSV
    has quotes and TSV has none. With ``asks``, a TSV file with fields that look quoted is then
    refused.
    """

    encoding: str | None = None
    delimiter: str | None = None  # of CSV; TSV always has tabs
    quoted: bool | None = None
    header: bool = True  # without one, columns are called by their numbers, from 1
    sheet: str | None = None  # of a workbook
    asks: bool = False

    def arguments(self, kind: str) -> dict[str, Any]:
        """Return the arguments of :func:`csv.reader` and :func:`csv.writer` for CSV or TSV."""
        delimiter = "\t" if kind == "TSV" else self.delimiter or ","
        if self.is_quoted(kind):  # RFC 4180; fields are quoted only if they need it
            return {"delimiter": delimiter, "strict": True}
        # IANA's TSV: fields between tabs as they are, with no tab or line break inside.
        return {"delimiter": delimiter, "quoting": csv.QUOTE_NONE, "quotechar": None}

    def is_quoted(self, kind: str) -> bool:
        """Say whether fields of CSV or TSV may be in quotes."""
        return kind != "TSV" if self.quoted is None else self.quoted

    def separates_scores(self, kind: str) -> bool:
        """Say whether scores can stand beside the fields: unquoted ones hold no separator."""
        return (
            kind not in ("CSV", "TSV")
            or self.is_quoted(kind)
            or not IN_SCORES.fullmatch(self.arguments(kind)["delimiter"])
        )

    def asks_about(self, kind: str, row: Sequence[str]) -> bool:
        """Say whether a row looks quoted where the caller has to say whether it is."""
        return (
            self.asks
            and self.quoted is None
            and kind == "TSV"
            and any(field.startswith('"') and QUOTED.fullmatch(field) for field in row)
        )


def is_separator(value: str) -> bool:
    """Say whether this can stand between fields: one character that nothing else needs."""
    return len(value) == 1 and value not in '"\r\n\0'


def other_separator(line: str, delimiter: str, column: str) -> str | None:
    """Return what seems to separate the fields of a header instead of ``delimiter``, if anything.

    A separator that gives a field the name of ``column`` comes first, then the most frequent one.
    """

    def found(separator: str) -> tuple[bool, int]:
        fields = [field.strip(' "') for field in line.split(separator)]
        return column in fields, len(fields) - 1

    others = [each for each in SEPARATORS if each != delimiter and each in line]
    best = max(others, key=found, default=None)
    if best is None or (found(best)[1] <= line.count(delimiter) and not found(best)[0]):
        return None
    return best
