"""Precision and recall of a checkpoint's scores at a few thresholds, as a Markdown table.

``toxic``, the sum of hate and abusing, stands beside the labels: it is right or wrong about the two
together. Needs requirements-train.txt.

    python -m benchmarks.thresholds [FOLDER] [--data test.tsv]
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from benchmarks import models
from benchmarks.embedded_figures import scores
from hatespeech import paths
from hatespeech.cli import make_parser
from hatespeech.evaluation.thresholds import RECOMMENDED_FLAGS, flagged_figures
from hatespeech.training.corpus import read_corpus, read_rows

SHOWN: Final = (0.5, 0.7, 0.9)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(None, __doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=paths.EMBEDDED)
    parser.add_argument("--data", type=Path, default=models.SAMPLE, metavar="TSV")
    options = parser.parse_args(arguments)
    print(table(options.folder, options.data), end="")


def table(folder: Path, data: Path) -> str:
    """Return the table; the columns hold precision and recall at each threshold."""
    texts = [text for _, text, _ in read_rows(data)]
    found = scores(models.load(folder), texts).astype(np.float64)
    labels = np.array(read_corpus(data).labels)
    rows = [
        "| flag |" + "".join(f" at {least}: precision | recall |" for least in SHOWN),
        "| --- |" + " ---: | ---: |" * len(SHOWN),
    ]
    for flag in RECOMMENDED_FLAGS:
        figures = [flagged_figures(found, labels, {flag: least})[flag] for least in SHOWN]
        cells = "".join(f" {precision:.2f} | {recall:.2f} |" for precision, recall in figures)
        rows.append(f"| `{flag}` |{cells}")
    return "\n".join(rows) + "\n"


if __name__ == "__main__":
    main()
