"""Parquet, read and written in batches of rows; every column keeps its type."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from typing_extensions import override

from hatespeech.formats.columns import LEVELS, splits
from hatespeech.formats.interface import (
    BLOCK_ROWS,
    SAMPLE_ROWS,
    Block,
    Head,
    Inspector,
    Piece,
    Reader,
    Writer,
)
from hatespeech.formats.parquet_batches import (
    FIRST_ROWS,
    batches,
    decoded_bytes,
    holds_strings,
    memory_bytes,
    open_parquet,
    text_bytes,
)

# Bytes of a block's texts, unless a single row has more: Python holds them as strings.
BLOCK_TEXT_BYTES: Final = 4 * 1024 * 1024
# Size of a row group that is written. More rows would read faster, but a caller over HTTP gets
# nothing before the first row group is full.
GROUP_ROWS: Final = 8192
GROUP_BYTES: Final = 16 * 1024 * 1024
# Tables that wait for it at most: each takes memory for each of its columns, however few its rows.
WAITING_TABLES: Final = 8

# In the schema's metadata, under this key, is what made the scores, as JSON.
NOTE: Final = b"hatespeech"

UNREADABLE: Final = (pa.ArrowException, OSError, UnicodeDecodeError)


class ParquetReader(Reader):
    """A Parquet file whose text column holds strings."""

    @override
    def names(self) -> list[str]:
        with self._open() as source:
            return [*source.schema_arrow.names, *self.source.keys]

    @override
    def head(self) -> Head:
        with self._open() as source:
            schema = source.schema_arrow
        self.require_few(schema.names)
        if schema.names.count(self.column) > 1:
            raise self.column_error(f"has {schema.names.count(self.column)} columns", [])
        kind = _type_at(schema, self.column)
        if kind is None:
            raise self.column_error("has no column", list(_paths_of(schema)))
        if not holds_strings(kind):
            option = self.source.option("text-column")
            raise self.error(
                f"its column {self.column} must hold strings, but is {kind} ({option})"
            )
        self.refuse_keys(schema.names)
        for key in self.source.keys:
            schema = schema.append(pa.field(key, pa.string()))
        self.refuse_added(schema.names)
        return Head(schema)

    @override
    def check(self) -> int:
        self.head()
        return max((seen for seen, _ in self.verify()), default=0)

    def verify(self) -> Iterator[tuple[int, int]]:
        """Decode the whole file; yield how many rows are read, and how many there are.

        Raises an error of the source if it can't be read to its end, or is over a limit.
        """
        most = self.limits.max_bytes
        seen = decoded = 0
        try:
            with self._open() as source:
                said = source.metadata.num_rows
                self.require_rows(said)
                for batch in batches(source, BLOCK_ROWS):
                    decoded += decoded_bytes(batch)
                    if most is not None and decoded > most:
                        raise self.source.too_large(
                            f"has more than {most} bytes of values; leave out columns, or send it "
                            "in parts"
                        )
                    batch.validate(full=True)
                    seen += len(batch)
                    self.require_rows(seen)
                    yield seen, said
            damaged = seen != said
        except MemoryError:  # one of pyarrow's is an ArrowException, too
            raise
        except UNREADABLE:
            damaged = True
        if damaged:
            raise self.error(f"can't be read as Parquet after row {seen}")

    @override
    def count(
        self,
        progress: Callable[[int], object],
        inspect: Inspector | None = None,
        sample: Callable[[Any], object] | None = None,
    ) -> int:
        verify = self.limits.verify_parquet
        rows: int | None = None
        most = FIRST_ROWS  # behind a URL a look at more rows would cost too much
        if verify is not None and self.source.local_path is not None:
            rows, most = verify(self.source, progress), SAMPLE_ROWS
        if rows is None or sample is not None:
            with self._open() as source:
                if rows is None:
                    rows = int(source.metadata.num_rows)
                    progress(self.source.size or 0)
                if sample is not None:
                    self._look(source, most, sample)
        if inspect is not None:
            seen = 1
            for block in self.blocks():
                inspect(block.rows, seen)
                seen += len(block.texts)
        return rows

    def _look(self, source: Any, most: int, sample: Callable[[Any], object]) -> None:
        """Call ``sample`` with the texts of the first rows of an open file."""
        try:
            for batch in batches(source, BLOCK_ROWS, [self.column]):
                for text in _column_at(batch, self.column).slice(0, most).to_pylist():
                    sample(text)
                most -= len(batch)
                if most <= 0:
                    return
        except MemoryError:
            raise
        except UNREADABLE:
            raise self.error("can't be read as Parquet after row 0") from None

    @override
    def blocks(self) -> Iterator[Block]:
        for batch in self._batches(None):
            texts = _column_at(batch, self.column).to_pylist()
            for key, value in self.source.keys.items():
                values = pa.repeat(pa.scalar(value, pa.string()), len(batch))
                batch = batch.append_column(key, values)
            yield Block(batch, texts, memory_bytes(batch))

    @override
    def pieces(self, rows: int) -> Sequence[Piece | None]:
        with self._open() as source:
            groups = source.metadata.num_row_groups
            sizes = [source.metadata.row_group(group).num_rows for group in range(groups)]
        pieces: list[Piece | None] = []
        start = found = 0
        for group, size in enumerate(sizes):
            found += size
            if found >= rows:
                pieces.append(Piece(range(start, group + 1), found))
                start, found = group + 1, 0
        if start < groups:
            pieces.append(Piece(range(start, groups), found))
        return pieces or [None]

    @override
    def texts(self, piece: Piece | None = None) -> Iterator[list[Any]]:
        groups = None if piece is None else piece.groups
        for batch in self._batches([self.column], groups):
            yield _column_at(batch, self.column).to_pylist()

    def _batches(
        self, columns: list[str] | None, groups: range | None = None
    ) -> Iterator[pa.RecordBatch]:
        row = 0
        try:
            with self._open() as source:
                for batch in batches(source, BLOCK_ROWS, columns, groups):
                    for part in parts_of(batch, self.column, BLOCK_TEXT_BYTES):
                        yield part
                        row += len(part)
        except MemoryError:
            raise
        except UNREADABLE as exc:
            where = "" if groups is None else f" of row groups {groups.start} to {groups[-1]}"
            raise self.error(f"can't be read after row {row}{where}") from exc

    def _open(self) -> Any:
        raw, _ = self.source.open()
        try:
            return open_parquet(raw)
        except MemoryError:
            raise
        except UNREADABLE:
            raw.close()
            raise self.error("can't be read as Parquet") from None


def _type_at(schema: pa.Schema, column: str) -> Any:
    """Return the type of a column, or of a field of a struct; ``None`` if there is none."""
    if column in schema.names:
        return schema.field(column).type
    path = _path_in(schema, column)
    if path is None:
        return None
    found = schema.field(path[0]).type
    for name in path[1:]:
        found = found.field(name).type
    return found


def _path_in(fields: Any, column: str) -> list[str] | None:
    """Return the names that lead to a column of a schema, or of a struct; ``None`` if none do."""
    there: list[str] = [field.name for field in fields]
    if there.count(column) == 1:
        return [column]
    for first, rest in splits(column):
        if there.count(first) == 1 and pa.types.is_struct(kind := fields.field(first).type):
            below = _path_in(kind, rest)
            if below is not None:
                return [first, *below]
    return None


def _column_at(batch: pa.RecordBatch, column: str) -> Any:
    """Return a column, or a field of a struct: null where the struct is."""
    if column in batch.schema.names:
        return batch.column(column)
    first, *rest = _path_in(batch.schema, column) or [column]
    return pc.struct_field(batch.column(first), rest)


def _paths_of(fields: Iterable[pa.Field], levels: int = LEVELS) -> Iterator[str]:
    """Yield the paths to all columns, and to the fields of structs."""
    for field in fields:
        if pa.types.is_struct(field.type) and levels > 1:
            yield from (f"{field.name}.{path}" for path in _paths_of(field.type, levels - 1))
        else:
            yield field.name


def parts_of(batch: pa.RecordBatch, column: str, most: int) -> Iterator[pa.RecordBatch]:
    """Cut a batch so that the texts of each part take at most ``most`` bytes as Python strings."""
    start = size = 0
    for row, length in enumerate(text_bytes(_column_at(batch, column))):
        if row > start and size + length > most:
            yield batch.slice(start, row - start)
            start, size = row, 0
        size += length
    if len(batch) > start:
        yield batch.slice(start)


class ParquetWriter(Writer):
    """Writes row groups of about ``GROUP_ROWS`` rows."""

    @override
    def begin(self) -> None:
        self._schema = pa.schema([*self._head.columns, *self._added], self._head.columns.metadata)
        self._writer: Any = None  # opened late: the schema's metadata are not known yet
        self._waiting: list[pa.Table] = []
        self._rows = self._bytes = 0  # of those that wait

    @override
    def write(self, block: Block, scores: pa.Table) -> None:
        rows = pa.Table.from_batches([block.rows])
        self._waiting.append(
            pa.Table.from_arrays([*rows.columns, *scores.columns], schema=self._schema)
        )
        self._rows += len(rows)
        self._bytes += memory_bytes(block.rows)
        if self._rows >= GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()
        elif len(self._waiting) == WAITING_TABLES:
            self._waiting = [pa.concat_tables(self._waiting).combine_chunks()]

    @override
    def describe(self, made_by: Mapping[str, Any]) -> None:
        if self._writer is None and made_by:
            note = {NOTE: json.dumps(made_by, ensure_ascii=False).encode()}
            self._schema = self._schema.with_metadata({**(self._schema.metadata or {}), **note})

    @override
    def close(self) -> None:
        self._flush()
        self._open().close()

    @override
    def abandon(self) -> None:
        # Otherwise pyarrow closes it during garbage collection, after the file has been closed.
        if self._writer is not None:
            with contextlib.suppress(Exception):
                self._writer.close()

    def _flush(self) -> None:
        if self._waiting:
            self._open().write_table(pa.concat_tables(self._waiting))
            self._waiting = []
            self._rows = self._bytes = 0

    def _open(self) -> Any:
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._file, self._schema)
        return self._writer
