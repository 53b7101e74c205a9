"""A file that strangers send: read block by block, and written with its scores piece by piece."""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa
from typing_extensions import override

from hatespeech.errors import TooLargeError, ValidationError
from hatespeech.formats.choice import READERS, WRITERS
from hatespeech.formats.dialects import Dialect
from hatespeech.formats.file_options import FileOptions
from hatespeech.formats.interface import Block, FileSource, ReadLimits
from hatespeech.formats.names import Format
from hatespeech.formats.packing_codecs import packed, unpacked

FIELD: Final = "file"
# Streams that a file of zstd or xz may have; to begin them takes a second.
STREAMS: Final = 100_000
# To write xz as its program does takes 94 MiB, and this 9 MiB.
XZ_PRESET: Final = 1
OPTIONS: Final = ("text-column", "prefix", "quoting")


class SentFile:
    """A file of a request; its errors are those of the contract. ``file`` stays open."""

    size: int | None = None
    local_path: str | None = None
    shows_names = False
    keys: Mapping[str, str | None] = MappingProxyType({})

    def __init__(self, open_file: Callable[[], BinaryIO], form: Format, window: int = 0) -> None:
        """``window`` is how many bytes the window of zstd or xz may have."""
        self.format = form
        self._open_file = open_file
        self._window = window

    def open(self) -> tuple[BinaryIO, BinaryIO]:
        """See :meth:`FileSource.open`."""
        raw = self._open_file()
        return raw, unpacked(raw, self.format.compression, self._window, STREAMS)

    def error(self, what: str) -> ValidationError:
        """Return the error for a file that can't be read."""
        return ValidationError(what, field=FIELD)

    def too_large(self, what: str) -> TooLargeError:
        """Return the error for a file over a limit."""
        return TooLargeError(what, field=FIELD)

    def option(self, name: str) -> str:
        """Return the name of the form's field, if it has such a one."""
        return name.replace("-", "_") if name in OPTIONS else ""


class ScoredFile:
    """Reads a file's texts and returns, piece by piece, the same file with scores.

    Call :meth:`check`, then :meth:`next` and :meth:`write` for each block in turn, then
    :meth:`end`. ``next`` may be ahead of ``write``.
    """

    def __init__(
        self,
        source: FileSource,
        options: FileOptions,
        limits: ReadLimits,
    ) -> None:
        dialect = Dialect(quoted=options.quoted, asks=True)
        self._reader = READERS[source.format.kind](
            source, options.column, options.prefix, limits, options.flagged, dialect
        )
        self._blocks = self._reader.blocks()
        self._unscored: deque[Block] = deque()
        self._sink = _Sink()
        self._out = packed(cast(BinaryIO, self._sink), options.compression, XZ_PRESET)

    def check(self, made_by: Mapping[str, Any] | None = None) -> int:
        """Read to the end; return the number of rows.

        ``made_by`` is what the file with scores says of them.

        Raises :class:`ValidationError` if the file can't be scored, and :class:`TooLargeError` if
        it is over a limit.
        """
        reader = self._reader
        kind = reader.source.format.kind
        if not reader.dialect.separates_scores(kind):
            raise reader.error(
                f"{kind} without quotes can't hold the new columns; send TSV or JSONL"
            )
        rows = reader.check()
        writer = WRITERS[kind]
        self._writer = writer(self._out, reader.head(), reader.added, reader.dialect)
        self._writer.describe(made_by or {})
        return rows

    def next(self) -> list[Any] | None:
        """Return the values of the next rows' text column, or ``None`` at the end."""
        block = next(self._blocks, None)
        if block is None:
            return None
        self._unscored.append(block)
        return block.texts

    def write(self, scores: pa.Table) -> bytes:
        """Take the scores of the first block that has none; return what is written."""
        self._writer.write(self._unscored.popleft(), scores)
        return self._sink.take()

    def end(self) -> bytes:
        """Return the bytes after the last row."""
        self._writer.close()
        if self._out is not cast(BinaryIO, self._sink):
            self._out.close()
        return self._sink.take()


class _Sink(io.RawIOBase):
    """Keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._written = 0

    @override
    def writable(self) -> bool:
        return True

    @override
    def write(self, data: Any) -> int:
        part = bytes(data)
        self._parts.append(part)
        self._written += len(part)
        return len(part)

    @override
    def tell(self) -> int:
        return self._written

    def take(self) -> bytes:
        """Return what has been written since the last call."""
        data, self._parts = b"".join(self._parts), []
        return data
