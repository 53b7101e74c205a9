"""The column with the texts: found by its name or its path, or missed in a way that helps.

A path is keys joined by dots, such as ``data.text``. A column whose own name is that comes first.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

MISSING: Final = object()
# Names that a message shows, and how long one may be.
SHOWN_NAMES: Final = 20
SHOWN_CHARS: Final = 40
# In a file without a header the first row, which may hold a text, stands where names should be.
NAME: Final = re.compile(r"[^\W\d][\w.:/()\[\]#%-]*(?: [\w.:/()\[\]#%-]+)?")
# Levels of nested keys that are looked through for a name.
LEVELS: Final = 3


def value_at(record: Mapping[str, Any], column: str) -> Any:
    """Return the value of a key, or of one below another; :data:`MISSING` if there is none."""
    if column in record:
        return record[column]
    for key, rest in splits(column):
        below = record.get(key)
        if isinstance(below, dict) and (value := value_at(below, rest)) is not MISSING:
            return value
    return MISSING


def splits(path: str) -> Iterator[tuple[str, str]]:
    """Yield the first key of a path with the rest, for each dot: a key may hold dots, too."""
    keys = path.split(".")
    for place in range(1, len(keys)):
        yield ".".join(keys[:place]), ".".join(keys[place:])


def paths_of(record: Mapping[str, Any], levels: int = LEVELS) -> Iterator[str]:
    """Yield the paths to all values of an object that are not objects."""
    for key, value in record.items():
        if isinstance(value, dict) and value and levels > 1:
            yield from (f"{key}.{path}" for path in paths_of(value, levels - 1))
        else:
            yield key


def no_column(name: str, option: str, names: Sequence[str]) -> str:
    """Return what a message says of a column that is missing; ``option`` asks for it."""
    return f"has no column {name} ({option}){names_said(name, names)}"


def names_said(column: str, names: Sequence[str]) -> str:
    """Return what a message says of the columns that there are, and which one is the nearest."""
    there = [name for name in names if name]  # pandas gives its index no name
    named = [_shown(name) for name in there]
    if not named:
        return ""
    more = f" and {len(named) - SHOWN_NAMES:,} more" if len(named) > SHOWN_NAMES else ""
    near = nearest(column, there)
    hint = f"; is {_shown(near)} meant?" if near else ""
    return f"; it has {', '.join(named[:SHOWN_NAMES])}{more}{hint}"


def is_header(names: Sequence[str]) -> bool:
    """Say whether all of these look like names of columns, so that a message may show them."""
    blanks = 0 if len(names) == 1 else 1  # a single column may well hold short texts
    return all(
        len(name) <= SHOWN_CHARS and NAME.fullmatch(name) and name.count(" ") <= blanks
        for name in map(str.strip, names)  # blanks follow a comma here and there
        if name
    )


def _shown(name: str) -> str:
    printable = "".join(sign if sign.isprintable() else "?" for sign in name)
    if printable != printable.strip():
        printable = f"'{printable}'"  # or its blanks would not be seen
    return printable if len(printable) <= SHOWN_CHARS else f"{printable[:SHOWN_CHARS]}…"


def nearest(column: str, names: Sequence[str]) -> str | None:
    """Return the name that is most like ``column``, if one is: in other case, or below a key."""
    by_fold = {name.casefold().strip(): name for name in names}
    below = [name for name in names if name.casefold().endswith(f".{column.casefold()}")]
    if column.casefold() in by_fold:
        return by_fold[column.casefold()]
    if below:
        return below[0]
    found = difflib.get_close_matches(column.casefold(), by_fold, 1)
    return by_fold[found[0]] if found else None
