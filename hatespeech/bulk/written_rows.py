"""The rows of an output for the statistics: as they are written, or read again from OUT."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

from hatespeech.bulk.places import Input
from hatespeech.bulk.statistics import Columns, ScoredBlock
from hatespeech.formats.choice import READERS
from hatespeech.formats.dialects import Dialect
from hatespeech.formats.interface import Head
from hatespeech.formats.json_values import plain, text_of
from hatespeech.formats.scores import SCORE_TYPES, SCORES
from hatespeech.labels import FLAGS

# A reader refuses a file that has the columns which a run adds; here nothing is added.
NOTHING_ADDED: Final = "\0"
SHOWN_NAMES: Final = 20  # of columns, in a message


def texts_in(head: Head, rows: Any, names: Sequence[str]) -> dict[str, list[str]]:
    """Return columns of rows as text; ``rows`` has the form that the format's writer takes."""
    found = _values(head, rows, names)
    return {name: [text_of(value) for value in values] for name, values in found.items()}


def require_columns(head: Head, columns: Columns, error: Callable[[str], Exception]) -> None:
    """Raise an error of the file if it lacks a column that the report shows, or has it twice.

    Rows of JSONL have no common columns: there it does nothing.
    """
    there = _names(head)
    if there is None:
        return
    for name in columns.names:
        option = "--id-column" if name == columns.id else "--group-by"
        if there.count(name) > 1:
            raise error(f"has more than one column {name} ({option})")
        if name not in there:
            near = difflib.get_close_matches(name, there, 1)
            hint = f"is {near[0]} meant?" if near else f"its columns are {_listed(there)}"
            raise error(f"has no column {name} ({option}); {hint}")


def written_blocks(
    source: Input,
    file: str,
    text_column: str | None,
    prefix: str,
    columns: Columns,
    dialect: Dialect | None = None,
) -> Iterator[ScoredBlock]:
    """Yield all rows of an output; ``file`` is its name on the page, ``dialect`` that of its run.

    Without ``text_column`` texts are not read. Raises :class:`RunError` if the file lacks a column,
    or has something else in a column of scores.
    """
    # Without texts, the labels stand for them: every output has them.
    read = text_column or f"{prefix}label"
    table = READERS[source.format.kind](source, read, NOTHING_ADDED, dialect=dialect)
    head = table.head()
    added = [prefix + name for name in SCORES.names]
    there = _names(head)
    if there is not None and not set(added) <= set(there):
        raise table.error(
            "lacks columns that score.py adds; if it used --prefix, keep OUT.run.json beside OUT"
        )
    require_columns(head, columns, table.error)
    first = 1
    try:
        for block in table.blocks():
            scores = _scores(head, block.rows, added)
            found = texts_in(head, block.rows, columns.names)
            yield ScoredBlock(file, first, scores, block.texts, found)
            first += len(block.texts)
    except (pa.ArrowException, AttributeError, IndexError, KeyError, TypeError, ValueError):
        what = f"row {first}, or one soon after it, is not as score.py wrote it"
        raise table.error(what) from None


def _names(head: Head) -> list[str] | None:
    """Return the names of a file's columns; ``None`` for JSONL, whose rows have their own."""
    columns = head.columns
    return list(columns.names) if isinstance(columns, pa.Schema) else columns


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN_NAMES]) + ", …" * (len(names) > SHOWN_NAMES)


def _scores(head: Head, rows: Any, added: Sequence[str]) -> pa.Table:
    """Return the columns that a run added, with their types.

    Raises :class:`pa.ArrowException`, :class:`TypeError` or :class:`ValueError` for other values.
    """
    if isinstance(head.columns, pa.Schema):
        arrays = [
            rows.column(name).cast(kind) for name, (_, kind) in zip(added, SCORE_TYPES, strict=True)
        ]
    else:
        values = list(_values(head, rows, added).values())
        if head.columns is not None:  # an empty field stands for null
            values = [[value or None for value in column] for column in values]
        types = (kind for _, kind in SCORE_TYPES)
        arrays = [_typed(column, kind) for column, kind in zip(values, types, strict=True)]
    found = pa.table(arrays, schema=SCORES)
    missing = found["error"].is_null()
    for flag in FLAGS:
        within = pc.and_(pc.greater_equal(found[flag], 0), pc.less_equal(found[flag], 1))
        if within.fill_null(False) != missing:
            raise ValueError("a row has no scores and no error, or a score is out of range")
    return found


def _typed(values: Sequence[Any], kind: pa.DataType) -> Any:
    """Return values of JSON or CSV as an array."""
    if any(isinstance(value, str) for value in values):
        return pa.array(values, pa.string()).cast(kind)
    return pa.array(values, kind)


def _values(head: Head, rows: Any, names: Sequence[str]) -> dict[str, list[Any]]:
    """Return columns of rows as JSON values, ``None`` for a key that a row of JSONL lacks."""
    if isinstance(head.columns, pa.Schema):
        return {name: plain(rows.column(name)) for name in names}
    if not names:
        return {}
    if head.columns is None:
        records = [json.loads(row) for row in rows]
        return {name: [record.get(name) for record in records] for name in names}
    places = {name: head.columns.index(name) for name in names}
    return {name: [row[place] for row in rows] for name, place in places.items()}
