"""What every format of an uploaded file can do, and the columns added to it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, ClassVar, Final

from hatespeech.contract import COLUMNS, TextScore
from hatespeech.errors import ValidationError

TEXT: Final = "text"
ADDED: Final = tuple(COLUMNS)


class UploadTable(ABC):
    """An uploaded file, read and written in chunks of at most ``rows`` rows.

    It is read twice: once to the end, so that a file with an error is refused before the reply
    begins, and once to be scored. ``max_group_bytes`` limits a row group of Parquet.
    """

    media_type: ClassVar[str]
    suffix: ClassVar[str]

    def __init__(self, file: BinaryIO, rows: int, max_group_bytes: int) -> None:
        self._file = file
        self._rows = rows
        self._max_group_bytes = max_group_bytes

    @abstractmethod
    def check(self) -> None:
        """Read to the end; raise :class:`ValidationError` if the file cannot be scored."""

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
        """Close the file, which deletes it if it is temporary."""
        self._file.close()


def refuse_added(columns: Sequence[str] | Mapping[str, Any]) -> None:
    """Raise :class:`ValidationError` if the file already has one of the added columns."""
    for name in ADDED:
        if name in columns:
            raise ValidationError(f"already has a column {name}; rename it", field="file")
