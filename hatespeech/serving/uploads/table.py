"""What every format of an uploaded file can do, and the columns added to it."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, ClassVar, Final

from hatespeech.contract import COLUMNS, TextScore
from hatespeech.errors import TooLargeError, ValidationError

TEXT: Final = "text"
ADDED: Final = tuple(COLUMNS)


@dataclass(frozen=True)
class UploadLimits:
    """What an uploaded file may have and take."""

    chunk_rows: int  # rows that are scored at once
    max_rows: int
    process_bytes: int  # memory of a process that reads Parquet


class UploadTable(ABC):
    """An uploaded file, read and written in chunks of at most ``limits.chunk_rows`` rows.

    It is read twice: once to the end, so that a file with an error is refused before the reply
    begins, and once to be scored. Use it from one thread at a time, except :meth:`close`.
    """

    media_type: ClassVar[str]
    suffix: ClassVar[str]

    def __init__(self, file: BinaryIO, limits: UploadLimits) -> None:
        self._file = file
        self._limits = limits
        self._closing = threading.Lock()
        self._closed = False

    @abstractmethod
    def check(self) -> None:
        """Read to the end.

        Raises :class:`ValidationError` if the file cannot be scored, and :class:`TooLargeError` if
        it has too many rows or, as Parquet, needs too much memory.
        """

    @abstractmethod
    def chunks(self) -> Iterator[tuple[Any, list[Any]]]:
        """Yield chunks: the rows, as :meth:`write` takes them, and the values in ``text``."""

    @abstractmethod
    def write(self, rows: Any, items: Sequence[TextScore]) -> bytes:
        """Return rows with their scores; the first call also returns any header."""

    def end(self) -> bytes:
        """Return the bytes after the last row."""
        return b""

    def close(self) -> None:
        """Close the file, which deletes it if it is temporary. Another thread's reading fails."""
        with self._closing:
            self._closed = True
        self._file.close()


def refuse_added(columns: Sequence[str] | Mapping[str, Any]) -> None:
    """Raise :class:`ValidationError` if the file already has one of the added columns."""
    for name in ADDED:
        if name in columns:
            raise ValidationError(f"already has a column {name}; rename it", field="file")


def refuse_rows(rows: int, limit: int) -> None:
    """Raise :class:`TooLargeError` if a file has more rows than the limit."""
    if rows > limit:
        raise TooLargeError(f"has more than {limit} rows", field="file")
