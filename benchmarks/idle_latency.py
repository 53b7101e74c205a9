"""What the handler adds to one tweet's forward pass while nothing else runs.

The embedded checkpoint scores one tweet at a time, in float32. The handler's time runs from the job
to its reply: checking, normalising, tokenising, two hand-overs between threads, the pass, the
reply. The bare pass gets the same tokens, packed before its clock starts.

    python -m benchmarks.idle_latency
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch

from benchmarks import models, report
from hatespeech.engine.predictor import Predictor
from hatespeech.engine.scorer import Scorer
from hatespeech.model.checkpoint import load_model
from hatespeech.model.network import CustomModel
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
    settings = EngineSettings.from_environment({"DEVICE": "cpu", "LOG_LEVEL": "ERROR"})
    checkpoint = models.embedded()
    model = load_model(checkpoint, reorder=True)
    classifier = Predictor.from_settings(settings)
    scorer = Scorer(classifier, settings)
    handler = JobHandler(scorer)
    sequences = [classifier.encode(text).windows for text in texts]
    batches = [PackedBatch.pack(windows, 1, "cpu", ROW_STEP) for windows in sequences]

    @torch.inference_mode()
    def bare() -> float:
        return median(timed(partial(model_scores, model, batch)) for batch in batches)

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
        ours, theirs = report.in_turn(through, bare, options.rounds)
    scorer.close()
    added = median(a - b for a, b in zip(ours, theirs, strict=True))
    figure = report.Figure(
        "one tweet through the idle handler, mini, ms more than",
        "the bare forward pass on the same tokens",
        ratio=added,
        target=f"at most {TARGET_MS} ms more",
        met=added <= TARGET_MS,
        raw={
            "ours": round(median(ours), 3),
            "theirs": round(median(theirs), 3),
            "rounds": [[round(a, 3), round(b, 3)] for a, b in zip(ours, theirs, strict=True)],
        },
    )
    report.publish([figure], options.json)


def model_scores(model: CustomModel, batch: PackedBatch) -> object:
    """Run the bare pass and wait for its result."""
    return model(batch).tolist()


def timed(call: Callable[[], object]) -> float:
    """Return how many milliseconds a call takes."""
    started = time.perf_counter()
    call()
    return (time.perf_counter() - started) * 1e3


if __name__ == "__main__":
    main()
