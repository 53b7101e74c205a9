"""Reads labelled files: every format, folder and URL that score.py reads."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from hatespeech.bars import progress_bar
from hatespeech.bulk import RunError
from hatespeech.bulk.places import Input, total_bytes
from hatespeech.bulk.written_rows import NOTHING_ADDED
from hatespeech.contract import COLUMNS
from hatespeech.evaluation.agreement import majorities
from hatespeech.evaluation.truths import LAYOUTS, TRUTHS, Layout, Truths, plain_name, truth_of
from hatespeech.formats.choice import READERS
from hatespeech.formats.columns import names_said, no_column
from hatespeech.formats.conversion import Conversion
from hatespeech.formats.dialects import Dialect
from hatespeech.formats.interface import Reader
from hatespeech.formats.lines import JsonlReader
from hatespeech.formats.names import Format
from hatespeech.labels import LABELS

TEXT: Final = "text"
LABEL: Final = "label"
# What is read of the columns that score.py has written.
SCORES: Final = (*LABELS, "error")
SHOWN_UNKNOWN: Final = 10  # a column with as many unknown labels is not one of labels


@dataclass(frozen=True)
class Wanted:
    """Which columns to read; ``None`` and no labels stand for the usual names."""

    text: str | None
    labels: Sequence[str]  # one, or one for each annotator
    names: Mapping[str, int]  # the truths of labels, before the known ones
    others: Mapping[str, str]  # further columns, each with the option that asks for it
    optional: bool = False  # whether a file may be without labels


@dataclass(frozen=True)
class Labelled:
    """The rows of the files, in order."""

    files: list[str]  # name of the file of each row
    rows: list[int]  # number of each row, from 1, in its file
    texts: list[Any]  # a value that is not a string can't be scored
    truths: Truths  # 0: without a label, or annotators without a majority
    annotations: NDArray[np.uint8]  # [rows, annotators]; no columns if a row has one label
    columns: Mapping[str, list[Any]]  # the further ones
    sha256: str  # of texts and labels
    layout: str | None  # the known data set whose columns these are

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, kept: NDArray[np.bool_]) -> Labelled:
        """Return some of the rows."""

        def part(values: list[Any]) -> list[Any]:
            return [value for value, keep in zip(values, kept, strict=True) if keep]

        return Labelled(
            part(self.files),
            part(self.rows),
            part(self.texts),
            self.truths[kept],
            self.annotations[kept],
            {name: part(values) for name, values in self.columns.items()},
            self.sha256,
            self.layout,
        )


def read(inputs: Sequence[Input], wanted: Wanted, dialect: Dialect) -> Labelled:
    """Read all rows.

    Raises :class:`RunError`, which names file, column or row and quotes no text.
    """
    files: list[str] = []
    rows: list[int] = []
    texts: list[Any] = []
    annotations: list[list[int]] = []
    columns: dict[str, list[Any]] = {name: [] for name in wanted.others}
    digest = hashlib.sha256()
    layout = None
    with progress_bar("reading", total_bytes(inputs), "B") as shown:
        for each in inputs:
            table = open_table(each, wanted.text, dialect)
            table.count(shown.update)
            truths = None
            for number, record in records(table):
                if truths is None:
                    truths = RowTruths(table, record, wanted)
                    layout = truths.layout
                files.append(each.name)
                rows.append(number)
                texts.append(record.get(table.column))
                annotations.append(truths.of(record, number))
                for name, values in columns.items():
                    values.append(record.get(name))
                digest.update(json.dumps([texts[-1], annotations[-1]]).encode())
            if truths is not None:
                truths.require_known()
    if not texts:
        raise inputs[0].error("has no rows")
    together = np.array(annotations, dtype=np.uint8)
    several = together.shape[1] > 1
    return Labelled(
        files,
        rows,
        texts,
        majorities(together) if several else together[:, 0],
        together if several else together[:, :0],
        columns,
        digest.hexdigest(),
        layout.name if layout else None,
    )


def read_column(
    inputs: Sequence[Input], column: str, text_column: str | None, option: str, dialect: Dialect
) -> dict[str, Any]:
    """Return a column of other files by their texts, of copies the first.

    Raises :class:`RunError` as :func:`read` does; ``option`` is what asks for the column.
    """
    found: dict[str, Any] = {}
    for each in inputs:
        table = open_table(each, text_column, dialect)
        table.count(lambda _bytes: None)
        for _, record in records(table):
            if column not in record:
                raise table.error(no_column(column, option, list(record)))
            text = record.get(table.column)
            if isinstance(text, str):
                found.setdefault(text, record[column])
    return found


def open_table(source: Input, column: str | None, dialect: Dialect) -> Reader:
    """Return a file as a table whose text column is ``column``, or one of the usual names."""
    names = [column] if column else [TEXT, *(layout.text for layout in LAYOUTS)]
    kind = READERS[source.format.kind]
    tables = [kind(source, name, NOTHING_ADDED, dialect=dialect) for name in names]
    for table in tables:
        try:
            table.head()
        except RunError:
            continue
        if not isinstance(table, JsonlReader) or f'"{table.column}"' in (table.first_row() or ""):
            return table
    tables[0].head()  # raises, unless it is JSONL, in which only some rows may have the key
    return tables[0]


def records(table: Reader) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield each row's number and its values by column, whatever the file's format."""
    conversion = Conversion(Format("JSONL", None), [table])
    conversion.require_common_columns()
    number = 1
    for block in table.blocks():
        for row in conversion.block(table, block, number).rows:
            yield number, json.loads(row)
            number += 1


def prefixes_in(columns: Collection[str]) -> list[str]:
    """Return the prefixes of the scores that score.py has written into a file."""
    first = SCORES[0]
    found = [name.removesuffix(first) for name in columns if name.endswith(first)]
    return [prefix for prefix in found if all(prefix + name in columns for name in SCORES)]


def no_score(name: str, columns: Collection[str]) -> str:
    """Return what a message says of a column of scores that is missing; a prefix, if one fits."""
    options = [f"--scored {prefix}".rstrip() for prefix in prefixes_in(columns)]
    if not options:
        return no_column(name, "--scored", list(columns))
    return f"has no column {name} (--scored); try {' or '.join(options)}"


class RowTruths:
    """How the rows of one file are labelled."""

    def __init__(self, table: Reader, first: Mapping[str, Any], wanted: Wanted) -> None:
        """Raise :class:`RunError` if the first row lacks a column."""
        self._table = table
        self._unknown: dict[tuple[str, str], int] = {}  # columns and labels: the first row of each
        self.layout: Layout | None = None
        self._names = dict(wanted.names)
        self._labels = list(wanted.labels)
        # Beside scores without a prefix, this column is the model's own answer.
        answered = LABEL in first and "" in prefixes_in(first)
        if not self._labels and LABEL in first and not answered:
            self._labels = [LABEL]
        elif not self._labels:
            fitting = (layout for layout in LAYOUTS if layout.columns <= first.keys())
            self.layout = next(fitting, None)
            if self.layout is not None:
                self._labels = [self.layout.label] if self.layout.label else []
                self._names = {**self.layout.names, **self._names}
        labels = self._labels or [LABEL]
        if self.layout is not None or (wanted.optional and not wanted.labels):
            labels = self._labels  # known to be there, or not needed
        asked = {**wanted.others, **dict.fromkeys(labels, "--label-column")}
        for name, option in asked.items():
            if name in first:
                continue
            if option == "--scored":
                raise table.error(no_score(name, first))
            raise table.error(no_column(name, option, list(first)))
        if answered and labels and not self._labels:
            others = [name for name in first if name not in COLUMNS]
            raise table.error(
                "its column label is the model's own answer, which score.py wrote; name one with "
                f"people's labels (--label-column){names_said(LABEL, others)}"
            )

    def of(self, record: Mapping[str, Any], number: int) -> list[int]:
        """Return the truth of each label of a row."""
        if self.layout is not None and self.layout.kinds:
            return [self._of_kinds(record, number, self.layout.kinds)]
        if not self._labels:
            return [0]
        return [self._of(record, number, name) for name in self._labels]

    def require_known(self) -> None:
        """Raise :class:`RunError` if labels were unknown: where the first ones are.

        They are not shown: in a file with swapped columns they are texts.
        """
        if not self._unknown:
            return
        column, _ = next(iter(self._unknown))
        rows = [str(row) for (name, _), row in self._unknown.items() if name == column]
        found = f"row {rows[0]}: an unknown label"
        if len(rows) > 1:
            found = f"rows {', '.join(rows)}: unknown labels"
        raise self._table.error(
            f"column {column}, {found}; --map NAME=LABEL,… maps each to one of "
            f"{', '.join(TRUTHS)}, or skip"
        )

    def _of(self, record: Mapping[str, Any], number: int, column: str) -> int:
        value = record.get(column)
        truth = truth_of(value, self._names)
        if truth is not None:
            return truth
        self._unknown.setdefault((column, plain_name(value)), number)
        if len(self._unknown) == SHOWN_UNKNOWN:
            self.require_known()
        return 0

    def _of_kinds(self, record: Mapping[str, Any], number: int, kinds: Mapping[str, int]) -> int:
        """Return the truth of a row with a column of 0 and 1 for each kind; -1 is no label."""
        found = 0
        for column, truth in kinds.items():
            value = plain_name(record.get(column))
            if value not in ("0", "1", "-1"):
                raise self._table.error(f"column {column}, row {number}: must be 0, 1 or -1")
            if value == "-1":
                return 0
            if value == "1":
                found = found or truth
        return found or TRUTHS["not-toxic"]
