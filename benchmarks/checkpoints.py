"""Two checkpoints side by side, through the engine: how good, how large, how fast.

The first is compared with the second, on the same labelled texts, in float32. Accuracy and macro-F1
count the whole file. Three functional suites test whether a checkpoint tells hate from what only
looks like it. One is made from ``hatespeech/training/functional.toml``, with templates and groups
held out. The authors of the other two saw none of the training texts. Needs requirements-train.txt.

    python -m benchmarks.checkpoints hatespeech/checkpoints/mini path/to/older --data test.tsv
"""

from __future__ import annotations

import csv
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import report
from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.evaluation.figures import measure
from hatespeech.labels import LABELS
from hatespeech.settings import EngineSettings
from hatespeech.training.corpus import read_corpus, read_rows
from hatespeech.training.evaluation import functional_figures
from hatespeech.training.functional import held_out_corpus

DATA: Final = Path(__file__).with_name("data")
SAMPLE: Final = DATA / "sample.tsv"
# Functionality, "hate" or "other", text: sentences one by one, and templates with groups in turn.
SUITES: Final = {name: DATA / f"suite_{name}.tsv" for name in ("sentences", "templates")}
HATE: Final = LABELS.index("hate")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("folder", type=Path, help="the checkpoint to judge")
    parser.add_argument("older", type=Path, help="the one to judge it against")
    parser.add_argument(
        "--data", type=Path, default=SAMPLE, metavar="TSV", help="label, text, source (%(default)s)"
    )
    parser.add_argument(
        "--texts", type=report.positive, default=2000, help="for the speed (%(default)s)"
    )
    options = parser.parse_args(arguments)
    folders = (options.folder, options.older)
    ours, theirs = (load(folder) for folder in folders)
    texts = [text for _, text, _ in read_rows(options.data)]
    against = theirs.model_id
    qualities = [quality(classifier, options.data) for classifier in (ours, theirs)]
    figures = [
        report.at_least(name, against, [value], [qualities[1][name]], None)
        for name, value in qualities[0].items()
    ]
    size, older = (sum(file.stat().st_size for file in folder.iterdir()) for folder in folders)
    figures.append(
        report.at_most("size of the folder, MB", against, [size / 1e6], [older / 1e6], None)
    )
    speeds, older_speeds = report.in_turn(
        lambda: speed(ours, texts[: options.texts]),
        lambda: speed(theirs, texts[: options.texts]),
        options.rounds,
    )
    figures.append(
        report.at_least("offline throughput, texts/s", against, speeds, older_speeds, None)
    )
    report.publish(figures, options.json)


def load(folder: Path) -> Predictor:
    """Load a checkpoint as the service does on a CPU."""
    settings = {"MODEL_DIR": str(folder), "DEVICE": "cpu", "DTYPE": "float32", "LOG_LEVEL": "ERROR"}
    return Predictor.from_settings(EngineSettings.from_environment(settings))


def quality(classifier: Predictor, data: Path) -> dict[str, float]:
    """Return figures by name, each from 0 to 1."""
    corpus = read_corpus(data)
    found = scores(classifier, [text for _, text, _ in read_rows(data)])
    metrics = measure(found, corpus.labels, corpus.sources)
    invented = held_out_corpus()
    told = measure(scores(classifier, invented.texts), invented.labels, invented.sources)
    functional = functional_figures(told)
    return {
        f"accuracy on {data.name}": metrics.accuracy,
        f"macro-F1 on {data.name}": metrics.macro_f1,
        "balanced accuracy of hate, functional suite": functional.balanced_accuracy,
    } | {
        f"balanced accuracy of hate, suite of {name}": balanced_accuracy(
            suite_hits(classifier, path)
        )
        for name, path in SUITES.items()
    }


def suite_hits(classifier: Predictor, path: Path) -> dict[tuple[str, str], list[bool]]:
    """Return whether each text is rightly called hate or not, by label and functionality."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    called = scores(classifier, [row["text"] for row in rows]).argmax(1) == HATE
    hits: dict[tuple[str, str], list[bool]] = {}
    for row, hate in zip(rows, called, strict=True):
        kind = hits.setdefault((row["label"], row["functionality"]), [])
        kind.append(bool(hate) == (row["label"] == "hate"))
    return hits


def balanced_accuracy(hits: dict[tuple[str, str], list[bool]]) -> float:
    """Return the mean of the shares of hate and of the rest that are told right."""
    shares = []
    for label in ("hate", "other"):
        found = [hit for (of, _), each in hits.items() if of == label for hit in each]
        shares.append(sum(found) / len(found))
    return sum(shares) / 2


def scores(classifier: Predictor, texts: Sequence[str]) -> Any:
    """Return ``[texts, labels]``; a text that can't be scored counts as no label's."""
    found = classifier.score(texts)
    rows = [list(r.scores) if isinstance(r, Prediction) else [0.0] * 4 for r in found]
    return np.array(rows, dtype=np.float32)


def speed(classifier: Predictor, texts: Sequence[str]) -> float:
    """Return texts per second."""
    started = time.perf_counter()
    classifier.score(texts)
    return len(texts) / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
