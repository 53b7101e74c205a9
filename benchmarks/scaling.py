"""How the cost of a token grows with the length of a text and falls with the size of a batch.

Only forward passes are measured, on RoBERTa-base's shape with random weights, each against 64 texts
of 32 tokens.

    python -m benchmarks.scaling [--dtype bfloat16]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch

from benchmarks import models, report
from hatespeech.engine.predictor import Predictor

LENGTH, TEXTS = 32, 64
LENGTHS = (8, 64, 128, 256, 512)  # of texts, 2,048 tokens in all
BATCHES = (1, 4, 16, 256)  # texts of 32 tokens
SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=3)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args(arguments)
    predictor = models.random_predictor(getattr(torch, options.dtype))
    shapes = [(LENGTH * TEXTS // length, length) for length in LENGTHS]
    shapes += [(texts, LENGTH) for texts in BATCHES]
    figures = []
    for texts, length in shapes:
        rates = report.in_turn(
            partial(tokens_per_second, predictor, texts, length),
            partial(tokens_per_second, predictor, TEXTS, LENGTH),
            options.rounds,
        )
        what = f"{texts} texts of {length} tokens, base shape, {options.dtype}, tokens/s"
        figures.append(report.at_least(what, f"{TEXTS} texts of {LENGTH} tokens", rates))
    report.publish(figures, options.json)


def tokens_per_second(predictor: Predictor, texts: int, length: int) -> float:
    """Run passes for a second."""
    batch = [[0, *range(10, 8 + length), 2]] * texts
    predictor.probabilities(batch)
    started = time.perf_counter()
    passes = 0
    while time.perf_counter() - started < SECONDS:
        predictor.probabilities(batch)
        passes += 1
    return passes * texts * length / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
