"""Emulates a Runpod queue endpoint as a whole, on 127.0.0.1: callers in front, workers behind.

Callers have ``/run``, ``/status`` and ``/cancel``; workers have what the SDK of version 1.12 asks
of the platform, each under its own pod id. The jobs are real HTTP's and real workers'. A worker
that has fallen silent loses its jobs, which go back to the head of the queue. What goes wrong
besides (answers refused or lost, jobs that fail, expire or are forgotten) is done on demand.
"""

from __future__ import annotations

import asyncio
import email.utils
import hmac
import json
import os
import signal
import threading
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

KEY: Final = "rpa_KEYOFTHETESTS0123456789"
WORKER_KEY: Final = "key-of-the-workers"
ENDPOINT_ID: Final = "bulk0endpoint"
RUN_BYTES: Final = 10_000_000
FINAL: Final = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")
# Without a ping, which should come every second, or an open long poll.
SILENT_SECONDS: Final = 2.0
ENDLESS_SECONDS: Final = 60.0  # longer than a test waits


@dataclass(frozen=True)
class Fault:
    """What a caller's request gets instead of its answer."""

    status: int = 500
    body: str = ""
    retry_after: int | None = None  # seconds
    as_date: bool = False  # of retry_after
    lose: bool = False  # do what was asked, then hang up instead of answering
    endless: bytes | None = None  # what comes now and then, for ever; b"": nothing does


LOST: Final = Fault(lose=True)
FORGOTTEN: Final[Mapping[str, Any]] = {}


@dataclass
class Job:
    """A job as the platform knows it."""

    id: str
    input: Any
    policy: Any
    status: str = "IN_QUEUE"
    result: dict[str, Any] = field(default_factory=dict)
    pods: list[str] = field(default_factory=list)  # that were given it, in order

    def reply(self) -> dict[str, Any]:
        times = {"delayTime": 12, "executionTime": 34} if self.status in FINAL else {}
        return {**times, "id": self.id, **self.result, "status": self.status}


class RunpodEndpoint:
    """One endpoint, in a thread of its own. What is public may be read and set at any time."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.requests: list[tuple[str, float]] = []  # operation, by time.monotonic()
        self.largest_body = 0
        self.most_in_flight = 0
        self.early = 0  # requests before the time that a Retry-After had asked for
        self.problems: list[str] = []
        self.always: dict[str, Fault] = {}  # by operation: run, status or cancel
        self.end_all: Mapping[str, Any] | None = None  # how every job ends, without a worker
        self.kill_at_answer: dict[str, int] = {}  # pod id to the process group that is killed
        self.answered_by: Counter[str] = Counter()
        self.answers_allowed: int | None = None  # after so many, workers get no more jobs
        self.url = ""
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._ends: deque[Mapping[str, Any]] = deque()
        self._queue: deque[Job] = deque()
        self._to_stop: defaultdict[str, list[str]] = defaultdict(list)
        self._seen: dict[str, float] = {}  # pod id to its last sign of life
        self._not_before = 0.0
        self._draining = False
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="runpod endpoint")
        self._runner: web.AppRunner | None = None

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
        self._draining = True
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    # For the test.

    @property
    def base_url(self) -> str:
        """What callers use for https://api.runpod.ai/v2."""
        return f"{self.url}/v2"

    def environment(self, pod: str) -> dict[str, str]:
        """Return the variables that the platform sets in the container of this worker."""
        base = f"{self.url}/worker"
        return {
            "RUNPOD_WEBHOOK_GET_JOB": f"{base}/job-take/$ID?gpu=none",
            "RUNPOD_WEBHOOK_POST_OUTPUT": f"{base}/job-done/$RUNPOD_POD_ID/$ID?gpu=none",
            "RUNPOD_WEBHOOK_PING": f"{base}/ping/$RUNPOD_POD_ID",
            "RUNPOD_AI_API_KEY": WORKER_KEY,
            "RUNPOD_POD_ID": pod,
            "RUNPOD_PING_INTERVAL": "1000",
            # They ask for the internet and a GPU.
            "RUNPOD_SKIP_AUTO_SYSTEM_CHECKS": "true",
        }

    def has_seen(self, *pods: str) -> bool:
        """Say whether all these workers have begun to ping."""
        return all(pod in self._seen for pod in pods)

    def forget(self) -> None:
        """Begin anew, with the workers that are there: no jobs, no faults, no records."""
        self.jobs.clear()
        self.requests.clear()
        self.always.clear()
        self.answered_by.clear()
        self._faults.clear()
        self._ends.clear()
        self._queue.clear()
        self.end_all = None
        self.answers_allowed = None
        self.largest_body = self.most_in_flight = self.early = 0

    def fail(self, operation: str, *faults: Fault) -> None:
        """Have the next requests of this operation get these instead of their answers."""
        self._faults[operation].extend(faults)

    def end_next(self, *ends: Mapping[str, Any]) -> None:
        """Have the next jobs end like this, without a worker: ``status``, ``error``, ``output``."""
        self._ends.extend(ends)

    def count(self, operation: str) -> int:
        """Return how many requests of this operation there were."""
        return sum(name == operation for name, _ in self.requests)

    # Callers.

    async def _serve(self) -> None:
        app = web.Application(middlewares=[self._gate], client_max_size=64 * 1024**2)
        base = f"/v2/{ENDPOINT_ID}"
        app.router.add_post(f"{base}/run", self._run)
        app.router.add_get(f"{base}/status/{{job}}", self._status)
        app.router.add_post(f"{base}/cancel/{{job}}", self._cancel)
        app.router.add_get("/worker/job-take/{pod}", self._take)
        app.router.add_get("/worker/job-take-batch/{pod}", self._take)
        app.router.add_get("/worker/job-stop/{pod}", self._stop_poll)
        app.router.add_post("/worker/job-done/{pod}/{job}", self._done)
        app.router.add_get("/worker/ping/{pod}", self._ping)
        self._runner = web.AppRunner(
            app, access_log=None, shutdown_timeout=2, max_line_size=256 * 1024
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @web.middleware
    async def _gate(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        given = request.headers.get("Authorization", "")
        if request.path.startswith("/worker/"):
            if given != WORKER_KEY:
                self.problems.append(f"{request.path}: wrong key")
            return await handler(request)
        now = time.monotonic()
        parts = request.path.split("/")
        operation = parts[3] if len(parts) > 3 else ""
        self.requests.append((operation, now))
        self.early += now < self._not_before
        if not hmac.compare_digest(given.encode(), f"Bearer {KEY}".encode()):
            return web.json_response({"error": "Unauthorized"}, status=401)
        faults = self._faults[operation]
        fault = faults.popleft() if faults else self.always.get(operation)
        if fault is None:
            return await handler(request)
        if fault.lose:
            await handler(request)
            if request.transport is not None:
                request.transport.abort()
            return web.Response()
        if fault.endless is not None:
            return await self._never_end(request, fault.endless)
        headers = {}
        if fault.retry_after is not None:
            # A date names whole seconds only.
            self._not_before = now + fault.retry_after - (1.1 if fault.as_date else 0)
            date = email.utils.formatdate(int(time.time()) + fault.retry_after, usegmt=True)
            headers["Retry-After"] = date if fault.as_date else str(fault.retry_after)
        return web.Response(status=fault.status, text=fault.body, headers=headers)

    async def _never_end(self, request: web.Request, byte: bytes) -> web.StreamResponse:
        """Have a caller wait for as long as it likes, though not for ever: a test may fail."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if byte:
            await response.prepare(request)
        until = time.monotonic() + ENDLESS_SECONDS
        while not self._draining and request.transport and time.monotonic() < until:
            if byte:
                await response.write(byte)
            await asyncio.sleep(0.05)
        if request.transport is not None:
            request.transport.abort()
        return response

    async def _run(self, request: web.Request) -> web.Response:
        raw = await request.read()
        self.largest_body = max(self.largest_body, len(raw))
        if len(raw) > RUN_BYTES:
            raise web.HTTPRequestEntityTooLarge(RUN_BYTES, len(raw))
        body = json.loads(raw)
        job = Job(f"{uuid.uuid4()}-u1", body["input"], body.get("policy"))
        self.jobs[job.id] = job
        in_flight = sum(other.status not in FINAL for other in self.jobs.values())
        self.most_in_flight = max(self.most_in_flight, in_flight)
        end = self._ends.popleft() if self._ends else self.end_all
        if end is None:
            self._queue.append(job)
        elif end:
            job.status = end["status"]
            job.result = {name: end[name] for name in end if name != "status"}
        else:
            del self.jobs[job.id]
        return web.json_response({"id": job.id, "status": "IN_QUEUE"})

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._job(request).reply())

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job.status == "IN_PROGRESS":
            self._to_stop[job.pods[-1]].append(job.id)
        if job.status not in FINAL:
            job.status = "CANCELLED"
        return web.json_response({"id": job.id, "status": job.status})

    def _job(self, request: web.Request) -> Job:
        job = self.jobs.get(request.match_info["job"])
        if job is None:
            raise web.HTTPNotFound(text="job not found")
        return job

    # Workers.

    def _put_back(self) -> None:
        """Put jobs of workers that have fallen silent at the head of the queue."""
        now = time.monotonic()
        for job in self.jobs.values():
            if job.status == "IN_PROGRESS" and now - self._seen[job.pods[-1]] > SILENT_SECONDS:
                job.status = "IN_QUEUE"
                self._queue.appendleft(job)

    def _enough(self) -> bool:
        allowed = self.answers_allowed
        return allowed is not None and self.answered_by.total() >= allowed

    def _next_job(self) -> Job | None:
        while self._queue:
            job = self._queue.popleft()
            if job.status == "IN_QUEUE":
                return job
        return None

    async def _poll(self, request: web.Request, ready: Callable[[], bool]) -> None:
        """Hold a long poll until there is something to say, or nobody left to tell."""
        while not self._draining and request.transport and not request.transport.is_closing():
            self._seen[request.match_info["pod"]] = time.monotonic()
            if ready():
                return
            self._put_back()
            await asyncio.sleep(0.02)

    async def _take(self, request: web.Request) -> web.Response:
        pod = request.match_info["pod"]
        batch = "/job-take-batch/" in request.path
        await self._poll(request, lambda: bool(self._queue) and not self._enough())
        if self._draining or request.transport is None or request.transport.is_closing():
            return web.Response(status=204)
        taken: list[dict[str, Any]] = []
        while len(taken) < int(request.query.get("batch_size", "1")):
            job = self._next_job()
            if job is None:
                break
            job.status = "IN_PROGRESS"
            job.pods.append(pod)
            taken.append({"id": job.id, "input": job.input})
        if not taken:
            return web.Response(status=204)
        return web.json_response(taken if batch else taken[0])

    async def _stop_poll(self, request: web.Request) -> web.Response:
        pod = request.match_info["pod"]
        await self._poll(request, lambda: bool(self._to_stop[pod]))
        ids, self._to_stop[pod] = self._to_stop[pod], []
        return web.json_response({"jobsToStop": ids}) if ids else web.Response(status=204)

    async def _done(self, request: web.Request) -> web.Response:
        pod = request.match_info["pod"]
        if pod in self.kill_at_answer:
            # As late as can be: the work is done, and nobody will ever hear of it.
            os.killpg(self.kill_at_answer.pop(pod), signal.SIGKILL)
            return web.Response(status=500)
        answer = json.loads(await request.read())
        job = self.jobs.get(request.match_info["job"])
        if job is not None and job.status not in FINAL:
            job.status = "FAILED" if "error" in answer else "COMPLETED"
            job.result = {name: answer[name] for name in ("output", "error") if name in answer}
            self.answered_by[pod] += 1
        return web.Response(text="ok")

    async def _ping(self, request: web.Request) -> web.Response:
        self._seen[request.match_info["pod"]] = time.monotonic()
        return web.Response(text="pong")
