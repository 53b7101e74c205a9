"""The interface of a format: check a file, read its rows, write rows with their scores.

A file is read twice: to check it, so that hours of scoring do not end at a bad row, and for its
rows, which are scored and written with their scores. Each reading holds one block of rows in
memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Protocol

import pyarrow as pa

from hatespeech.formats.columns import names_said
from hatespeech.formats.dialects import Dialect
from hatespeech.formats.names import Format
from hatespeech.formats.scores import score_columns

BLOCK_ROWS: Final = 1024
# Each column takes memory besides its values, most of all in Parquet; a spreadsheet has 16,384.
MAX_COLUMNS: Final = 16_384

SAMPLE_ROWS: Final = 1000

# Is called with rows, as a Block holds them, and the number of the first, from 1; raises an error
# of the source.
Inspector = Callable[[Any, int], object]


class FileSource(Protocol):
    """A file to read. Its errors name it, in the way of the program that reads it."""

    @property
    def format(self) -> Format:
        """The file's format."""
        ...

    @property
    def size(self) -> int | None:
        """Bytes, if they are known."""
        ...

    @property
    def shows_names(self) -> bool:
        """Whether messages may show the names of its columns: not to others than who sent it."""
        ...

    @property
    def keys(self) -> Mapping[str, str | None]:
        """Columns with one value for all rows, which the names of the file's folders say."""
        ...

    @property
    def local_path(self) -> str | None:
        """A path by which another process of this machine can open it."""
        ...

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """Return the raw file and its decompressed content, which are one if it is uncompressed."""
        ...

    def error(self, what: str) -> Exception:
        """Return the error for a file that can't be read."""
        ...

    def too_large(self, what: str) -> Exception:
        """Return the error for a file over a limit."""
        ...

    def option(self, name: str) -> str:
        """Return how the caller gives an option, such as ``text-column``; ``""`` if it can't."""
        ...


@dataclass(frozen=True)
class ReadLimits:
    """What a file may have and take; ``None`` stands for no limit."""

    max_rows: int | None = None
    max_chars: int | None = None  # of a file of text, when it is unpacked
    max_bytes: int | None = None  # of a Parquet file's values, when they are decoded
    # Decodes a Parquet file of this machine elsewhere, calls back with the bytes that it has read,
    # and returns the number of rows.
    verify_parquet: Callable[[FileSource, Callable[[int], object]], int] | None = None


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file."""

    rows: Any  # in a form that the format's writer takes
    texts: list[Any]  # value of the text column in each row, None if it is missing
    memory_bytes: int  # about how much the rows take


@dataclass(frozen=True)
class Piece:
    """A part of a file that can be read alone."""

    groups: range  # row groups of Parquet
    rows: int


@dataclass(frozen=True)
class Head:
    """The columns of a file; all files of one output must have the same."""

    columns: Any  # names, or a Parquet schema; None if each row has its own

    @property
    def names(self) -> list[str] | None:
        """The names of the columns, ``None`` if each row has its own."""
        schema = isinstance(self.columns, pa.Schema)
        return list(self.columns.names) if schema else self.columns


class Reader(ABC):
    """Reads one file.

    The column ``column``, or the key at this path, has the texts. ``prefix`` begins the names of
    the new columns. ``flagged`` and ``model`` are among them if the caller asks for thresholds, or
    for the model beside each row.
    """

    def __init__(
        self,
        source: FileSource,
        column: str,
        prefix: str,
        limits: ReadLimits | None = None,
        flagged: bool = False,
        dialect: Dialect | None = None,
        model: bool = False,
    ) -> None:
        self.source = source
        self.column = column
        self.added = score_columns(flagged, prefix, model)
        self.limits = limits or ReadLimits()
        self.dialect = dialect or Dialect()

    @abstractmethod
    def names(self) -> list[str] | None:
        """Return the names of the columns, whatever they are; ``None`` if each row has its own."""

    @abstractmethod
    def head(self) -> Head:
        """Read the columns.

        Raises an error of the source if the text column is missing, or a new column exists already.
        """

    def check(self) -> int:
        """Read to the end; return the number of rows.

        Raises an error of the source if the file can't be scored.
        """
        self.head()
        return self.count(lambda _bytes: None)

    @abstractmethod
    def count(
        self,
        progress: Callable[[int], object],
        inspect: Inspector | None = None,
        sample: Callable[[Any], object] | None = None,
    ) -> int:
        """Return the number of rows; raise an error of the source if a row can't be read.

        ``progress`` is called with the number of bytes read since its last call, ``inspect`` with
        every row, and ``sample`` with the texts of the first :data:`SAMPLE_ROWS` rows.
        """

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield all rows, in order; the same blocks every time."""

    def pieces(self, rows: int) -> Sequence[Piece | None]:  # noqa: ARG002 - only some formats can be cut
        """Return the pieces in which the texts can be read, each of at least ``rows`` rows.

        ``None`` stands for the whole file.
        """
        return [None]

    def texts(self, piece: Piece | None = None) -> Iterator[list[Any]]:  # noqa: ARG002 - as above
        """Yield the texts of all rows, or of those of a piece, in order."""
        for block in self.blocks():
            yield block.texts

    def require_few(self, columns: Sequence[str]) -> None:
        """Raise the source's error if there are more columns than memory is planned for."""
        if len(columns) > MAX_COLUMNS:
            raise self.error(f"has {len(columns):,} columns; the limit is {MAX_COLUMNS:,}")

    def require_rows(self, rows: int) -> None:
        """Raise the source's error if there are more rows than the limit."""
        if self.limits.max_rows is not None and rows > self.limits.max_rows:
            raise self.source.too_large(f"has more than {self.limits.max_rows} rows")

    def refuse_added(self, columns: Sequence[str]) -> None:
        """Raise the source's error if a new column has the name of one in ``columns``."""
        there = [name for name in self.added.names if name in columns]
        if there:
            raise self.error(
                f"already has {', '.join(there)}; {self.source.option('prefix')} gives the new "
                "columns other names"
            )

    def refuse_keys(self, columns: Sequence[str] | Mapping[str, Any]) -> None:
        """Raise the source's error if the rows have a column that is also named by a folder."""
        for key in self.source.keys:
            if key in columns:
                raise self.error(f"has a column {key}, and is in a folder named {key}=")

    def error(self, what: str) -> Exception:
        """Return an error that names this file."""
        return self.source.error(what)

    def column_error(self, what: str, names: Sequence[str]) -> Exception:
        """Return an error about the text column, which may name the columns that there are."""
        option = self.source.option("text-column")
        there = names_said(self.column, names) if self.source.shows_names else ""
        return self.error(f"{what} {self.column} ({option}){there}")

    def hint(self, option: str, value: str = "") -> str:
        """Return an option in parentheses, as an end of a message; nothing if there is no such."""
        name = self.source.option(option)
        return f" ({name} {value}".rstrip() + ")" if name else ""


class Writer(ABC):
    """Writes one output file."""

    def __init__(
        self,
        file: BinaryIO,
        head: Head,
        added: pa.Schema,
        dialect: Dialect | None = None,
    ) -> None:
        self._file = file
        self._head = head
        self._added = added  # columns, by their names in the file
        self._dialect = dialect or Dialect()
        self.begin()

    def begin(self) -> None:  # noqa: B027 - most formats have nothing to do here
        """Write what stands before the first row."""

    @abstractmethod
    def write(self, block: Block, scores: pa.Table) -> None:
        """Write rows with their scores, whose columns are the new ones in their order."""

    def describe(self, made_by: Mapping[str, Any]) -> None:  # noqa: B027 - most formats can't
        """Have the file say what made its scores, if its format has a place for it.

        Only what is said before the first rows counts.
        """

    def close(self) -> None:  # noqa: B027 - most formats have nothing to do here
        """Write what follows the last row; the file stays open."""

    def abandon(self) -> None:  # noqa: B027 - most formats have nothing to do here
        """Stop using the file, which a later run writes again; never raises."""
