"""How far int8 is from float32: the labels that agree, the scores, the accuracy.

python -m benchmarks.int8_agreement [--folder FOLDER] [--data TSV]
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks import models, report
from hatespeech import paths
from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.labels import LABELS
from hatespeech.settings import EngineSettings


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare and print."""
    parser = report.parser(__doc__, rounds=1)
    parser.add_argument("--folder", type=Path, default=paths.EMBEDDED, help="(%(default)s)")
    parser.add_argument("--data", type=Path, default=models.SAMPLE, help="(%(default)s)")
    options = parser.parse_args(arguments)
    with options.data.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    texts = [row["text"] for row in rows]
    labels = torch.tensor([LABELS.index(row["label"]) for row in rows])
    exact, quick = (scores(options.folder, dtype, texts) for dtype in ("float32", "int8"))
    name = f"{options.folder.name}, int8, {options.data.name}"
    agree = share(exact.argmax(1), quick.argmax(1))
    off = (exact - quick).abs().amax(1)
    accuracies = [share(found.argmax(1), labels) for found in (quick, exact)]
    figures = [
        report.at_least(f"{name}: labels", "float32", [agree], [1.0], 0.995, texts=len(texts)),
        report.at_most(
            f"{name}: mean largest difference of a score",
            *("1", [off.mean().item()], [1.0], 0.005),
            largest=round(off.max().item(), 4),
        ),
        report.at_least(
            f"{name}: accuracy", "float32", accuracies[:1], [max(accuracies[1], 1e-9)], None
        ),
    ]
    report.publish(figures, options.json)


def scores(folder: Path, dtype: str, texts: list[str]) -> Tensor:
    """Return ``[texts, labels]``."""
    settings = {"MODEL_DIR": str(folder), "DEVICE": "cpu", "DTYPE": dtype, "LOG_LEVEL": "ERROR"}
    classifier = Predictor.from_settings(EngineSettings.from_environment(settings))
    found = [r.scores for r in classifier.score(texts) if isinstance(r, Prediction)]
    if len(found) != len(texts):
        raise SystemExit("error: a text cannot be scored")
    return torch.tensor(found)


def share(found: Tensor, expected: Tensor) -> float:
    """Return how many of the labels agree, from 0 to 1."""
    return (found == expected).double().mean().item()


if __name__ == "__main__":
    main()
