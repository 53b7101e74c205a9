"""The job loop of the Runpod SDK, without its ways to lose a job when the worker stops.

At SIGTERM the SDK's own loop (1.12.0) ends as soon as it has nothing to run, although its last long
poll may still be answered with jobs; those are never run. This one ends when that poll has
returned and all that it brought is answered. The poll cannot be cancelled instead: the platform
may have answered it with a job that is on its way, and it does not hand that job out again.

The platform kills a worker some time after SIGTERM. What is not scored before that is answered with
``unhealthy``, which tells the caller to send the job again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator, Mapping
from functools import partial
from types import FrameType
from typing import Any, Final

import aiohttp
from runpod.http_client import AsyncClientSession, TooManyRequests
from runpod.serverless.modules import rp_job, rp_scale
from typing_extensions import override

from hatespeech.errors import UnhealthyError
from hatespeech.worker.posting import post_reply

log = logging.getLogger(__name__)

# The platform holds a poll for up to 90 s. One that ends here may have been answered just then.
POLL_SECONDS: Final = 100.0
# A worker without room looks again once its jobs are down to this share of the concurrency, and
# after so many seconds, as in the SDK.
FULL_SHARE: Final = 0.75
FULL_SECONDS: Final = 1.0
BUSY_SECONDS: Final = 5.0  # after a 429, as in the SDK
FAILED_SECONDS: Final = 1.0  # after a poll that failed; the SDK does not wait
# So long after a job begins or ends, the process that pings gets the ids. It pings every 10 s.
MIRROR_SECONDS: Final = 0.1

# How long replies are tried: in all, and after the time for scoring has run out.
POST_SECONDS: Final = 600.0
LAST_REPLIES_SECONDS: Final = 30.0

GIVEN_UP: Final = UnhealthyError("this worker is being stopped; try again")


class JobLoop(rp_scale.JobScaler):  # type: ignore[misc]  # the SDK has no types
    """Takes jobs, has them scored and posts the replies, until told to stop.

    The SDK's ``handle_job`` keeps the account of a job around ``jobs_handler``, and its
    ``monitor_stop_signals`` cancels jobs for as long as ``is_alive`` says so. The rest is here. The
    SDK's ``run_jobs``, which waits anew for all jobs whenever one ends, is not used.
    """

    def __init__(self, config: dict[str, Any], stop_seconds: float) -> None:
        """``stop_seconds`` after it is told to stop, the loop gives up what is not scored."""
        super().__init__(config)
        self.jobs_handler = self._answer
        self._stop_seconds = stop_seconds
        self._excepthook = sys.excepthook
        self._loop: asyncio.AbstractEventLoop | None = None  # while it runs
        self._signals = 0
        self._stopping = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()  # one for each job that has not ended
        self._room = asyncio.Event()  # enough of them have
        self._deadline: float | None = None  # of scoring, in the event loop's time, once it stops
        self._limits: dict[asyncio.Timeout, float] = {}  # each with its seconds after the deadline
        self._taking = True  # jobs may still arrive
        # The SDK's: the ids of the jobs that run, for the process that pings.
        self._mirror: Any = None
        self._mirroring: asyncio.TimerHandle | None = None

    @override
    async def run(self) -> None:
        sys.excepthook = self._excepthook  # start() has set one that logs what an exception quotes
        self._loop = asyncio.get_running_loop()
        if self._signals:
            self._stop()
        # The SDK would write down the ids of all jobs whenever one begins or ends.
        self._mirror = self.job_progress._mirror
        self.job_progress.set_mirror(None)
        async with AsyncClientSession() as session:
            # To the end: a caller may cancel a job that is being finished.
            stops = asyncio.create_task(self.monitor_stop_signals(session))
            try:
                await self.get_jobs(session)
                await asyncio.gather(*self._tasks, return_exceptions=True)
            finally:
                self._loop = None
                if self._mirroring is not None:
                    self._mirroring.cancel()
                self.job_progress.set_mirror(self._mirror)  # and writes the last time
                stops.cancel()
                await asyncio.gather(stops, return_exceptions=True)

    @override
    def handle_shutdown(self, signum: int, frame: FrameType | None) -> None:
        """Stop at a signal; at the second one, give up what is not scored yet.

        Python calls this between any two steps of the event loop, so it only asks the loop to stop.
        """
        self._signals += 1
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop)

    @override
    def kill_worker(self) -> None:
        """Stop, because the platform is to replace this worker."""
        self._stop()

    @override
    def is_alive(self) -> bool:
        """Return whether jobs may still arrive; the SDK's loops go on for as long."""
        return self._taking

    @override
    async def get_jobs(self, session: aiohttp.ClientSession) -> None:
        """Take jobs until told to stop, and those of the poll that is in flight then."""
        try:
            while not self._stopping.is_set():
                await self.set_scale()
                room = self.current_concurrency - self.current_occupancy()
                if room <= 0:
                    await self._wait_for_room()
                    continue
                for job in await self._take(session, room):
                    self._begin(session, job)
        finally:
            self._taking = False

    async def _take(self, session: aiohttp.ClientSession, most: int) -> list[dict[str, Any]]:
        """Return what one poll brings; what has no id cannot be answered and is left out."""
        try:
            jobs = await asyncio.wait_for(rp_job.get_job(session, most), POLL_SECONDS) or []
            return [job for job in jobs if isinstance(job, dict) and "id" in job]
        except TimeoutError:
            pass
        except TooManyRequests:
            await self._pause(BUSY_SECONDS)
        except Exception as exc:
            log.error("jobs could not be fetched: %s", type(exc).__name__)
            await self._pause(FAILED_SECONDS)
        return []

    def _begin(self, session: aiohttp.ClientSession, job: dict[str, Any]) -> None:
        """Start a job in a task of its own."""
        self.job_progress.add(job)
        self.jobs_queue.put_nowait(job)  # for handle_job, which tells the queue of the job's end
        self.jobs_queue.get_nowait()
        task = asyncio.create_task(self.handle_job(session, job))
        self._tasks.add(task)
        self.jobs_tasks[job["id"]] = task  # for stop_job
        task.add_done_callback(self._ended)
        self._mirror_soon()

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._mirror_soon()
        if not task.cancelled():
            task.exception()  # handle_job has logged it
        if self.current_occupancy() <= self.current_concurrency * FULL_SHARE:
            self._room.set()

    def _mirror_soon(self) -> None:
        """Write the mirror once for all jobs that begin or end within a moment."""
        if self._mirror is not None and self._mirroring is None and self._loop is not None:
            self._mirroring = self._loop.call_later(MIRROR_SECONDS, self._write_mirror)

    def _write_mirror(self) -> None:
        """Tell the process that pings which jobs run."""
        self._mirroring = None
        self._mirror.set(self.job_progress.get_job_list())

    async def _wait_for_room(self) -> None:
        """Wait until enough jobs have ended, but not longer than until told to stop."""
        self._room.clear()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._room.wait(), FULL_SECONDS)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until told to stop."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def _answer(
        self, session: aiohttp.ClientSession, config: Mapping[str, Any], job: dict[str, Any]
    ) -> None:
        """Score a job and post the reply; :meth:`handle_job` calls it."""
        reply = await rp_job.run_job(self._score, job)
        if config.get("refresh_worker"):
            reply["stopPod"] = True
        try:
            async with self._limit(LAST_REPLIES_SECONDS), asyncio.timeout(POST_SECONDS):
                await post_reply(session, job["id"], reply)
        except TimeoutError:
            log.error("the reply to job %s is lost: the platform did not take it", job["id"])

    async def _score(self, job: dict[str, Any]) -> dict[str, Any]:
        """Return the handler's reply, or ``unhealthy`` once the time for scoring has run out."""
        try:
            async with self._limit(0.0):
                reply: dict[str, Any] = await self.config["handler"](job)
                return reply
        except TimeoutError:
            return {"error": str(GIVEN_UP)}

    @contextlib.asynccontextmanager
    async def _limit(self, after: float) -> AsyncIterator[None]:
        """Raise :class:`TimeoutError` from the block ``after`` seconds behind the deadline."""
        when = None if self._deadline is None else self._deadline + after
        async with asyncio.timeout_at(when) as timeout:
            self._limits[timeout] = after
            try:
                yield
            finally:
                del self._limits[timeout]

    def _stop(self) -> None:
        """Take no further job, and set the deadline of scoring, or move it to now."""
        now = asyncio.get_running_loop().time()
        deadline = now if self._signals > 1 else now + self._stop_seconds
        if self._deadline is None:
            log.info(
                "told to stop with %d jobs; ends when the last poll has returned",
                self.job_progress.get_job_count(),
            )
        elif deadline >= self._deadline:
            return
        self._deadline = deadline
        self._stopping.set()
        self._room.set()
        for timeout, after in self._limits.items():
            if not timeout.expired():
                timeout.reschedule(deadline + after)


def install(stop_seconds: float) -> None:
    """Have ``runpod.serverless.start`` run this loop; :mod:`.sdk_shape` says whether it can."""
    rp_scale.JobScaler = partial(JobLoop, stop_seconds=stop_seconds)
