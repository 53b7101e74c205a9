"""The reader and the writer of each format."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from hatespeech.formats.interface import Reader, Writer
from hatespeech.formats.lines import (
    CsvReader,
    CsvWriter,
    JsonArrayReader,
    JsonArrayWriter,
    JsonlReader,
    JsonlWriter,
    PlainTextReader,
    TsvReader,
    TsvWriter,
    WorkbookReader,
)
from hatespeech.formats.parquet import ParquetReader, ParquetWriter

READERS: Final[Mapping[str, type[Reader]]] = {
    "CSV": CsvReader,
    "TSV": TsvReader,
    "JSONL": JsonlReader,
    "JSON": JsonArrayReader,
    "Text": PlainTextReader,
    "Excel": WorkbookReader,
    "Parquet": ParquetReader,
}
WRITERS: Final[Mapping[str, type[Writer]]] = {
    "CSV": CsvWriter,
    "TSV": TsvWriter,
    "JSONL": JsonlWriter,
    "JSON": JsonArrayWriter,
    "Parquet": ParquetWriter,
}
