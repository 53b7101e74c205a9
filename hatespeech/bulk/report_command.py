"""``hatespeech report OUT``: the page of a finished output, later or again."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from hatespeech.bulk.command import guarded
from hatespeech.bulk.finished_page import add_page_options, columns_of, make_page
from hatespeech.bulk.places import Place
from hatespeech.cli import make_parser, say
from hatespeech.settings import EngineSettings

DESCRIPTION: Final = """\
Make a page about the scores of a finished OUT, which score.py wrote: the page of its --report. It
needs no model: it reads OUT, and OUT.run.json beside it.
"""

EPILOG: Final = """\
examples:
  COMMAND scored.csv
  COMMAND scored/ page.html --id-column tweet_id --group-by lang,country
  COMMAND scored.parquet page.html --include-text

docs/bulk.md shows what the page tells.
"""


def report_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line; ``prog`` is how the program was called."""
    parser = make_parser(prog, DESCRIPTION, EPILOG)
    parser.add_argument("out", metavar="OUT", help="file, folder or URL that score.py wrote")
    parser.add_argument(
        "page", metavar="FILE.html", nargs="?", help="the page (default: OUT.report.html)"
    )
    parser.add_argument(
        "--text-column",
        metavar="NAME",
        help="column with the texts, if OUT.run.json does not say",
    )
    add_page_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "hatespeech report") -> int:
    """Run the command; return the exit code: 1 after an error, 130 after an interruption."""
    options = report_parser(prog).parse_args(arguments)

    def work(settings: EngineSettings) -> int:
        page = options.page or f"{options.out.rstrip('/')}.report.html"
        columns = columns_of(options)
        make_page(options.out, page, columns, options.include_text, options.text_column, settings)
        say(f"wrote {Place.of(page)}")
        return 0

    return guarded(work, "interrupted; run the same command again")
