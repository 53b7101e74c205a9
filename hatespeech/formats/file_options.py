"""What a caller can ask of a file that is scored. This module imports no library."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class FileOptions:
    """How one file is read and written; its format is chosen by its name."""

    column: str = "text"  # with the texts
    prefix: str = ""  # of the new columns' names
    flagged: bool = False  # whether thresholds are asked for
    compression: str | None = None  # of what comes back, by pyarrow's name
    quoted: bool | None = None  # whether fields of CSV or TSV are; None asks where TSV looks so
