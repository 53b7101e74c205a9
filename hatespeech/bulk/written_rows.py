"""The rows of an output for the statistics: as they are written, or read again from OUT."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, Final, cast

import pyarrow as pa
import pyarrow.compute as pc

from hatespeech.bulk.places import Input
from hatespeech.bulk.statistics import Columns, ScoredBlock
from hatespeech.formats.choice import READERS
from hatespeech.formats.columns import (
    MISSING,
    names_said,
    no_column,
    paths_of,
    splits,
    value_at,
)
from hatespeech.formats.dialects import Dialect
from hatespeech.formats.interface import MAX_COLUMNS, Head, Reader
from hatespeech.formats.json_values import plain, text_of
from hatespeech.formats.lines import JsonlReader
from hatespeech.formats.scores import SCORE_TYPES, SCORES
from hatespeech.labels import FLAGS

# A reader refuses a file that has the columns which a run adds; here nothing is added.
NOTHING_ADDED: Final = "\0"
# Rows of JSONL that are looked at for a key. Of a key that is there the first row or so is enough;
# one that is misspelt is said within a second.
KEY_ROWS: Final = 100_000


def texts_in(head: Head, rows: Any, names: Sequence[str]) -> dict[str, list[str]]:
    """Return columns of rows as text; ``rows`` has the form that the format's writer takes."""
    found = _values(head, rows, names)
    return {name: [text_of(value) for value in values] for name, values in found.items()}


def require_columns(
    tables: Sequence[Reader], columns: Columns, text_column: str | None = None
) -> None:
    """Raise an error of a file that lacks a column which the report shows, or has it twice.

    Rows of JSONL have no common columns. If all files are such files, one of their first
    :data:`KEY_ROWS` rows must have the key; the statistics count the rows without it. The same
    holds for ``text_column``, if it is given.
    """
    options = dict.fromkeys(columns.groups, "--group-by")
    if columns.id is not None:
        options[columns.id] = "--id-column"
    of_objects = []
    for table in tables:
        there = table.head().names
        if there is None:
            of_objects.append(cast(JsonlReader, table))
            continue
        for name, option in options.items():
            if there.count(name) > 1:
                raise table.error(f"has more than one column {name} ({option})")
            if name not in there and not any(first in there for first, _ in splits(name)):
                raise table.error(no_column(name, option, there))
    if text_column is not None:
        options[text_column] = "--text-column"
    if len(of_objects) == len(tables):
        _require_keys(of_objects, options)


def _require_keys(tables: Sequence[JsonlReader], options: Mapping[str, str]) -> None:
    """Raise an error of the first file if no row of all has a key; its option is beside it."""
    missing = dict(options)
    there: dict[str, None] = {}  # all keys, in order
    rows = 0
    try:
        for record in islice(chain.from_iterable(map(JsonlReader.objects, tables)), KEY_ROWS):
            rows += 1
            for name in [each for each in missing if value_at(record, each) is not MISSING]:
                del missing[name]
            if not missing:
                return
            if len(there) < MAX_COLUMNS:
                there.update(dict.fromkeys(paths_of(record)))
    except (ValueError, RecursionError):
        return  # what reads all rows names this one
    for name, option in missing.items() if rows else ():
        none = "no row" if rows < KEY_ROWS else f"none of the first {KEY_ROWS:,} rows"
        more = f", of this file and {len(tables) - 1:,} more," if len(tables) > 1 else ""
        said = names_said(name, list(there))
        raise tables[0].error(f"{none}{more} has the key {name} ({option}){said}")


def written_table(source: Input, text_column: str | None, prefix: str, dialect: Dialect) -> Reader:
    """Return an output as a table; ``dialect`` is that of its run.

    Without ``text_column`` texts are not read. Raises :class:`RunError` if it lacks a column of
    scores.
    """
    # Without texts, the labels stand for them: every output has them.
    read = text_column or f"{prefix}label"
    table = READERS[source.format.kind](source, read, NOTHING_ADDED, dialect=dialect)
    there = table.names()
    if there is not None and not set(_added(prefix)) <= set(there):
        raise table.error(
            "lacks columns that score.py adds; if it used --prefix, keep OUT.run.json beside OUT"
        )
    return table


def written_blocks(
    table: Reader, file: str, prefix: str, columns: Columns
) -> Iterator[ScoredBlock]:
    """Yield all rows of an output; ``file`` is its name on the page.

    Raises :class:`RunError` if it lacks a column, or has something else in a column of scores.
    """
    head = table.head()
    added = _added(prefix)
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


def _added(prefix: str) -> list[str]:
    return [prefix + name for name in SCORES.names]


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
    """Return columns of rows as JSON values, ``None`` for a key that a row lacks."""
    if head.columns is None and names:
        records = [json.loads(row) for row in rows]
        return {name: [_found(record, name) for record in records] for name in names}
    return {name: _column(head, rows, name) for name in names}


def _column(head: Head, rows: Any, name: str) -> list[Any]:
    """Return a column of a table's rows, or what its objects have at a path, as JSON values."""
    there = head.names or []
    if name not in there:
        first, rest = next(split for split in splits(name) if split[0] in there)
        return [_found(_object(value), rest) for value in _column(head, rows, first)]
    if isinstance(head.columns, pa.Schema):
        return plain(rows.column(name))
    place = there.index(name)
    return [row[place] for row in rows]


def _object(value: Any) -> dict[str, Any]:
    """Return an object, which a column of strings holds as JSON; an empty one for all else."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(value)
    return value if isinstance(value, dict) else {}


def _found(record: Mapping[str, Any], name: str) -> Any:
    value = value_at(record, name)
    return None if value is MISSING else value
