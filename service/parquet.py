"""Parquet: read in chunks, written again in chunks with scores beside.

pyarrow is imported where a file is read: it takes longer to import than a small file to score.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from service.tables import ADDED, TEXT, Item, Table, refuse_added
from utils.errors import TooLargeError, ValidationError
from utils.schema import LABELS

if TYPE_CHECKING:
    import pyarrow as pa

# A row group as it is written.
GROUP_ROWS: Final = 4096
GROUP_BYTES: Final = 16 * 1024 * 1024


class Parquet(Table):
    """Parquet with a string column ``text``; memory is bounded by the largest row group."""

    media_type = "application/vnd.apache.parquet"
    suffix = "parquet"

    def __init__(self, file: BinaryIO, rows: int, max_group_bytes: int) -> None:
        super().__init__(file, rows, max_group_bytes)
        self._sink = _Sink()
        self._writer: Any = None
        self._waiting: list[pa.RecordBatch] = []

    def check(self) -> None:
        """See :meth:`Table.check`; raises :class:`TooLargeError` for a huge row group."""
        import pyarrow as pa

        try:
            source = self._open()
            columns = source.schema_arrow.names
            if columns.count(TEXT) != 1:
                raise ValidationError("file: must have one column text")
            kind = source.schema_arrow.field(TEXT).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise ValidationError("file: its column text must hold strings")
            refuse_added(columns)
            limit = self._max_group_bytes
            groups = range(source.metadata.num_row_groups)
            if any(source.metadata.row_group(i).total_byte_size > limit for i in groups):
                raise TooLargeError(f"file: has a row group of more than {limit} bytes")
            for batch in source.iter_batches(self._rows):
                batch.validate(full=True)
        except (pa.ArrowException, OSError):
            raise ValidationError("file: cannot be read as Parquet") from None

    def chunks(self) -> Iterator[tuple[Any, list[Any]]]:
        """See :meth:`Table.chunks`."""
        source = self._open()
        self._begin(source.schema_arrow)
        for batch in source.iter_batches(self._rows):
            yield batch, batch.column(TEXT).to_pylist()

    def write(self, rows: Any, items: Sequence[Item]) -> bytes:
        """See :meth:`Table.write`."""
        import pyarrow as pa

        arrays = list(rows.columns)
        for name in ADDED:
            values = [item.get(name) for item in items]
            arrays.append(pa.array(values, _added_type(name)))
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        if (
            sum(batch.num_rows for batch in self._waiting) >= GROUP_ROWS
            or sum(batch.nbytes for batch in self._waiting) >= GROUP_BYTES
        ):
            self._flush()
        return self._sink.take()

    def end(self) -> bytes:
        """See :meth:`Table.end`."""
        self._flush()
        self._writer.close()
        return self._sink.take()

    def _open(self) -> Any:
        import pyarrow.parquet as pq

        self._file.seek(0)
        return pq.ParquetFile(self._file)

    def _begin(self, schema: pa.Schema) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for name in ADDED:
            schema = schema.append(pa.field(name, _added_type(name)))
        self._schema = schema
        self._writer = pq.ParquetWriter(self._sink, schema)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting))
            self._waiting = []


def _added_type(name: str) -> pa.DataType:
    import pyarrow as pa

    if name in LABELS:
        return pa.float64()
    return pa.int32() if name == "windows" else pa.string()


class _Sink(io.RawIOBase):
    """Collects what is written until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        """Say yes."""
        return True

    def write(self, data: Any) -> int:
        """Keep some bytes."""
        part = bytes(data)
        self._parts.append(part)
        self._written += len(part)
        return len(part)

    def tell(self) -> int:
        """Return how much has been written, taken or not."""
        return self._written

    def take(self) -> bytes:
        """Return what has been written since the last time."""
        data, self._parts = b"".join(self._parts), []
        return data
