"""The command line of ``download.py``: what can be asked for, what it means, what is refused."""

from __future__ import annotations

import argparse
import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NoReturn
from urllib.parse import urlsplit

from hatespeech.cli import make_parser
from hatespeech.paths import PUBLISHED

CHECKPOINT_URL: Final = "https://snet-open-models.s3.amazonaws.com/hate-speech-detection/model_7"
TOKENIZER_REPOSITORY: Final = "vinai/bertweet-large"
REVISION_VARIABLE: Final = "TOKENIZER_REVISION"

_REPOSITORY: Final = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

# What the published checkpoint was published with.
PUBLISHED_TEXT: Final = "Hello World"
PUBLISHED_SCORES: Final = {
    "abusing": 0.0034548593685030937,
    "hate": 0.0024814035277813673,
    "neutral": 0.013020938262343407,
    "spam": 0.9810428619384766,
}

DESCRIPTION: Final = """\
Fetch the published checkpoint (1.4 GB) and its tokenizer, verify them, and convert them into the
folder that the service reads. The checkpoint is a pickle; it is read as data and never run.

Run it again after an interruption: the download goes on from where it was. Run it again after it
has succeeded: it verifies the folder's hashes and says so."""

EPILOG: Final = f"""\
where things are:
  OUTPUT                  the finished folder; it appears once all of it has been checked
  .OUTPUT.partial/        beside it, hidden: what has arrived so far, and work in progress; removed
                          at the end, and safe to delete whenever no download runs
  OUTPUT.pickle           beside it: the file as downloaded, with --keep

environment:
  {REVISION_VARIABLE}      default of --revision, for an image build to pin
  HF_ENDPOINT, HF_TOKEN   the hub, and a token for private repositories
  HTTPS_PROXY             a proxy

exit codes: 0 done; 1 failed, in one line on standard error; 2 bad arguments;
            130, 143 stopped by SIGINT, SIGTERM

examples:
  COMMAND
  COMMAND --dtype float16                   half the size; what a GPU serves anyway
  COMMAND --revision 0123abc… --sha256 …    pinned: what an image build should do
  COMMAND --checkpoint model_7 --tokenizer ./bertweet-large --output /tmp/model
  COMMAND --checkpoint my_model.pt --output /tmp/mine --expect "Hello World" spam=0.98
"""


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with 2."""
        self.exit(2, f"error: {message} (--help explains)\n")


def download_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line; ``prog`` is how the program was called."""
    parser = make_parser(prog, DESCRIPTION, EPILOG, Parser)
    add = parser.add_argument
    add(
        "--checkpoint",
        metavar="URL|FILE",
        default=CHECKPOINT_URL,
        help="a pickled CustomModel, fetched or on this machine (%(default)s). User, password and "
        "query string of a URL are used and recorded nowhere.",
    )
    add(
        "--tokenizer",
        metavar="REPO|DIR",
        default=TOKENIZER_REPOSITORY,
        help="a hub repository, or a folder, with tokenizer.json, or vocab.json and merges.txt "
        "(%(default)s)",
    )
    add(
        "--revision",
        default=os.environ.get(REVISION_VARIABLE) or "main",
        help="branch, tag or commit of the hub repository. The default is "
        f"${REVISION_VARIABLE}, else "
        "main, a branch that moves: no commit is built in, so pin one for builds that must repeat. "
        "The commit it turned out to be is recorded in config.json.",
    )
    add(
        "--output",
        type=Path,
        default=PUBLISHED,
        metavar="DIR",
        help="the folder to make; its name becomes the model's (checkpoints/bertweet-large: in the "
        "checkout, or, if the package is installed, in the current folder)",
    )
    add(
        "--sha256",
        metavar="HEX",
        type=parse_sha256,
        help="refuse any other checkpoint file. Without it the file is trusted as it arrives; its "
        "SHA-256 is recorded, for the next time.",
    )
    add(
        "--dtype",
        choices=("float32", "float16"),
        default="float32",
        help="of the weights on disk (%(default)s)",
    )
    add("--keep", action="store_true", help="keep the downloaded file, as OUTPUT.pickle")
    add(
        "--expect",
        nargs="+",
        action="append",
        default=[],
        metavar=("TEXT", "LABEL=SCORE"),
        help="before the folder is accepted it must give TEXT these scores, within 0.02; can be "
        f'repeated. The default checkpoint is held to its published figure for "{PUBLISHED_TEXT}" '
        "in any case.",
    )
    add(
        "--timeout",
        type=parse_positive,
        default=60.0,
        metavar="SECONDS",
        help="for connecting, and for a server that goes silent (%(default)g)",
    )
    add(
        "--retries",
        type=int,
        default=5,
        metavar="N",
        help="tries in a row that bring nothing new before giving up (%(default)s), waiting half "
        "a second, then twice as long each time",
    )
    return parser


def parse_arguments(
    arguments: Sequence[str] | None, prog: str = "download.py"
) -> argparse.Namespace:
    """Read the command line; exit with 2 if it does not make sense."""
    parser = download_parser(prog)
    options = parser.parse_args(arguments)
    options.output = Path(os.path.abspath(options.output))  # noqa: PTH100 - links stay links
    problem = find_problem(options)
    if problem:
        parser.error(problem)
    return options


def parse_sha256(text: str) -> str:
    """Return a SHA-256 in lower-case hex."""
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError("must be 64 hexadecimal digits")
    return text.lower()


def parse_positive(text: str) -> float:
    """Return a number over zero."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < 1e6:
            return value
    raise argparse.ArgumentTypeError("must be a number over 0")


def is_url(checkpoint: str) -> bool:
    """Tell a URL from a file's path."""
    return checkpoint.lower().startswith(("http://", "https://"))


def find_problem(options: argparse.Namespace) -> str | None:
    """Return what no single argument's parser can see, in a line."""
    # Slow to import, so not before the signal handlers stand.
    from hatespeech.labels import LABELS

    if is_url(options.checkpoint):
        try:
            parts = urlsplit(options.checkpoint)
            usable = bool(parts.hostname) and parts.port != 0
        except ValueError:
            usable = False
        if not usable:
            return "argument --checkpoint: is not a URL that can be fetched"
    elif not Path(options.checkpoint).is_file():
        return f"argument --checkpoint: there is no file {options.checkpoint}"
    if not Path(options.tokenizer).is_dir() and not _REPOSITORY.fullmatch(options.tokenizer):
        return f"argument --tokenizer: {options.tokenizer} is neither a folder nor a repository"
    if not options.output.name:
        return "argument --output: must be a folder that can be made"
    if options.retries < 0:
        return "argument --retries: must not be negative"
    for _text, *scores in options.expect:
        if not scores:
            return "argument --expect: needs LABEL=SCORE after the text, such as spam=0.98"
        for score in scores:
            label, _, value = score.partition("=")
            if label not in LABELS or not re.fullmatch(r"[01](\.\d*)?|\.\d+", value):
                return (
                    f"argument --expect: {score!r} is not LABEL=SCORE, a label being one of "
                    f"{', '.join(LABELS)} and a score from 0 to 1"
                )
    return None
