"""A local stand-in for Runpod's job API, as the SDK of version 1.12 speaks it, over real HTTP.

It hands out jobs by long polls, takes answers, and tells a worker which jobs to stop. It writes
down everything, and keeps in ``problems`` whatever the platform would choke on: an answer that is
not UTF-8 or not JSON, a second answer, one for a job that was stopped or never handed out.
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, NoReturn, Self

from aiohttp import web

API_KEY: Final = "key-of-the-stand-in"
POD_ID: Final = "pod-1"
RESULT_TYPE: Final = "application/x-www-form-urlencoded"


@dataclass
class Job:
    """A job and how far it has come."""

    id: str
    input: Any
    has_input: bool = True
    handed_out: bool = False
    stopped: bool = False
    refused: bool = False  # an answer to it was, so that the SDK has to try again
    answer: dict[str, Any] | None = None

    def message(self) -> dict[str, Any]:
        """Return what the worker is sent."""
        return {"id": self.id, **({"input": self.input} if self.has_input else {})}


@dataclass
class _State:
    jobs: dict[str, Job] = field(default_factory=dict)
    waiting: deque[Job] = field(default_factory=deque)
    to_stop: list[str] = field(default_factory=list)
    answered: list[str] = field(default_factory=list)
    takes: int = 0
    stop_polls: int = 0
    pings: list[dict[str, str]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    refuse_takes: deque[int] = field(default_factory=deque)
    refuse_answers: deque[int] = field(default_factory=deque)
    draining: bool = False


class ControlPlane:
    """Serves on 127.0.0.1 in a thread of its own; every method may be called from any thread."""

    def __init__(self, poll_seconds: float = 90.0) -> None:
        self._poll_seconds = poll_seconds
        self._state = _State()
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="control plane")
        self._runner: web.AppRunner | None = None
        self.url = ""

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(30)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.drain()
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    # For the test.

    def environment(self) -> dict[str, str]:
        """Return the variables that the platform sets in a worker's container."""
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{self.url}/v2/endpoint/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": (
                f"{self.url}/v2/endpoint/job-done/$RUNPOD_POD_ID/$ID?gpu=none"
            ),
            "RUNPOD_WEBHOOK_PING": f"{self.url}/v2/endpoint/ping/$RUNPOD_POD_ID",
            "RUNPOD_AI_API_KEY": API_KEY,
            "RUNPOD_POD_ID": POD_ID,
            "RUNPOD_PING_INTERVAL": "1000",
            # They ask for the internet and a GPU.
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        }

    def submit(self, *inputs: Any) -> list[str]:
        """Queue one job for each input, all at once; return their ids."""
        return self._queue(Job(uuid.uuid4().hex, value) for value in inputs)

    def submit_without_input(self) -> str:
        """Queue a job that lacks ``input`` altogether; return its id."""
        (job_id,) = self._queue([Job(uuid.uuid4().hex, None, has_input=False)])
        return job_id

    def stop_jobs(self, *job_ids: str) -> None:
        """Tell the worker to stop jobs it has, as a cancellation or a time-out does."""
        with self._changed:
            for job_id in job_ids:
                self._state.jobs[job_id].stopped = True
            self._state.to_stop += job_ids

    def refuse(self, *, takes: Iterable[int] = (), answers: Iterable[int] = ()) -> None:
        """Answer the next job takes, and the next results, with these statuses instead."""
        with self._changed:
            self._state.refuse_takes.extend(takes)
            self._state.refuse_answers.extend(answers)

    def drain(self) -> None:
        """Hand out no further job, and end every long poll at once."""
        with self._changed:
            self._state.draining = True

    @property
    def problems(self) -> list[str]:
        """Return what broke the protocol so far."""
        with self._changed:
            return list(self._state.problems)

    @property
    def answered(self) -> list[str]:
        """Return the ids of answered jobs, in the order of their answers."""
        with self._changed:
            return list(self._state.answered)

    @property
    def takes(self) -> int:
        """Return how many times the worker has asked for jobs.

        It asks again only once it has queued what it was given before.
        """
        with self._changed:
            return self._state.takes

    @property
    def stop_polls(self) -> int:
        """Return how many times the worker has asked for jobs to stop.

        It asks again only once it has stopped those it was told before.
        """
        with self._changed:
            return self._state.stop_polls

    @property
    def pings(self) -> list[dict[str, str]]:
        """Return the query of each ping."""
        with self._changed:
            return list(self._state.pings)

    def answer(self, job_id: str) -> dict[str, Any] | None:
        """Return what the worker posted for a job: ``output`` or ``error``, and ``stopPod``."""
        with self._changed:
            return self._state.jobs[job_id].answer

    def handed_out(self, job_ids: Iterable[str]) -> bool:
        """Say whether all these jobs have been given to the worker."""
        with self._changed:
            return all(self._state.jobs[job_id].handed_out for job_id in job_ids)

    def wait(
        self,
        condition: Callable[[], bool],
        what: str,
        *,
        seconds: float = 120.0,
        watch: Callable[[], None] = lambda: None,
    ) -> None:
        """Return once ``condition`` holds; ``watch`` is called meanwhile and may raise.

        Raises :class:`TimeoutError` naming ``what`` after ``seconds``.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            while not condition():
                watch()
                if time.monotonic() > deadline:
                    raise TimeoutError(f"waited {seconds:g} s in vain for: {what}")
                self._changed.wait(0.1)

    # The server.

    async def _serve(self) -> None:
        app = web.Application(client_max_size=64 * 1024**2)
        app.router.add_get("/v2/endpoint/job-take/{worker}", self._take)
        app.router.add_get("/v2/endpoint/job-take-batch/{worker}", self._take)
        app.router.add_get("/v2/endpoint/job-stop/{worker}", self._stop_poll)
        app.router.add_post("/v2/endpoint/job-done/{worker}/{job}", self._done)
        app.router.add_get("/v2/endpoint/ping/{worker}", self._ping)
        # A ping lists every job in progress in its URL: 256 of them are over aiohttp's 8,190 bytes.
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=5, max_line_size=256 * 1024
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def _queue(self, jobs: Iterable[Job]) -> list[str]:
        jobs = list(jobs)
        with self._changed:
            self._state.jobs.update((job.id, job) for job in jobs)
            self._state.waiting.extend(jobs)
        return [job.id for job in jobs]

    def _check_caller(self, request: web.Request) -> None:
        if request.headers.get("Authorization") != API_KEY:
            self._state.problems.append(f"{request.path}: wrong Authorization")
        if request.match_info["worker"] != POD_ID:
            self._state.problems.append(f"{request.path}: wrong worker")

    async def _poll(self, ready: Callable[[], bool]) -> None:
        """Hold a long poll until there is something to say."""
        deadline = self._loop.time() + self._poll_seconds
        while not ready() and not self._state.draining and self._loop.time() < deadline:
            await asyncio.sleep(0.01)
        if self._state.draining:
            await asyncio.sleep(0.05)  # the SDK asks again without a pause

    async def _take(self, request: web.Request) -> web.Response:
        batch = "/job-take-batch/" in request.path
        size = int(request.query.get("batch_size", "1"))
        with self._changed:
            self._check_caller(request)
            if request.query.get("job_in_progress") not in ("0", "1"):
                self._state.problems.append("job-take: no job_in_progress")
            if batch != (size > 1):
                self._state.problems.append("job-take: batch_size does not fit the path")
            self._state.takes += 1
            self._changed.notify_all()
            if self._state.refuse_takes:
                return web.Response(status=self._state.refuse_takes.popleft())
        await self._poll(lambda: bool(self._state.waiting))
        with self._changed:
            if self._state.draining or not self._state.waiting:
                return web.Response(status=204)
            if request.transport is None or request.transport.is_closing():
                return web.Response(status=204)  # the worker hung up; the jobs stay
            count = min(size, len(self._state.waiting))
            jobs = [self._state.waiting.popleft() for _ in range(count)]
            for job in jobs:
                job.handed_out = True
            self._changed.notify_all()
        messages = [job.message() for job in jobs]
        return web.json_response(messages if batch else messages[0])

    async def _stop_poll(self, request: web.Request) -> web.Response:
        with self._changed:
            self._check_caller(request)
            self._state.stop_polls += 1
            self._changed.notify_all()
        await self._poll(lambda: bool(self._state.to_stop))
        with self._changed:
            job_ids, self._state.to_stop = self._state.to_stop, []
        if not job_ids:
            return web.Response(status=204)
        return web.json_response({"jobsToStop": job_ids})

    async def _done(self, request: web.Request) -> web.Response:
        body = await request.read()
        with self._changed:
            job = self._state.jobs.get(request.match_info["job"])
            if self._state.refuse_answers and job is not None:
                job.refused = True
                return web.Response(status=self._state.refuse_answers.popleft())
            self._check_caller(request)
            self._record(request, body)
            self._changed.notify_all()
        return web.Response(text="ok")

    def _record(self, request: web.Request, body: bytes) -> None:
        problems = self._state.problems
        job_id = request.match_info["job"]
        if request.content_type != RESULT_TYPE:
            problems.append(f"{job_id}: content type {request.content_type}")
        job = self._state.jobs.get(job_id)
        # The SDK keeps this header on a session that all jobs share: a second try sends whichever
        # came last. The URL is right.
        retried = job is not None and job.refused
        if request.headers.get("X-Request-ID") != job_id and not retried:
            problems.append(f"{job_id}: X-Request-ID names another job")
        if request.query.get("isStream") != "false":
            problems.append(f"{job_id}: isStream is not false")
        if job is None or not job.handed_out:
            problems.append(f"{job_id}: answered, but never handed out")
            return
        if job.stopped:
            problems.append(f"{job_id}: answered after it was stopped")
        if job.answer is not None:
            problems.append(f"{job_id}: answered twice")
        try:
            answer = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        except ValueError as exc:
            problems.append(f"{job_id}: {type(exc).__name__} in the answer")
            answer = {}
        self._state.answered.append(job_id)
        if not isinstance(answer, Mapping) or not ({"output", "error"} & answer.keys()):
            problems.append(f"{job_id}: neither output nor error in the answer")
        job.answer = answer

    async def _ping(self, request: web.Request) -> web.Response:
        with self._changed:
            self._check_caller(request)
            self._state.pings.append(dict(request.query))
            self._changed.notify_all()
        return web.Response(text="pong")


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
