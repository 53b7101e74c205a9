"""Reads and writes one Parquet file, in a process whose memory is limited.

:class:`hatespeech.serving.uploads.parquet_table.Parquet` starts it. It answers four calls:
``check``, ``next``, ``write`` and ``end``.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from hatespeech.contract import COLUMNS
from hatespeech.errors import ValidationError
from hatespeech.formats.limited_process import Method, answer_calls
from hatespeech.formats.parquet_batches import (
    batches,
    holds_strings,
    memory_bytes,
    open_parquet,
    text_bytes,
)
from hatespeech.serving.uploads.table import TEXT, refuse_added, refuse_rows

# A row group that is written has at most about this many rows and bytes.
GROUP_ROWS: Final = 4096
GROUP_BYTES: Final = 16 * 1024 * 1024
# Bytes of a chunk's texts, unless a single row has more.
CHUNK_BYTES: Final = 4 * 1024 * 1024


class ParquetFile:
    """A Parquet file with a string column ``text``, and the same file with scores."""

    def __init__(self, file: BinaryIO, rows: int, max_rows: int) -> None:
        self._file = file
        self._rows = rows
        self._max_rows = max_rows
        self._chunks: Iterator[pa.RecordBatch] | None = None
        self._unscored: deque[pa.RecordBatch] = deque()
        self._sink = _Sink()
        self._waiting: list[pa.RecordBatch] = []

    def check(self) -> None:
        """Read to the end; raise the errors of :meth:`UploadTable.check`."""
        try:
            source = open_parquet(self._file)
            columns = source.schema_arrow.names
            if columns.count(TEXT) != 1:
                raise ValidationError("must have one column text", field="file")
            if not holds_strings(source.schema_arrow.field(TEXT).type):
                raise ValidationError("its column text must hold strings", field="file")
            refuse_added(columns)
            refuse_rows(source.metadata.num_rows, self._max_rows)
            seen = 0
            for batch in batches(source, self._rows):
                batch.validate(full=True)
                seen += len(batch)
                refuse_rows(seen, self._max_rows)
            damaged = seen != source.metadata.num_rows
        except MemoryError:  # one of pyarrow's is an ArrowException, too
            raise
        except (pa.ArrowException, OSError):
            damaged = True
        if damaged:
            raise ValidationError("cannot be read as Parquet", field="file")

    def next(self) -> list[str | None] | None:
        """Return the texts of the next rows, or ``None`` at the end."""
        if self._chunks is None:
            source = open_parquet(self._file)
            self._begin(source.schema_arrow)
            self._chunks = (
                part
                for batch in batches(source, self._rows)
                for part in parts_of(batch, CHUNK_BYTES)
            )
        rows = next(self._chunks, None)
        if rows is None:
            return None
        self._unscored.append(rows)
        texts: list[str | None] = rows.column(TEXT).to_pylist()
        return texts

    def write(self, scores: Mapping[str, list[Any]]) -> bytes:
        """Take the scores of the first rows that have none, by column; return what is written."""
        arrays: list[Any] = list(self._unscored.popleft().columns)
        arrays += [pa.array(scores[name], pa.type_for_alias(COLUMNS[name])) for name in COLUMNS]
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        if (
            sum(batch.num_rows for batch in self._waiting) >= GROUP_ROWS
            or sum(map(memory_bytes, self._waiting)) >= GROUP_BYTES
        ):
            self._flush()
        return self._sink.take()

    def end(self) -> bytes:
        """Return the bytes after the last row."""
        self._flush()
        self._writer.close()
        return self._sink.take()

    def _begin(self, schema: pa.Schema) -> None:
        for name, kind in COLUMNS.items():
            schema = schema.append(pa.field(name, pa.type_for_alias(kind)))
        self._schema = schema
        self._writer = pq.ParquetWriter(self._sink, schema)

    def _flush(self) -> None:
        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting))
            self._waiting = []


def parts_of(batch: pa.RecordBatch, most: int) -> Iterator[pa.RecordBatch]:
    """Cut a batch so that the texts of each part take at most ``most`` bytes as Python strings."""
    start = size = 0
    for row, length in enumerate(text_bytes(batch.column(TEXT))):
        if row > start and size + length > most:
            yield batch.slice(start, row - start)
            start, size = row, 0
        size += length
    if len(batch) > start:
        yield batch.slice(start)


class _Sink(io.RawIOBase):
    """Keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._written += len(part)
        return len(part)

    @override
    def tell(self) -> int:
        return self._written

    def take(self) -> bytes:
        """Return what has been written since the last call."""
        data, self._parts = b"".join(self._parts), []
        return data


def make_methods(file: BinaryIO, arguments: Any) -> Mapping[str, Method]:
    """Return the calls that this process answers; ``arguments`` are those of ParquetFile."""
    table = ParquetFile(file, **arguments)
    without: dict[str, Callable[[], Any]] = {
        "check": table.check,
        "next": table.next,
        "end": table.end,
    }
    methods: dict[str, Method] = {name: _ignoring(call) for name, call in without.items()}
    return {**methods, "write": table.write}


def _ignoring(call: Callable[[], Any]) -> Method:
    return lambda _: call()


if __name__ == "__main__":
    answer_calls(make_methods)
