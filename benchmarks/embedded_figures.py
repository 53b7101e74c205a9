"""What the embedded checkpoint is measured by: one table for any checkpoint folder.

Accuracy, macro-F1 and calibration on labelled texts; hate told from what only looks like it, on
the two suites whose authors saw none of the training texts; harmless texts in other languages;
disguised insults, without ``robust``; unknown words. The data is in ``benchmarks/data``; a labelled
file that is not part of the repository is given with ``--data``. Needs requirements-train.txt.

    python -m benchmarks.embedded_figures hatespeech/checkpoints/mini --data test.tsv --data dev.tsv
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks import models
from benchmarks.disguises import disguised, disguises, texts_of
from hatespeech.cli import make_parser
from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.evaluation.calibration import expected_calibration_error
from hatespeech.evaluation.figures import measure
from hatespeech.labels import LABELS
from hatespeech.training.corpus import read_corpus, read_rows

DATA: Final = models.SAMPLE.parent
# Functionality, "hate" or "other", text: sentences one by one, and templates with groups in turn.
SUITES: Final = {name: DATA / f"suite_{name}.tsv" for name in ("sentences", "templates")}
LANGUAGES: Final = (DATA / "greetings.tsv", DATA / "sentences.tsv")  # language, text
HATE: Final = LABELS.index("hate")
TOXIC: Final = [HATE, LABELS.index("abusing")]
# What the two suites call the same.
KINDS: Final = {
    "negated hate": ("negated_hate",),
    "hate referred to and denounced": ("referenced_denounced", "quote_denounced"),
    "hate quoted and countered": ("quoted_countered", "counter_reply"),
    "denied praise": ("negated_positive",),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print a Markdown table."""
    parser = make_parser(None, __doc__)
    parser.add_argument("folder", type=Path, help="the checkpoint to measure")
    parser.add_argument(
        "--data", type=Path, action="append", metavar="TSV", help="label, text, source (the sample)"
    )
    options = parser.parse_args(arguments)
    predictor = models.load(options.folder)
    rows = [("figure", "value"), ("---", "---:")]
    rows += figures(predictor, options.data or [models.SAMPLE])
    size = sum(file.stat().st_size for file in options.folder.iterdir())
    rows.append(("size of the folder", f"{size / 1e6:.2f} MB"))
    sys.stdout.writelines(f"| {name} | {value} |\n" for name, value in rows)


def figures(predictor: Predictor, files: Sequence[Path]) -> Iterator[tuple[str, str]]:
    """Yield the name and the value of each figure."""
    for path in files:
        yield from labelled(predictor, path)
    hits = {name: suite_hits(predictor, path) for name, path in SUITES.items()}
    for name, found in hits.items():
        yield f"suite of {name}, balanced accuracy of hate", f"{balanced_accuracy(found):.3f}"
    for kind, names in KINDS.items():
        told = [
            hit
            for suite in hits.values()
            for (_, of), each in suite.items()
            if of in names
            for hit in each
        ]
        yield f"suites, {kind}: right", f"{sum(told)} of {len(told)} ({sum(told) / len(told):.2f})"
    for path in LANGUAGES:
        yield from languages(predictor, path)
    yield from disguised_texts(predictor)
    yield from unknown_words(predictor)


def suite_hits(predictor: Predictor, path: Path) -> dict[tuple[str, str], list[bool]]:
    """Return whether each text is rightly called hate or not, by label and functionality."""
    rows = models.rows(path)
    called = scores(predictor, [row["text"] for row in rows]).argmax(1) == HATE
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


def scores(predictor: Predictor, texts: Sequence[str]) -> Any:
    """Return ``[texts, labels]``; a text that can't be scored counts as no label's."""
    found = predictor.score(texts)
    rows = [list(r.scores) if isinstance(r, Prediction) else [0.0] * 4 for r in found]
    return np.array(rows, dtype=np.float32)


def labelled(predictor: Predictor, path: Path) -> Iterator[tuple[str, str]]:
    """Yield accuracy, macro-F1 and the expected calibration error on a labelled file."""
    found = scores(predictor, [text for _, text, _ in read_rows(path)])
    corpus = read_corpus(path)
    metrics = measure(found, corpus.labels, corpus.sources)
    yield f"{path.name}, accuracy", f"{metrics.accuracy:.4f}"
    yield f"{path.name}, macro-F1", f"{metrics.macro_f1:.4f}"
    error = expected_calibration_error(np.log(np.maximum(found, 1e-9)), np.array(corpus.labels))
    yield f"{path.name}, expected calibration error", f"{error:.4f}"


def languages(predictor: Predictor, path: Path) -> Iterator[tuple[str, str]]:
    """Yield how many of the harmless texts in other languages are called hate or abusing."""
    texts = models.sample_texts(path)
    called = np.isin(scores(predictor, texts).argmax(1), TOXIC)
    yield f"{path.name}, called hate or abusing", f"{called.sum()} of {len(texts)}"


def disguised_texts(predictor: Predictor) -> Iterator[tuple[str, str]]:
    """Yield the mean loss of hate + abusing of the sample's hateful and abusing texts."""
    texts = texts_of(models.SAMPLE, "hate", "abusing")
    plain = scores(predictor, texts)[:, TOXIC].sum(1)
    losses = {}
    for way in disguises():
        hidden = scores(predictor, [disguised(text, way) for text in texts])
        losses[way.name] = float((plain - hidden[:, TOXIC].sum(1)).mean())
    name = f"{len(losses)} disguises of {len(texts)} texts, mean loss of hate + abusing"
    yield name, f"{np.mean(list(losses.values())):.3f}"
    yield from ((f"disguise: {name}", f"{loss:.3f}") for name, loss in losses.items())


def unknown_words(predictor: Predictor) -> Iterator[tuple[str, str]]:
    """Yield how many neutral texts are hate as they are, and with unknown words for a tenth."""
    texts = texts_of(models.SAMPLE, "neutral")
    counts = [
        int((scores(predictor, version).argmax(1) == HATE).sum())
        for version in (texts, [tenth(text, word) for text in texts for word in ("ሰላም", "vrontik")])
    ]
    yield "neutral texts called hate", f"{counts[0]} of {len(texts)}"
    yield "the same with a tenth unknown words", f"{counts[1]} of {2 * len(texts)}"


def tenth(text: str, word: str) -> str:
    """Replace every tenth word, at least one."""
    words = text.split(" ")
    places = range(min(4, len(words) - 1), len(words), 10)
    return " ".join(word if at in places else each for at, each in enumerate(words))


if __name__ == "__main__":
    main()
