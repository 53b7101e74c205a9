"""Parquet that another process reads, so that a file of kilobytes can't take gigabytes here."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final

import pyarrow as pa

from hatespeech.errors import ServiceError, TooLargeError
from hatespeech.formats.file_options import FileOptions
from hatespeech.formats.interface import FileSource, ReadLimits
from hatespeech.formats.limited_process import LimitedProcess

PROCESS: Final = "hatespeech.formats.parquet_process"


class ForeignParquet:
    """An uploaded file that a process of its own reads and writes: it is never decoded here.

    It has the methods of :class:`ScoredFile`. :class:`TooLargeError` of any of them means that the
    file is over a limit, or that the process needed more memory than it may have.
    """

    def __init__(
        self, file: BinaryIO, options: FileOptions, limits: ReadLimits, memory_bytes: int
    ) -> None:
        """Start the process."""
        arguments = [limits.max_rows, limits.max_bytes, dataclasses.asdict(options)]
        self.process = LimitedProcess(PROCESS, file, memory_bytes, arguments)

    def check(self, made_by: Mapping[str, Any] | None = None) -> int:
        """See :meth:`ScoredFile.check`."""
        rows: int = self.process.call("check", made_by)
        return rows

    def next(self) -> list[Any] | None:
        """See :meth:`ScoredFile.next`."""
        texts: list[Any] | None = self.process.call("next")
        return texts

    def write(self, scores: pa.Table) -> bytes:
        """See :meth:`ScoredFile.write`."""
        data: bytes = self.process.call("write", scores.to_pydict())
        return data

    def end(self) -> bytes:
        """See :meth:`ScoredFile.end`."""
        data: bytes = self.process.call("end")
        return data

    def close(self) -> None:
        """End the process. A call that waits for it in another thread raises."""
        self.process.close()


class ParquetVerifier:
    """Has files of this machine decoded to their end by one process, started for the first."""

    def __init__(self, memory_bytes: int) -> None:
        self._memory_bytes = memory_bytes
        self._process: LimitedProcess | None = None

    def verify(self, source: FileSource, progress: Callable[[int], object]) -> int:
        """Return a file's number of rows; ``progress`` gets bytes.

        Raises an error of the source if it can't be read, or if that takes too much memory.
        """
        try:
            return self._verify(source, progress)
        except TooLargeError as error:
            self.close()  # it is dead
            raise source.too_large(error.message) from None
        except ServiceError as error:
            raise source.error(error.message) from None

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.close()
            self._process = None

    def _verify(self, source: FileSource, progress: Callable[[int], object]) -> int:
        if self._process is None:
            self._process = LimitedProcess(PROCESS, None, self._memory_bytes, None)
        path, size = source.local_path, source.size or 0
        told, done = 0, False
        while not done:
            rows, total, done = self._process.call("verify", path)
            path = None
            read = size if done else size * rows // max(1, total)
            progress(read - told)
            told = read
        return int(rows)
