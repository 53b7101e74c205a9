"""The command ``hatespeech``; ``python -m hatespeech`` where it is not installed."""

from __future__ import annotations

from hatespeech.door import enter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn


def run() -> int:
    """Do what the command line asks for; return the exit code."""
    from hatespeech.console.commands import main

    return main()


def main() -> NoReturn:
    """Do so and end the process."""
    enter(run, "hatespeech")


if __name__ == "__main__":
    main()
