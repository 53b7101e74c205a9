"""The forward pass as TorchScript compiles it against the same function in Python.

The embedded checkpoint in float32, and RoBERTa-base's shape with random weights in each dtype that
this CPU multiplies. A lone text of 8 tokens goes through in a row, after pauses of 20 ms, and while
another thread of Python is busy; a list of 128 tweets in parts that run beside each other, one in
each thread.

    python -m benchmarks.compiled_pass [--only base,int8]
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from statistics import median
from typing import Final
from unittest.mock import patch

import torch

from benchmarks import models, report
from hatespeech.engine.predictor import Predictor, Sequences
from hatespeech.model import int8, prepared

LENGTH: Final = 8
# How many passes of a lone text a round has, how long it pauses before each, and whether another
# thread is busy, by what it is called.
LONE: Final = {
    "in a row": (100, 0.0, False),
    "after 20 ms": (30, 0.02, False),
    "beside a busy thread of Python": (30, 0.0, True),
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=5)
    dtypes = [str(each).removeprefix("torch.") for each in prepared.onednn_dtypes()]
    dtypes += ["int8"] if int8.is_exact() else []
    cases = ["mini,float32", *(f"base,{dtype}" for dtype in sorted(dtypes))]
    parser.add_argument("--only", choices=cases, action="append", help="(default: all)")
    parser.add_argument("--texts", type=report.positive, default=128, help="(%(default)s)")
    options = parser.parse_args(arguments)
    figures = []
    for case in options.only or cases:
        shape, dtype = case.split(",")
        figures += compare(shape, dtype, options.texts, options.rounds)
    report.publish(figures, options.json)


def compare(shape: str, dtype: str, texts: int, rounds: int) -> list[report.Figure]:
    """Measure a lone text and a list in both."""
    compiled = predictor(shape, dtype)
    with in_python():
        interpreted = predictor(shape, dtype)
    one = [compiled._of_length(LENGTH)]
    many = [compiled.encode(text).windows[0] for text in models.sample_texts()[:texts]]
    where = "mini" if shape == "mini" else "base shape"

    def milliseconds(sequences: Sequences, calls: int, pause: float, busy: bool) -> report.Pair:
        def of(side: Predictor) -> float:
            one_pass = partial(side.probabilities, sequences)
            times = []
            with busy_thread() if busy else nullcontext():
                for _ in range(calls):
                    time.sleep(pause)
                    times.append(report.seconds(one_pass) * 1e3)
            return median(times)

        def theirs() -> float:
            with in_python():
                return of(interpreted)

        of(compiled), theirs()
        return report.in_turn(lambda: of(compiled), theirs, rounds)

    against = "the same function in Python"
    figures = [
        report.at_most(
            f"a pass of {LENGTH} tokens, {where}, {dtype}, {name}, ms",
            against,
            milliseconds(one, *how),
        )
        for name, how in LONE.items()
    ]
    ours, theirs = milliseconds(many, 3, 0.0, False)
    rates = ([len(many) / ms * 1e3 for ms in ours], [len(many) / ms * 1e3 for ms in theirs])
    name = f"a list of tweets, {where}, {dtype}, texts/s"
    return [*figures, report.at_least(name, against, rates)]


def predictor(shape: str, dtype: str) -> Predictor:
    """Return the embedded checkpoint's predictor, or one of the base shape."""
    return models.load() if shape == "mini" else models.random_predictor(getattr(torch, dtype))


@contextmanager
def busy_thread() -> Iterator[None]:
    """Keep a thread of Python busy meanwhile."""
    done = threading.Event()

    def count() -> None:
        while not done.is_set():
            sum(range(1000))

    thread = threading.Thread(target=count)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def in_python() -> AbstractContextManager[object]:
    """Prepare models, and run their passes, as where TorchScript cannot compile them."""
    return patch.object(prepared, "_compiled", lambda: prepared._forward)


if __name__ == "__main__":
    main()
