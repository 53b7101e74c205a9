"""CSV, TSV and JSONL: read in chunks, and written in chunks with the scores.

No more than a chunk is in memory at once.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

from typing_extensions import override

from hatespeech.contract import TextScore
from hatespeech.errors import ValidationError
from hatespeech.formats.records import CSV_DIALECT, TSV_DIALECT, Lines, blocks_of, read_object
from hatespeech.serving.uploads.table import ADDED, TEXT, UploadTable, refuse_added, refuse_rows


class Csv(UploadTable):
    """RFC 4180 with a header line; fields are quoted only if they need it."""

    media_type = "text/csv; charset=utf-8"
    suffix = "csv"
    dialect: ClassVar[dict[str, Any]] = CSV_DIALECT

    @override
    def check(self) -> None:
        columns = self._columns()
        if columns.count(TEXT) != 1:
            raise ValidationError("its header must name one column text", field="file")
        refuse_added(columns)
        for _ in self._records():
            pass

    @override
    def chunks(self) -> Iterator[tuple[Any, list[Any]]]:
        columns = self._columns()
        place = columns.index(TEXT)
        yield [[*columns, *ADDED]], []
        for rows in blocks_of(
            self._records(), self._limits.chunk_rows, lambda row: sum(map(len, row))
        ):
            yield rows, [row[place] for row in rows]

    @override
    def write(self, rows: Any, items: Sequence[TextScore]) -> bytes:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n", **self.dialect)
        if not items:  # the header
            writer.writerows(rows)
        for row, item in zip(rows, items, strict=False):
            added = item.columns().values()
            writer.writerow([*row, *("" if value is None else value for value in added)])
        return text.getvalue().encode()

    def _columns(self) -> list[str]:
        return next(self._lines(), [])

    def _records(self) -> Iterator[list[str]]:
        lines = self._lines()
        width = len(next(lines))
        for number, row in enumerate(lines, start=1):
            refuse_rows(number, self._limits.max_rows)
            if len(row) != width:
                raise ValidationError(
                    f"row {number} has {len(row)} fields, the header has {width}", field="file"
                )
            yield row

    def _lines(self) -> Iterator[list[str]]:
        self._file.seek(0)
        text = io.TextIOWrapper(self._file, encoding="utf-8-sig", newline="")
        source = Lines(text)
        reader = csv.reader(source, **self.dialect)
        try:
            for row in reader:
                source.chars = 0
                if row:
                    yield row
        except UnicodeDecodeError:
            raise ValidationError("is not UTF-8", field="file") from None
        except csv.Error:
            raise ValidationError(f"line {reader.line_num} cannot be read", field="file") from None
        finally:
            if not self._file.closed:  # a refused file may be closed before this generator is
                text.detach()


class Tsv(Csv):
    """Fields between tabs, never quoted, without tabs or line breaks inside (IANA)."""

    media_type = "text/tab-separated-values; charset=utf-8"
    suffix = "tsv"
    dialect = TSV_DIALECT


class Jsonl(UploadTable):
    """One object per line; a line is written as it was, with keys added at its end."""

    media_type = "application/jsonl"
    suffix = "jsonl"

    @override
    def check(self) -> None:
        for _ in self._objects():
            pass

    @override
    def chunks(self) -> Iterator[tuple[Any, list[Any]]]:
        for pairs in blocks_of(self._objects(), self._limits.chunk_rows, lambda pair: len(pair[0])):
            yield [line for line, _ in pairs], [text for _, text in pairs]

    @override
    def write(self, rows: Any, items: Sequence[TextScore]) -> bytes:
        lines = []
        for line, item in zip(rows, items, strict=True):
            added = json.dumps(item.columns(), ensure_ascii=False)
            head = line[:-1].rstrip()
            comma = "" if head == "{" else ", "
            lines.append(f"{head}{comma}{added[1:]}\n")
        return "".join(lines).encode()

    def _objects(self) -> Iterator[tuple[str, Any]]:
        """Yield each line and its text; a record as a whole may be many times larger."""
        self._file.seek(0)
        text = io.TextIOWrapper(self._file, encoding="utf-8-sig", newline="\n")
        number = rows = 0
        try:
            source = Lines(text)
            for number, raw in enumerate(source, start=1):  # noqa: B007 - named in errors
                source.chars = 0
                line = raw.strip()
                if line:
                    rows += 1
                    refuse_rows(rows, self._limits.max_rows)
                    record = read_object(line)
                    refuse_added(record)
                    yield line, record.get(TEXT)
        except UnicodeDecodeError:
            raise ValidationError("is not UTF-8", field="file") from None
        except (ValueError, RecursionError):
            raise ValidationError(f"line {number} is not a JSON object", field="file") from None
        except csv.Error:
            raise ValidationError(f"line {number + 1} is too long", field="file") from None
        finally:
            if not self._file.closed:  # a refused file may be closed before this generator is
                text.detach()
