"""CSV, TSV, JSONL, and what is read as one of them: JSON arrays, plain text and workbooks."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from abc import abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, BinaryIO, ClassVar, Final

import pyarrow as pa
from typing_extensions import override

from hatespeech.formats.columns import MISSING, is_header, paths_of, value_at
from hatespeech.formats.dialects import SEPARATORS, other_separator
from hatespeech.formats.encodings import NotTextError, UnmarkedError, open_text, suggested
from hatespeech.formats.interface import (
    BLOCK_ROWS,
    SAMPLE_ROWS,
    Block,
    Head,
    Inspector,
    Reader,
    Writer,
)
from hatespeech.formats.json_arrays import NotAnArrayError, array_items
from hatespeech.formats.json_values import to_json
from hatespeech.formats.packing_codecs import ENDS_EARLY, TooCostlyError
from hatespeech.formats.records import (
    MAX_RECORD_CHARS,
    Lines,
    PythonNumberError,
    TooMuchTextError,
    blocks_of,
    read_object,
)
from hatespeech.formats.workbook_rows import WorkbookError, sheet_rows

# What a field takes in memory besides its characters, in characters of a block.
FIELD_CHARS: Final = 16


class TextReader(Reader):
    """A file of lines. A row that can't be read stops the run, since no output could hold it."""

    newline: ClassVar[str]

    @override
    def count(
        self,
        progress: Callable[[int], object],
        inspect: Inspector | None = None,
        sample: Callable[[Any], object] | None = None,
    ) -> int:
        rows = seen = 0
        for row, place in self._rows():
            rows += 1
            self.require_rows(rows)
            self.check_row(row, rows)
            if inspect is not None:
                inspect([self.with_keys(row)], rows)
            if sample is not None and rows <= SAMPLE_ROWS:
                sample(self.texts_of([row])[0])
            if place > seen:
                progress(place - seen)
                seen = place
        return rows

    @override
    def blocks(self) -> Iterator[Block]:
        rows = (row for row, _ in self._rows())
        for block in blocks_of(rows, BLOCK_ROWS, self.chars):
            texts, memory = self.texts_of(block), sum(map(self.chars, block))
            if self.source.keys:
                block = [self.with_keys(row) for row in block]
            yield Block(block, texts, memory)

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

    @abstractmethod
    def with_keys(self, row: Any) -> Any:
        """Return a row with the columns that the file's folders say."""

    def records_of(self, raw: BinaryIO, content: BinaryIO) -> Iterator[Any]:
        """Yield the rows of an open file, and close it."""
        with raw, self.open_text(content) as text:
            yield from self.records(Lines(text, self.limits.max_chars))

    def open_text(self, content: BinaryIO, errors: str = "strict") -> io.TextIOWrapper:
        """Return the content as text."""
        return open_text(content, self.dialect.encoding, self.newline, errors)

    def fault(self, exc: Exception, number: int) -> Exception:
        """Return the source's error for one of :data:`UNREADABLE`; ``number`` rows were read."""
        if isinstance(exc, TooMuchTextError):
            return self.source.too_large(f"has more than {self.limits.max_chars} characters")
        if isinstance(exc, TooCostlyError):
            return self.source.too_large(str(exc))
        if isinstance(exc, NotTextError):
            return self.error(f"{exc}: its name must say so" + self.hint("input-format"))
        if isinstance(exc, UnmarkedError):
            looks = "looks like UTF-16 without a byte order mark"
            return self.error(looks + self.hint("encoding", str(exc)))
        if isinstance(exc, UnicodeError):
            encoding = (self.dialect.encoding or "UTF-8").upper()
            used = exc.encoding[:6].upper() if isinstance(exc, UnicodeDecodeError) else ""
            if used in ("UTF-16", "UTF-32") and not encoding.startswith(used):
                where = f"row {number + 1}, or a row soon after it,"
                return self.error(f"{where} is not {used}, which its byte order mark says")
            other = suggested(exc) if isinstance(exc, UnicodeDecodeError) else None
            other = other and self.hint("encoding", other)
            return self.error(
                f"row {number + 1}, or a row soon after it, is not {encoding}"
                + (f"; its bytes look like those of another encoding{other}" if other else "")
            )
        if isinstance(exc, csv.Error):
            return self.error(
                f"row {number + 1} can't be read: its quotes are wrong, or it is longer than "
                f"{MAX_RECORD_CHARS} characters"
            )
        doubt = "" if number else f"; is it {self.source.format.compression}?"
        if any(said in str(exc) for said in ENDS_EARLY):
            doubt = ": it ends too early, as after a download that broke off"
        return self.error(f"can't be decompressed after row {number}{doubt}")

    def _rows(self) -> Iterator[tuple[Any, int]]:
        """Yield each row with the reader's position in the file, in bytes."""
        raw, content = self.source.open()
        number = 0
        try:
            for number, row in enumerate(self.records_of(raw, content), start=1):  # noqa: B007 - for the errors
                yield row, raw.tell()
        except UNREADABLE as exc:
            if isinstance(exc, OSError) and self.source.format.compression is None:
                raise
            raise self.fault(exc, number) from None


# What reading a file of text raises for which the file is to blame.
UNREADABLE: Final = (
    csv.Error,
    pa.ArrowException,
    NotAnArrayError,
    NotTextError,
    OSError,
    TooMuchTextError,
    UnicodeError,
    UnmarkedError,
    TooCostlyError,
)


class CsvReader(TextReader):
    """RFC 4180 with a header line, or what the dialect says instead."""

    kind: ClassVar[str] = "CSV"
    newline = ""

    @override
    def names(self) -> list[str]:
        return [*self.named(self.first_row()), *self.source.keys]

    @override
    def head(self) -> Head:
        first = self.first_row()
        columns = self.named(first)
        self.require_few(columns)
        if columns.count(self.column) != 1:
            raise self._missing(columns, first)
        self.refuse_keys(columns)
        columns = [*columns, *self.source.keys]
        self.refuse_added(columns)
        return Head(columns)

    def first_row(self) -> list[str]:
        """Return the header or, without one, the first row; ``[]`` if there is none."""
        raw, content = self.source.open()
        try:
            # Bytes that do not fit may be in a row; reading the rows reports them with a number.
            with raw, self.open_text(content, "replace") as text:
                reader = csv.reader(Lines(text), **self.dialect.arguments(self.kind))
                first = next((row for row in reader if row), [])
        except (NotTextError, UnicodeError, UnmarkedError, TooCostlyError) as exc:
            raise self.fault(exc, 0) from None
        except (csv.Error, pa.ArrowException, OSError) as exc:
            if isinstance(exc, OSError) and self.source.format.compression is not None:
                raise self.fault(exc, 0) from None
            raise self.error(
                f"its header can't be read as {self.kind}{self.hint('input-format')}"
            ) from None
        self._refuse_quotes(first, "its header")
        return first

    def named(self, first: Sequence[str]) -> list[str]:
        """Return the names of the columns, by the header or the first row."""
        if self.dialect.header:
            return list(first)
        return [str(number) for number in range(1, len(first) + 1)]

    @override
    def records(self, lines: Lines) -> Iterator[list[str]]:
        return self.below_header(csv.reader(lines, **self.dialect.arguments(self.kind)), lines)

    def below_header(self, rows: Iterable[list[str]], lines: Lines | None) -> Iterator[list[str]]:
        """Yield the rows below the header, if there is one."""
        began = False
        for row in rows:
            if lines is not None:
                lines.chars = 0
            if row and not began:
                began = True
                self._width, self._place = len(row), self.named(row).index(self.column)
                if not self.dialect.header:
                    yield row
            elif row:
                yield row

    @override
    def check_row(self, row: list[str], number: int) -> None:
        if len(row) != self._width:
            first = "header" if self.dialect.header else "first row"
            raise self.error(f"row {number} has {len(row)} fields, the {first} {self._width}")
        self._refuse_quotes(row, f"row {number}")

    @override
    def chars(self, row: list[str]) -> int:
        return sum(map(len, row)) + FIELD_CHARS * len(row)

    @override
    def texts_of(self, rows: list[list[str]]) -> list[Any]:
        return [row[self._place] for row in rows]

    @override
    def with_keys(self, row: list[str]) -> list[str]:
        return [*row, *("" if value is None else value for value in self.source.keys.values())]

    def _refuse_quotes(self, row: Sequence[str], what: str) -> None:
        """Raise the source's error if only the caller knows whether quotes belong to the texts."""
        if self.dialect.asks_about(self.kind, row):
            option = self.source.option("quoting")
            raise self.error(
                f"{what} has a field in quotes, as pandas and R write TSV: say {option} csv if the "
                f"quotes are not part of the text, {option} none if they are"
            )

    def _missing(self, columns: Sequence[str], first: Sequence[str]) -> Exception:
        """Return the error for a text column that is not there, or there twice."""
        if columns.count(self.column):
            return self.column_error(f"its header has {columns.count(self.column)} columns", [])
        if not first:
            return self.column_error("has no header, so no column", [])
        if not self.dialect.header:
            numbers = "1" if len(columns) == 1 else f"a number from 1 to {len(columns)}"
            option = self.source.option("text-column")
            return self.error(f"without a header, {option} must be {numbers}")
        if first[0].lstrip().startswith("{"):
            return self.error(
                f"its first row looks like an object of JSONL{self.hint('input-format', 'jsonl')}"
            )
        if first[0].lower().startswith("sep="):
            return self.error("its first line, sep=, is for Excel alone: remove that line")
        delimiter = self.dialect.arguments(self.kind)["delimiter"]
        other = other_separator(delimiter.join(first), delimiter, self.column)
        what = "its header has no column"
        if other is not None:
            return self.error(
                f"{what} {self.column}; its fields look separated by {SEPARATORS[other]}"
                + self.hint(*self._told(other))
            )
        if is_header(first):
            return self.column_error(what, first)
        return self.error(
            f"{what} {self.column}{self.hint('text-column')}; the first row does not look like a "
            f"header{self.hint('no-header')}"
        )

    def _told(self, separator: str) -> tuple[str, str]:
        """Return the option, and its value, that reads a file with another separator."""
        if separator == "\t":
            return "input-format", "tsv"
        if self.kind == "TSV" and separator == ",":
            return "input-format", "csv"
        quoted = f"'{separator}'"
        return "delimiter", quoted if self.kind == "CSV" else f"{quoted} --input-format csv"


class TsvReader(CsvReader):
    """Fields between tabs, without quoting, and a header line (IANA), or as the dialect says."""

    kind = "TSV"


class PlainTextReader(CsvReader):
    """A text on each line, as the only column; an empty line is an empty text."""

    newline = "\n"

    @override
    def first_row(self) -> list[str]:
        return [self.column]

    @override
    def records(self, lines: Lines) -> Iterator[list[str]]:
        self._width, self._place = 1, 0
        for line in lines:
            lines.chars = 0
            yield [line.removesuffix("\n").removesuffix("\r")]

    @override
    def named(self, first: Sequence[str]) -> list[str]:
        return list(first)


class WorkbookReader(CsvReader):
    """A sheet of an .xlsx file, whose values become strings."""

    @override
    def first_row(self) -> list[str]:
        raw, content = self.source.open()
        with contextlib.closing(self._sheet(raw, content)) as rows:
            return next(rows, [])

    @override
    def records_of(self, raw: BinaryIO, content: BinaryIO) -> Iterator[list[str]]:
        return self.below_header(self._sheet(raw, content), None)

    def _sheet(self, raw: BinaryIO, content: BinaryIO) -> Generator[list[str], None, None]:
        width = 0
        try:
            with raw:
                for row in sheet_rows(content, self.dialect.sheet):
                    while len(row) > width and not row[-1]:  # cells that have a format only
                        row.pop()
                    width = width or len(row)
                    yield row + [""] * (width - len(row))
        except WorkbookError as exc:
            option = self.hint("sheet") if "sheet" in str(exc) else ""
            raise self.error(f"{exc}{option}") from None


class JsonlReader(TextReader):
    """One JSON object on each line."""

    newline = "\n"

    @override
    def names(self) -> None:
        return None

    @override
    def head(self) -> Head:
        return Head(None)

    @override
    def count(
        self,
        progress: Callable[[int], object],
        inspect: Inspector | None = None,
        sample: Callable[[Any], object] | None = None,
    ) -> int:
        self._has_texts = False
        rows = super().count(progress, inspect, sample)
        if rows and not self._has_texts:
            names = list(paths_of(json.loads(self.first_row() or "{}")))
            raise self.column_error("no row has the key", names)
        return rows

    def first_row(self) -> str | None:
        """Return the first row, unchecked; ``None`` if there are no rows."""
        return next((self.with_keys(row) for row, _ in self._rows()), None)

    def objects(self) -> Iterator[dict[str, Any]]:
        """Yield the rows as objects; raises what :func:`read_object` does for one that is none."""
        for row, _ in self._rows():
            yield read_object(self.with_keys(row))

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
        except PythonNumberError:
            raise self.error(
                f"row {number} holds NaN or Infinity, which Python writes but JSON does not have; "
                "write null instead"
            ) from None
        except (ValueError, RecursionError):
            array = self.hint("input-format", "json") if number == 1 and row[0] == "[" else ""
            raise self.error(f"row {number} is not a JSON object{array}") from None
        self._has_texts = self._has_texts or value_at(record, self.column) is not MISSING
        self.refuse_keys(record)
        if not record.keys().isdisjoint(self.added.names):
            self.refuse_added(list(record))

    @override
    def chars(self, row: str) -> int:
        return len(row)

    @override
    def texts_of(self, rows: list[str]) -> list[Any]:
        return [_text_of(value_at(json.loads(row), self.column)) for row in rows]

    @override
    def with_keys(self, row: str) -> str:
        return with_more(row, to_json(self.source.keys)[1:-1]) if self.source.keys else row


class JsonArrayReader(JsonlReader):
    """A JSON array of objects; its rows are those of JSONL, each on one line."""

    @override
    def records(self, lines: Lines) -> Iterator[str]:
        return array_items(lines.pieces())

    @override
    def fault(self, exc: Exception, number: int) -> Exception:
        if isinstance(exc, NotAnArrayError):
            option = self.hint("input-format", "jsonl") if "JSONL" in str(exc) else ""
            where = f"after row {number}: " if number else ""
            return self.error(f"{where}{exc}{option}")
        return super().fault(exc, number)


def _text_of(value: Any) -> Any:
    """Return a string or null as it is. No other value can be scored, and a list may be large."""
    if value is MISSING:
        return None
    return value if value is None or isinstance(value, str) else False


def with_more(line: str, more: str) -> str:
    """Return the line of an object with more keys at its end, written as JSON."""
    head = line[:-1].rstrip()
    comma = "" if head == "{" else ", "
    return f"{head}{comma}{more}}}"


class CsvWriter(Writer):
    """Writes fields between commas, quoted where needed, or as the dialect says."""

    kind: ClassVar[str] = "CSV"

    @override
    def begin(self) -> None:
        self._rows([[*self._head.columns, *self._added.names]])

    @override
    def write(self, block: Block, scores: pa.Table) -> None:
        cells = [column.cast(pa.string()).fill_null("").to_pylist() for column in scores.columns]
        self._rows([*row, *more] for row, *more in zip(block.rows, *cells, strict=True))

    def _rows(self, rows: Any) -> None:
        lines = _LineEndings()
        # With the terminator \r\n Python quotes a field that holds \r or \n.
        dialect = self._dialect.arguments(self.kind)
        csv.writer(lines, lineterminator="\r\n", **dialect).writerows(rows)
        self._file.write("".join(lines.lines).encode())


class TsvWriter(CsvWriter):
    """Writes fields between tabs, without quoting, or as the dialect says."""

    kind = "TSV"


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
            more = ", ".join(f"{key}: {value}" for key, value in zip(keys, values, strict=True))
            lines.append(with_more(line, more))
        self.put(lines)

    def put(self, lines: Sequence[str]) -> None:
        """Write objects."""
        self._file.write("".join(f"{line}\n" for line in lines).encode())


class JsonArrayWriter(JsonlWriter):
    """Writes an array with an object on each line."""

    _before = "[\n"

    @override
    def put(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._file.write(f"{self._before}{line}".encode())
            self._before = ",\n"

    @override
    def close(self) -> None:
        begun = self._before != "[\n"
        self._file.write(b"\n]\n" if begun else b"[]\n")


def _json_cells(column: Any) -> list[str]:
    if pa.types.is_string(column.type):
        return [json.dumps(value, ensure_ascii=False) for value in column.to_pylist()]
    cells: list[str] = column.cast(pa.string()).fill_null("null").to_pylist()
    return cells
