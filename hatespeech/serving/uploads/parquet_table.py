"""Parquet: read in chunks, and written in chunks with the scores.

pyarrow is imported only when a file is read: the import takes longer than scoring a small file.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final

from typing_extensions import override

from hatespeech.contract import COLUMNS, TextScore
from hatespeech.errors import TooLargeError, ValidationError
from hatespeech.serving.uploads.table import TEXT, UploadTable, refuse_added

if TYPE_CHECKING:
    import pyarrow as pa

# A row group that is written has at most about this many rows and bytes.
GROUP_ROWS: Final = 4096
GROUP_BYTES: Final = 16 * 1024 * 1024
# Bytes of a value, by physical type; for a string, of its offset.
WIDTHS: Final = {
    "BOOLEAN": 1,
    "INT32": 4,
    "INT64": 8,
    "INT96": 12,
    "FLOAT": 4,
    "DOUBLE": 8,
    "BYTE_ARRAY": 4,
}
# Bytes of a chunk's texts, unless a single row has more.
CHUNK_BYTES: Final = 4 * 1024 * 1024


class Parquet(UploadTable):
    """Parquet with a string column ``text``; the largest row group limits the memory."""

    media_type = "application/vnd.apache.parquet"
    suffix = "parquet"

    def __init__(self, file: BinaryIO, rows: int, max_group_bytes: int) -> None:
        super().__init__(file, rows, max_group_bytes)
        self._sink = _Sink()
        self._writer: Any = None
        self._waiting: list[pa.RecordBatch] = []

    @override
    def check(self) -> None:
        """Raise :class:`TooLargeError`, too, for a row group that could fill the memory."""
        import pyarrow as pa

        try:
            # Read as dictionaries, because a file of kilobytes may decode to gigabytes.
            source = self._open(dictionaries=True)
            columns = source.schema_arrow.names
            if columns.count(TEXT) != 1:
                raise ValidationError("must have one column text", field="file")
            kind = source.schema_arrow.field(TEXT).type
            if pa.types.is_dictionary(kind):
                kind = kind.value_type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
                raise ValidationError("its column text must hold strings", field="file")
            refuse_added(columns)
            limit = self._max_group_bytes
            groups = range(source.metadata.num_row_groups)
            if any(
                source.metadata.row_group(i).total_byte_size > limit
                or fixed_bytes(source, i, self._rows) > limit
                for i in groups
            ):
                raise TooLargeError(f"has a row group of more than {limit} bytes", field="file")
            for group in groups:  # pyarrow cannot join nested dictionaries of several groups
                for batch in source.iter_batches(self._rows, row_groups=[group]):
                    batch.validate(full=True)
                    if sum(map(decoded_bytes, batch.columns)) > limit:
                        raise TooLargeError(
                            f"has {len(batch)} rows of more than {limit} bytes", field="file"
                        )
        except (pa.ArrowException, OSError):
            raise ValidationError("cannot be read as Parquet", field="file") from None

    @override
    def chunks(self) -> Iterator[tuple[Any, list[Any]]]:
        source = self._open()
        self._begin(source.schema_arrow)
        for batch in source.iter_batches(self._rows):
            for part in parts_of(batch, CHUNK_BYTES):
                yield part, part.column(TEXT).to_pylist()

    @override
    def write(self, rows: Any, items: Sequence[TextScore]) -> bytes:
        import pyarrow as pa

        arrays = list(rows.columns)
        values = [item.columns() for item in items]
        for name, kind in COLUMNS.items():
            arrays.append(pa.array([row[name] for row in values], pa.type_for_alias(kind)))
        self._waiting.append(pa.RecordBatch.from_arrays(arrays, schema=self._schema))
        if (
            sum(batch.num_rows for batch in self._waiting) >= GROUP_ROWS
            or sum(batch.nbytes for batch in self._waiting) >= GROUP_BYTES
        ):
            self._flush()
        return self._sink.take()

    @override
    def end(self) -> bytes:
        self._flush()
        self._writer.close()
        return self._sink.take()

    def _open(self, *, dictionaries: bool = False) -> Any:
        import pyarrow.parquet as pq

        self._file.seek(0)
        source = pq.ParquetFile(self._file)
        if not dictionaries:
            return source
        columns = map(source.schema.column, range(len(source.schema)))
        strings = [each.path for each in columns if each.physical_type == "BYTE_ARRAY"]
        self._file.seek(0)
        return pq.ParquetFile(self._file, read_dictionary=strings)

    def _begin(self, schema: pa.Schema) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        for name, kind in COLUMNS.items():
            schema = schema.append(pa.field(name, pa.type_for_alias(kind)))
        self._schema = schema
        self._writer = pq.ParquetWriter(self._sink, schema)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._writer.write_table(pa.Table.from_batches(self._waiting))
            self._waiting = []


def fixed_bytes(source: Any, group: int, rows: int) -> int:
    """Return the bytes of a row group's fixed-width values once decoded, by its own count of them.

    One row may hold many, as in a list, and a billion equal values take a few bytes in the file.
    """
    metadata = source.metadata.row_group(group)
    size = 0
    for place in range(metadata.num_columns):
        kind = source.schema.column(place)
        width = WIDTHS.get(kind.physical_type) or kind.length
        count = metadata.column(place).num_values
        size += width * (count if kind.max_repetition_level else min(count, rows))
    return size


def decoded_bytes(column: Any) -> int:
    """Return the bytes of a column once each of its rows has its own copy of its value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(column.type):
        return sum(map(decoded_bytes, column.flatten()))
    if pa.types.is_map(column.type):
        first, last = column.offsets[0].as_py(), column.offsets[-1].as_py()
        sides = (column.keys, column.items)
        return sum(decoded_bytes(side.slice(first, last - first)) for side in sides)
    if pa.types.is_nested(column.type):  # lists: their offsets and their values
        return 4 * len(column) + decoded_bytes(column.flatten())
    if not pa.types.is_dictionary(column.type):
        return int(column.nbytes)
    values = column.dictionary
    if not _is_binary(values.type):
        return int(column.nbytes)
    lengths = pc.binary_length(values).cast(pa.int64()).take(column.indices)
    return int(column.indices.nbytes) + (pc.sum(lengths).as_py() or 0)


def parts_of(batch: Any, most: int) -> Iterator[Any]:
    """Cut a batch so that the texts of each part take at most ``most`` bytes as Python strings."""
    start = size = 0
    for row, length in enumerate(text_bytes(batch.column(TEXT))):
        if row > start and size + length > most:
            yield batch.slice(start, row - start)
            start, size = row, 0
        size += length
    if len(batch) > start:
        yield batch.slice(start)


def text_bytes(column: Any) -> list[int]:
    """Return the length of each text of a column in bytes, 0 for a null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        lengths = pc.binary_length(column.dictionary).take(column.indices)
    else:
        lengths = pc.binary_length(column)
    return [length or 0 for length in lengths.to_pylist()]


def _is_binary(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return any(
        test(kind)
        for test in (
            pa.types.is_string,
            pa.types.is_large_string,
            pa.types.is_binary,
            pa.types.is_large_binary,
        )
    )


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
