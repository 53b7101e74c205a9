"""Many callers, one device: shared batches without artificial delay.

A few threads serve all callers of an event loop. The *reader* normalises and tokenises ahead. A
*device* thread takes the sequences that wait, as many as :class:`PassSize` allows, and runs them in
one forward pass, so batches grow by themselves under load. Everywhere callers take turns, one
sequence each, and so do the requests of one caller. So a single tweet does not wait for a job of a
thousand texts, nor for a thousand requests of another caller.

What fits into one pass has the whole device if nothing else runs, so that a lone text is answered
soon. While more waits, a CPU's passes run in lanes beside each other
(:mod:`hatespeech.model.threads`): a second device thread comes, and goes when nothing is left.

An error reaches exactly the texts it concerns (:mod:`hatespeech.engine.device`). If the device is
broken, every request from then on gets :class:`UnhealthyError`, and the owner is told, so that it
can end the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from hatespeech.contract import Prediction, Timing
from hatespeech.engine.device import Device, DeviceError
from hatespeech.engine.explanation import count_readings, tokens_to_read
from hatespeech.engine.pass_size import PassSize
from hatespeech.engine.predictor import Predictor, Probabilities, Reading
from hatespeech.engine.queues import FairQueue, Room
from hatespeech.errors import (
    InternalError,
    OverloadedError,
    ServiceError,
    TooLargeError,
    UnhealthyError,
    describe_exception,
)
from hatespeech.labels import Explanation
from hatespeech.model import threads
from hatespeech.model.packing import padding

log = logging.getLogger(__name__)

# Texts of one request that the reader gets in one go.
TEXTS_AT_ONCE: Final = 16

Outcome = Prediction | ServiceError


@dataclass
class Counters:
    """What the device has done so far, for logs, metrics and tests."""

    requests: int = 0
    texts: int = 0
    batches: int = 0
    sequences: int = 0
    tokens: int = 0
    shared_batches: int = 0  # batches with sequences of more than one request
    largest_batch: int = 0  # sequences
    padding: int = 0  # padding tokens, which only attention reads; not among ``tokens``

    def __str__(self) -> str:
        """Return the most of it in words."""
        shared = f", {self.shared_batches} of them shared" if self.shared_batches else ""
        return (
            f"{self.texts} text{'s' * (self.texts != 1)} "
            f"of {self.requests} request{'s' * (self.requests != 1)} "
            f"in {self.batches} pass{'es' * (self.batches != 1)}{shared}: "
            f"{self.sequences} sequence{'s' * (self.sequences != 1)}, "
            f"{self.tokens} token{'s' * (self.tokens != 1)}"
        )


@dataclass(eq=False)
class _Request:
    """One caller's texts while they are scored."""

    texts: Sequence[str]
    explain: Explanation | None
    robust: bool
    caller: str | None
    done: asyncio.Future[None]
    results: list[Outcome]
    left: int
    submitted: float
    unread: int  # texts that the reader has not begun
    read_whole: bool  # before what is read has been scored, since it may have to be refused
    passed_on: int = 0  # texts that the reader has begun or will
    waiting: int = 0  # tokens that wait for the device
    tokens: int = 0  # to be read for the texts that it has begun, in all their readings
    held: list[_Text] = field(default_factory=list)  # begun, but not yet queued for the device
    scored: int = 0  # tokens that the device has read
    started: float | None = None
    dropped: bool = False  # cancelled, failed or answered: skip what is still queued


@dataclass(eq=False)
class _Text:
    """One text of a request, on its way between reader and device."""

    request: _Request
    index: int
    reading: Reading | None = None
    sequences: list[list[int]] = field(default_factory=list)
    rows: list[list[float] | None] = field(default_factory=list)
    missing: int = 0
    settled: bool = False  # it gets one result, even if several of its sequences fail


_Sequence = tuple[_Text, int]  # a text and the index of one of its sequences


class Batcher:
    """Shares one predictor among the callers of one event loop. Create it inside that loop."""

    def __init__(
        self,
        predictor: Predictor,
        *,
        pass_size: PassSize,
        max_queue_texts: int,
        max_request_tokens: int,
        on_broken: Callable[[], None],
    ) -> None:
        self.counters = Counters()
        self.broken = False
        self._predictor = predictor
        self._pass_size = pass_size
        self._max_request_tokens = max_request_tokens
        self._on_broken = on_broken
        self._loop = asyncio.get_running_loop()
        self._lanes = threads.lanes() if predictor.device.type == "cpu" else 1
        self._max_queue_texts = max_queue_texts
        self._room = Room(max_queue_texts)  # needs no lock: only the event loop uses it
        # Hold the lock to use anything below.
        self._lock = threading.Lock()
        self._work_to_read = threading.Condition(self._lock)
        self._work_for_device = threading.Condition(self._lock)
        self._to_read: FairQueue[_Request, _Text] = FairQueue(_caller_of)
        self._to_score: FairQueue[_Request, _Sequence] = FairQueue(_caller_of, _tokens_of)
        self._passes = 0  # that run now
        self._whole_device = False  # has the one pass that runs
        self._second: threading.Thread | None = None  # device thread
        self._open: set[_Request] = set()
        self._closed = False
        self._devices = [Device(predictor, pass_size) for _ in range(self._lanes)]
        self._threads = [
            threading.Thread(target=self._read_loop, name="reader", daemon=True),
            threading.Thread(target=self._device_loop, name="device", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    @property
    def queued_texts(self) -> int:
        """How many texts wait or are being scored; readings that ``explain`` needs count, too."""
        return self._room.taken

    async def score(
        self,
        texts: Sequence[str],
        explain: Explanation | None = None,
        robust: bool = False,
        *,
        wait_for_room: bool = True,
        caller: str | None = None,
    ) -> tuple[list[Outcome], Timing]:
        """Score texts; return a prediction or an error for each, in order, and the timing.

        If the queue has no room for them, waits for it or, without ``wait_for_room``, raises
        :class:`OverloadedError`. Requests of one ``caller`` share its turns, those that wait for
        room, too, and without ``wait_for_room`` its share of the room. Raises
        :class:`TooLargeError` if the request needs more tokens than one request may, and
        :class:`UnhealthyError` if the device is broken. If the caller is cancelled, its queued
        texts are dropped.
        """
        submitted = time.perf_counter()
        room = len(texts)
        if explain:  # each reading counts; but however many there are, half of the room will do
            needed = sum(count_readings(text, explain) for text in texts)
            room = max(room, min(needed, self._max_queue_texts // 2))
        # What a caller has that waits does not count when it cannot wait.
        sharer = ("waits", caller) if wait_for_room else caller
        if wait_for_room:
            await self._room.take(room, sharer)
        elif not self._room.take_at_once(room, sharer):
            raise OverloadedError("the queue is full; try again")
        request = _Request(
            texts,
            explain,
            robust,
            caller,
            self._loop.create_future(),
            [InternalError("not scored")] * len(texts),
            len(texts),
            submitted,
            len(texts),
            explain is not None or most_tokens(texts, robust) > self._max_request_tokens,
        )
        try:
            with self._lock:
                if self.broken:
                    raise UnhealthyError("the device failed; this worker is being replaced")
                self._open.add(request)
                self.counters.requests += 1
                self.counters.texts += len(texts)
                self._read_on(request)
            await request.done
        finally:
            with self._lock:
                self._forget(request)
            self._room.give(room, sharer)
        finished = time.perf_counter()
        started = finished if request.started is None else request.started
        timing = Timing((started - submitted) * 1e3, (finished - started) * 1e3, request.scored)
        return request.results, timing

    def close(self) -> None:
        """Stop all threads after their current text or batch."""
        with self._lock:
            self._closed = True
            self._work_to_read.notify_all()
            self._work_for_device.notify_all()
            second = [] if self._second is None else [self._second]
        for thread in self._threads + second:
            thread.join()

    def _read_on(self, request: _Request) -> None:
        """Give the reader more of a request, unless enough of it waits already. Hold the lock.

        A reader that ran ahead through a thousand texts would hold Python meanwhile, and each
        operation of the passes that run would wait for it.
        """
        place = request.passed_on
        if request.dropped or place > len(request.texts) - request.unread:
            return
        if not request.read_whole and request.waiting >= self._pass_size.tokens:
            return
        count = len(request.texts) if request.read_whole else TEXTS_AT_ONCE
        indexes = range(place, min(place + count, len(request.texts)))
        self._to_read.put(request, [_Text(request, index) for index in indexes])
        request.passed_on = indexes.stop
        self._work_to_read.notify()

    # The reader thread.

    def _read_loop(self) -> None:
        while True:
            with self._lock:
                while not self._to_read and not self._closed:
                    self._work_to_read.wait()
                if self._closed:
                    return
                text = self._to_read.take()
            self._advance(text)

    def _advance(self, text: _Text) -> None:
        """Start reading a text, or send it its probabilities; queue the sequences it yields."""
        begins = text.reading is None
        text.sequences = []
        try:
            if text.reading is None:
                request = text.request
                text.reading = self._predictor.read(
                    request.texts[text.index], request.explain, request.robust
                )
                text.sequences = next(text.reading)
            else:
                text.sequences = text.reading.send([row for row in text.rows if row is not None])
        except StopIteration as stop:
            self._settle(text, stop.value)
        except ServiceError as error:
            self._settle(text, error)
        except Exception as exc:
            log.error("a text could not be read: %s", describe_exception(exc))
            self._settle(text, InternalError("the text could not be read"))
        if begins:
            self._begun(text)
        elif text.sequences:
            self._queue(text.request, [text])

    def _begun(self, text: _Text) -> None:
        """Count what a text will need; queue it, or refuse its request.

        If the request asks for explanations, which need many readings, its texts are held back
        until all are counted: a request that is refused costs the device nothing.
        """
        request = text.request
        request.unread -= 1
        if text.sequences:
            request.held.append(text)
            request.tokens += sum(map(len, text.sequences))
            if request.explain:
                sent = request.texts[text.index]
                request.tokens += tokens_to_read(sent, text.sequences, request.explain)
        if request.tokens > self._max_request_tokens:
            error = TooLargeError(
                f"needs over {self._max_request_tokens} tokens; send fewer or shorter texts"
                + (", or without explain" if request.explain else ""),
                field="input",
            )
            with self._lock:
                self._finish(request, error)
        elif not (request.explain and request.unread):
            self._queue(request, request.held)
            request.held = []

    def _queue(self, request: _Request, texts: Sequence[_Text]) -> None:
        """Queue what texts of one request have yielded for the device."""
        for text in texts:
            text.rows = [None] * len(text.sequences)
            text.missing = len(text.sequences)
        with self._lock:
            if request.dropped:
                return
            for text in texts:
                self._to_score.put(request, [(text, index) for index in range(text.missing)])
                request.waiting += sum(map(len, text.sequences))
            self._work_for_device.notify()
            self._call_second()
            self._read_on(request)

    # The device threads.

    def _device_loop(self) -> None:
        while True:
            with self._lock:
                while not self._to_score and not self._closed:
                    self._work_for_device.wait()
                if self._closed:
                    return
                fits = self._to_score.size <= self._pass_size.tokens
                self._whole_device = fits and not self._passes
                lanes = 1 if self._whole_device else self._lanes
                batch = self._take_batch(lanes)
                self._call_second()
            self._run(self._devices[0], batch, lanes)

    def _second_loop(self) -> None:
        """Run passes beside those of the other thread while there is work for both.

        It may end while the other thread waits: the last pass of the two leaves nothing.
        """
        while True:
            with self._lock:
                if not self._needs_second() or self._closed:
                    self._second = None
                    return
                batch = self._take_batch(self._lanes)
            self._run(self._devices[1], batch, self._lanes)

    def _call_second(self) -> None:
        """Start the second device thread if it has work. The caller holds the lock."""
        if self._second is None and self._needs_second():
            second = threading.Thread(target=self._second_loop, name="device 2", daemon=True)
            with contextlib.suppress(RuntimeError):  # no thread left: the first goes on alone
                second.start()
                self._second = second

    def _needs_second(self) -> bool:
        """Return whether a pass may begin beside that of the other device thread."""
        beside = self._passes > 0 and not self._whole_device
        return self._lanes > 1 and bool(self._to_score) and beside

    def _take_batch(self, lanes: int) -> list[_Sequence]:
        """Take what the next pass reads. The caller holds the lock."""
        batch: list[_Sequence] = []
        tokens = 0
        budget = self._pass_size.tokens_of_lane(lanes)
        now = time.perf_counter()
        while self._to_score:
            text, _ = following = self._to_score.peek()
            length = _tokens_of(following)
            if batch and tokens + length > budget:
                break
            batch.append(self._to_score.take())
            tokens += length
            text.request.waiting -= length
            if text.request.started is None:
                text.request.started = now
        for request in {text.request for text, _ in batch}:
            self._read_on(request)
        self._passes += 1
        return batch

    def _run(self, device: Device, batch: list[_Sequence], lanes: int) -> None:
        try:
            if not self.broken:
                self._score(device, batch, lanes)
        except Exception as exc:
            # Only these threads score: if they died, every caller would wait forever.
            log.error("the device thread failed: %s", describe_exception(exc))
            self._break()
        with self._lock:
            self._whole_device = False
            self._passes -= 1

    def _score(self, device: Device, batch: list[_Sequence], lanes: int) -> None:
        try:
            for found in device.run([text.sequences[i] for text, i in batch], lanes):
                part = batch[found.start :][: max(1, len(found.rows))]
                if found.rows:
                    self._take_rows(part, found.rows)
                else:
                    self._settle(part[0][0], InternalError("the text could not be scored"))
        except DeviceError as error:
            log.error("%s", error)
            self._break()

    def _take_rows(self, batch: list[_Sequence], rows: Probabilities) -> None:
        """Hand out what one pass gave."""
        lengths = list(map(_tokens_of, batch))
        padded = padding(lengths, self._predictor.device)
        complete = []
        with self._lock:
            counters = self.counters
            counters.batches += 1
            counters.sequences += len(batch)
            counters.tokens += sum(lengths)
            counters.padding += padded
            counters.shared_batches += len({text.request for text, _ in batch}) > 1
            counters.largest_batch = max(counters.largest_batch, len(batch))
            for (text, index), length, row in zip(batch, lengths, rows, strict=True):
                text.rows[index] = row
                text.request.scored += length
                text.missing -= 1
                if text.missing:
                    continue
                if not (text.request.explain or len(text.rows) > 1):
                    complete.append(text)
                elif not text.request.dropped:
                    # The next step normalises and tokenises again, which is the reader's work.
                    self._to_read.put(text.request, [text])
                    self._work_to_read.notify()
        for text in complete:
            self._advance(text)

    def _break(self) -> None:
        with self._lock:
            if self.broken:
                return
            self.broken = True
            for request in list(self._open):
                error = UnhealthyError("the device failed; this worker is being replaced")
                self._finish(request, error)
        self._on_broken()

    # Results, from any thread.

    def _settle(self, text: _Text, result: Outcome) -> None:
        """Keep a text's result; answer the request if it was the last one."""
        request = text.request
        with self._lock:
            if text.settled:
                return
            text.settled = True
            request.results[text.index] = result
            request.left -= 1
            if not request.left:
                self._finish(request, None)

    def _finish(self, request: _Request, error: ServiceError | None) -> None:
        """Answer a request, but only once. The caller holds the lock."""
        if not request.dropped:
            self._forget(request)
            self._loop.call_soon_threadsafe(_resolve, request.done, error)

    def _forget(self, request: _Request) -> None:
        """Drop what a request has queued. The caller holds the lock."""
        request.dropped = True
        self._open.discard(request)
        self._to_read.drop(request)
        self._to_score.drop(request)


def most_tokens(texts: Sequence[str], robust: bool) -> int:
    """Return more tokens than texts have, in all their readings.

    A token has at least one character. But an emoji, of three or four bytes, becomes its name,
    which has up to 15 tokens. Two more are the special ones.
    """
    sizes = ((len(text), len(text.encode("utf-8", "surrogatepass"))) for text in texts)
    most = sum(2 + chars + 8 * (size - chars) for chars, size in sizes)
    return 2 * most if robust else most


def _caller_of(request: _Request) -> str | None:
    return request.caller


def _tokens_of(sequence: _Sequence) -> int:
    text, index = sequence
    return len(text.sequences[index])


def _resolve(done: asyncio.Future[None], error: ServiceError | None) -> None:
    if done.done():  # the caller was cancelled meanwhile
        return
    if error is None:
        done.set_result(None)
    else:
        done.set_exception(error)
