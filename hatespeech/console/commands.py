"""The choice between the commands of ``hatespeech``. Only the chosen one is imported."""

from __future__ import annotations

import argparse
import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hatespeech.cli import make_parser
from hatespeech.console.command_table import COMMANDS, add_options, load
from hatespeech.extras import run_or_advise

USAGE: Final = """\
{prog} [--json] TEXT
       {prog} {{{commands}}} ...
       {prog} --version"""

DESCRIPTION: Final = """\
Score tweets: hate, abusing, neutral, spam."""

SUMMARIES: Final = "\n".join(f"  {name:<10}{command.summary}" for name, command in COMMANDS.items())
EPILOG: Final = f"""\
commands, each with a --help of its own:
{SUMMARIES}

examples:
  COMMAND "you are scum"              the label, then four probabilities
  COMMAND --json "good morning"       the same reply as over HTTP
  COMMAND - < letter.txt              standard input, as one text
  COMMAND -- train                    a text that is also a command's name
  COMMAND score tweets.csv scored.csv

Settings are environment variables, such as MODEL_DIR and DEVICE: docs/settings.md lists them.
Exit codes: 0 done; 1 failed, with one line on standard error; 2 bad arguments; 130 interrupted.
"""


def main() -> int:
    """Do what the process's command line asks for; return the exit code."""
    prog = "python -m hatespeech" if Path(sys.argv[0]).name == "__main__.py" else "hatespeech"
    return run(sys.argv[1:], prog)


def run(arguments: Sequence[str], prog: str = "hatespeech") -> int:
    """Do what the command line asks for; return the exit code.

    Raises :class:`SystemExit` as ``argparse`` does, after ``--help`` and for bad arguments.
    """
    if arguments and arguments[0] in COMMANDS:
        name, *rest = arguments
        return run_command(name, rest, prog)
    parser = text_parser(prog)
    options, others = parser.parse_known_args(arguments)
    if others or len(options.text) > 1:
        if similar := similar_command(options.text):
            parser.error(f"there is no such command; {prog} {similar} is one")
        unknown = f"unrecognized arguments: {' '.join(others)}"
        parser.error(unknown if others else "one text at a time: put it in quotes")
    if options.print_completion:
        from hatespeech.console.completion import completion_script

        sys.stdout.write(completion_script(options.print_completion))
        return 0
    if not options.text:
        parser.print_help()
        return 0
    return score_text(options.text[0], options.json, prog)


def text_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of everything but the commands."""
    parser = make_parser(prog, DESCRIPTION, EPILOG)
    parser.usage = USAGE.format(prog=prog, commands=",".join(COMMANDS))
    parser.add_argument(
        "text", nargs="*", metavar="TEXT", help="one text, in quotes; - is standard input"
    )
    add_options(parser)
    return parser


def run_command(name: str, arguments: Sequence[str], prog: str) -> int:
    """Run one command of the table; return its exit code, 1 if something is not installed."""
    command, called = COMMANDS[name], f"{prog} {name}"
    return run_or_advise(lambda: int(load(command.main)(arguments, called)), called, command.extra)


def similar_command(words: Sequence[str]) -> str | None:
    """Return the command whose name the first of these words nearly is."""
    found = difflib.get_close_matches(words[0], COMMANDS, n=1, cutoff=0.8) if words else []
    return found[0] if found else None


def score_text(text: str, as_json: bool, prog: str) -> int:
    """Score one text, or standard input for ``-``; return the exit code."""
    from hatespeech.console.one_text import show_scores

    similar = similar_command([text])
    if text != "-" and os.path.isfile(text):  # noqa: PTH113 - Path raises for a text too long
        sys.stderr.write(f"note: this scores a text; {prog} score scores the file of that name\n")
    elif similar and text not in COMMANDS:
        sys.stderr.write(f"note: this scores a text; the command is {prog} {similar}\n")
    return show_scores(text, as_json)
