"""The page of an output that is there, and the options that say what it shows."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from hatespeech.bars import progress_bar
from hatespeech.bulk import RunError
from hatespeech.bulk.places import PARTIAL, RECEIPT, Place, find_inputs
from hatespeech.bulk.plan import require_page_fits
from hatespeech.bulk.report import origin_of, render
from hatespeech.bulk.statistics import Columns, Statistics
from hatespeech.bulk.workspace import read_json_object
from hatespeech.bulk.written_rows import require_columns, written_blocks, written_table
from hatespeech.formats.dialects import Dialect
from hatespeech.settings import EngineSettings


def add_page_options(parser: Any) -> None:
    """Add the options that say what the page shows, to a parser or a group of one."""
    parser.add_argument(
        "--include-text",
        action="store_true",
        help="show the texts of the report's examples, not only their row numbers",
    )
    parser.add_argument(
        "--id-column",
        metavar="NAME",
        help="column that names a row, or the path of a key, such as user.id; the report shows it "
        "beside the row numbers",
    )
    parser.add_argument(
        "--group-by",
        type=_names,
        default=(),
        metavar="NAME,…",
        help="columns, or paths of keys, whose values the report counts, such as a language or a "
        "source",
    )


def _names(value: str) -> list[str]:
    names = list(dict.fromkeys(name for name in value.split(",") if name))
    if not names:
        raise argparse.ArgumentTypeError("must be names of columns, with commas between them")
    return names


def columns_of(arguments: argparse.Namespace) -> Columns:
    """Return the columns that the page shows."""
    return Columns(arguments.id_column, tuple(arguments.group_by))


def make_page(
    out: str,
    page: str,
    columns: Columns,
    include_text: bool,
    text_column: str | None,
    settings: EngineSettings,
) -> None:
    """Read a finished OUT and write its page.

    Raises :class:`RunError` if OUT is missing, unfinished, or was not written by ``score.py``.
    """
    place = Place.of(out)
    require_page_fits("FILE.html", page, place)
    if text_column is not None and not include_text:
        raise RunError("--text-column: needs --include-text")
    if not place.exists():
        if place.beside(PARTIAL).exists():
            raise RunError(f"{place}: is not finished; run its score.py command again")
        raise RunError(f"{place}: there is no such file or folder")
    receipt = read_json_object(place.beside(RECEIPT)) or {}
    run: Mapping[str, Any] = receipt.get("run", {})
    statistics = Statistics(columns, include_text)
    found = find_inputs(out)
    texts = (text_column or run.get("--text-column", "text")) if include_text else None
    prefix = run.get("--prefix", "")
    dialect = Dialect(delimiter=run.get("--delimiter"), quoted=run.get("--quoting"))
    tables = [written_table(source, texts, prefix, dialect) for source in found.inputs]
    require_columns(tables, columns, texts)
    with progress_bar("reading", receipt.get("rows"), "rows") as shown:
        for source, table in zip(found.inputs, tables, strict=True):
            file = statistics.of_next_file()
            name = source.name if found.many else ""
            for block in written_blocks(table, name, prefix, columns):
                file.add(block)
                shown.update(len(block.scores))
            statistics.merge(file)
    origin = origin_of(receipt, settings) if run else None
    Place.of(page).write(render(statistics, origin, place.name).encode())
