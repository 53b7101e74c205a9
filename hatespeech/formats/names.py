"""A file's format by its name. This module imports no library, so that a front starts fast."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final, Self

KINDS: Final[Mapping[str, str]] = {
    ".csv": "CSV",
    ".tsv": "TSV",
    ".jsonl": "JSONL",
    ".ndjson": "JSONL",
    ".parquet": "Parquet",
}
COMPRESSIONS: Final[Mapping[str, str]] = {".gz": "gzip", ".zst": "zstd"}
FORMATS: Final = ".csv, .tsv, .jsonl, .ndjson (each also with .gz or .zst) or .parquet"


@dataclass(frozen=True)
class Format:
    """A file's format, by its name."""

    kind: str  # a value of KINDS
    compression: str | None  # pyarrow's name for it

    @classmethod
    def of(cls, name: str) -> Self | None:
        """Read a name's ending; return ``None`` if it is not a known one."""
        path = PurePosixPath(name.lower())
        compression = COMPRESSIONS.get(path.suffix)
        if compression:
            path = path.with_suffix("")
        kind = KINDS.get(path.suffix)
        if kind is None or (kind == "Parquet" and compression):
            return None
        return cls(kind, compression)
