"""What the handler adds to one tweet's forward pass while nothing else runs.

The embedded checkpoint scores one tweet at a time, in float32. The handler's time runs from the job
to its reply: checking, normalising, tokenising, two hand-overs between threads, the pass, the
reply. The bare pass gets the same tokens, packed before its clock starts.

    python -m benchmarks.idle_latency
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from functools import partial
from statistics import median

import torch

from benchmarks import models, report
from hatespeech.engine.scorer import Scorer
from hatespeech.model.checkpoint import load_model
from hatespeech.model.packing import ROW_STEP, PackedBatch
from hatespeech.settings import EngineSettings
from hatespeech.worker.handler import JobHandler

TARGET_MS = 1.5


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=9)
    parser.add_argument("--texts", type=report.positive, default=100, help="(%(default)s)")
    options = parser.parse_args(arguments)
    texts = models.sample_texts()[: options.texts]
    model = load_model(models.embedded(), reorder=True)
    predictor = models.load()
    scorer = Scorer(predictor, EngineSettings())
    handler = JobHandler(scorer)
    sequences = [predictor.encode(text).windows for text in texts]
    batches = [PackedBatch.pack(windows, 1, "cpu", ROW_STEP) for windows in sequences]

    def scores(batch: PackedBatch) -> object:
        return model(batch).tolist()

    @torch.inference_mode()
    def bare() -> float:
        return 1e3 * median(report.seconds(partial(scores, batch)) for batch in batches)

    with asyncio.Runner() as runner:

        async def one(text: str) -> float:
            started = time.perf_counter()
            reply = await handler({"input": {"prompt": text}})
            seconds = time.perf_counter() - started
            assert "label" in reply, reply
            return seconds * 1e3

        async def all_of_them() -> float:
            return median([await one(text) for text in texts])

        def through() -> float:
            return runner.run(all_of_them())

        through(), bare()
        times = report.in_turn(through, bare, options.rounds)
    scorer.close()
    added = median(a - b for a, b in zip(*times, strict=True))
    figure = report.Figure(
        "one tweet through the idle handler, mini, ms more than",
        "the bare forward pass on the same tokens",
        ratio=added,
        target=f"at most {TARGET_MS} ms more",
        met=added <= TARGET_MS,
        raw=report.shown_raw(times),
    )
    report.publish([figure], options.json)


if __name__ == "__main__":
    main()
