"""The interface of a format: check an input, read its texts, read its rows, write rows with scores.

An input is read up to three times: to check it, so that hours of scoring do not end at a bad row;
for its texts; and for its rows, which are written with their scores. Each reading holds one block
of rows in memory.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, Final

import pyarrow as pa

from hatespeech.bulk import RunError
from hatespeech.bulk.places import Input
from hatespeech.bulk.score_files import SCORES

BLOCK_ROWS: Final = 1024
# Each column takes memory besides its values, most of all in Parquet; a spreadsheet has 16,384.
MAX_COLUMNS: Final = 16_384

# Is called with rows, as a Block holds them, and the number of the first, from 1; raises RunError.
Inspector = Callable[[Any, int], object]


@dataclass(frozen=True)
class Block:
    """Consecutive rows of a file."""

    rows: Any  # in a form that the format's writer takes
    texts: list[Any]  # value of the text column in each row, None if it is missing


@dataclass(frozen=True)
class Head:
    """The columns of a file; all files of one output must have the same."""

    columns: Any  # names, or a Parquet schema; None if each row has its own


class InputTable(ABC):
    """One input file."""

    def __init__(self, source: Input, column: str, prefix: str) -> None:
        self.source = source
        self.column = column
        self.added = [prefix + name for name in SCORES.names]

    @abstractmethod
    def head(self) -> Head:
        """Read the columns.

        Raises :class:`RunError` if the text column is missing, or a new column exists already.
        """

    @abstractmethod
    def count(self, progress: Callable[[int], object], inspect: Inspector | None = None) -> int:
        """Return the number of rows; raise :class:`RunError` if a row can't be read.

        ``progress`` is called with the number of bytes read since its last call, and ``inspect``
        with every row.
        """

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield all rows, in order."""

    def texts(self) -> Iterator[list[Any]]:
        """Yield the texts of all rows, in order."""
        for block in self.blocks():
            yield block.texts

    def require_few(self, columns: Sequence[str]) -> None:
        """Raise :class:`RunError` if there are more columns than memory is planned for."""
        if len(columns) > MAX_COLUMNS:
            raise self.error(f"has {len(columns):,} columns; the limit is {MAX_COLUMNS:,}")

    def refuse_added(self, columns: Sequence[str]) -> None:
        """Raise :class:`RunError` if a new column has the name of one in ``columns``."""
        there = [name for name in self.added if name in columns]
        if there:
            raise self.error(
                f"already has {', '.join(there)}; --prefix gives the new columns other names"
            )

    def error(self, what: str) -> RunError:
        """Return an error that names this file."""
        return RunError(f"{self.source.place}: {what}")


class Writer(ABC):
    """Writes one output file."""

    kind: ClassVar[str]

    def __init__(self, file: BinaryIO, head: Head, added: Sequence[str]) -> None:
        self._file = file
        self._head = head
        self._added = list(added)

    @abstractmethod
    def write(self, block: Block, scores: pa.Table) -> None:
        """Write rows with their scores, which have the columns of :data:`SCORES`."""

    @abstractmethod
    def close(self) -> None:
        """Write what follows the last row; the file stays open."""

    def abandon(self) -> None:  # noqa: B027 - most formats have nothing to do here
        """Stop using the file, which a later run writes again; never raises."""
