"""The local engine: scores on this process's device; other processes read texts ahead of it."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from hatespeech.bulk.engines.base import BulkEngine, Chunk, EngineError, ScoredChunk
from hatespeech.bulk.engines.reader_processes import PackedTexts, ReaderPool
from hatespeech.bulk.engines.rows import read_values, row_of
from hatespeech.cli import whole_number
from hatespeech.contract import Prediction
from hatespeech.engine.encoder import Readings
from hatespeech.engine.pass_size import SMALLEST_BUDGET
from hatespeech.errors import InternalError, ServiceError, describe_exception
from hatespeech.settings import EngineSettings

if TYPE_CHECKING:
    from hatespeech.engine.predictor import Predictor

log = logging.getLogger(__name__)

# Texts that a reader process gets at once.
READ_AT_ONCE: Final = 256
# Chunks in memory: one is being scored, the others are being read or written.
CHUNKS_AT_ONCE: Final = 3


def default_readers() -> int:
    """Return how many reader processes this machine can use.

    One reads about 20,000 tweets a second, more than most devices score.
    """
    everywhere = not hasattr(os, "sched_getaffinity")  # macOS
    cores = (os.cpu_count() or 1) if everywhere else len(os.sched_getaffinity(0))
    return max(1, min(4, cores // 2))


def add_arguments(group: Any) -> None:
    """Add the engine's options to a group of an argument parser."""
    group.add_argument(
        "--readers",
        type=whole_number(0, 256),
        default=default_readers(),
        metavar="N",
        help="processes that normalise and tokenise ahead of the device; with 0, this process "
        "does it (default on this machine: %(default)s)",
    )


def check(_options: argparse.Namespace, settings: EngineSettings) -> None:
    """Raise the errors of :func:`make_engine` for a missing model or device."""
    from hatespeech.engine.predictor import choose_device, choose_folder
    from hatespeech.model.checkpoint import describe  # loads torch

    choose_device(settings)
    if settings.model_dir is not None:
        describe(choose_folder(settings))


def make_engine(options: argparse.Namespace, settings: EngineSettings) -> LocalEngine:
    """Load the model that ``settings`` choose, and return the engine.

    Raises :class:`CheckpointError` and :class:`SettingsError`.
    """
    from hatespeech.engine.predictor import Predictor  # loads torch

    return LocalEngine(Predictor.from_settings(settings), settings, options.readers)


class LocalEngine(BulkEngine):
    """Scores on one device, in passes that fit into its memory. Chunks come out in order."""

    def __init__(self, predictor: Predictor, settings: EngineSettings, readers: int) -> None:
        self.thresholds = predictor.thresholds  # that the model recommends
        self._predictor = predictor
        self._settings = settings
        self._budget = settings.max_batch_tokens
        known_good = predictor.encode("a text known to be good").windows
        self._known_good = Readings(known_good, len(known_good))
        self._stopped = threading.Event()
        self._readers = ReaderPool(predictor.encoder, readers)
        self._device = ThreadPoolExecutor(1, thread_name_prefix="device")

    @override
    def score(
        self, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> Generator[ScoredChunk, None, None]:
        pending: deque[Future[ScoredChunk]] = deque()
        for chunk in chunks:
            pending.append(self._begin(chunk, progress))
            if len(pending) == CHUNKS_AT_ONCE:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    @override
    def close(self) -> None:
        # A pass that is on the device ends by itself; nothing uses its result.
        self._stopped.set()
        self._readers.close()
        self._device.shutdown(wait=False, cancel_futures=True)

    def _begin(self, chunk: Chunk, progress: Callable[[int], object]) -> Future[ScoredChunk]:
        texts, faults = read_values(chunk.texts, self._settings)
        sound = [text for index, text in enumerate(texts) if index not in faults]
        starts = range(0, len(sound), READ_AT_ONCE)
        robust = self._settings.robust
        parts = [
            self._readers.submit(sound[start : start + READ_AT_ONCE], robust) for start in starts
        ]

        def finish() -> ScoredChunk:
            results = iter(self._score(parts, progress))
            rows = [row_of(faults.get(index) or next(results)) for index in range(len(texts))]
            progress(len(faults))
            return ScoredChunk(chunk.index, rows, self._predictor.model_id)

        return self._device.submit(finish)

    def _score(
        self, parts: Sequence[Future[PackedTexts]], progress: Callable[[int], object]
    ) -> list[Prediction | ServiceError]:
        """Score what the readers have read; runs in the device's thread."""
        read = [part.result() for part in parts]
        texts = [text for part in read for text in part.unpack()]
        warnings = [part.warnings.get(index, ()) for part in read for index in range(len(part))]
        places = [index for index, text in enumerate(texts) if not isinstance(text, ServiceError)]
        readings = [text for text in texts if not isinstance(text, ServiceError)]
        results: list[Prediction | ServiceError] = [
            text if isinstance(text, ServiceError) else InternalError("not scored")
            for text in texts
        ]
        progress(len(texts) - len(readings))
        for index, result in zip(places, self._score_windows(readings, progress), strict=True):
            if warnings[index] and isinstance(result, Prediction):
                result = dataclasses.replace(result, warnings=warnings[index])
            results[index] = result
        return results

    def _score_windows(
        self, texts: list[Readings], progress: Callable[[int], object]
    ) -> list[Prediction | ServiceError]:
        """Score in passes that fit into the device's memory; a text that fails affects no other."""
        import torch

        told = done = 0  # rows

        def tell(count: int) -> None:
            nonlocal done, told
            if self._stopped.is_set():
                raise EngineError("stopped")
            done += count
            if done > told:
                progress(done - told)
                told = done

        results: list[Prediction | ServiceError] = []
        waiting = [texts]  # a stack: the first rows are on top
        while waiting:
            part = waiting[-1]
            done = len(results)
            fault = ""
            try:
                results += self._predictor.score_windows(part, self._budget, tell)
            except EngineError:
                raise
            except Exception as exc:
                fault = describe_exception(exc)
                short = isinstance(exc, torch.OutOfMemoryError | MemoryError)
            if not fault:
                waiting.pop()
                continue
            # After the except block, because the exception keeps the pass's tensors alive.
            if short and self._budget > SMALLEST_BUDGET:
                self._budget //= 2
                torch.cuda.empty_cache()
                continue
            self._require_device(fault, short)
            waiting.pop()
            if len(part) == 1:
                results.append(InternalError("the text could not be scored"))
                tell(1)
            else:
                middle = len(part) // 2
                waiting += [part[middle:], part[:middle]]
        return results

    def _require_device(self, fault: str, short: bool) -> None:
        """Raise :class:`EngineError` unless the device can score a known good text."""
        try:
            (result,) = self._predictor.score_windows([self._known_good])
        except Exception:  # whatever it raises, the device does not answer
            result = InternalError("not scored")
        if not isinstance(result, ServiceError):
            log.warning("a pass failed because of some text: %s", fault)
        elif short:
            raise EngineError("the device has too little memory for a single text")
        else:
            raise EngineError(f"the device failed: {fault}")
