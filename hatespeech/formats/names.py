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
    ".json": "JSON",
    ".txt": "Text",
    ".xlsx": "Excel",
    ".parquet": "Parquet",
}
COMPRESSIONS: Final[Mapping[str, str]] = {
    ".gz": "gzip",
    ".zst": "zstd",
    ".bz2": "bz2",
    ".xz": "xz",
}
# The first ending of each format and compression.
_ENDING: Final[Mapping[str | None, str]] = {
    name: ending for ending, name in reversed([*KINDS.items(), *COMPRESSIONS.items()])
}
# Formats whose files are never compressed as a whole.
PACKED: Final = ("Excel", "Parquet")
# Formats that can't hold scores, or that nothing here writes: their rows go into CSV.
READ_ONLY: Final = ("Excel", "Text")
# The format whose rows a format has, if it is another one.
ROWS: Final[Mapping[str, str]] = {"Excel": "CSV", "JSON": "JSONL", "Text": "CSV"}
_COMPRESSED: Final = "(each also with .gz, .zst, .bz2 or .xz)"
INPUT_FORMATS: Final = f".csv, .tsv, .jsonl, .ndjson, .json, .txt {_COMPRESSED}, .xlsx or .parquet"
FORMATS: Final = f".csv, .tsv, .jsonl, .ndjson, .json {_COMPRESSED} or .parquet"


@dataclass(frozen=True)
class Format:
    """A file's format, by its name."""

    kind: str  # a value of KINDS
    compression: str | None  # a value of COMPRESSIONS

    @classmethod
    def of(cls, name: str) -> Self | None:
        """Read a name's ending; return ``None`` if it is not a known one."""
        path = PurePosixPath(name.lower())
        compression = COMPRESSIONS.get(path.suffix)
        if compression:
            path = path.with_suffix("")
        kind = KINDS.get(path.suffix)
        if kind is None or (kind in PACKED and compression):
            return None
        return cls(kind, compression)

    @property
    def ending(self) -> str:
        """The ending of such a file's name."""
        return _ENDING[self.kind] + _ENDING.get(self.compression, "")

    @property
    def writable(self) -> bool:
        """Whether rows with scores can be written in it."""
        return self.kind not in READ_ONLY

    def output(self, name: str) -> tuple[str, Format]:
        """Return the name and format of the output for an input of this format and this name."""
        if self.writable:
            return name, self
        suffix = PurePosixPath(name).suffix if self.compression else ""
        return f"{name.removesuffix(suffix)}.csv{suffix}", Format("CSV", self.compression)

    @property
    def rows(self) -> str:
        """The format of the rows: CSV, TSV, JSONL or Parquet."""
        return ROWS.get(self.kind, self.kind)
