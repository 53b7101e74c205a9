"""The reader and the writer of each format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hatespeech.formats.interface import Reader, Writer
from hatespeech.formats.lines import (
    CsvReader,
    CsvWriter,
    JsonlReader,
    JsonlWriter,
    TsvReader,
    TsvWriter,
)
from hatespeech.formats.parquet import ParquetReader, ParquetWriter

READERS: Final[Mapping[str, type[Reader]]] = {
    "CSV": CsvReader,
    "TSV": TsvReader,
    "JSONL": JsonlReader,
    "Parquet": ParquetReader,
}
WRITERS: Final[Mapping[str, type[Writer]]] = {
    "CSV": CsvWriter,
    "TSV": TsvWriter,
    "JSONL": JsonlWriter,
    "Parquet": ParquetWriter,
}
