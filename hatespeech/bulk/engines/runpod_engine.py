"""The ``runpod`` engine: the workers of a Runpod endpoint score the texts.

Chunks are packed into jobs; a bounded number of jobs is in flight, with a thread for each. Which
rows a job has is known only here. So a job that ran twice, or whose reply was lost, does not affect
the results.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Final

from typing_extensions import override

from hatespeech.bulk.engines.base import BulkEngine, Chunk, ScoredChunk, row_of
from hatespeech.bulk.engines.runpod_client import Endpoint
from hatespeech.bulk.engines.runpod_jobs import EndpointJobs
from hatespeech.contract import TextScore, parse_request
from hatespeech.errors import ServiceError, TooLargeError
from hatespeech.settings import EngineSettings

# Runpod takes 10 MB for /run and 20 MB for a reply, which repeats the texts: this fits both.
JOB_BYTES: Final = 9_500_000
_ITEM_BYTES: Final = 256  # a text's share of the reply, apart from the text
_CLOSE_SECONDS: Final = 10.0


@dataclass(eq=False)
class _JobRows:
    """The rows of a chunk that are scored in one job."""

    chunk: _OpenChunk
    places: list[int] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)


@dataclass(eq=False)
class _OpenChunk:
    """A chunk of which some rows are not scored yet."""

    index: int
    rows: list[TextScore | None]
    jobs: list[_JobRows] = field(default_factory=list)  # not finished

    def scored(self, jobs: EndpointJobs) -> ScoredChunk:
        rows = [row for row in self.rows if row is not None]
        return ScoredChunk(self.index, rows, jobs.model, jobs.versions)


class RunpodEngine(BulkEngine):
    """Scores with jobs on a Runpod endpoint."""

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

    @override
    def score(
        self, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> Generator[ScoredChunk, None, None]:
        """Yield every chunk once, scored, in any order. Raises :class:`EngineError`.

        The next chunk is read only when a job may be submitted and none is left, which bounds the
        number of open chunks.
        """
        source = iter(chunks)
        chunk = next(source, None)
        while chunk is not None or self._running:
            if chunk is not None and len(self._running) < self._in_flight:
                opened = self._open(chunk)
                for job in opened.jobs:
                    self._running[self._pool.submit(self._jobs.score, job.texts)] = job
                progress(len(opened.rows) - sum(len(job.places) for job in opened.jobs))
                if not opened.jobs:
                    yield opened.scored(self._jobs)
                chunk = next(source, None)
                continue
            finished, _ = wait(self._running, return_when=FIRST_COMPLETED)
            for future in finished:
                job = self._running.pop(future)
                for place, row in zip(job.places, future.result(), strict=True):
                    job.chunk.rows[place] = row
                job.chunk.jobs.remove(job)
                progress(len(job.places))
                if not job.chunk.jobs:
                    yield job.chunk.scored(self._jobs)

    @override
    def close(self) -> None:
        """Cancel the jobs in flight, waiting a few seconds at most, and close the connections."""
        self._endpoint.stop()
        self._pool.shutdown(wait=False, cancel_futures=True)
        begun = [future for future in self._running if not future.cancelled()]
        wait(begun, timeout=_CLOSE_SECONDS)
        self._endpoint.close()

    def _open(self, chunk: Chunk) -> _OpenChunk:
        """Cut a chunk into jobs; a text that no worker would score gets its error here."""
        opened = _OpenChunk(chunk.index, [None] * len(chunk.texts))
        job = _JobRows(opened)
        chars = size = 0
        for place, value in enumerate(chunk.texts):
            try:
                text, needed = self._read(value)
            except ServiceError as error:
                opened.rows[place] = row_of(error)
                continue
            if job.texts and (
                len(job.texts) >= self._job_texts
                or chars + len(text) > self._settings.max_request_chars
                or size + needed > JOB_BYTES
            ):
                opened.jobs.append(job)
                job = _JobRows(opened)
                chars = size = 0
            job.places.append(place)
            job.texts.append(text)
            chars += len(text)
            size += needed
        if job.texts:
            opened.jobs.append(job)
        return opened

    def _read(self, value: object) -> tuple[str, int]:
        """Return the text to send, and the bytes that it takes up in a job at most.

        Raises a :class:`ServiceError` if the value can't be scored.
        """
        text = parse_request({"text": value}, self._settings).texts[0]
        needed = len(json.dumps(text)) + _ITEM_BYTES
        if needed > JOB_BYTES:
            raise TooLargeError(f"takes {needed} bytes, a job holds {JOB_BYTES}", field="text")
        return text, needed
