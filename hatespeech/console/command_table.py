"""The commands of ``hatespeech``: most are what a script of the checkout does.

Such a command has the script's arguments and exit codes.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from hatespeech.version import __version__

SHELLS: Final = ("bash", "zsh", "fish", "tcsh", "powershell")


@dataclass(frozen=True)
class Command:
    """One command: where it is, and what it needs."""

    summary: str
    main: str  # module:function(arguments, prog) -> exit code
    parser: str  # module:function(prog) -> parser
    extra: str | None = None  # what `pip install` must add for it


COMMANDS: Final[Mapping[str, Command]] = {
    "score": Command(
        "score files: each row goes out with its scores beside it",
        "hatespeech.bulk.command:main",
        "hatespeech.bulk.command:scoring_parser",
    ),
    "report": Command(
        "make a page about the scores of files that are scored",
        "hatespeech.bulk.report_command:main",
        "hatespeech.bulk.report_command:report_parser",
    ),
    "serve": Command(
        "serve over HTTP",
        "hatespeech.serving.command:main",
        "hatespeech.serving.command:server_parser",
        "server",
    ),
    "worker": Command(
        "work a Runpod endpoint's queue; elsewhere, score test_input.json",
        "hatespeech.worker.command:main",
        "hatespeech.worker.command:worker_parser",
        "worker",
    ),
    "download": Command(
        "fetch the published model, BERTweet-large (1.4 GB)",
        "hatespeech.fetching.command:main",
        "hatespeech.fetching.options:download_parser",
    ),
    "upload": Command(
        "upload a checkpoint folder to Hugging Face's hub",
        "hatespeech.fetching.hub_upload:main",
        "hatespeech.fetching.hub_upload:upload_parser",
    ),
    "evaluate": Command(
        "measure a model on labelled texts, and choose thresholds",
        "hatespeech.evaluation.command:main",
        "hatespeech.evaluation.command:evaluation_parser",
        "evaluate",
    ),
    "train": Command(
        "train a checkpoint of your own",
        "hatespeech.training.command:main",
        "hatespeech.training.command:training_parser",
        "train",
    ),
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``hatespeech`` itself."""
    parser.add_argument("--json", action="store_true", help="print the reply that HTTP gives")
    parser.add_argument(
        "--print-completion",
        metavar="SHELL",
        choices=SHELLS,
        help=f"print a completion script for {', '.join(SHELLS[:-1])} or {SHELLS[-1]}",
    )
    parser.add_argument("--version", action="version", version=f"hatespeech {__version__}")


def load(place: str) -> Any:
    """Import ``module:function``."""
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)
