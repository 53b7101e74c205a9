"""Rows of a sheet of an .xlsx workbook as strings, read one by one."""

from __future__ import annotations

import datetime
import importlib.util
import warnings
import zipfile
from collections.abc import Iterator
from typing import Any, BinaryIO, Final

# A workbook is a ZIP file. Its strings, each kept once, are in memory; so what it unpacks to is
# limited, which also stops a bomb. A sheet that Excel can open has a million rows.
MAX_UNPACKED: Final = 1024 * 1024 * 1024
MAX_ROWS: Final = 1_048_576
INSTALL: Final = "openpyxl reads it: pip install openpyxl, or save it as CSV"


class WorkbookError(Exception):
    """The workbook can't be read; the message says why and what to do."""


def sheet_rows(file: BinaryIO, sheet: str | None) -> Iterator[list[str]]:
    """Yield the rows of a sheet, the header first, all as long as the longest header allows.

    A number is written as in CSV, a date as ISO 8601, an empty cell as nothing; of a formula it is
    the value that Excel saved. Rows without a value are left out. ``sheet`` may be ``None`` if only
    one sheet is visible. Raises :class:`WorkbookError`.
    """
    if importlib.util.find_spec("openpyxl") is None:
        raise WorkbookError(INSTALL)
    import openpyxl

    try:
        with zipfile.ZipFile(file) as packed:
            unpacked = sum(entry.file_size for entry in packed.infolist())
        if unpacked > MAX_UNPACKED:
            raise WorkbookError(f"unpacks to {unpacked >> 20} MiB; save it as CSV")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of styles and extensions, which no value needs
            book = openpyxl.load_workbook(file, read_only=True, data_only=True, keep_links=False)
            try:
                chosen = _chosen(book, sheet)
                chosen.reset_dimensions()  # a sheet may say that it has all of Excel's cells
                for number, row in enumerate(chosen.iter_rows(values_only=True), start=1):
                    if number > MAX_ROWS:  # rows between two that are there count, too
                        raise WorkbookError(f"has a row beyond the {MAX_ROWS:,} of Excel")
                    cells = [_written(value) for value in row]
                    if any(cells):
                        yield cells
            finally:
                book.close()
    except WorkbookError:
        raise
    except Exception as exc:  # openpyxl raises what its own code meets: KeyError, ValueError, ...
        raise WorkbookError(f"can't be read as a workbook ({type(exc).__name__})") from None


def _chosen(book: Any, sheet: str | None) -> Any:
    names = [each.title for each in book.worksheets if each.sheet_state == "visible"]
    if sheet is not None:
        if sheet not in book.sheetnames or sheet not in [each.title for each in book.worksheets]:
            raise WorkbookError(f"has no such sheet; it has {', '.join(names)}")
        return book[sheet]
    if len(names) != 1:
        raise WorkbookError(f"has {len(names)} sheets: {', '.join(names)}")
    return book[names[0]]


def _written(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "TRUE" if value else "FALSE"
        case float() if value.is_integer() and abs(value) < 2**53:
            return str(int(value))
        case datetime.datetime() | datetime.date() | datetime.time():
            return value.isoformat()
        case _:
            return str(value)
