"""Parquet, read and written in batches of rows; every column keeps its type."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from hatespeech.bulk.score_files import SCORES
from hatespeech.bulk.tables.interface import BLOCK_ROWS, Block, Head, InputTable, Inspector, Writer

# Size of a batch that is read, unless a single row is larger.
BATCH_BYTES: Final = 16 * 1024 * 1024
# Rows of the first batch, whose size is unknown: with a dictionary, rows may be many times larger
# than the file says.
FIRST_ROWS: Final = 16
# Size of a row group that is written.
GROUP_ROWS: Final = 65_536
GROUP_BYTES: Final = 16 * 1024 * 1024
# Tables that wait for it at most: each takes memory for each of its columns, however few its rows.
WAITING_TABLES: Final = 8


class ParquetTable(InputTable):
    """A Parquet file whose text column holds strings."""

    @override
    def head(self) -> Head:
        with self._open() as source:
            schema = source.schema_arrow
        self.require_few(schema.names)
        if schema.names.count(self.column) != 1:
            raise self.error(f"must have one column {self.column} (--text-column)")
        if not _holds_strings(schema.field(self.column).type):
            raise self.error(f"its column {self.column} must hold strings")
        self.refuse_added(schema.names)
        return Head(schema)

    @override
    def count(self, progress: Callable[[int], object], inspect: Inspector | None = None) -> int:
        with self._open() as source:
            rows: int = source.metadata.num_rows
        size = self.source.size or 0
        if inspect is None:
            progress(size)
            return rows
        seen = 0
        for block in self.blocks():
            inspect(block.rows, seen + 1)
            progress(size * (seen + len(block.texts)) // rows - size * seen // rows)
            seen += len(block.texts)
        return rows

    @override
    def blocks(self) -> Iterator[Block]:
        for batch in self._batches(None):
            yield Block(batch, batch.column(self.column).to_pylist())

    @override
    def texts(self) -> Iterator[list[Any]]:
        for batch in self._batches([self.column]):
            yield batch.column(self.column).to_pylist()

    def _batches(self, columns: list[str] | None) -> Iterator[pa.RecordBatch]:
        row = 0
        try:
            with self._open() as source:
                found = 0  # bytes of a row in memory; unknown before the first batch
                for group in range(source.metadata.num_row_groups):
                    size = source.metadata.row_group(group)
                    said = size.total_byte_size // max(1, size.num_rows) + 1
                    done = 0
                    more = True
                    while more and done < size.num_rows:
                        more = False
                        rows = FIRST_ROWS
                        if found:
                            rows = max(FIRST_ROWS, min(BLOCK_ROWS, BATCH_BYTES // found))
                        rows = max(1, min(rows, BATCH_BYTES // said))
                        batches = source.iter_batches(rows, row_groups=[group], columns=columns)
                        for batch in _skip(batches, done):
                            known, found = found, _bytes(batch) // max(1, len(batch)) + 1
                            yield batch
                            row += len(batch)
                            done += len(batch)
                            more = True
                            if not known or (found * rows > 2 * BATCH_BYTES and rows > FIRST_ROWS):
                                break  # continue with a better number of rows
        except (pa.ArrowException, OSError) as exc:
            raise self.error(f"can't be read after row {row}") from exc

    def _open(self) -> Any:
        raw, _ = self.source.open()
        try:
            # Without a buffer size pyarrow would hold all pages of a row group at once.
            return pq.ParquetFile(raw, buffer_size=1024 * 1024, pre_buffer=False)
        except (pa.ArrowException, OSError):
            raw.close()
            raise self.error("can't be read as Parquet") from None


def _skip(batches: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the batches without the first ``rows`` rows."""
    for batch in batches:
        if rows < len(batch):
            yield batch.slice(rows)
        rows = max(0, rows - len(batch))


def _bytes(batch: pa.RecordBatch) -> int:
    """Return a batch's size in memory, without dictionaries, which batches share."""
    columns: Any = batch.columns
    return sum(each.nbytes for each in columns if not pa.types.is_dictionary(each.type))


def _holds_strings(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)


class ParquetWriter(Writer):
    """Writes row groups of about ``GROUP_ROWS`` rows."""

    def __init__(self, file: BinaryIO, head: Head, added: Sequence[str]) -> None:
        super().__init__(file, head, added)
        self._schema = head.columns
        for name, field in zip(added, SCORES, strict=True):
            self._schema = self._schema.append(field.with_name(name))
        self._writer = pq.ParquetWriter(file, self._schema)
        self._waiting: list[pa.Table] = []

    @override
    def write(self, block: Block, scores: pa.Table) -> None:
        rows = pa.Table.from_batches([block.rows])
        self._waiting.append(
            pa.Table.from_arrays([*rows.columns, *scores.columns], schema=self._schema)
        )
        if (
            sum(map(len, self._waiting)) >= GROUP_ROWS
            or sum(table.nbytes for table in self._waiting) >= GROUP_BYTES
        ):
            self._flush()
        elif len(self._waiting) == WAITING_TABLES:
            self._waiting = [pa.concat_tables(self._waiting).combine_chunks()]

    @override
    def close(self) -> None:
        self._flush()
        self._writer.close()

    @override
    def abandon(self) -> None:
        # Otherwise pyarrow closes it during garbage collection, after the file has been closed.
        with contextlib.suppress(Exception):
            self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting))
            self._waiting = []
