"""Sharing one device: who gets which answer, in which order, and what happens when it fails.

Here passes run one after another; see ``test_lanes`` for those beside each other.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Iterator

import emoji
import pytest
import torch

from hatespeech.contract import Prediction
from hatespeech.engine.batcher import most_tokens
from hatespeech.engine.pass_size import PASS_SECONDS, SMALLEST_BUDGET
from hatespeech.engine.predictor import Predictor, Sequences
from hatespeech.errors import (
    InternalError,
    OverloadedError,
    TooLargeError,
    UnhealthyError,
    ValidationError,
)
from hatespeech.labels import Explanation
from hatespeech.settings import EngineSettings
from tests.paths import MINI
from tests.support.batchers import (
    TEXTS,
    HeldDevice,
    OfOneSpeed,
    alone,
    close_to,
    queue_length,
    running,
    settle,
    waiting,
)
from tests.support.torch_threads import torch_threads


@pytest.fixture(autouse=True)
def _one_lane() -> Iterator[None]:
    """Let passes run one after another, whatever this machine's threads allow."""
    with torch_threads(1):
        yield


def test_everyone_gets_their_own_scores_from_shared_batches(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    expected = alone(small_classifier, TEXTS)

    async def main() -> None:
        async with running(small_classifier) as batcher:
            held = await device.hold(batcher)
            callers = [asyncio.create_task(batcher.score([text])) for text in TEXTS]
            await asyncio.sleep(0)
            await settle(batcher, len(TEXTS))
            device.open.set()
            answers = await asyncio.gather(*callers)
            await held
            assert close_to([results[0] for results, _ in answers], expected)
            assert all(timing.queue_ms > 0 and timing.compute_ms > 0 for _, timing in answers)
            counters = batcher.counters
            assert (counters.batches, counters.shared_batches) == (2, 1)
            assert counters.largest_batch == len(TEXTS)
            assert (counters.requests, counters.texts) == (len(TEXTS) + 1, len(TEXTS) + 1)

    asyncio.run(main())


def test_batches_keep_to_the_token_budget(small_classifier: Predictor, device: HeldDevice) -> None:
    async def main() -> None:
        async with running(small_classifier, max_batch_tokens=512) as batcher:
            held = await device.hold(batcher)
            task = asyncio.create_task(batcher.score(TEXTS * 3))
            await asyncio.sleep(0)
            await settle(batcher, len(TEXTS))
            device.open.set()
            await task
            await held
            sizes = [sum(map(len, batch)) for batch in device.batches[1:]]
            assert max(sizes) <= 512
            assert sizes[0] > 400  # later ones may find less that is read

    asyncio.run(main())


def test_of_a_long_request_no_more_is_read_than_a_pass_takes(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    texts = [*TEXTS, *["\u200b"] * 50, *TEXTS * 10]  # some that cannot be read, in a row

    async def main() -> None:
        async with running(small_classifier, max_batch_tokens=512) as batcher:
            held = await device.hold(batcher)
            task = asyncio.create_task(batcher.score(texts))
            await settle(batcher, 32)
            assert 512 <= sum(map(len, waiting(batcher))) < 1024
            other = asyncio.create_task(batcher.score(["good morning"]))
            await settle(
                batcher, queue_length(batcher) + 1
            )  # another caller's is read all the same
            device.open.set()
            results, _ = await task
            await asyncio.gather(held, other)
            assert sum(isinstance(result, ValidationError) for result in results) == 50
            assert sum(isinstance(result, Prediction) for result in results) == 440

    asyncio.run(main())


def test_a_request_that_may_need_too_many_tokens_is_refused_before_all_of_it_is_scored(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    async def main() -> None:
        for texts in (TEXTS * 5, ["\U0001f602" * 60] * 5):
            windows = [small_classifier.encode(text).windows[0] for text in texts]
            limit = sum(map(len, windows)) - 1
            async with running(
                small_classifier, max_batch_tokens=512, max_request_tokens=limit
            ) as batcher:
                held = await device.hold(batcher)
                with pytest.raises(TooLargeError, match=f"over {limit} tokens"):
                    await batcher.score(texts)
                device.open.set()
                await held

    asyncio.run(main())


def test_no_text_has_more_tokens_than_are_counted_before_it_is_read() -> None:
    predictor = Predictor.from_settings(
        EngineSettings.from_environment({"DEVICE": "cpu", "MODEL_DIR": str(MINI)})
    )
    texts = [*emoji.EMOJI_DATA, "a", "!?", "\u00e9", "\u4e2d", "\ud800", "can't", ":)", "a" * 200]
    for text in texts:
        needed = sum(map(len, predictor.encode(text).windows))
        assert needed <= most_tokens([text], robust=False), ascii(text)
    assert most_tokens(texts, robust=True) == 2 * most_tokens(texts, robust=False)


def test_one_text_behind_a_thousand_takes_its_turn(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    async def main() -> list[str]:
        finished: list[str] = []

        async def caller(name: str, texts: list[str]) -> None:
            await batcher.score(texts)
            finished.append(name)

        async with running(small_classifier, max_batch_tokens=512, max_queue_texts=2000) as batcher:
            held = await device.hold(batcher)
            many = asyncio.create_task(caller("many", TEXTS * 25))
            await asyncio.sleep(0)
            await settle(batcher, len(TEXTS))
            one = asyncio.create_task(caller("one", ["good morning"]))
            await asyncio.sleep(0)
            await settle(batcher, len(TEXTS) + 1)
            device.open.set()
            await asyncio.gather(one, many, held)
        tweet = small_classifier.encode("good morning").windows[0]
        assert tweet in device.batches[1], "not in the first batch after it came"
        return finished

    assert asyncio.run(main()) == ["one", "many"]


def test_callers_take_turns_however_many_requests_they_have(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    """A caller's sixteen texts are in the first 36 sequences, whatever another caller sends."""
    ours = [f"ours number {n}" for n in range(16)]
    theirs = [TEXTS[n : n + 5] for n in range(0, 40, 5)] * 10

    async def main() -> None:
        async with running(small_classifier, max_batch_tokens=1, max_queue_texts=2000) as batcher:
            held = await device.hold(batcher)
            many = [asyncio.create_task(batcher.score(texts, caller="many")) for texts in theirs]
            await asyncio.sleep(0)
            await settle(batcher, 400)
            one = asyncio.create_task(batcher.score(ours, caller="one"))
            await asyncio.sleep(0)
            await settle(batcher, 416)
            device.open.set()
            await asyncio.gather(one, *many, held)

    asyncio.run(main())
    read = [sequences[0] for sequences in device.batches[1:]]
    places = [read.index(small_classifier.encode(text).windows[0]) for text in ours]
    assert max(places) < 36


@pytest.mark.parametrize("explain", [None, "shapley"], ids=["of many windows", "explained"])
def test_one_text_of_much_work_is_read_in_passes_in_which_others_take_turns(
    small_classifier: Predictor, device: HeldDevice, explain: Explanation | None
) -> None:
    tweet = small_classifier.encode("good morning").windows[0]
    sizable = " ".join(["word"] * 100 if explain else TEXTS * 20)
    passes = threading.Semaphore(0)
    begun = allowed = 0

    def fault(_sequences: Sequences) -> None:
        nonlocal begun
        begun += 1
        assert passes.acquire(timeout=30)

    def allow(count: int) -> None:
        nonlocal allowed
        allowed += count
        passes.release(count)

    async def main() -> None:
        pass_size = OfOneSpeed(16_384, 10_000)
        async with running(
            small_classifier, pass_size=pass_size, max_request_tokens=10**6
        ) as batcher:
            device.fault = fault
            large = asyncio.create_task(batcher.score([sizable], explain))
            allow(1)
            for _ in range(3):
                while begun <= allowed or not queue_length(batcher):
                    await asyncio.sleep(0.001)
                waiting = queue_length(batcher)
                lone = asyncio.create_task(batcher.score(["good morning"]))
                await settle(batcher, waiting + 1)
                allow(2)  # the pass that it found, and the next
                await lone
                assert tweet in device.batches[allowed - 1]
                assert not large.done()
            allow(1_000)
            (result,), _ = await large
            assert isinstance(result, Prediction)
        assert max(sum(map(len, batch)) for batch in device.batches) <= 512

    asyncio.run(main())


def test_passes_follow_the_speed_of_the_device(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    async def main() -> None:
        pass_size = OfOneSpeed(16_384, 10_000)
        async with running(small_classifier, pass_size=pass_size) as batcher:
            pass_size.told = 40_000
            held = await device.hold(batcher)
            tasks = [asyncio.create_task(batcher.score(TEXTS)) for _ in range(20)]
            await asyncio.sleep(0)
            await settle(batcher, 20 * 32)
            device.open.set()
            await asyncio.gather(*tasks, held)
        sizes = [sum(map(len, batch)) for batch in device.batches[1:]]
        assert sizes[0] <= 10_000 * PASS_SECONDS < sizes[1]
        assert 25_000 * PASS_SECONDS < max(sizes) <= 40_000 * PASS_SECONDS

    asyncio.run(main())


def test_memory_limits_a_paced_pass_and_time_one_that_fits(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    expected = alone(small_classifier, TEXTS * 5)

    def fault(sequences: Sequences) -> None:
        if sum(map(len, sequences)) > 600:
            raise torch.OutOfMemoryError("no memory")

    async def main() -> None:
        pass_size = OfOneSpeed(16_384, 20_000)
        async with running(small_classifier, pass_size=pass_size) as batcher:
            for told, most in ((20_000, SMALLEST_BUDGET), (2_000, SMALLEST_BUDGET - 100)):
                pass_size.told = told
                held = await device.hold(batcher)
                device.fault = fault
                task = asyncio.create_task(batcher.score(TEXTS * 5))
                await settle(batcher, 32)
                device.open.set()
                await held
                assert close_to((await task)[0], expected)
                assert most - 200 < pass_size.tokens <= most

    asyncio.run(main())


def test_explaining_shares_batches_too_and_gives_what_it_gives_alone(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    (expected,) = small_classifier.score([TEXTS[3]], explain="shapley")
    assert isinstance(expected, Prediction)

    async def main() -> None:
        async with running(small_classifier) as batcher:
            answers = await asyncio.gather(
                *(batcher.score([text], explain="shapley") for text in TEXTS[:8])
            )
            (result,) = answers[3][0]
            assert isinstance(result, Prediction)
            assert result.words is not None
            assert expected.words is not None
            for word, wanted in zip(result.words, expected.words, strict=True):
                assert word.word == wanted.word
                assert word.scores == pytest.approx(wanted.scores, abs=1e-5)

    asyncio.run(main())


def test_a_tweet_waits_for_no_explanation(small_classifier: Predictor, device: HeldDevice) -> None:
    text = " ".join("abcdefghijkl")
    tweet = small_classifier.encode("good morning").windows[0]
    entered, go_on = threading.Event(), threading.Event()

    def pause(_sequences: Sequences) -> None:
        entered.set()
        assert go_on.wait(30)

    async def main() -> None:
        async with running(small_classifier, max_batch_tokens=512) as batcher:
            explained = asyncio.create_task(batcher.score([text], explain="shapley"))
            while batcher.counters.sequences < 20:  # it is being explained
                await asyncio.sleep(0)
            device.fault = pause
            await asyncio.to_thread(entered.wait, 30)
            before = len(device.batches)
            lone = asyncio.create_task(batcher.score(["good morning"]))
            while tweet not in waiting(batcher):
                await asyncio.sleep(0.001)
            device.fault = lambda _sequences: None
            go_on.set()
            await lone
            # The first of these is the pass during which it came.
            assert tweet in device.batches[before + 1]
            await explained
            assert sum(map(len, device.batches)) == 1 + 255 + 1

    asyncio.run(main())


def test_the_rest_of_an_explanation_is_dropped_when_its_caller_leaves(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    async def main() -> None:
        async with running(small_classifier, max_batch_tokens=512) as batcher:
            explained = asyncio.create_task(
                batcher.score([" ".join("abcdefghijkl")], explain="shapley")
            )
            while batcher.counters.sequences < 20:
                await asyncio.sleep(0)
            explained.cancel()
            with pytest.raises(asyncio.CancelledError):
                await explained
            await batcher.score(["good morning"])
            await batcher.score(["good morning"])  # by now a step that was under way is over
            assert sum(map(len, device.batches)) < 200
            assert not batcher._to_score
            assert batcher.queued_texts == 0

    asyncio.run(main())


def test_explanations_that_need_too_many_tokens_are_refused_before_the_first_pass(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    texts = [f"{n} {' '.join('abcdefgh')}" for n in range(20)]

    async def main() -> None:
        async with running(small_classifier, max_request_tokens=20_000) as batcher:
            with pytest.raises(TooLargeError, match=r"over 20000 tokens.*without explain"):
                await batcher.score(texts, explain="shapley")
            assert device.batches == []
            results, _ = await batcher.score([*texts[:3], ""], explain="shapley")
            assert [isinstance(result, Prediction) for result in results] == [True] * 3 + [False]
            results, _ = await batcher.score(texts, explain="leave_one_out")
            assert all(isinstance(result, Prediction) for result in results)

    asyncio.run(main())


def test_a_text_that_cannot_be_read_fails_alone(small_classifier: Predictor) -> None:
    async def main() -> None:
        async with running(small_classifier) as batcher:
            results, _ = await batcher.score(["good", " \u200b", "morning"])
            assert isinstance(results[1], ValidationError)
            assert isinstance(results[0], Prediction)
            assert isinstance(results[2], Prediction)

    asyncio.run(main())


def test_an_unforeseen_exception_while_reading_fails_its_text_alone(
    small_classifier: Predictor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode = small_classifier.encoder.encode

    def failing(text: str) -> object:
        if "marmalade" in text:
            raise LookupError(text)
        return encode(text)

    async def main() -> None:
        async with running(small_classifier) as batcher:
            monkeypatch.setattr(small_classifier.encoder, "encode", failing)
            results, _ = await batcher.score(["good", "marmalade", "morning"])
            assert isinstance(results[1], InternalError)
            assert isinstance(results[2], Prediction)

    asyncio.run(main())
    assert "LookupError" in caplog.text
    assert "marmalade" not in caplog.text


def test_a_culprit_is_found_and_fails_alone(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    expected = alone(small_classifier, TEXTS)
    culprit = small_classifier.encode(TEXTS[17]).windows[0]

    def fault(sequences: Sequences) -> None:
        if culprit in sequences:
            raise ValueError("this one")

    async def main() -> None:
        async with running(small_classifier) as batcher:
            held = await device.hold(batcher)
            device.fault = fault
            callers = [asyncio.create_task(batcher.score([text])) for text in TEXTS]
            await asyncio.sleep(0)
            await settle(batcher, len(TEXTS))
            device.open.set()
            results = [(await caller)[0][0] for caller in callers]
            await held
            assert isinstance(results[17], InternalError)
            del results[17], expected[17]
            assert close_to(results, expected)
            assert not batcher.broken

    asyncio.run(main())


def test_a_text_of_many_windows_that_fails_has_one_result(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    long = " ".join(TEXTS * 5)
    windows = small_classifier.encode(long).windows
    assert len(windows) > 2

    def fault(sequences: Sequences) -> None:
        if any(window in sequences for window in windows):
            raise ValueError("none of these")

    device.fault = fault

    async def main() -> None:
        async with running(small_classifier) as batcher:
            results, _ = await batcher.score([long, "good morning"])
            assert isinstance(results[0], InternalError)
            assert isinstance(results[1], Prediction)

    asyncio.run(main())


def test_running_out_of_memory_halves_the_budget_and_scores_all(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    expected = alone(small_classifier, TEXTS * 3)

    def fault(sequences: Sequences) -> None:
        if sum(map(len, sequences)) > 600:
            raise torch.OutOfMemoryError("no memory")

    device.fault = fault

    async def main() -> None:
        async with running(small_classifier, max_batch_tokens=4096) as batcher:
            results, _ = await batcher.score(TEXTS * 3)
            assert close_to(results, expected)
            # Halved from what did not fit, not once for each piece of it that failed.
            assert 512 <= batcher._pass_size.tokens < 4096
            again, _ = await batcher.score(TEXTS * 3)
            assert close_to(again, expected)

    asyncio.run(main())


def test_a_broken_device_answers_all_who_wait_and_all_who_come(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    told: list[str] = []

    def fault(_sequences: Sequences) -> None:
        raise RuntimeError("device-side assert triggered")

    async def main() -> None:
        async with running(
            small_classifier, max_queue_texts=30, on_broken=lambda: told.append("broken")
        ) as batcher:
            held = await device.hold(batcher)
            device.fault = fault
            # More than there is room for: some have not even been queued.
            callers = [asyncio.create_task(batcher.score([text])) for text in TEXTS]
            await asyncio.sleep(0)
            await settle(batcher, 29)
            device.open.set()
            outcomes = await asyncio.gather(held, *callers, return_exceptions=True)
            assert all(isinstance(outcome, UnhealthyError) for outcome in outcomes)
            with pytest.raises(UnhealthyError):
                await batcher.score(["good morning"])
            assert batcher.broken

    asyncio.run(main())
    assert told == ["broken"]


def test_a_device_that_gives_nothing_finite_any_more_is_broken(
    small_classifier: Predictor, device: HeldDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        async with running(small_classifier) as batcher:
            await batcher.score(TEXTS)
            monkeypatch.setattr(device, "_forward", lambda rows: [[float("nan")] * 4 for _ in rows])
            with pytest.raises(UnhealthyError):
                await batcher.score(TEXTS)
            assert batcher.broken

    asyncio.run(main())


def test_an_unforeseen_exception_on_the_device_thread_leaves_nobody_waiting(
    small_classifier: Predictor, device: HeldDevice, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def main() -> None:
        told: list[str] = []
        async with running(small_classifier, on_broken=lambda: told.append("broken")) as batcher:
            held = await device.hold(batcher)
            # One row too few is no exception of the forward pass: it is found later.
            monkeypatch.setattr(
                small_classifier, "probabilities", lambda sequences: device(sequences)[:-1]
            )
            several = asyncio.create_task(batcher.score(TEXTS[:3]))
            await settle(batcher, 3)  # of one alone there would be no row at all
            device.open.set()
            await held
            with pytest.raises(UnhealthyError):
                await several
            with pytest.raises(UnhealthyError):
                await batcher.score(TEXTS[:3])
        assert told == ["broken"]

    asyncio.run(main())


def test_a_failed_pass_is_let_go_of_before_it_is_tried_again(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    class Tensor:
        """Stands for what a forward pass holds in its frame."""

    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    seen: list[int] = []

    def fault(sequences: Sequences) -> None:
        seen.append(len(alive))
        held = Tensor()
        alive.add(held)
        if sum(map(len, sequences)) > 600:
            raise torch.OutOfMemoryError("no memory")

    device.fault = fault

    async def main() -> None:
        async with running(small_classifier, max_batch_tokens=4096) as batcher:
            await batcher.score(TEXTS * 3)

    asyncio.run(main())
    assert len(seen) > 3
    assert max(seen) == 0


def test_who_cannot_wait_goes_ahead_of_those_who_can(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    async def main() -> None:
        async with running(small_classifier, max_queue_texts=41) as batcher:
            held = await device.hold(batcher)
            many = asyncio.create_task(batcher.score(TEXTS[:39]))
            await asyncio.sleep(0)
            waiting = asyncio.create_task(batcher.score(TEXTS[:5]))
            await asyncio.sleep(0)
            at_once = asyncio.create_task(batcher.score(["a"], wait_for_room=False))
            await asyncio.sleep(0)
            with pytest.raises(OverloadedError):
                await batcher.score(["b"], wait_for_room=False)
            device.open.set()
            await asyncio.gather(held, many, waiting, at_once)
            assert batcher.queued_texts == 0

    asyncio.run(main())


def test_who_waits_for_much_room_is_not_overtaken_for_ever(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    passes = threading.Semaphore(0)

    def fault(_sequences: Sequences) -> None:
        assert passes.acquire(timeout=30)

    async def main() -> None:
        # A budget of one token: each pass scores one text.
        async with running(small_classifier, max_queue_texts=10, max_batch_tokens=1) as batcher:

            async def at_once() -> bool:
                try:
                    await batcher.score(["a"], wait_for_room=False)
                except OverloadedError:
                    return False
                return True

            # A stream of callers, each of whom comes before the last one has been answered: there
            # is never room for ten.
            device.fault = fault
            latest = asyncio.create_task(at_once())
            await asyncio.sleep(0)
            waiting = asyncio.create_task(batcher.score(TEXTS[:10]))
            overtook = 0
            try:
                while overtook < 30:
                    following = asyncio.create_task(at_once())
                    await asyncio.sleep(0)
                    passes.release()
                    if not await latest:
                        break
                    assert not waiting.done()
                    latest = following
                    overtook += 1
            finally:
                passes.release(100)
            assert overtook == 11, "ten texts, as many as there is room for, went ahead"
            assert len((await waiting)[0]) == 10
            await following
            # Nobody waits: whoever comes is let in again.
            assert all([await at_once() for _ in range(20)])
            assert batcher.queued_texts == 0

    asyncio.run(main())


def test_a_cancelled_caller_is_dropped_and_gives_its_room_back(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    async def main() -> None:
        async with running(small_classifier, max_queue_texts=41) as batcher:
            held = await device.hold(batcher)
            doomed = asyncio.create_task(batcher.score(TEXTS))
            await asyncio.sleep(0)
            await settle(batcher, len(TEXTS))
            waiting = asyncio.create_task(batcher.score(TEXTS[:30]))
            leaving = asyncio.create_task(batcher.score(TEXTS[:31]))
            await asyncio.sleep(0)
            leaving.cancel()  # while it waits for room
            doomed.cancel()
            for task in (doomed, leaving):
                with pytest.raises(asyncio.CancelledError):
                    await task
            await settle(batcher, 30)
            device.open.set()
            results, _ = await waiting
            await held
            assert len(results) == 30
            assert batcher.queued_texts == 0
            assert sum(map(len, device.batches)) == 31, "the cancelled texts were scored"

    asyncio.run(main())


def test_callers_wait_for_room_in_the_order_they_came(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    async def main() -> None:
        async with running(small_classifier, max_queue_texts=10) as batcher:
            held = await device.hold(batcher)
            big = asyncio.create_task(batcher.score(TEXTS[:10]))
            small = asyncio.create_task(batcher.score(TEXTS[:1]))
            await asyncio.sleep(0.05)
            assert batcher.counters.requests == 1, "taken in beyond the room there is"
            device.open.set()
            await asyncio.gather(held, big, small)
            assert batcher.queued_texts == 0

    asyncio.run(main())


def test_who_waits_for_room_is_not_behind_all_that_one_caller_waits_for(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    async def main() -> None:
        async with running(small_classifier, max_queue_texts=10) as batcher:
            held = await device.hold(batcher)
            leaving = asyncio.create_task(batcher.score(TEXTS[:2], caller="c"))
            many = asyncio.create_task(batcher.score(TEXTS[:7], caller="a"))
            await asyncio.sleep(0)
            more = asyncio.create_task(batcher.score(TEXTS[:7], caller="a"))
            await asyncio.sleep(0)
            other = asyncio.create_task(batcher.score(TEXTS[:1], caller="b"))
            await asyncio.sleep(0)
            before = batcher.counters.requests
            leaving.cancel()
            with pytest.raises(asyncio.CancelledError):
                await leaving
            await asyncio.sleep(0)
            after = batcher.counters.requests
            device.open.set()
            await asyncio.gather(held, many, more, other)
            assert (before, after) == (3, 4), "the room that comes free is for b"
            assert batcher.queued_texts == 0

    asyncio.run(main())


def test_readings_that_an_explanation_needs_count_as_texts_but_leave_room_for_others(
    small_classifier: Predictor, device: HeldDevice
) -> None:
    async def main() -> None:
        async with running(small_classifier, max_queue_texts=100) as batcher:
            held = await device.hold(batcher)
            few = asyncio.create_task(batcher.score(["a b c"], explain="leave_one_out"))
            await asyncio.sleep(0)
            assert batcher.queued_texts == 1 + 4
            many = asyncio.create_task(
                batcher.score([" ".join("abcdefgh")] * 3, explain="shapley", wait_for_room=False)
            )
            await asyncio.sleep(0)
            assert batcher.queued_texts == 1 + 4 + 50, "half of the room, whatever it needs"
            with pytest.raises(OverloadedError):
                await batcher.score([" ".join("abcdefgh")], explain="shapley", wait_for_room=False)
            alone = asyncio.create_task(batcher.score(["a"], wait_for_room=False))
            device.open.set()
            await asyncio.gather(held, few, many, alone)
            assert batcher.queued_texts == 0

    asyncio.run(main())


def test_a_request_for_too_many_tokens_is_refused_whole(small_classifier: Predictor) -> None:
    async def main() -> None:
        async with running(small_classifier, max_request_tokens=600) as batcher:
            with pytest.raises(TooLargeError, match="over 600 tokens"):
                await batcher.score(TEXTS * 3)
            with pytest.raises(TooLargeError, match="over 600 tokens"):
                await batcher.score([" ".join("abcdefghijklmnopqrstuvwxyz")], explain="shapley")
            results, _ = await batcher.score(TEXTS[:5])
            assert len(results) == 5

    asyncio.run(main())
