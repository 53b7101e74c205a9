"""Parquet, read in batches of limited size, whatever the file says of itself.

For a process with a limit on its memory (:mod:`hatespeech.formats.limited_process`): pyarrow
decodes a page as a whole, and a page may hold gigabytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

# Size of a batch, unless a single row is larger.
BATCH_BYTES: Final = 16 * 1024 * 1024
# Rows of the first batch, whose size is unknown: the file stores a value once for many rows.
FIRST_ROWS: Final = 16
# How many times faster it is to check a dictionary than to decode it.
CHECKED_TIMES: Final = 16


def open_parquet(file: BinaryIO) -> Any:
    """Open a file for :func:`batches`; it reads a page at a time."""
    file.seek(0)
    # Without a buffer size pyarrow would hold all pages of a row group together.
    return pq.ParquetFile(file, buffer_size=1024 * 1024, pre_buffer=False)


def batches(
    source: Any, most_rows: int, columns: list[str] | None = None, groups: range | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield batches of at most ``most_rows`` rows and about ``BATCH_BYTES`` bytes.

    ``groups`` are the row groups to read, all if it is ``None``.
    The number of rows is chosen by the first batch and only falls after that, by half or more,
    because a change means that a row group is read again from its start.
    """
    rows = min(FIRST_ROWS, most_rows)
    known = False
    for group in range(source.metadata.num_row_groups) if groups is None else groups:
        said = source.metadata.row_group(group)
        # What the file says of itself may be a lie, but then one that makes the batches smaller.
        least = max(1, BATCH_BYTES * said.num_rows // max(1, said.total_byte_size))
        done, more = 0, True
        while more:
            more = False
            found = source.iter_batches(
                min(rows, least), row_groups=[group], columns=columns, use_threads=False
            )
            for batch in _skip(found, done):
                yield batch
                done += len(batch)
                size = memory_bytes(batch)
                fitting = max(1, min(most_rows, BATCH_BYTES * len(batch) // max(1, size)))
                if not known or (size > 2 * BATCH_BYTES and fitting < rows):
                    more = fitting != rows
                    rows = min(fitting, rows // 2) if known else fitting
                    known = True
                if more:
                    break


def decoded_bytes(batch: pa.RecordBatch) -> int:
    """Return how much work it was to decode and check a batch, in bytes of its values.

    A value counts for its size and a byte more: a null has none, and a file of kilobytes may hold
    billions of them. A dictionary, which batches share, is checked again with each of them.
    """
    columns: Any = batch.columns
    dictionaries = (each.dictionary for each in columns if pa.types.is_dictionary(each.type))
    shared: int = sum(each.get_total_buffer_size() for each in dictionaries)
    return memory_bytes(batch) + sum(map(_values, columns)) + shared // CHECKED_TIMES


def _values(column: Any) -> int:
    """Return how many values a column has, those in its lists and structs included."""
    if isinstance(column, pa.ExtensionArray):
        return _values(column.storage)
    if pa.types.is_struct(column.type):
        return sum(_values(column.field(i)) for i in range(column.type.num_fields))
    if pa.types.is_nested(column.type):  # a kind of list, or a map
        return len(column) + _values(column.values)
    return len(column)


def memory_bytes(batch: pa.RecordBatch) -> int:
    """Return a batch's size in memory, without dictionaries, which batches share."""
    columns: Any = batch.columns
    return sum(map(_column_bytes, columns))


def _column_bytes(column: Any) -> int:
    if pa.types.is_dictionary(column.type):
        return int(column.indices.nbytes)
    if pa.types.is_string_view(column.type) or pa.types.is_binary_view(column.type):
        return int(column.get_total_buffer_size())  # nbytes leaves out what the views refer to
    return int(column.nbytes)


def _skip(batches_read: Iterator[pa.RecordBatch], rows: int) -> Iterator[pa.RecordBatch]:
    """Yield the batches without the first ``rows`` rows."""
    for batch in batches_read:
        if rows < len(batch):
            yield batch.slice(rows)
        rows = max(0, rows - len(batch))


def holds_strings(kind: pa.DataType) -> bool:
    """Return whether a column of this type holds strings."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
    return any(test(kind) for test in tests)


def text_bytes(column: Any) -> list[int]:
    """Return the length of each text of a column in bytes, 0 for a null."""
    if pa.types.is_dictionary(column.type):
        lengths = pc.binary_length(_without_views(column.dictionary)).take(column.indices)
    else:
        lengths = pc.binary_length(_without_views(column))
    return [length or 0 for length in lengths.to_pylist()]


def _without_views(column: Any) -> Any:
    """Return strings in a type that all functions on strings know."""
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column
