"""Compressed files, read as a stream within a bound on memory.

A decompressor holds a window of what it has written. gzip's and bzip2's are small; in zstd and xz
the file says how large it is, up to gigabytes. Files beyond the bound are refused, with the command
that decompresses them.
"""

from __future__ import annotations

import contextlib
import io
import lzma
from collections.abc import Mapping
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa
from typing_extensions import override

# zstd's decompressor takes no larger window unless it is told to (ZSTD_WINDOWLOG_LIMIT_DEFAULT).
ZSTD_WINDOW_LOG: Final = 27
ZSTD_MAGIC: Final = bytes.fromhex("28b52ffd")
# As large as the window that zstd may have; xz -9 asks for half of it.
XZ_BYTES: Final = 128 * 1024 * 1024
READ_BYTES: Final = 256 * 1024
LONGEST_HEADER: Final = 18  # of a frame of zstd


class WindowTooLargeError(Exception):
    """The file is sound, but its decompression needs more memory than this process gives it."""


def unpacked(raw: BinaryIO, compression: str | None) -> BinaryIO:
    """Return a file's content; the file itself if it is not compressed.

    Reading raises :class:`WindowTooLargeError`, and :class:`OSError` if the file is damaged.
    """
    if compression is None:
        return raw
    if compression in OWN:
        return cast(BinaryIO, io.BufferedReader(OWN[compression](raw), READ_BYTES))
    return cast(BinaryIO, pa.CompressedInputStream(raw, compression))


def packed(raw: BinaryIO, compression: str | None) -> BinaryIO:
    """Return a stream whose content is compressed into ``raw``; close both, this one first."""
    if compression is None:
        return raw
    if compression == "xz":
        return cast(BinaryIO, lzma.LZMAFile(raw, "wb"))
    return cast(BinaryIO, pa.CompressedOutputStream(raw, compression))


class _Zstd(io.RawIOBase):
    """zstd's decompressor, whose refusal of a large window names the window."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._stream: Any = pa.CompressedInputStream(raw, "zstd")

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        try:
            data: bytes = self._stream.read(len(buffer))
        except OSError as exc:
            if "too much memory" not in str(exc):
                raise
            raise self._too_large() from None
        buffer[: len(data)] = data
        return len(data)

    def _too_large(self) -> WindowTooLargeError:
        window = 0
        with contextlib.suppress(OSError, ValueError):  # what is read over HTTP may have no start
            self._raw.seek(0)
            window = window_log(self._raw.read(LONGEST_HEADER))
        if window > ZSTD_WINDOW_LOG:
            return WindowTooLargeError(needs(1 << window, f"zstd -d --long={window}"))
        least = needs(2 << ZSTD_WINDOW_LOG, "zstd -d --long=31", "at least ")  # in a later frame
        return WindowTooLargeError(least)


def window_log(start: bytes) -> int:
    """Return the binary logarithm of the first frame's window, rounded up; 0 if it is not zstd.

    RFC 8878, 3.1.1.1: a frame of a single segment has no window of its own, and its content's size
    instead.
    """
    if not start.startswith(ZSTD_MAGIC) or len(start) < 6:
        return 0
    descriptor, window = start[4], start[5]
    if not descriptor & 0x20:
        return 10 + (window >> 3) + bool(window & 7)
    after = 5 + (0, 1, 2, 4)[descriptor & 3]  # behind the dictionary's id
    width = (1, 2, 4, 8)[descriptor >> 6]
    size = int.from_bytes(start[after : after + width], "little")
    return max(0, size - 1).bit_length()


class _Xz(io.RawIOBase):
    """xz's decompressor with a limit on its memory; the file may hold several streams."""

    def __init__(self, raw: BinaryIO) -> None:
        self._raw = raw
        self._rest = b""
        self._ended = False
        self._decompressor = self._new()

    @override
    def readable(self) -> bool:
        return True

    @override
    def readinto(self, buffer: Any) -> int:
        data = b""
        try:
            while not data and not self._ended:
                data = self._read(len(buffer))
        except lzma.LZMAError as exc:
            if "emory" in str(exc):
                raise WindowTooLargeError(needs(XZ_BYTES, "xz -d", "more than ")) from None
            raise OSError("the xz stream is damaged") from None
        buffer[: len(data)] = data
        return len(data)

    def _read(self, most: int) -> bytes:
        """Return the next bytes, perhaps none yet."""
        if self._decompressor.eof:
            # Between streams may be zeros, in fours.
            self._rest = (self._decompressor.unused_data or self._raw.read(READ_BYTES)).lstrip(
                b"\0"
            )
            self._decompressor = self._new()
            self._ended = not self._rest
            return b""
        if self._decompressor.needs_input and not self._rest:
            self._rest = self._raw.read(READ_BYTES)
            if not self._rest:
                raise OSError("the xz stream ends too early")
        data, self._rest = self._rest, b""
        return self._decompressor.decompress(data, most)

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_BYTES)


# Those whose windows are bounded here.
OWN: Final[Mapping[str, type[_Xz | _Zstd]]] = {"xz": _Xz, "zstd": _Zstd}


def needs(window: int, command: str, about: str = "") -> str:
    """Return the message for a window that is too large."""
    size = f"{window >> 30} GiB" if window >= 1 << 30 else f"{window >> 20} MiB"
    return f"needs a window of {about}{size}: {command} it first"
