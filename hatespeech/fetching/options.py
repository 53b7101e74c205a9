"""The command line of ``download.py``: its options, their meaning, and what is refused."""

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
from hatespeech.labels import LABELS
from hatespeech.paths import PUBLISHED

CHECKPOINT_URL: Final = "https://snet-open-models.s3.amazonaws.com/hate-speech-detection/model_7"
TOKENIZER_REPOSITORY: Final = "vinai/bertweet-large"
REVISION_VARIABLE: Final = "TOKENIZER_REVISION"

_REPOSITORY: Final = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")

# A text and its scores, as the published checkpoint's authors give them.
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

After an interruption, run the same command again to resume the download. If the folder is already
complete, the command verifies its hashes."""

EPILOG: Final = f"""\
where things are:
  OUTPUT                  the finished folder; it appears when all of it has been checked
  .OUTPUT.partial/        a hidden folder beside it: the download so far, and unfinished work;
                          removed at the end, and safe to delete while no download runs
  OUTPUT.pickle           beside it, with --keep: the file as downloaded

environment:
  {REVISION_VARIABLE}      default of --revision, so that an image build can pin it
  HF_ENDPOINT, HF_TOKEN   the hub's address, and a token for private repositories
  HTTPS_PROXY             a proxy

exit codes: 0 done; 1 failed, with one line on standard error; 2 bad arguments;
            130, 143 stopped by SIGINT, SIGTERM

examples:
  COMMAND
  COMMAND --dtype float16                   half the size; what a GPU serves anyway
  COMMAND --dtype int8                      a quarter; for CPUs that serve with DTYPE=int8
  COMMAND --revision 0123abc… --sha256 …    pinned: what an image build should do
  COMMAND --checkpoint model_7 --tokenizer ./bertweet-large --output /tmp/model
  COMMAND --checkpoint my_model.pt --output /tmp/mine --expect "Hello World" spam=0.98
"""


class Parser(argparse.ArgumentParser):
    """A parser that reports an error in one line, without the usage."""

    def error(self, message: str) -> NoReturn:
        """Write the error and exit with 2."""
        self.exit(2, f"error: {message} (--help explains)\n")


def download_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line; ``prog`` is how the program was called."""
    parser = make_parser(prog, DESCRIPTION, EPILOG, Parser)
    add = parser.add_argument
    add(
        "--checkpoint",
        metavar="URL|FILE",
        default=CHECKPOINT_URL,
        help="a pickled CustomModel: a URL to fetch, or a file on this machine (%(default)s). A "
        "URL's user, password and query string are used but never recorded.",
    )
    add(
        "--tokenizer",
        metavar="REPO|DIR",
        default=TOKENIZER_REPOSITORY,
        help="a hub repository or a folder; it must hold tokenizer.json, or vocab.json and "
        "merges.txt (%(default)s)",
    )
    add(
        "--revision",
        default=os.environ.get(REVISION_VARIABLE) or "main",
        help="branch, tag or commit of the hub repository. The default is "
        f"${REVISION_VARIABLE}, or "
        "else main, a branch that moves: no commit is built in, so pin one for repeatable builds. "
        "config.json records the commit that was used.",
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
        help="refuse a checkpoint file with another hash. Without this option any file is "
        "accepted, and its SHA-256 is recorded for the next time.",
    )
    add(
        "--dtype",
        choices=("float32", "float16", "int8"),
        default="float32",
        help="number format of the weights on disk (%(default)s); int8 quantises the linear layers "
        "and the word embeddings",
    )
    add("--keep", action="store_true", help="keep the downloaded file, as OUTPUT.pickle")
    add(
        "--expect",
        nargs="+",
        action="append",
        default=[],
        metavar=("TEXT", "LABEL=SCORE"),
        help="refuse the folder unless it gives TEXT these scores, within 0.02; may be repeated. "
        f'The default checkpoint must always give the published scores for "{PUBLISHED_TEXT}".',
    )
    add(
        "--timeout",
        type=parse_positive,
        default=60.0,
        metavar="SECONDS",
        help="limit for connecting, for waiting on a silent server, and for a server that sends "
        "less than a kilobyte a second (%(default)g)",
    )
    add(
        "--retries",
        type=int,
        default=5,
        metavar="N",
        help="give up after this many retries in a row that bring next to nothing (%(default)s); "
        "the first wait is half a second, each later one twice as long",
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
    """Return a number above 0."""
    with contextlib.suppress(ValueError):
        if 0 < (value := float(text)) < 1e6:
            return value
    raise argparse.ArgumentTypeError("must be a number above 0")


def is_url(checkpoint: str) -> bool:
    """Say whether ``--checkpoint`` is a URL, not a file's path."""
    return checkpoint.lower().startswith(("http://", "https://"))


def find_problem(options: argparse.Namespace) -> str | None:
    """Return, in one line, a problem that no single argument's parser can see."""
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
                    f"argument --expect: {score!r} is not LABEL=SCORE, with one of the labels "
                    f"{', '.join(LABELS)} and a score from 0 to 1"
                )
    return None
