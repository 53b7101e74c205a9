"""Uploads a checkpoint folder to Hugging Face's hub, from where Runpod caches it for a worker.

The hub's own library uploads: large files by parts, each commit as a whole. The folder is checked
first, and it is not changed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from hatespeech.cli import make_parser
from hatespeech.errors import CheckpointError
from hatespeech.fetching import FetchError
from hatespeech.logs import warn_of_mistyped

CARD: Final = "README.md"

DESCRIPTION: Final = """\
Upload a checkpoint folder with its card to Hugging Face's hub, as one commit.

The folder is checked first: hashes, keys, finite weights. HF_TOKEN, or what `hf auth login` stored,
must be allowed to write. HF_ENDPOINT names another hub."""

EPILOG: Final = """\
examples:
  COMMAND checkpoints/bertweet-large ORG/NAME
  COMMAND checkpoints/mine ORG/NAME --public --license mit
"""


def upload_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = make_parser(prog, DESCRIPTION, EPILOG)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a checkpoint folder")
    parser.add_argument("repository", metavar="ORG/NAME", help="made if it does not exist yet")
    parser.add_argument(
        "--public",
        action="store_true",
        help="everyone can read a repository that is made; without this it is private",
    )
    parser.add_argument(
        "--license",
        metavar="ID",
        help="the licence's identifier at the hub, such as mit, for a card that names none",
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "hatespeech upload") -> int:
    """Upload the folder; return the exit code."""
    options = upload_parser(prog).parse_args(arguments)
    warn_of_mistyped(os.environ)
    try:
        report = upload(options.folder, options.repository, options.public, options.license)
    except (FetchError, CheckpointError, OSError) as exc:
        sys.stderr.write(f"error: {str(exc).splitlines()[0]}\n")
        return 1
    sys.stdout.write(report)
    return 0


def upload(folder: Path, repository: str, public: bool, license_id: str | None) -> str:
    """Upload a checkpoint folder; return what to print.

    Raises :class:`CheckpointError` for a damaged folder and :class:`FetchError` if the hub refuses.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from hatespeech.model.checkpoint import CONFIG, TOKENIZER, WEIGHTS, verify  # loads torch

    checkpoint = verify(folder)
    if not (folder / CARD).is_file():
        raise FetchError(f"{folder} has no {CARD}; a model without a card helps nobody")
    card = card_with_metadata((folder / CARD).read_text("utf-8"), checkpoint.languages, license_id)
    pictures = sorted(picture.name for picture in folder.glob("*.png"))
    files = [
        CommitOperationAdd(name, folder / name) for name in (WEIGHTS, CONFIG, TOKENIZER, *pictures)
    ]
    files.append(CommitOperationAdd(CARD, card.encode()))
    api = HfApi(library_name="hate-speech-detection")
    try:
        api.create_repo(repository, private=not public, exist_ok=True)
        commit = api.create_commit(repository, files, commit_message=checkpoint.model_id)
    except HFValidationError:
        raise FetchError(f"{repository} is not a repository's name, such as ORG/NAME") from None
    except HfHubHTTPError as exc:
        status = exc.response.status_code
        hint = "; set HF_TOKEN to a token that may write there" if status in (401, 403) else ""
        raise FetchError(f"the hub answers HTTP {status}{hint}") from None
    return (
        f"{checkpoint.model_id}: uploaded as commit {commit.oid}\n"
        "where the repository is in a cache, this serves it:\n"
        f"  MODEL_ID={repository}\n"
    )


def card_with_metadata(card: str, languages: Sequence[str], license_id: str | None) -> str:
    """Return a model card that begins with the hub's metadata; a card that has some stays."""
    if card.startswith("---\n"):
        return card
    # JSON is YAML, too.
    lines = [f"license: {json.dumps(license_id)}"] if license_id else []
    lines += [
        f"language: {json.dumps(list(languages))}",
        "pipeline_tag: text-classification",
        'tags: ["hate-speech-detection"]',
    ]
    return "\n".join(["---", *lines, "---", "", card])
