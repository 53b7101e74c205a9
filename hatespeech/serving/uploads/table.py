"""An uploaded file of any format, read and written block by block."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from typing_extensions import override

from hatespeech.contract import TextScore
from hatespeech.formats.file_options import FileOptions
from hatespeech.formats.names import Format

if TYPE_CHECKING:
    from hatespeech.formats.foreign_parquet import ForeignParquet
    from hatespeech.formats.scored_file import ScoredFile


# How many characters a compressed file may always have, and how many times its bytes; the values of
# Parquet may have as many times its bytes, too.
UNPACKED_CHARS: Final = 16 * 1024 * 1024
UNPACKED_TIMES: Final = 100
# Bytes that a window may have, which the file chooses: as much as zstd -19 and xz -9 ask for. RFC
# 8878 asks those who write zstd for everyone not to go beyond.
WINDOWS: Final[Mapping[str | None, int]] = {"zstd": 8 * 1024 * 1024, "xz": 64 * 1024 * 1024}


@dataclass(frozen=True)
class UploadLimits:
    """What an uploaded file may have and take."""

    max_rows: int
    max_chars: int  # when it is unpacked; Parquet may have as many bytes of values, or more
    process_bytes: int  # memory of a process that reads Parquet


class UploadTable:
    """An uploaded file. Use it from one thread at a time, except :meth:`close`.

    It is read twice: once to the end, so that a file with an error is refused before the reply
    begins, and once to be scored. What strangers send as Parquet is decoded in another process.
    """

    def __init__(
        self, file: BinaryIO, form: Format, options: FileOptions, limits: UploadLimits
    ) -> None:
        self.format = form
        self.options = options
        self._file = file
        self._limits = limits
        self._closing = threading.Lock()
        self._closed = False
        self._scored: ScoredFile | ForeignParquet  # set by check, which comes first
        self._process: ForeignParquet | None = None

    @property
    def window(self) -> int:
        """Bytes of memory that the file may need beside its rows, to be decompressed."""
        return WINDOWS.get(self.format.compression, 0)

    @property
    def shared_bytes(self) -> int:
        """Bytes that the file takes of the memory that its kind has: for a process, or a window."""
        return self._limits.process_bytes if self.format.kind == "Parquet" else self.window

    def check(self, made_by: Mapping[str, Any] | None = None) -> int:
        """Read to the end; return the number of rows.

        ``made_by`` is what the reply's file says of its scores.

        Raises :class:`ValidationError` if the file can't be scored, and :class:`TooLargeError` if
        it has too many rows, characters or, as Parquet, bytes, or if that needs too much memory. So
        do the other methods if the process that reads Parquet dies.
        """
        self._scored = self._open()
        return self._scored.check(made_by)

    def next(self) -> list[Any] | None:
        """Return the values of the next rows' text column, or ``None`` at the end."""
        return self._scored.next()

    def write(self, items: Sequence[TextScore]) -> bytes:
        """Take the scores of the first rows that have none; return what is written."""
        from hatespeech.formats.scores import table_of

        return self._scored.write(table_of(items, self.options.flagged))

    def end(self) -> bytes:
        """Return the bytes after the last row."""
        return self._scored.end()

    def close(self) -> None:
        """Close the file, which deletes it if it is temporary. Another thread's reading fails."""
        with self._closing:
            self._closed = True
        self._file.close()
        if self._process is not None:
            self._process.close()

    def _open(self) -> ScoredFile | ForeignParquet:
        # Imported here because Arrow takes a while, and the port must be bound before that.
        from hatespeech.formats.foreign_parquet import ForeignParquet
        from hatespeech.formats.interface import ReadLimits
        from hatespeech.formats.scored_file import ScoredFile, SentFile

        options, limits = self.options, self._limits
        if self.format.kind == "Parquet":
            own = ReadLimits(limits.max_rows, max_bytes=self._most_bytes())
            process = ForeignParquet(self._file, options, own, limits.process_bytes)
            with self._closing:
                if self._closed:
                    process.close()
                self._process = process
            return process
        source = SentFile(lambda: cast(BinaryIO, _Handle(self._file)), self.format, self.window)
        own = ReadLimits(limits.max_rows, self._most_chars())
        return ScoredFile(source, options, own)

    def _most_chars(self) -> int:
        """Return how many characters the file may have: a compressed one could seem endless."""
        if self.format.compression is None:
            return self._limits.max_chars
        return min(self._limits.max_chars, max(UNPACKED_CHARS, UNPACKED_TIMES * self._size()))

    def _most_bytes(self) -> int:
        """Return how many bytes the values of a Parquet file may have: it stores equal ones once.

        Parquet is always packed, so the values of the largest file may take more than the file.
        """
        return max(self._limits.max_chars, UNPACKED_TIMES * self._size())

    def _size(self) -> int:
        return self._file.seek(0, io.SEEK_END)


class _Handle(io.RawIOBase):
    """Reads a file from its start, and leaves it open."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        file.seek(0)

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    @override
    def tell(self) -> int:
        return self._file.tell()
