"""Bulk scoring on this machine against the predictor alone, offline, on the same texts.

Ours is what ``score.py`` does between the first row and the last part of scores: it reads CSV,
normalises and tokenises in a thread, scores, and writes the parts. Theirs is
``Predictor.score`` of the same list. Neither counts loading the model or writing the output; the
script prints these times separately.

    python -m benchmarks.bulk_local
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from itertools import cycle, islice
from pathlib import Path

import torch

from benchmarks import models, report
from hatespeech.bulk.engines.local import LocalEngine
from hatespeech.bulk.plan import RunOptions, make_plan
from hatespeech.bulk.run import run
from hatespeech.engine.predictor import Predictor
from hatespeech.settings import EngineSettings

TARGET = 0.95


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=3)
    parser.add_argument(
        "--mini-texts", type=report.positive, default=20_000, help="for mini (%(default)s)"
    )
    parser.add_argument(
        "--base-texts", type=report.positive, default=512, help="for the base shape (%(default)s)"
    )
    options = parser.parse_args(arguments)
    figures = [
        compare(name, predictor, count, options.rounds)
        for name, predictor, count in (
            ("mini checkpoint", models.load(), options.mini_texts),
            ("base shape, float32", models.random_predictor(torch.float32), options.base_texts),
        )
    ]
    report.publish(figures, options.json)


def compare(name: str, predictor: Predictor, count: int, rounds: int) -> report.Figure:
    """Measure rows per second of both."""
    texts = list(islice(cycle(models.sample_texts()), count))
    whole: list[float] = []

    def bulk() -> float:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder) / "in.csv"
            with source.open("w", encoding="utf-8", newline="") as file:
                csv.writer(file).writerows([["text"], *([text] for text in texts)])
            out = str(Path(folder) / "out.csv")
            settings = EngineSettings()
            options = RunOptions(str(source), out, "text", 4096, "", None, include_text=False)
            started = time.perf_counter()
            outcome = run(make_plan(options, settings), lambda: LocalEngine(predictor, settings))
            assert outcome is not None
            whole.append(time.perf_counter() - started)
            return outcome.scored / outcome.seconds

    def alone() -> float:
        return count / report.seconds(partial(predictor.score, texts))

    predictor.score(texts[:256])
    return report.at_least(
        f"bulk scoring, {name}, rows/s",
        "Predictor.score",
        report.in_turn(bulk, alone, rounds),
        TARGET,
        rows=count,
        whole_run_s=[round(seconds, 2) for seconds in whole],
    )


if __name__ == "__main__":
    main()
