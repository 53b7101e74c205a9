"""The encoding of a file of text: what its first bytes say, otherwise what the caller says.

Nothing is guessed. Where bytes don't fit, a message suggests another encoding.
"""

from __future__ import annotations

import codecs
import io
from typing import BinaryIO, Final, cast

UTF_8: Final = "utf-8"
# Byte order marks, the longest first: that of UTF-32-LE begins with that of UTF-16-LE. The codec
# reads the mark and drops it.
MARKS: Final = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
MARK_BYTES: Final = 4
BUFFER_BYTES: Final = 64 * 1024
# What files of text are in, as far as they are not in Unicode. More candidates mislead.
CANDIDATES: Final = [
    *("cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256"),
    *("cp932", "euc_jp", "gb18030", "big5", "cp949", "koi8_r", "mac_roman"),
]


# Codecs of Python that are for names of hosts, not for files.
NOT_FOR_FILES: Final = ("idna", "punycode")
# By the mark these know the order of bytes.
NEED_A_MARK: Final = ("utf-16", "utf-32")
# What a file that is no text begins with, and what it is called.
OTHERS: Final = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
    b"\xfd7zX": "xz",
    b"PAR1": "Parquet",
    b"PK\x03\x04": "a ZIP file or a workbook",
}


class NotTextError(Exception):
    """The file is not text; the message says what it is."""


class UnmarkedError(Exception):
    """The file is UTF-16 without a byte order mark; the message names the encoding."""


def is_encoding(name: str) -> bool:
    """Say whether Python knows a text encoding by this name."""
    try:
        is_text = isinstance("".encode(name), bytes)
        return is_text and codecs.lookup(name).name not in NOT_FOR_FILES
    except (LookupError, ValueError):
        return False


def open_text(
    content: BinaryIO, encoding: str | None, newline: str, errors: str = "strict"
) -> io.TextIOWrapper:
    """Open a file's content as text. A byte order mark wins; without both, it is UTF-8.

    ``errors`` and ``newline`` are those of :class:`io.TextIOWrapper`. Raises
    :class:`NotTextError`, :class:`UnmarkedError`, and :class:`UnicodeError` if the encoding that is
    given needs a mark and there is none; reading raises :class:`UnicodeDecodeError`.
    """
    stream = io.BufferedReader(cast(io.RawIOBase, content), BUFFER_BYTES)
    start = stream.peek(MARK_BYTES)[:MARK_BYTES]
    marked = next((name for mark, name in MARKS.items() if start.startswith(mark)), None)
    other = next((name for sign, name in OTHERS.items() if start.startswith(sign)), None)
    if other is not None:
        raise NotTextError(f"is {other}, not text")
    if marked is None and encoding in (None, *NEED_A_MARK):
        # A text of which every other byte is zero: no UTF-8, whose NUL nobody writes, looks so.
        zeros = [byte == 0 for byte in start]
        if zeros == [False, True, False, True]:
            raise UnmarkedError("utf-16-le")
        if zeros == [True, False, True, False]:
            raise UnmarkedError("utf-16-be")
    if marked is None and encoding in NEED_A_MARK and start:
        raise UnicodeError("the byte order mark is missing")
    return io.TextIOWrapper(stream, marked or encoding or UTF_8, errors, newline)


def suggested(fault: UnicodeDecodeError) -> str | None:
    """Return an encoding that the bytes around a fault may be in, by the library for that."""
    import charset_normalizer

    sample = bytes(fault.object[:BUFFER_BYTES])
    # Another encoding would spoil all the other texts. And of a file that ends within a character,
    # these bytes are all that the decoder still has.
    if _is_mostly_utf_8(sample) or fault.reason == "unexpected end of data":
        return None
    found = charset_normalizer.from_bytes(sample, cp_isolation=CANDIDATES)
    names = [match.encoding for match in found]
    if not names:
        return None
    # Western text often fits several of Windows' encodings; this one is by far the most used.
    return "cp1252" if "cp1252" in names or _as_cp1252(sample) == str(found[0]) else names[0]


def _is_mostly_utf_8(sample: bytes) -> bool:
    """Say whether more signs beyond ASCII fit into UTF-8 than don't."""
    signs = [sign for sign in sample.decode(UTF_8, "replace") if sign > "\x7f"]
    return signs.count("\ufffd") * 2 < len(signs)


def _as_cp1252(sample: bytes) -> str | None:
    try:
        return sample.decode("cp1252")
    except UnicodeDecodeError:
        return None
