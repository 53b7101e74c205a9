"""Fetches the published checkpoint and its tokenizer, verifies them and converts them.

The checkpoint is a pickle. ``torch.load`` would execute it; here it is read as data. The result is
a folder of ``model.safetensors``, ``config.json``, ``tokenizer.json`` and ``README.md``.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from hatespeech.cli import say
from hatespeech.errors import CheckpointError
from hatespeech.fetching import FetchError
from hatespeech.fetching.options import (
    CHECKPOINT_URL,
    PUBLISHED_SCORES,
    PUBLISHED_TEXT,
    is_url,
    parse_arguments,
)
from hatespeech.fetching.workplace import DownloadBar, make_parents, require_room, workplace
from hatespeech.logs import warn_of_mistyped
from hatespeech.paths import file_sha256
from hatespeech.urls import shown_url

# With the licences that their authors state.
TEST_SETS: Final = """\
open test sets that fit: HateCheck (CC BY 4.0), HatemojiCheck (CC BY 4.0), Davidson and others
(MIT), HateXplain (MIT), Civil Comments (CC0 1.0); docs/labels.md: what its four labels mean"""

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from hatespeech.fetching.folder import Expectation


def main(arguments: Sequence[str] | None = None, prog: str = "download.py") -> int:
    """Make the folder; return the exit code."""
    progress = DownloadBar()
    stop_on_signals(progress)
    options = parse_arguments(arguments, prog)
    warn_of_mistyped(os.environ)
    try:
        there = os.path.lexists(options.output)
        report = recognise(options) if there else make(options, progress)
    except (FetchError, CheckpointError, OSError) as exc:
        progress.close()
        sys.stderr.write(f"error: {exc}\n")
        return 1
    except Exception as exc:  # a bug; the user gets one line all the same
        progress.close()
        reason = (str(exc) or "no message").splitlines()[0]
        sys.stderr.write(f"error: {type(exc).__name__}: {reason}\n")
        return 1
    sys.stdout.write(report + next_step(options.output, prog))
    return 0


def next_step(output: Path, prog: str) -> str:
    """Return the lines that say how to measure the model and fill its card."""
    evaluate = prog.replace("download", "evaluate")
    if prog.endswith(".py"):
        evaluate = f"python {evaluate}"
    return f"""\
how good it is on your texts, written into its card (docs/evaluating.md):
  MODEL_DIR={shlex.quote(str(output))} {evaluate} LABELLED --card
{TEST_SETS}
"""


def stop_on_signals(progress: DownloadBar) -> None:
    """Make SIGINT and SIGTERM end the process with one line and the usual exit code."""

    def stop(signum: int, _frame: FrameType | None) -> None:
        # Not an exception: it could come up inside a library that swallows it or prints a
        # traceback. The next run can resume from any moment, as it can after SIGKILL.
        line = "interrupted; run the same command again to resume the download\n"
        os.write(2, (("\n" if progress.is_shown else "") + line).encode())
        os._exit(128 + signum)

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)


def recognise(options: argparse.Namespace) -> str:
    """Verify that the existing output is the folder that was asked for; return what to print.

    Raises :class:`FetchError` or :class:`CheckpointError` if it is anything else. Nothing is
    changed: it may be somebody's work.
    """
    from hatespeech.fetching import folder as folders
    from hatespeech.model import checkpoint as checkpoints

    output = options.output
    advice = "move it away, or choose another --output"
    try:
        found = checkpoints.describe(output)
    except CheckpointError as exc:
        raise FetchError(
            f"{output} exists and is not a finished checkpoint folder; {advice}"
        ) from exc
    provenance = found.provenance if isinstance(found.provenance, Mapping) else {}
    difference = folders.describe_difference(provenance, wanted_provenance(options, provenance))
    if difference:
        raise FetchError(f"{output} was made from other files: {difference}; {advice}")
    for name, recorded in found.sha256.items():
        if file_sha256(output / name) != recorded:
            raise FetchError(f"{output} is damaged: {name} has changed; {advice}")
    figures = folders.check_figures(output, expectations(options))
    return f"{output}: already exists, verified\n" + model_report(found.model_id, figures)


def make(options: argparse.Namespace, progress: DownloadBar) -> str:
    """Fetch, convert and check, and only then put the folder in place; return what to print."""
    output: Path = options.output
    kept = output.with_name(f"{output.name}.pickle")
    keep = options.keep and is_url(options.checkpoint)
    if keep and os.path.lexists(kept):
        raise FetchError(f"--keep: {kept} exists; move it away, or pass it as --checkpoint")
    make_parents(output)
    with workplace(output.with_name(f".{output.name}.partial")) as work:
        # The tokenizer first: it is small, and an error in it shows before the large download.
        tokenizer, origin = get_tokenizer(options, work / "tokenizer")
        source, where = get_checkpoint(options, work, progress)

        from hatespeech.fetching import folder as folders
        from hatespeech.fetching.pickle.module import UnsafePickleError
        from hatespeech.model import checkpoint as checkpoints

        folder = work / "output"
        provenance = {"source": where, "tokenizer": origin}
        try:
            folders.convert(
                source,
                tokenizer,
                folder,
                name=output.name,
                dtype=options.dtype,
                provenance=provenance,
                require_room=lambda size: require_room(work, size),
            )
        except UnsafePickleError as exc:
            discard_download(options, work)
            raise FetchError(f"the checkpoint file is refused: {exc}") from exc
        folders.check_sound(folder)
        expected = expectations(options)
        if options.checkpoint == CHECKPOINT_URL:
            expected.insert(0, folders.Expectation(PUBLISHED_TEXT, PUBLISHED_SCORES))
        figures = folders.check_figures(folder, expected)
        folders.write_card(folder, output.name, provenance, options.dtype, figures)
        for path in folder.iterdir():
            path.chmod(0o644)
        folder.chmod(0o755)
        if keep:
            source.chmod(0o644)
            source.rename(kept)
        folder.rename(output)
        discard_download(options, work)
    report = model_report(checkpoints.describe(output).model_id, figures)
    return f"{output}: made, verified\n{report}" + (f"{kept}: kept\n" if keep else "")


def get_tokenizer(options: argparse.Namespace, folder: Path) -> tuple[Tokenizer, dict[str, Any]]:
    """Build the tokenizer from the hub or a folder; return it and where it comes from."""
    from hatespeech.fetching.tokenizer import build_tokenizer, fetch_tokenizer

    origin: dict[str, Any] = {"source": options.tokenizer}
    if Path(options.tokenizer).is_dir():
        folder = Path(options.tokenizer).resolve()
        origin = {"source": folder.name}
    else:
        origin["revision"] = options.revision
        origin["commit"] = fetch_tokenizer(
            options.tokenizer,
            options.revision,
            folder,
            timeout=options.timeout,
            retries=options.retries,
            notify=say,
        )
    origin["files"] = tokenizer_files(folder)
    return build_tokenizer(folder), origin


def get_checkpoint(
    options: argparse.Namespace, work: Path, progress: DownloadBar
) -> tuple[Path, dict[str, Any]]:
    """Fetch the checkpoint unless it is a local file, and compare its hash with ``--sha256``.

    Returns the file and where it comes from.
    """
    from hatespeech.fetching import http

    provenance: dict[str, Any]
    if is_url(options.checkpoint):
        # The file holds float32 weights. The few that int8 leaves as they are make it 0.26.
        share = {"float32": 1.0, "float16": 0.5, "int8": 0.26}[options.dtype]
        fetched = http.download(
            options.checkpoint,
            work,
            timeout=options.timeout,
            retries=options.retries,
            require_room=lambda coming, whole: require_room(work, coming + int(whole * share)),
            progress=progress,
            notify=say,
        )
        progress.close()
        path, remote = fetched.path, fetched.remote
        provenance = {
            "url": remote.url,
            "etag": remote.etag,
            "last_modified": remote.last_modified,
            "fetched": fetched.fetched,
        }
    else:
        path = Path(options.checkpoint).resolve()
        provenance = {"file": Path(options.checkpoint).name}
    digest = file_sha256(path)
    if options.sha256 not in (None, digest):
        discard_download(options, work)
        raise FetchError(f"the checkpoint file's SHA-256 is {digest}, not {options.sha256}")
    return path, {**provenance, "size": path.stat().st_size, "sha256": digest}


def discard_download(options: argparse.Namespace, work: Path) -> None:
    """Remove the download; a local file belongs to the user and stays."""
    from hatespeech.fetching import http

    if is_url(options.checkpoint):
        http.discard(work)


def expectations(options: argparse.Namespace) -> list[Expectation]:
    """Return the texts and scores of ``--expect``."""
    from hatespeech.fetching.folder import Expectation

    def read(score: str) -> tuple[str, float]:
        label, _, value = score.partition("=")
        return label, float(value)

    return [Expectation(text, dict(map(read, scores))) for text, *scores in options.expect]


def model_report(model_id: str, figures: Sequence[tuple[Expectation, Mapping[str, float]]]) -> str:
    """Return the lines that name the model and its scores in the self-check."""
    lines = [model_id]
    for expectation, scores in figures:
        shown = ", ".join(
            f"{label} {scores[label]:.4f} (expected {expected:.4f})"
            for label, expected in expectation.scores.items()
        )
        lines.append(f"self-check {expectation.text!r}: {shown}")
    return "\n".join(lines) + "\n"


def tokenizer_files(folder: Path) -> dict[str, str]:
    """Return the tokenizer's files in a folder, each with its SHA-256."""
    from hatespeech.fetching.tokenizer import MERGES, OPTIONS, TOKENIZER, VOCABULARY

    names = (TOKENIZER, VOCABULARY, MERGES, OPTIONS)
    return {name: file_sha256(folder / name) for name in names if (folder / name).is_file()}


def wanted_provenance(options: argparse.Namespace, recorded: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a folder made with these options records, as far as known without fetching."""
    source: dict[str, Any] = {}
    if is_url(options.checkpoint):
        source["url"] = shown_url(options.checkpoint)
    else:
        source["file"] = Path(options.checkpoint).name
        source["sha256"] = file_sha256(Path(options.checkpoint))
    if options.sha256:
        if source.get("sha256", options.sha256) != options.sha256:
            raise FetchError(f"the checkpoint file's SHA-256 is {source['sha256']}")
        source["sha256"] = options.sha256
    tokenizer: dict[str, Any] = {"source": options.tokenizer}
    if Path(options.tokenizer).is_dir():
        folder = Path(options.tokenizer).resolve()
        tokenizer = {"source": folder.name, "files": tokenizer_files(folder)}
    else:
        was = recorded.get("tokenizer")
        if not isinstance(was, Mapping) or was.get("commit") != options.revision:
            tokenizer["revision"] = options.revision
    return {"source": source, "tokenizer": tokenizer, "dtype": options.dtype}
