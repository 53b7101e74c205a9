"""From inputs of any format to one output: their common columns, and their rows for its writer.

Rows that have the output's format are written unchanged. The check inspects the others if a value
may not fit into the output, so that hours of scoring do not end at a row that can't be written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final, cast

import pyarrow as pa

from hatespeech.formats.columns import is_header
from hatespeech.formats.dialects import SEPARATORS, Dialect
from hatespeech.formats.interface import Block, Head, Inspector, Reader
from hatespeech.formats.json_values import ARROW, batch_of, plain, text_of, to_json, widened
from hatespeech.formats.lines import JsonlReader
from hatespeech.formats.names import Format

HALF: Final = (re.compile("[\ud800-\udfff]"), "a lone surrogate, which UTF-8 can't hold")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _finite(text: str) -> float | str:
    value = float(text)
    return value if math.isfinite(value) else text  # beyond the range of float64


# One decoder for all rows: json.loads with these arguments would make one for each.
OBJECTS: Final = json.JSONDecoder(object_pairs_hook=_unique, parse_float=_finite)


def _without_quotes(kind: str, dialect: Dialect) -> tuple[re.Pattern[str], str]:
    """Return what fields can't hold that are not quoted, and how a message calls it."""
    delimiter = dialect.arguments(kind)["delimiter"]
    name = SEPARATORS.get(delimiter, "separators").removesuffix("s")
    how = kind if kind == "TSV" else f"{kind} without quotes"
    signs = re.compile(f"[{re.escape(delimiter)}\r\n]")
    return signs, f"a {name} or a line break, which {how} can't hold"


class Conversion:
    """How one output is made from its inputs.

    ``kinds`` are the types of columns that become Parquet, as an earlier check learnt them.
    """

    def __init__(
        self, out: Format, tables: Sequence[Reader], kinds: Mapping[str, str | None] | None = None
    ) -> None:
        self.tables = tables
        self.kinds = dict(kinds or {})  # column: key of ARROW
        self._out = out
        self._kind = out.rows
        dialect = tables[0].dialect
        self._plain = self._kind in ("CSV", "TSV") and not dialect.is_quoted(self._kind)
        self._faults = [HALF]
        if self._plain:
            self._faults.append(_without_quotes(self._kind, dialect))

    def require_common_columns(self) -> None:
        """Raise the source's error if an input can't be scored, or inputs don't fit into OUT."""
        alike = [table for table in self.tables if _kind(table) == self._kind]
        head = alike[0].head() if alike else None
        for table in alike[1:]:
            if table.head() != head:
                raise self._differ(table, alike[0])
        for table in self.tables:
            for key, value in table.source.keys.items():
                if fault := self._fault(f"{key}{value or ''}"):
                    raise table.error(f"the name of its folder {key}= holds {fault}")
        if len(alike) == len(self.tables):
            return
        for table in self.tables:
            head = table.head()
            # JSONL has no common columns; each of its rows is checked.
            if head.columns is not None and _names(table, head) != self._columns:
                raise self._differ(table, self._first)
        self._first.require_few(self._columns)
        if self._kind in ("JSONL", "Parquet") and len(set(self._columns)) < len(self._columns):
            raise self._first.error(f"has two columns with one name, which {self._kind} can't hold")
        for name in self._columns:
            if fault := self._fault(name):
                raise self._first.error(f"the name of a column holds {fault}")

    def inspector(self, table: Reader) -> Inspector | None:
        """Return a function that checks rows of a table; ``None`` if all rows fit anyway."""
        if _kind(table) == self._kind:
            # Text and a sheet have rows of CSV, whose fields CSV without quotes may not hold.
            unlike = self._plain and table.source.format.kind != self._out.kind
            return (lambda rows, first: self._inspect(table, rows, first)) if unlike else None
        if self._kind == "Parquet" and _kind(table) != "JSONL":
            self.kinds = dict.fromkeys(self._columns, "string")
        elif self._kind == "Parquet":
            self.kinds = {name: self.kinds.get(name) for name in self._columns}
        if not self._plain and _kind(table) != "JSONL":
            return None
        return lambda rows, first: self._inspect(table, rows, first)

    def require_common_types(self) -> None:
        """Raise the source's error if a Parquet input's types differ from those of other inputs."""
        for name, kind in self.kinds.items():
            field = self.head.columns.field(name)
            if not field.nullable or (kind is not None and field.type != ARROW[kind]):
                table = next(table for table in self.tables if _kind(table) == "Parquet")
                raise table.error(
                    f"its {name} is {_typed(field)}, but {ARROW[kind]} in inputs of other formats"
                )

    @cached_property
    def head(self) -> Head:
        """The output's columns; known when all inputs have been checked."""
        for table in self.tables:
            if _kind(table) == self._kind:
                return table.head()
        if self._kind == "Parquet":
            return Head(pa.schema([(name, ARROW[self.kinds[name]]) for name in self._columns]))
        return Head(None if self._kind == "JSONL" else self._columns)

    def block(self, table: Reader, block: Block, first: int) -> Block:
        """Return a block for the output's writer; ``first`` is the number of its first row."""
        if _kind(table) == self._kind:
            return block
        rows: Any
        values = self._values(table, block.rows, first)
        if self._kind == "JSONL":
            objects = (dict(zip(self._columns, row, strict=True)) for row in values)
            rows = [to_json(row) for row in objects]
        elif self._kind == "Parquet":
            rows = batch_of(values, self.head.columns)
        else:
            rows = [[text_of(value) for value in row] for row in values]
        return Block(rows, block.texts, block.memory_bytes)

    def _differ(self, table: Reader, other: Reader) -> Exception:
        """Return the error for two inputs of one output whose columns, or their types, differ."""
        columns, others = table.head().columns, other.head().columns
        names, wanted = _names(table, table.head()) or [], _names(other, other.head()) or []
        shown = is_header([*names, *wanted])
        first = str(other.source)
        missing = [name for name in wanted if name not in names]
        more = [name for name in names if name not in wanted]
        if shown and missing:
            return table.error(f"has no column {missing[0]}, unlike {first}")
        if shown and more:
            return table.error(f"has a column {more[0]}, unlike {first}")
        if names != wanted:
            how = "in another order than" if not missing + more else "other than"
            return table.error(f"its columns are {how} those of {first}")
        if isinstance(columns, pa.Schema) and isinstance(others, pa.Schema):
            for mine, theirs in zip(columns, others, strict=True):
                if mine != theirs:
                    return table.error(
                        f"its column {mine.name} is {_typed(mine)}, but {_typed(theirs)} in "
                        f"{first}; OUT as a folder takes both"
                    )
        return table.error(f"its columns differ from those of {first}")

    @property
    def _first(self) -> Reader:
        return self._named[0]

    @property
    def _columns(self) -> list[str]:
        return self._named[1]

    @cached_property
    def _named(self) -> tuple[Reader, list[str]]:
        """The input that names the columns; JSONL does, in its first row, only if no other can."""
        for table in sorted(self.tables, key=lambda table: _kind(table) == "JSONL"):
            names = _names(table, table.head())
            if names is not None:
                return table, names
        return self.tables[0], [self.tables[0].column]  # no input has a row

    def _values(self, table: Reader, rows: Any, first: int) -> Iterable[Sequence[Any]]:
        """Return the values of each row, in the columns' order."""
        if _kind(table) == "Parquet":
            return zip(*(plain(column) for column in rows.columns), strict=True)
        if _kind(table) != "JSONL":
            return cast(list[list[str]], rows)
        return [self._in_order(table, row, number) for number, row in enumerate(rows, first)]

    def _in_order(self, table: Reader, row: str, number: int) -> list[Any]:
        record = _object(table, row, number)
        if record.keys() != set(self._columns):
            raise table.error(
                f"row {number}: its keys differ from those of the first row of "
                f"{self._first.source}; {self._kind} needs the same keys in every row"
            )
        return [record[name] for name in self._columns]

    def _inspect(self, table: Reader, rows: Any, first: int) -> None:
        for number, row in enumerate(self._values(table, rows, first), first):
            for name, value in zip(self._columns, row, strict=True):
                if fault := self._fault(text_of(value)):
                    raise table.error(f"row {number}: its {name} holds {fault}")
                if self._kind == "Parquet":
                    self.kinds[name] = widened(self.kinds[name], value)

    def _fault(self, text: str) -> str | None:
        return next((what for pattern, what in self._faults if pattern.search(text)), None)


def _kind(table: Reader) -> str:
    return table.source.format.rows


def _typed(field: pa.Field) -> str:
    return f"{field.type}{'' if field.nullable else ' without nulls'}"


def _names(table: Reader, head: Head) -> list[str] | None:
    """Return the names of a table's columns; ``None`` for JSONL without rows."""
    if head.names is not None:
        return head.names
    row = cast(JsonlReader, table).first_row()
    return None if row is None else list(_object(table, row, 1))


def _object(table: Reader, row: str, number: int) -> dict[str, Any]:
    try:
        record = OBJECTS.decode(row)
    except (ValueError, RecursionError):
        record = None
    if not isinstance(record, dict):
        raise table.error(f"row {number} is not a JSON object, or has a key twice")
    return record
