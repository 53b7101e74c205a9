"""What stands around a file of text: gzip and Zstandard, read and written as streams."""

from __future__ import annotations

from typing import BinaryIO, cast

import pyarrow as pa


def unpacked(raw: BinaryIO, compression: str | None) -> BinaryIO:
    """Return a file's content; the file itself if it is not compressed."""
    if compression is None:
        return raw
    return cast(BinaryIO, pa.CompressedInputStream(raw, compression))


def packed(raw: BinaryIO, compression: str | None) -> BinaryIO:
    """Return a stream whose content is compressed into ``raw``; close both, this one first."""
    if compression is None:
        return raw
    return cast(BinaryIO, pa.CompressedOutputStream(raw, compression))
