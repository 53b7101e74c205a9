"""How far int8 is from float32: the labels that agree, the scores, the accuracy.

The embedded checkpoint by default. With ``--full-size`` it is a model of BERTweet-large's size with
random weights: it is pickled in the published checkpoint's format and converted, for which 3 GB are
written to a temporary folder.

    python -m benchmarks.int8_agreement [--folder FOLDER | --full-size] [--data TSV] [--texts N]
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import models, report
from hatespeech import paths
from hatespeech.fetching.folder import convert
from hatespeech.labels import LABELS
from hatespeech.model import checkpoint as checkpoints
from tests.paths import ROOT


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and print."""
    parser = report.parser(__doc__, rounds=1)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--folder", type=Path, default=paths.EMBEDDED, help="(%(default)s)")
    which.add_argument("--full-size", action="store_true", help="random weights instead")
    parser.add_argument("--data", type=Path, default=models.SAMPLE, help="(%(default)s)")
    parser.add_argument("--texts", type=report.positive, help="only the first (all)")
    options = parser.parse_args(arguments)
    rows = models.rows(options.data)[: options.texts]
    with tempfile.TemporaryDirectory() as name:
        folder = full_size(Path(name)) if options.full_size else options.folder
        figures = compare(folder, f"{folder.name}, int8, {options.data.name}", rows)
    report.publish(figures, options.json)


def full_size(work: Path) -> Path:
    """Return the folder of a converted checkpoint of the full size, made in ``work``."""
    pickled, folder = work / "model_7", work / "large-random"
    command = [sys.executable, "-m", "tests.support.pickles.module", "full", str(pickled)]
    subprocess.run(command, cwd=ROOT, check=True)
    # The embedded checkpoint's tokenizer knows fewer tokens than the model; that does not matter.
    convert(
        pickled,
        checkpoints.load_tokenizer(models.embedded()),
        folder,
        name="random",
        dtype="float32",
        provenance={"source": "random weights, for benchmarks"},
        require_room=lambda _bytes: None,
    )
    return folder


def compare(folder: Path, name: str, rows: Sequence[Mapping[str, str]]) -> list[report.Figure]:
    """Score the rows in both number formats."""
    texts = [row["text"] for row in rows]
    labels = torch.tensor([LABELS.index(row["label"]) for row in rows])
    exact, quick = (
        models.scores(models.load(folder, dtype).score(texts)) for dtype in ("float32", "int8")
    )
    agree = share(exact.argmax(1), quick.argmax(1))
    off = (exact - quick).abs().amax(1)
    accuracy, exactly = (share(found.argmax(1), labels) for found in (quick, exact))
    return [
        report.at_least(f"{name}: labels", "float32", ([agree], [1.0]), 0.995, texts=len(texts)),
        report.at_most(
            f"{name}: mean largest difference of a score",
            "1",
            ([off.mean().item()], [1.0]),
            0.005,
            largest=round(off.max().item(), 4),
        ),
        report.at_least(f"{name}: accuracy", "float32", ([accuracy], [max(exactly, 1e-9)])),
    ]


def share(found: Tensor, expected: Tensor) -> float:
    """Return how many of the labels agree, from 0 to 1."""
    return (found == expected).double().mean().item()


if __name__ == "__main__":
    main()
