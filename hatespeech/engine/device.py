"""Passes on one device, and what happens after one that fails.

A pass that fails is halved until the sequence that causes the error is alone. Running out of memory
also halves the size of later passes. If the device can't score even a text that is known to be
good, it is broken.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch

from hatespeech.contract import Prediction
from hatespeech.engine.encoder import Readings
from hatespeech.engine.pass_size import PassSize
from hatespeech.engine.predictor import Predictor, Probabilities, Sequences, spoken_for
from hatespeech.errors import InternalError, ServiceError, describe_exception
from hatespeech.model import threads

log = logging.getLogger(__name__)


class DeviceError(Exception):
    """The device is broken; the message says how and quotes no text."""


@dataclass(frozen=True)
class Pass:
    """What one pass gave."""

    start: int  # its first sequence among those of the call
    rows: Probabilities  # of the sequences from there on; empty if that one alone fails
    seconds: float


class Device:
    """Scores token sequences on the device of a predictor. Call it from one thread.

    Several may share a predictor and the size of its passes.
    """

    def __init__(self, predictor: Predictor, pass_size: PassSize) -> None:
        self._predictor = predictor
        self._pass_size = pass_size
        self._known_good = predictor.encode("a text known to be good").windows
        self._fault = ""  # of the last pass that failed
        self._out_of_memory = False

    def run(self, sequences: Sequences, lanes: int = 1) -> Iterator[Pass]:
        """Score sequences in a pass or, if that is too large or fails, in several, in order.

        They run in one of so many equal ``lanes`` of the device, beside which others may run.
        Raises :class:`DeviceError` if the device is broken.
        """
        waiting = [(0, len(sequences))]  # a stack of ranges that have no scores yet
        while waiting:
            start, end = waiting.pop()
            count = self._fitting(map(len, sequences[start:end]))
            if start + count < end:
                waiting.append((start + count, end))
            part = sequences[start : start + count]
            began = time.perf_counter()
            with threads.lane_of(lanes):
                rows = self._try(part)
            seconds = time.perf_counter() - began
            if rows and not any(map(_is_finite, rows)):
                self._require_device("no score is finite")
            if rows:
                self._pass_size.passed(lanes * sum(map(len, part)), seconds)
            elif self._out_of_memory and count > 1:
                self._pass_size.out_of_memory(sum(map(len, part)))
                if torch.cuda.is_available():
                    torch.cuda.empty_cache()
            else:
                self._require_device(self._fault)
            if rows or count == 1:
                yield Pass(start, rows, seconds)
            else:
                middle = start + count // 2
                waiting += [(middle, start + count), (start, middle)]

    def score(
        self, texts: Sequence[Readings], progress: Callable[[int], object] = lambda _texts: None
    ) -> list[Prediction | ServiceError]:
        """Score texts, each given by the windows of its readings; return the results in order.

        Sequences of similar length share a pass, the longest first, so that a pass that does not
        fit into memory shows soon. ``progress`` is called after each pass with the number of texts
        finished since its last call. Raises :class:`DeviceError` if the device is broken.
        """
        flat = [
            (index, place, window)
            for index, text in enumerate(texts)
            for place, window in enumerate(text.windows)
        ]
        flat.sort(key=lambda each: -len(each[2]))
        found: list[Probabilities] = [[[]] * len(text.windows) for text in texts]
        missing = [len(text.windows) for text in texts]
        failed: set[int] = set()
        while flat:
            count = self._fitting(len(window) for *_, window in flat)
            batch, flat = flat[:count], flat[count:]
            for each in self.run([window for *_, window in batch]):
                scored = batch[each.start : each.start + max(1, len(each.rows))]
                for place, (index, window, _) in enumerate(scored):
                    if each.rows:
                        found[index][window] = each.rows[place]
                    else:
                        failed.add(index)
                    missing[index] -= 1
                progress(sum(not missing[index] for index in {index for index, *_ in scored}))
        return [
            InternalError("the text could not be scored")
            if index in failed
            else spoken_for(rows, texts[index])
            for index, rows in enumerate(found)
        ]

    def _fitting(self, lengths: Iterable[int]) -> int:
        """Return how many sequences, of these lengths, the next pass may hold; at least one."""
        count, left = 0, self._pass_size.tokens
        for length in lengths:
            left -= length
            if left < 0:
                break
            count += 1
        return max(1, count)

    def _try(self, sequences: Sequences) -> Probabilities:
        """Run one pass; return nothing if it fails."""
        try:
            rows = self._predictor.probabilities(sequences)
            if len(rows) != len(sequences):
                raise ValueError("each sequence has one row")
            return rows
        except Exception as exc:
            self._fault = describe_exception(exc)
            self._out_of_memory = isinstance(exc, torch.OutOfMemoryError | MemoryError)
            log.warning("a pass of %d sequences failed: %s", len(sequences), self._fault)
        # The caller acts on it outside of the except block: there the exception keeps the failed
        # pass's frames and their tensors alive, which leaves no memory for another try.
        return []

    def _require_device(self, fault: str) -> None:
        """Raise :class:`DeviceError` unless the device can score a known good text."""
        rows = self._try(self._known_good)
        if rows and all(map(_is_finite, rows)):
            return
        if not rows and self._out_of_memory:
            raise DeviceError("the device has too little memory for a single text")
        raise DeviceError(f"the device failed: {fault}")


def _is_finite(row: Sequence[float]) -> bool:
    return all(map(math.isfinite, row))
