"""Sixty-four callers at once, one tweet each, through the handler, against one caller at a time.

The Runpod handler runs in this process, on RoBERTa-base's shape with random weights, in float32.
The callers share batches. The single caller has the device to itself and sends one tweet after
another.

    python -m benchmarks.handler_concurrency
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Sequence

import torch

from benchmarks import models, report
from hatespeech.engine.scorer import Scorer
from hatespeech.settings import EngineSettings
from hatespeech.worker.handler import JobHandler

CALLERS = 64
EACH = 2  # tweets a round for each of the many; the single caller sends all of them
TARGET = 3.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    options = parser.parse_args(arguments)
    predictor = models.random_predictor(getattr(torch, options.dtype))
    scorer = Scorer(predictor, EngineSettings.from_environment({"DEVICE": "cpu"}))
    handler = JobHandler(scorer)
    with asyncio.Runner() as runner:

        def rate(callers: int, each: int) -> float:
            return runner.run(tweets_per_second(handler, callers, each))

        rate(CALLERS, 1), rate(1, EACH)
        rates = report.in_turn(
            lambda: rate(CALLERS, EACH), lambda: rate(1, CALLERS * EACH), options.rounds
        )
    scorer.close()
    figure = report.at_least(
        f"{CALLERS} concurrent callers through the handler, base shape, {options.dtype}, texts/s",
        "one caller at a time",
        rates,
        TARGET,
    )
    report.publish([figure], options.json)


async def tweets_per_second(handler: JobHandler, callers: int, each: int) -> float:
    """Let callers send ``each`` tweets, one after another."""
    texts = itertools.cycle(models.sample_texts())

    async def caller(own: list[str]) -> None:
        for text in own:
            reply = await handler({"input": {"prompt": text}})
            assert "label" in reply, reply

    shares = [list(itertools.islice(texts, each)) for _ in range(callers)]
    started = time.perf_counter()
    await asyncio.gather(*map(caller, shares))
    return callers * each / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
