"""Normalising and tokenising, which feed the device: more threads or processes against one thread.

A fast GPU may score more tweets a second than one thread can read. This script measures what helps
then, with nothing else in the process. Processes get texts and return token ids, in parts of 512.

    python -m benchmarks.reading
"""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial

from benchmarks import models, report
from hatespeech.model import checkpoint as checkpoints
from hatespeech.text.normalizer import normalize_tweet

PART = 512
_tokenizer = checkpoints.load_tokenizer(models.embedded())


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("--texts", type=report.positive, default=16_384, help="(%(default)s)")
    options = parser.parse_args(arguments)
    sample = models.sample_texts()
    texts = (sample * (options.texts // len(sample) + 1))[: options.texts]
    parts = [texts[start : start + PART] for start in range(0, len(texts), PART)]
    workers = len(os.sched_getaffinity(0))
    spawn = multiprocessing.get_context("spawn")
    figures = []
    with ThreadPoolExecutor(workers) as threads, ProcessPoolExecutor(workers, spawn) as processes:
        pools: tuple[tuple[str, Executor], ...] = (("threads", threads), ("processes", processes))
        for name, pool in pools:
            through = partial(rate, partial(pool.map, read, parts), len(texts))
            alone = partial(rate, partial(map, read, parts), len(texts))
            through(), alone()
            figures.append(
                report.at_least(
                    f"reading (normalising and tokenising) with {workers} {name}, texts/s",
                    "one thread",
                    report.in_turn(through, alone, options.rounds),
                )
            )
    report.publish(figures, options.json)


def read(texts: list[str]) -> list[list[int]]:
    """Return the token ids of a part, as the reader thread does one by one."""
    return [_tokenizer.encode(normalize_tweet(text)).ids for text in texts]


def rate(run: Callable[[], Iterable[list[list[int]]]], count: int) -> float:
    """Time one run; return texts a second."""
    started = time.perf_counter()
    assert sum(map(len, run())) == count
    return count / (time.perf_counter() - started)


if __name__ == "__main__":
    main()
