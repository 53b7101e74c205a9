"""A batcher whose predictor is real; only its forward pass is watched, held or made to fail."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import pytest
from typing_extensions import override

from hatespeech.contract import Prediction
from hatespeech.engine.batcher import Batcher
from hatespeech.engine.pass_size import PassSize
from hatespeech.engine.predictor import Predictor, Probabilities, Sequences
from hatespeech.errors import ServiceError

Forward = Callable[[Sequences], Probabilities]
TOO_FAST_TO_PACE: Final = 1e300  # tokens a second: a pass reads as much as it may
TEXTS: Final = [f"the train number {n} was late again" for n in range(40)]


class OfOneSpeed(PassSize):
    """Is told of each pass that the device did ``told`` tokens a second."""

    def __init__(self, max_tokens: int, told: float) -> None:
        super().__init__(max_tokens, told)
        self.told = told

    @override
    def passed(self, tokens: int, seconds: float) -> None:
        super().passed(tokens, tokens / self.told)


class HeldDevice:
    """The real forward pass behind a gate, with a fault to inject and a record of its batches."""

    def __init__(self, forward: Forward) -> None:
        self.batches: list[Sequences] = []
        self.open = threading.Event()
        self.open.set()
        self.entered = threading.Event()
        self.fault: Callable[[Sequences], None] = lambda _sequences: None
        self._forward = forward

    def __call__(self, sequences: Sequences) -> Probabilities:
        self.entered.set()
        assert self.open.wait(30)
        self.fault(sequences)
        self.batches.append(sequences)
        return self._forward(sequences)

    async def hold(self, batcher: Batcher) -> asyncio.Task[object]:
        """Keep the device busy with a text of its own until ``open`` is set."""
        self.open.clear()
        self.entered.clear()
        task: asyncio.Task[object] = asyncio.ensure_future(batcher.score(["hold the line"]))
        await asyncio.to_thread(self.entered.wait, 30)
        return task


@asynccontextmanager
async def running(
    classifier: Predictor,
    *,
    max_batch_tokens: int = 16_384,
    pass_size: PassSize | None = None,
    max_queue_texts: int = 1000,
    max_request_tokens: int = 100_000,
    on_broken: Callable[[], None] = lambda: None,
) -> AsyncIterator[Batcher]:
    batcher = Batcher(
        classifier,
        pass_size=pass_size or OfOneSpeed(max_batch_tokens, TOO_FAST_TO_PACE),
        max_queue_texts=max_queue_texts,
        max_request_tokens=max_request_tokens,
        on_broken=on_broken,
    )
    try:
        async with asyncio.timeout(60):
            yield batcher
    finally:
        await asyncio.to_thread(batcher.close)


async def settle(batcher: Batcher, least: int) -> None:
    """Wait until the reader rests, and at least so many sequences wait for the (held) device.

    Of a long request the reader reads no more than a pass can take.
    """
    while queue_length(batcher) < least or not rests(batcher):
        await asyncio.sleep(0.001)


def rests(batcher: Batcher) -> bool:
    """Return whether the reader waits for something to read."""
    with batcher._lock:
        return bool(batcher._work_to_read._waiters) and not batcher._to_read  # type: ignore[attr-defined]  # the standard library's own


def queue_length(batcher: Batcher) -> int:
    return len(waiting(batcher))


def waiting(batcher: Batcher) -> Sequences:
    """Return the sequences that wait for the device."""
    with batcher._lock:
        queues = batcher._to_score._items.values()
        return [text.sequences[index] for queue in queues for text, index in queue]


def close_to(results: list[Prediction | ServiceError], expected: list[Prediction]) -> bool:
    return all(
        isinstance(result, Prediction) and result.scores == pytest.approx(wanted.scores, abs=1e-5)
        for result, wanted in zip(results, expected, strict=True)
    )


def alone(classifier: Predictor, texts: list[str]) -> list[Prediction]:
    scores = [classifier.score([text])[0] for text in texts]
    return [score for score in scores if isinstance(score, Prediction)]
