"""``hatespeech --print-completion SHELL``: completion scripts for shells.

The script is written once and holds every option: a press of Tab starts no Python.
"""

from __future__ import annotations

import argparse
import contextlib
from pathlib import Path
from typing import Any, Final

import shtab

from hatespeech.console.command_table import COMMANDS, add_options, load

# The names that the commands' helps use for files and folders.
FILES: Final = frozenset({"IN", "OUT", "DIR", "FILE", "FILE.html", "FILE|JSON", "URL|FILE"})


def completion_script(shell: str) -> str:
    """Return the script for one of ``command_table.SHELLS``."""
    parser = argparse.ArgumentParser(prog="hatespeech")
    add_options(parser)
    commands = parser.add_subparsers()
    for name, command in COMMANDS.items():
        # Without its extra, `train` cannot be imported: it completes as a name alone.
        parents: list[argparse.ArgumentParser] = []
        with contextlib.suppress(ModuleNotFoundError):
            parents.append(load(command.parser)(f"hatespeech {name}"))
        added = commands.add_parser(
            name, parents=parents, add_help=not parents, help=command.summary
        )
        for action in added._actions:  # argparse has no public list of them
            if action.type is Path or action.metavar in FILES:
                complete(action)
    return str(shtab.complete(parser, shell))


def complete(action: Any) -> None:
    """Have the shell offer files for an argument."""
    action.complete = shtab.FILE
