"""Passes that run beside each other while more waits than one pass takes."""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from typing import Any, Final

import pytest
import torch
from typing_extensions import override

from hatespeech.contract import Prediction
from hatespeech.engine.pass_size import PassSize
from hatespeech.engine.predictor import Predictor, Sequences
from hatespeech.errors import InternalError, UnhealthyError
from hatespeech.labels import Explanation
from hatespeech.model import threads
from tests.support.batchers import (
    TEXTS,
    HeldDevice,
    OfOneSpeed,
    alone,
    close_to,
    running,
    settle,
    waiting,
)
from tests.support.torch_threads import torch_threads

pytestmark = [
    pytest.mark.skipif(
        threads._setter() is None, reason="torch's OpenMP is not found on this system"
    ),
    pytest.mark.usefixtures("four_threads"),
]


THREADS: Final = 4


@pytest.fixture
def four_threads() -> Iterator[None]:
    with torch_threads(THREADS):
        yield


class Meeting:
    """Lets passes in lanes go on only once two have begun, and counts the threads of each."""

    def __init__(self) -> None:
        self.threads: list[int] = []
        self._lock = threading.Lock()
        self._both = threading.Event()

    def __call__(self, _sequences: Sequences) -> None:
        if torch.get_num_threads() == THREADS:  # a pass that has the whole device
            return
        with self._lock:
            self.threads.append(torch.get_num_threads())
            if len(self.threads) == 2:
                self._both.set()
        assert self._both.wait(30)


def test_two_passes_run_beside_each_other_while_more_waits_than_one_takes(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    expected = alone(small_classifier, TEXTS * 3)
    device.batches.clear()

    async def main() -> None:
        async with running(small_classifier, max_batch_tokens=512) as batcher:
            held = await device.hold(batcher)
            meeting = device.fault = Meeting()
            task = asyncio.create_task(batcher.score(TEXTS * 3))
            await settle(batcher, len(TEXTS))
            device.open.set()
            results, timing = await task
            await held
            assert close_to(results, expected)
            assert meeting.threads[:2] == [2, 2]
            sizes = [sum(map(len, batch)) for batch in device.batches[1:]]
            assert max(sizes[:2]) <= 256
            assert (batcher.counters.batches, batcher.counters.sequences) == (len(sizes) + 1, 121)
            assert timing.tokens == sum(sizes)

    asyncio.run(main())


def test_what_fits_into_one_pass_has_every_thread_and_the_device_for_itself(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    seen: list[int] = []

    async def main() -> None:
        async with running(small_classifier) as batcher:
            device.fault = lambda _sequences: seen.append(torch.get_num_threads())
            held = await device.hold(batcher)
            callers = [asyncio.create_task(batcher.score([text])) for text in TEXTS]
            await asyncio.sleep(0)
            await settle(batcher, len(TEXTS))  # none of them has begun beside the held one
            device.open.set()
            await asyncio.gather(held, *callers)
            assert [len(batch) for batch in device.batches] == [1, len(TEXTS)]

    asyncio.run(main())
    assert seen == [THREADS, THREADS]


def test_a_lone_text_is_in_the_next_pass_of_either_lane(
    small_classifier: Predictor, device: HeldDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    tweet = small_classifier.encode("good morning").windows[0]
    passes = threading.Semaphore(0)
    taken: list[Sequences] = []

    def fault(_sequences: Sequences) -> None:
        assert torch.get_num_threads() == THREADS or passes.acquire(timeout=30)

    async def main() -> None:
        async with running(small_classifier, max_batch_tokens=512, max_queue_texts=2000) as batcher:
            take = batcher._take_batch

            def noted(lanes: int) -> list[Any]:
                batch = take(lanes)
                taken.append([text.sequences[index] for text, index in batch])
                return batch

            monkeypatch.setattr(batcher, "_take_batch", noted)
            held = await device.hold(batcher)
            many = asyncio.create_task(batcher.score(TEXTS * 25))
            await settle(batcher, len(TEXTS))
            device.fault = fault
            device.open.set()
            await held
            while batcher._passes < 2:
                await asyncio.sleep(0.001)
            before = len(taken)
            lone = asyncio.create_task(batcher.score(["good morning"]))
            while tweet not in waiting(batcher):
                await asyncio.sleep(0.001)
            passes.release(1000)
            await lone
            assert tweet in taken[before]
            await many

    asyncio.run(main())


def test_windows_of_one_text_in_both_lanes_make_one_result(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    long = " ".join(TEXTS * 5)
    (expected,) = alone(small_classifier, [long])
    windows = small_classifier.encode(long).windows
    assert len(windows) > 2

    async def main() -> None:
        async with running(small_classifier, max_batch_tokens=2 * len(windows[0])) as batcher:
            meeting = device.fault = Meeting()
            device.open.clear()
            task = asyncio.create_task(batcher.score([long]))
            await asyncio.to_thread(device.entered.wait, 30)
            device.open.set()
            results, _ = await task
            assert close_to(results, [expected])
            assert meeting.threads[:2] == [2, 2]

    asyncio.run(main())


def test_a_culprit_in_one_lane_fails_alone(small_classifier: Predictor, device: HeldDevice) -> None:
    culprit = small_classifier.encode(TEXTS[17]).windows[0]

    def fault(sequences: Sequences) -> None:
        if culprit in sequences:
            raise ValueError("this one")

    async def main() -> None:
        async with running(small_classifier, max_batch_tokens=128) as batcher:
            device.fault = fault
            results, _ = await batcher.score(TEXTS)
            assert isinstance(results.pop(17), InternalError)
            assert all(isinstance(result, Prediction) for result in results)
            assert not batcher.broken

    asyncio.run(main())


def test_a_device_that_fails_in_both_lanes_is_told_of_once(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    told: list[str] = []
    meeting = Meeting()

    def fault(sequences: Sequences) -> None:
        meeting(sequences)
        if meeting.threads:
            raise RuntimeError("device-side assert triggered")

    async def main() -> None:
        async with running(
            small_classifier, max_batch_tokens=128, on_broken=lambda: told.append("broken")
        ) as batcher:
            held = await device.hold(batcher)
            many = asyncio.create_task(batcher.score(TEXTS))
            await settle(batcher, 16)
            device.fault = fault
            device.open.set()
            await held
            with pytest.raises(UnhealthyError):
                await many

    asyncio.run(main())
    assert meeting.threads[:2] == [2, 2]
    assert told == ["broken"]


def test_a_pass_in_a_lane_tells_of_the_speed_of_all_lanes(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    class Noting(OfOneSpeed):
        @override
        def passed(self, tokens: int, seconds: float) -> None:
            told.append(tokens)
            super().passed(tokens, seconds)

    told: list[int] = []
    expected: list[int] = []

    def fault(sequences: Sequences) -> None:
        expected.append(sum(map(len, sequences)) * THREADS // torch.get_num_threads())

    async def main() -> None:
        async with running(small_classifier, pass_size=Noting(512, 1e9)) as batcher:
            held = await device.hold(batcher)
            task = asyncio.create_task(batcher.score(TEXTS * 3))
            await settle(batcher, len(TEXTS))
            device.fault = fault
            device.open.set()
            await asyncio.gather(held, task)

    asyncio.run(main())
    assert sorted(told) == sorted(expected)
    assert max(told) > 400


def test_where_no_thread_is_left_all_passes_run_in_the_first(
    small_classifier: Predictor, device: HeldDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = alone(small_classifier, TEXTS * 3)
    start = threading.Thread.start

    def refuse(thread: threading.Thread) -> None:
        if thread.name == "device 2":
            raise RuntimeError("can't start new thread")
        start(thread)

    async def main() -> None:
        monkeypatch.setattr(threading.Thread, "start", refuse)
        async with running(small_classifier, max_batch_tokens=512) as batcher:
            held = await device.hold(batcher)
            task = asyncio.create_task(batcher.score(TEXTS * 3))
            await settle(batcher, 32)
            device.open.set()
            results, _ = await task
            await held
            assert close_to(results, expected)

    asyncio.run(main())


def test_in_a_storm_every_request_that_stays_is_answered_with_its_own_scores(
    small_classifier: Predictor,
) -> None:
    choose = random.Random(7)
    long = " ".join(TEXTS * 3)
    kinds: dict[str, tuple[list[str], Explanation | None, bool]] = {
        "one": (TEXTS[:1], None, False),
        "many": (TEXTS * 3, None, False),
        "long": ([long, *TEXTS[:5]], None, False),
        "robust": (["h\u0430te n1gh7", *TEXTS[5:9]], None, True),
        "explained": (TEXTS[9:11], "leave_one_out", False),
        "unreadable": (["\u200b", *TEXTS[11:14], "\u200b"], None, False),
    }
    expected = {
        name: small_classifier.score(texts, explain, robust)
        for name, (texts, explain, robust) in kinds.items()
    }

    async def main() -> None:
        async with running(
            small_classifier, pass_size=PassSize(512), max_queue_texts=10_000
        ) as batcher:

            async def caller(name: str, leaves: bool) -> None:
                await asyncio.sleep(choose.random() / 5)
                texts, explain, robust = kinds[name]
                scoring = asyncio.ensure_future(batcher.score(texts, explain, robust))
                if leaves:
                    await asyncio.sleep(choose.random() / 50)
                    scoring.cancel()
                    await asyncio.wait([scoring])
                    return
                results, _ = await scoring
                for result, wanted in zip(results, expected[name], strict=True):
                    assert type(result) is type(wanted)
                    if isinstance(result, Prediction) and isinstance(wanted, Prediction):
                        assert result.scores == pytest.approx(wanted.scores, abs=1e-5)

            names = choose.choices(list(kinds), k=150)
            await asyncio.gather(*(caller(name, choose.random() < 0.2) for name in names))
            assert batcher.queued_texts == 0
            assert not batcher._open
            assert (batcher._to_read.size, batcher._to_score.size) == (0, 0)
            while batcher._passes or batcher._second:
                await asyncio.sleep(0.001)

    asyncio.run(main())
