"""The local engine: scores on this process's device; a thread reads texts ahead of it."""

from __future__ import annotations

import argparse
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final

from typing_extensions import override

from hatespeech.bulk.engines.base import BulkEngine, Chunk, EngineError, ScoredChunk, row_of
from hatespeech.collector import starting
from hatespeech.contract import read_values
from hatespeech.engine.encoder import Readings
from hatespeech.errors import InternalError, ServiceError, describe_exception
from hatespeech.settings import EngineSettings

if TYPE_CHECKING:
    from hatespeech.engine.predictor import Predictor

log = logging.getLogger(__name__)

# Chunks in memory: one is being scored, the others are being read or written.
CHUNKS_AT_ONCE: Final = 3


def add_arguments(_group: Any) -> None:
    """Add no option: the environment chooses the device and its limits."""


def check(_options: argparse.Namespace, settings: EngineSettings) -> None:
    """Raise the errors of :func:`make_engine` for a missing model or device."""
    with starting():
        from hatespeech.engine.predictor import choose_device, choose_folder
        from hatespeech.model.checkpoint import describe  # loads torch

    choose_device(settings)
    if settings.names_checkpoint:
        describe(choose_folder(settings))


def make_engine(_options: argparse.Namespace, settings: EngineSettings) -> LocalEngine:
    """Load the model that ``settings`` choose, and return the engine.

    Raises :class:`CheckpointError` and :class:`SettingsError`.
    """
    with starting():
        from hatespeech.engine.predictor import Predictor  # loads torch

        return LocalEngine(Predictor.from_settings(settings), settings)


class LocalEngine(BulkEngine):
    """Scores on one device, in passes that fit into its memory. Chunks come out in order."""

    def __init__(self, predictor: Predictor, settings: EngineSettings) -> None:
        from hatespeech.engine.device import Device  # loads torch
        from hatespeech.engine.pass_size import PassSize

        self.thresholds = predictor.thresholds  # that the model recommends
        self._predictor = predictor
        self._settings = settings
        # Nobody waits for a pass to end.
        self._device = Device(predictor, PassSize(settings.max_batch_tokens, seconds=math.inf))
        self._stopped = threading.Event()
        # Two threads, of which each works on one chunk at a time, in the order of the chunks.
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="reader")
        self._scorer = ThreadPoolExecutor(1, thread_name_prefix="device")

    @override
    def score(
        self, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> Generator[ScoredChunk, None, None]:
        pending: deque[Future[ScoredChunk]] = deque()
        for chunk in chunks:
            read = self._reader.submit(self._read, chunk.texts)
            pending.append(self._scorer.submit(self._score, chunk.index, read, progress))
            if len(pending) == CHUNKS_AT_ONCE:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()

    @override
    def close(self) -> None:
        # A pass that is on the device ends by itself; nothing uses its result.
        self._stopped.set()
        self._reader.shutdown(wait=False, cancel_futures=True)
        self._scorer.shutdown(wait=False, cancel_futures=True)

    def _read(self, values: Sequence[Any]) -> list[Readings | ServiceError]:
        """Normalise and tokenise; a text that can't be read has its error instead."""
        texts, faults = read_values(values, self._settings)
        found: list[Readings | ServiceError] = []
        for index, text in enumerate(texts):
            if self._stopped.is_set():
                break  # nothing uses the result
            try:
                if index in faults:
                    raise faults[index]
                found.append(self._predictor.encoder.read_windows(text, self._settings.robust))
            except ServiceError as error:
                found.append(error)
            except Exception as exc:
                log.error("a text could not be read: %s", describe_exception(exc))
                found.append(InternalError("the text could not be read"))
        return found

    def _score(
        self,
        index: int,
        read: Future[list[Readings | ServiceError]],
        progress: Callable[[int], object],
    ) -> ScoredChunk:
        """Score what the reader has read."""
        from hatespeech.engine.device import DeviceError

        def tell(count: int) -> None:
            if self._stopped.is_set():
                raise EngineError("stopped")
            progress(count)

        found = read.result()
        readings = [each for each in found if isinstance(each, Readings)]
        tell(len(found) - len(readings))
        try:
            scored = iter(self._device.score(readings, tell))
        except DeviceError as error:
            raise EngineError(str(error)) from None
        rows = [row_of(next(scored) if isinstance(each, Readings) else each) for each in found]
        made_by = self._predictor
        return ScoredChunk(index, rows, made_by.model_id, made_by.versions, made_by.dtype)
