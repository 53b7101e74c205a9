"""The process with a limit on its memory that reads Parquet.

:mod:`hatespeech.formats.foreign_parquet` starts it. For an upload, which is its standard input, it
answers the calls of :class:`ScoredFile`: ``check``, ``next``, ``write`` and ``end``, and opens no
other file. For files of this machine it answers ``verify``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from io import FileIO
from typing import Any, BinaryIO, Final

import pyarrow as pa

from hatespeech.formats.file_options import FileOptions
from hatespeech.formats.interface import ReadLimits
from hatespeech.formats.limited_process import Method, answer_calls, deny_files
from hatespeech.formats.names import Format
from hatespeech.formats.parquet import ParquetReader
from hatespeech.formats.scored_file import ScoredFile, SentFile
from hatespeech.formats.scores import score_columns

PARQUET: Final = Format("Parquet", None)
# A call of ``verify`` answers after so long, for the progress bar.
STEP_SECONDS: Final = 0.2


class Verification:
    """Decodes files of this machine, one after the other, a step for each call."""

    def __init__(self) -> None:
        self._steps: Iterator[tuple[int, int]] = iter(())
        self._seen = (0, 0)

    def verify(self, path: str | None) -> tuple[int, int, bool]:
        """Begin a file, or go on with it if ``path`` is ``None``.

        Returns how many rows are read, how many there are, and whether the end is reached.
        """
        if path is not None:
            source = SentFile(partial(FileIO, path), PARQUET)
            self._steps, self._seen = ParquetReader(source, "", "").verify(), (0, 0)
        until = time.monotonic() + STEP_SECONDS
        while time.monotonic() < until:
            found = next(self._steps, None)
            if found is None:
                return *self._seen, True
            self._seen = found
        return *self._seen, False


def make_methods(file: BinaryIO, arguments: Any) -> Mapping[str, Method]:
    """Return the calls that this process answers; ``arguments`` are those of an upload, if any."""
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    if arguments is None:
        return {"verify": Verification().verify}
    deny_files()
    max_rows, max_bytes, given = arguments
    options = FileOptions(**given)
    columns = score_columns(options.flagged)

    def from_start() -> BinaryIO:
        file.seek(0)
        return file

    limits = ReadLimits(max_rows=max_rows, max_bytes=max_bytes)
    scored = ScoredFile(SentFile(from_start, PARQUET), options, limits)
    return {
        "check": scored.check,
        "next": _ignoring(scored.next),
        "write": lambda scores: scored.write(pa.table(scores, schema=columns)),
        "end": _ignoring(scored.end),
    }


def _ignoring(call: Callable[[], Any]) -> Method:
    return lambda _: call()


if __name__ == "__main__":
    answer_calls(make_methods)
