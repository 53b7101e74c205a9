"""What every format of an uploaded file can do, and the columns that it gains."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, ClassVar, Final

from hatespeech.contract import COLUMNS, TextScore
from hatespeech.errors import ValidationError

TEXT: Final = "text"
ADDED: Final = tuple(COLUMNS)


class UploadTable(ABC):
    """An uploaded file, in chunks of at most ``rows``; a Parquet row group has a limit in bytes."""

    media_type: ClassVar[str]
    suffix: ClassVar[str]

    def __init__(self, file: BinaryIO, rows: int, max_group_bytes: int) -> None:
        self._file = file
        self._rows = rows
        self._max_group_bytes = max_group_bytes

    @abstractmethod
    def check(self) -> None:
        """Read to the end; raise :class:`ValidationError` for a file that can't be scored."""

    @abstractmethod
    def chunks(self) -> Iterator[tuple[Any, list[Any]]]:
        """Yield rows as they will be written again, and what stands in their ``text``."""

    @abstractmethod
    def write(self, rows: Any, items: Sequence[TextScore]) -> bytes:
        """Return rows with their scores; the first call returns the head, if any, before them."""

    def end(self) -> bytes:
        """Return what follows the last row."""
        return b""

    def close(self) -> None:
        """Let go of the file; a temporary one is gone then."""
        self._file.close()


def refuse_added(columns: Sequence[str] | Mapping[str, Any]) -> None:
    """Raise :class:`ValidationError` if a column of ours is there already."""
    for name in ADDED:
        if name in columns:
            raise ValidationError(f"has a column {name} already; rename it", field="file")
