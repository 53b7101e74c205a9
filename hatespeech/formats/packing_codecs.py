"""Compressed files, read as a stream within a bound on memory.

A decompressor holds a window of what it has written. gzip's and bzip2's are small; in zstd and xz
the file says how large it is, up to gigabytes. Files beyond the bound are refused, with the command
that decompresses them.
"""

from __future__ import annotations

import io
import lzma
import math
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final, cast

import pyarrow as pa
from backports.zstd import DecompressionParameter, ZstdDecompressor, ZstdError
from typing_extensions import override

# As large as zstd's own program takes it unless it is told to; xz -9 asks for half of it.
LARGEST_WINDOW: Final = 128 * 1024 * 1024
XZ_BESIDE: Final = 1024 * 1024  # bytes that xz needs beside its window
ZSTD_MAGIC: Final = bytes.fromhex("28b52ffd")
READ_BYTES: Final = 256 * 1024
# Bytes that a decompressor gets at a time. It copies what follows the end of a stream, and a file
# may hold many streams.
FED_BYTES: Final = 16 * 1024
LONGEST_HEADER: Final = 18  # of a frame of zstd
# What the libraries say of a window beyond the limit.
TOO_LARGE: Final = ("Memory usage limit exceeded", "requires too much memory")
# What pyarrow and this module say of a file that is cut off.
ENDS_EARLY: Final = ("Truncated compressed stream", "stream ends too early")


class TooCostlyError(Exception):
    """The file is sound, but to decompress it takes more than this process gives it."""


def unpacked(
    raw: BinaryIO,
    compression: str | None,
    window: int = LARGEST_WINDOW,
    streams: float = math.inf,
) -> BinaryIO:
    """Return a file's content; the file itself if it is not compressed.

    A file of zstd or xz may have windows of so many bytes, and so many streams one after the other,
    each of which takes 10 µs to begin. Reading raises :class:`TooCostlyError`, and
    :class:`OSError` if the file is damaged.
    """
    if compression is None:
        return raw
    if compression in OWN:
        content = _Streams(raw, compression, window, streams)
        return cast(BinaryIO, io.BufferedReader(content, READ_BYTES))
    return cast(BinaryIO, pa.CompressedInputStream(raw, compression))


def packed(
    raw: BinaryIO, compression: str | None, xz_preset: int = lzma.PRESET_DEFAULT
) -> BinaryIO:
    """Return a stream whose content is compressed into ``raw``; close both, this one first."""
    if compression is None:
        return raw
    if compression == "xz":
        return cast(BinaryIO, lzma.LZMAFile(raw, "wb", preset=xz_preset))
    return cast(BinaryIO, pa.CompressedOutputStream(raw, compression))


def _zstd(window: int) -> ZstdDecompressor:
    return ZstdDecompressor(
        options={DecompressionParameter.window_log_max: (window - 1).bit_length()}
    )


def _xz(window: int) -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=window + XZ_BESIDE)


# Those whose window the file chooses.
OWN: Final[Mapping[str, Callable[[int], ZstdDecompressor | lzma.LZMADecompressor]]] = {
    "xz": _xz,
    "zstd": _zstd,
}


class _Streams(io.RawIOBase):
    """A file of xz or zstd, of one stream or several; zstd calls them frames."""

    def __init__(self, raw: BinaryIO, compression: str, window: int, streams: float) -> None:
        self._raw = raw
        self._compression = compression
        self._window = window
        self._streams_left = streams
        # Between streams of xz may be zeros, in fours.
        self._padding = b"\0" if compression == "xz" else b""
        self._start = b""  # the header of the first frame
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
        except (lzma.LZMAError, ZstdError) as exc:
            if any(said in str(exc) for said in TOO_LARGE):
                raise TooCostlyError(self._needs()) from None
            raise OSError(f"the {self._compression} stream is damaged") from None
        buffer[: len(data)] = data
        return len(data)

    def _read(self, most: int) -> bytes:
        """Return the next bytes, perhaps none yet."""
        if self._decompressor.eof:
            rest = self._decompressor.unused_data.lstrip(self._padding)
            while not rest:
                more = self._raw.read(FED_BYTES)
                if not more:
                    self._ended = True
                    return b""
                rest = more.lstrip(self._padding)
            self._rest = rest
            self._decompressor = self._new()
        if self._decompressor.needs_input and not self._rest:
            self._rest = self._raw.read(FED_BYTES)
            if not self._rest:
                raise OSError(f"the {self._compression} stream ends too early")
            self._start = self._start or self._rest[:LONGEST_HEADER]
        data, self._rest = self._rest, b""
        return self._decompressor.decompress(data, most)

    def _new(self) -> ZstdDecompressor | lzma.LZMADecompressor:
        if not self._streams_left:
            name = "frames" if self._compression == "zstd" else "streams"
            raise TooCostlyError(f"has too many {self._compression} {name}: decompress it first")
        self._streams_left -= 1
        return OWN[self._compression](self._window)

    def _needs(self) -> str:
        """Say how large a window must be: exactly, if the first frame of zstd asks for it."""
        if self._compression == "xz":
            return needs(self._window, "xz -d", "more than ")
        asked = window_log(self._start)
        if 1 << asked > self._window:
            return needs(1 << asked, f"zstd -d --long={asked}")
        return needs(self._window, "zstd -d --long=31", "more than ")  # in a later frame


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


def needs(window: int, command: str, about: str = "") -> str:
    """Return the message for a window that is too large."""
    size = f"{window >> 30} GiB" if window >= 1 << 30 else f"{window >> 20} MiB"
    return f"needs a window of {about}{size}: {command} it first"
