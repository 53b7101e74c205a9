"""What a run does with any format: check it, read texts, read rows, write rows with scores.

A table is read up to three times: once to check it, so that what is wrong with the input is known
before hours of scoring; once for its texts; once for its rows, which go out with scores beside.
None of them holds more than a block of rows in memory.
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


# Gets rows as blocks hold them, and the number of the first, from 1; raises RunError.
Inspector = Callable[[Any, int], object]


@dataclass(frozen=True)
class Block:
    """Rows that stand one after another in a file."""

    rows: Any  # as the format writes them again
    texts: list[Any]  # what stands in the text column of each; None if nothing does


@dataclass(frozen=True)
class Head:
    """What all rows of a file have in common, and all files of one output must."""

    columns: Any  # names, or a Parquet schema; None where each row has its own


class InputTable(ABC):
    """One input file."""

    def __init__(self, source: Input, column: str, prefix: str) -> None:
        self.source = source
        self.column = column
        self.added = [prefix + name for name in SCORES.names]

    @abstractmethod
    def head(self) -> Head:
        """Read the columns; raise :class:`RunError` if the text's is missing or ours are there."""

    @abstractmethod
    def count(self, progress: Callable[[int], object], inspect: Inspector | None = None) -> int:
        """Return the number of rows; raise :class:`RunError` if one can't be read.

        ``progress`` is called with the number of bytes read since its last call, and ``inspect``
        with all rows.
        """

    @abstractmethod
    def blocks(self) -> Iterator[Block]:
        """Yield all rows, in order."""

    def texts(self) -> Iterator[list[Any]]:
        """Yield the texts of all rows, in order."""
        for block in self.blocks():
            yield block.texts

    def refuse_added(self, columns: Sequence[str]) -> None:
        """Raise :class:`RunError` if columns of ours are there already."""
        there = [name for name in self.added if name in columns]
        if there:
            raise self.error(f"has {', '.join(there)} already; --prefix names the new ones apart")

    def error(self, what: str) -> RunError:
        """Return an error about this file."""
        return RunError(f"{self.source.place}: {what}")


class Writer(ABC):
    """One output file being written."""

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
        """Write what follows the last row; the file is left open."""

    def abandon(self) -> None:  # noqa: B027 - most have nothing to let go of
        """Let go of the file, which will be written anew; never raises."""
