"""The ``runpod`` engine: texts are scored by the workers of a Runpod endpoint.

Chunks are packed into jobs; a bounded number of jobs is in flight, one thread each. A job is tied
to its rows here and not on the platform, so one that ran twice, or whose reply was lost, leaves no
trace in the results.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

from hatespeech.bulk.engines.base import Chunk, ScoredChunk
from hatespeech.bulk.engines.rows import row_of
from hatespeech.bulk.engines.runpod_client import Endpoint
from hatespeech.bulk.engines.runpod_jobs import EndpointJobs
from hatespeech.contract import TextScore, parse_request
from hatespeech.errors import ServiceError, TooLargeError
from hatespeech.settings import EngineSettings

# /run takes 10 MB and a reply, which holds the texts again, 20 MB: one limit serves both.
JOB_BYTES: Final = 9_500_000
_ITEM_BYTES: Final = 256  # what a reply says of a text besides
_CLOSE_SECONDS: Final = 10.0


@dataclass(eq=False)
class _JobRows:
    """Rows of a chunk that are one job."""

    chunk: _OpenChunk
    places: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@dataclass(eq=False)
class _OpenChunk:
    """A chunk, some of whose rows are still to be scored."""

    index: int
    rows: list[TextScore | None]
    parts: list[_JobRows] = field(default_factory=list)  # not finished

    def scored(self, model: str) -> ScoredChunk:
        return ScoredChunk(self.index, [row for row in self.rows if row is not None], model)


class RunpodEngine:
    """See :class:`BulkEngine`."""

    def __init__(
        self,
        endpoint: Endpoint,
        jobs: EndpointJobs,
        settings: EngineSettings,
        *,
        in_flight: int,
        job_texts: int,
    ) -> None:
        self._endpoint = endpoint
        self._jobs = jobs
        self._settings = settings
        self._in_flight = in_flight
        self._job_texts = job_texts
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="runpod job")
        self._running: dict[Future[list[TextScore]], _JobRows] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def score(
        self, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> Generator[ScoredChunk, None, None]:
        """See :meth:`BulkEngine.score`.

        Raises :class:`EngineError`. A chunk is read as soon as a job may be submitted
        and none is left, so no more are open than there are jobs in flight and jobs of a chunk.
        """
        source = iter(chunks)
        chunk = next(source, None)
        while chunk is not None or self._running:
            if chunk is not None and len(self._running) < self._in_flight:
                opened = self._open(chunk)
                for part in opened.parts:
                    self._running[self._pool.submit(self._jobs.score, part.texts)] = part
                progress(len(opened.rows) - sum(len(part.places) for part in opened.parts))
                if not opened.parts:
                    yield opened.scored(self._jobs.model)
                chunk = next(source, None)
                continue
            finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
            for future in finished:
                part = self._running.pop(future)
                for place, row in zip(part.places, future.result(), strict=True):
                    part.chunk.rows[place] = row
                part.chunk.parts.remove(part)
                progress(len(part.places))
                if not part.chunk.parts:
                    yield part.chunk.scored(self._jobs.model)

    def close(self) -> None:
        """Cancel the jobs in flight, as far as that works within seconds, and close connections."""
        self._endpoint.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        begun = [future for future in self._running if not future.cancelled()]
        wait(begun, timeout=_CLOSE_SECONDS)
        self._endpoint.close()

    def _open(self, chunk: Chunk) -> _OpenChunk:
        """Cut a chunk into jobs; what no worker would score gets its error here."""
        opened = _OpenChunk(chunk.index, [None] * len(chunk.texts))
        part = _JobRows(opened)
        chars = size = 0
        for place, value in enumerate(chunk.texts):
            try:
                text, needed = self._read(value)
            except ServiceError as error:
                opened.rows[place] = row_of(error)
                continue
            if part.texts and (
                len(part.texts) >= self._job_texts
                or chars + len(text) > self._settings.max_request_chars
                or size + needed > JOB_BYTES
            ):
                opened.parts.append(part)
                part = _JobRows(opened)
                chars = size = 0
            part.places.append(place)
            part.texts.append(text)
            chars += len(text)
            size += needed
        if part.texts:
            opened.parts.append(part)
        return opened

    def _read(self, value: object) -> tuple[str, int]:
        """Return a text as it is sent, and the bytes it takes up in a job at most.

        Raises the :class:`ServiceError` of what is no text to score.
        """
        text = parse_request({"text": value}, self._settings).texts[0]
        needed = len(json.dumps(text)) + _ITEM_BYTES
        if needed > JOB_BYTES:
            raise TooLargeError(f"takes {needed} bytes, a job holds {JOB_BYTES}", field="text")
        return text, needed
