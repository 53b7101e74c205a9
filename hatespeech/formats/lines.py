"""CSV, TSV and JSONL."""

from __future__ import annotations

import csv
import io
import json
from abc import abstractmethod
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO, ClassVar, Final

import pyarrow as pa
from typing_extensions import override

from hatespeech.formats.interface import BLOCK_ROWS, Block, Head, Inspector, Reader, Writer
from hatespeech.formats.records import (
    CSV_DIALECT,
    MAX_RECORD_CHARS,
    TSV_DIALECT,
    Lines,
    TooMuchTextError,
    blocks_of,
    read_object,
)

# What a field takes in memory besides its characters, in characters of a block.
FIELD_CHARS: Final = 16


class TextReader(Reader):
    """A file of lines. A row that can't be read stops the run, since no output could hold it."""

    newline: ClassVar[str]

    @override
    def count(self, progress: Callable[[int], object], inspect: Inspector | None = None) -> int:
        rows = seen = 0
        for row, place in self._rows():
            rows += 1
            self.require_rows(rows)
            self.check_row(row, rows)
            if inspect is not None:
                inspect([row], rows)
            if place > seen:
                progress(place - seen)
                seen = place
        return rows

    @override
    def blocks(self) -> Iterator[Block]:
        rows = (row for row, _ in self._rows())
        for block in blocks_of(rows, BLOCK_ROWS, self.chars):
            yield Block(block, self.texts_of(block), sum(map(self.chars, block)))

    @abstractmethod
    def records(self, lines: Lines) -> Iterator[Any]:
        """Yield the rows; ``lines`` starts at the file's first line, which may be a header."""

    @abstractmethod
    def check_row(self, row: Any, number: int) -> None:
        """Raise the source's error for a row that can't be read or written again."""

    @abstractmethod
    def chars(self, row: Any) -> int:
        """Return a row's size in code points, which bounds a block."""

    @abstractmethod
    def texts_of(self, rows: list[Any]) -> list[Any]:
        """Return the text of each row."""

    def _rows(self) -> Iterator[tuple[Any, int]]:
        """Yield each row with the reader's position in the file, in bytes."""
        raw, content = self.source.open()
        number, most = 0, self.limits.max_chars
        with raw, io.TextIOWrapper(content, encoding="utf-8-sig", newline=self.newline) as text:
            try:
                for number, row in enumerate(self.records(Lines(text, most)), start=1):  # noqa: B007 - for the errors
                    yield row, raw.tell()
            except TooMuchTextError:
                raise self.source.too_large(f"has more than {most} characters") from None
            except UnicodeDecodeError:
                raise self.error(
                    f"row {number + 1}, or a row soon after it, is not UTF-8"
                ) from None
            except csv.Error:
                raise self.error(
                    f"row {number + 1} can't be read: its quotes are wrong, or it is longer than "
                    f"{MAX_RECORD_CHARS} characters"
                ) from None
            except (pa.ArrowException, OSError) as exc:
                if self.source.format.compression is None:
                    raise
                raise self.error(f"can't be decompressed after row {number}") from exc


class CsvReader(TextReader):
    """RFC 4180 with a header line."""

    newline = ""
    dialect: ClassVar[dict[str, Any]] = CSV_DIALECT

    @override
    def head(self) -> Head:
        raw, content = self.source.open()
        # Bytes that are not UTF-8 may be in a row; reading the rows reports them with a number.
        with raw, io.TextIOWrapper(content, "utf-8-sig", "replace", newline="") as text:
            try:
                columns = next((row for row in csv.reader(Lines(text), **self.dialect) if row), [])
            except (csv.Error, pa.ArrowException, OSError):
                raise self.error("its header can't be read") from None
        self.require_few(columns)
        if columns.count(self.column) != 1:
            raise self.column_error("its header must have one column")
        self.refuse_added(columns)
        return Head(columns)

    @override
    def records(self, lines: Lines) -> Iterator[list[str]]:
        header: list[str] = []
        for row in csv.reader(lines, **self.dialect):
            lines.chars = 0
            if row and header:
                yield row
            elif row:
                header = row
                self._width, self._place = len(row), row.index(self.column)

    @override
    def check_row(self, row: list[str], number: int) -> None:
        if len(row) != self._width:
            raise self.error(f"row {number} has {len(row)} fields, the header {self._width}")

    @override
    def chars(self, row: list[str]) -> int:
        return sum(map(len, row)) + FIELD_CHARS * len(row)

    @override
    def texts_of(self, rows: list[list[str]]) -> list[Any]:
        return [row[self._place] for row in rows]


class TsvReader(CsvReader):
    """Fields between tabs, without quoting, and a header line (IANA)."""

    dialect = TSV_DIALECT


class JsonlReader(TextReader):
    """One JSON object on each line."""

    newline = "\n"

    @override
    def head(self) -> Head:
        return Head(None)

    @override
    def count(self, progress: Callable[[int], object], inspect: Inspector | None = None) -> int:
        self._has_texts = False
        rows = super().count(progress, inspect)
        if rows and not self._has_texts:
            raise self.column_error("no row has the key")
        return rows

    def first_row(self) -> str | None:
        """Return the first row, unchecked; ``None`` if there are no rows."""
        return next((row for row, _ in self._rows()), None)

    @override
    def records(self, lines: Lines) -> Iterator[str]:
        for raw in lines:
            lines.chars = 0
            if line := raw.strip():
                yield line

    @override
    def check_row(self, row: str, number: int) -> None:
        try:
            record = read_object(row)
        except (ValueError, RecursionError):
            raise self.error(f"row {number} is not a JSON object") from None
        self._has_texts |= self.column in record
        if not record.keys().isdisjoint(self.added.names):
            self.refuse_added(list(record))

    @override
    def chars(self, row: str) -> int:
        return len(row)

    @override
    def texts_of(self, rows: list[str]) -> list[Any]:
        return [_text_of(json.loads(row).get(self.column)) for row in rows]


def _text_of(value: Any) -> Any:
    """Return a string or null as it is. No other value can be scored, and a list may be large."""
    return value if value is None or isinstance(value, str) else False


class CsvWriter(Writer):
    """Writes fields between commas, quoted where needed."""

    dialect: ClassVar[dict[str, Any]] = CSV_DIALECT

    def __init__(self, file: BinaryIO, head: Head, added: pa.Schema) -> None:
        super().__init__(file, head, added)
        self._rows([[*head.columns, *added.names]])

    @override
    def write(self, block: Block, scores: pa.Table) -> None:
        cells = [column.cast(pa.string()).fill_null("").to_pylist() for column in scores.columns]
        self._rows([*row, *more] for row, *more in zip(block.rows, *cells, strict=True))

    @override
    def close(self) -> None:
        pass  # nothing follows the last row

    def _rows(self, rows: Any) -> None:
        lines = _LineEndings()
        # With the terminator \r\n Python quotes a field that holds \r or \n.
        csv.writer(lines, lineterminator="\r\n", **self.dialect).writerows(rows)
        self._file.write("".join(lines.lines).encode())


class TsvWriter(CsvWriter):
    """Writes fields between tabs, without quoting."""

    dialect = TSV_DIALECT


class _LineEndings:
    """Takes a CSV writer's lines, and ends each with \\n instead of \\r\\n."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def write(self, line: str) -> None:
        """Take one line, which ends in \\r\\n."""
        self.lines.append(f"{line[:-2]}\n")


class JsonlWriter(Writer):
    """Writes each line unchanged, with keys added at its end."""

    @override
    def write(self, block: Block, scores: pa.Table) -> None:
        keys = [json.dumps(name, ensure_ascii=False) for name in self._added.names]
        cells = [_json_cells(column) for column in scores.columns]
        lines = []
        for line, *values in zip(block.rows, *cells, strict=True):
            head = line[:-1].rstrip()
            comma = "" if head == "{" else ", "
            more = ", ".join(f"{key}: {value}" for key, value in zip(keys, values, strict=True))
            lines.append(f"{head}{comma}{more}}}\n")
        self._file.write("".join(lines).encode())

    @override
    def close(self) -> None:
        pass  # nothing follows the last row


def _json_cells(column: Any) -> list[str]:
    if pa.types.is_string(column.type):
        return [json.dumps(value, ensure_ascii=False) for value in column.to_pylist()]
    cells: list[str] = column.cast(pa.string()).fill_null("null").to_pylist()
    return cells
