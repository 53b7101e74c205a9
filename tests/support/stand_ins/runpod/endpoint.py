"""The callers' half of the endpoint: its public API, in front of the queue.

Jobs go to real workers, or to a handler in this process. What the platform does besides (a worker
that is slow, answers refused or lost, jobs that fail, expire or are forgotten) is done on demand.
"""

from __future__ import annotations

import asyncio
import email.utils
import hmac
import json
import math
import time
import uuid
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from aiohttp import web

from tests.support.stand_ins.runpod.jobs import FINAL, Fault, Job
from tests.support.stand_ins.runpod.queue import JobQueue, hang_up, hung_up

KEY: Final = "rpa_KEYOFTHETESTS0123456789"
ENDPOINT_ID: Final = "tests0endpoint"
RUNSYNC_BYTES: Final = 20_000_000
RUN_BYTES: Final = 10_000_000
DEFAULT_WAIT_MS: Final = 90_000
ENDLESS_SECONDS: Final = 60.0  # longer than a test waits
FORGOTTEN: Final[Mapping[str, Any]] = {}  # the end of a job that the platform loses

JobHandler = Callable[[Mapping[str, Any]], Awaitable[Mapping[str, Any]]]


class RunpodEndpoint(JobQueue):
    """One endpoint, in a thread of its own. Tests read and set what is public at any time."""

    def __init__(
        self, handler: JobHandler | None = None, *, silent_seconds: float = math.inf
    ) -> None:
        """With a ``handler`` the jobs are worked here, as if one worker took all at once."""
        super().__init__(silent_seconds)
        self.workers = True  # False: the handler takes no jobs
        self.delay_seconds = 0.0  # how long the handler takes besides
        self.requests: list[tuple[str, str]] = []  # of callers: method, and path with query
        self.largest_body = 0
        self.most_in_flight = 0
        self.early = 0  # requests before the time that a Retry-After had asked for
        self.always: dict[str, Fault] = {}  # by operation: run, runsync, status, cancel, health
        self.end_all: Mapping[str, Any] | None = None  # how every job ends, without a worker
        self._handler = handler
        self._tasks: dict[str, asyncio.Task[None]] = {}  # the handler's, by job
        self._ends: deque[Mapping[str, Any]] = deque()
        self._not_before = 0.0

    # For the test.

    @property
    def base_url(self) -> str:
        """Return what callers use for https://api.runpod.ai/v2."""
        return f"{self.url}/v2"

    @property
    def operations(self) -> list[str]:
        """Return what callers have asked for: run, runsync, status, cancel, health."""
        return [path.split("?")[0].split("/")[3] for _, path in self.requests]

    def count(self, operation: str) -> int:
        """Return how many requests of this operation there were."""
        return self.operations.count(operation)

    def end_next(self, *ends: Mapping[str, Any]) -> None:
        """Have the next jobs end like this, without a worker: ``status``, ``error``, ``output``."""
        self._ends.extend(ends)

    def forget(self) -> None:
        """Begin anew for callers, too, in the normal mode."""
        super().forget()
        self.workers, self.delay_seconds, self.end_all = True, 0.0, None
        self.largest_body = self.most_in_flight = self.early = 0
        self.requests.clear()
        self.always.clear()
        self._ends.clear()

    # The server.

    def make_app(self) -> web.Application:
        app = super().make_app()
        base = f"/v2/{ENDPOINT_ID}"
        app.router.add_post(f"{base}/run", self._run)
        app.router.add_post(f"{base}/runsync", self._runsync)
        app.router.add_get(f"{base}/status/{{job}}", self._status)
        app.router.add_post(f"{base}/cancel/{{job}}", self._cancel)
        app.router.add_get(f"{base}/health", self._health)
        return app

    async def stop(self) -> None:
        await super().stop()
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    @web.middleware
    async def gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Check a caller's key, and let a fault step in."""
        if request.path.startswith("/worker/"):
            return await super().gate(request, handler)
        now = time.monotonic()
        self.requests.append((request.method, request.path_qs))
        self.early += now < self._not_before
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), f"Bearer {KEY}".encode()):
            return web.json_response({"error": "Unauthorized"}, status=401)
        operation = self.operations[-1]
        faults = self._faults[operation]
        fault = faults.popleft() if faults else self.always.get(operation)
        if fault is None or fault.lose:
            response: web.StreamResponse = await handler(request)
            return response if fault is None else hang_up(request)
        if fault.endless is not None:
            return await self._never_end(request, fault.endless)
        headers = {}
        if fault.retry_after is not None:
            # A date names whole seconds only.
            self._not_before = now + fault.retry_after - (1.1 if fault.as_date else 0)
            date = email.utils.formatdate(int(time.time()) + fault.retry_after, usegmt=True)
            headers["Retry-After"] = date if fault.as_date else str(fault.retry_after)
        return web.Response(
            status=fault.status,
            text=fault.body,
            headers=headers,
            content_type="application/json",
        )

    async def _never_end(self, request: web.Request, byte: bytes) -> web.StreamResponse:
        """Let a caller wait for as long as it likes, with a bound: a test may fail."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        if byte:
            await response.prepare(request)
        until = time.monotonic() + ENDLESS_SECONDS
        while not self._draining and not hung_up(request) and time.monotonic() < until:
            if byte:
                await response.write(byte)
            await asyncio.sleep(0.05)
        hang_up(request)
        return response

    async def _submit(self, request: web.Request, prefix: str, limit: int) -> Job:
        raw = await request.read()
        self.largest_body = max(self.largest_body, len(raw))
        if len(raw) > limit:
            raise web.HTTPRequestEntityTooLarge(limit, len(raw))
        try:
            body = json.loads(raw)
        except ValueError:
            raise web.HTTPBadRequest(text="bad request: body is not JSON") from None
        if not isinstance(body, dict) or "input" not in body:
            raise web.HTTPBadRequest(text="bad request: input is missing")
        job = Job(f"{prefix}{uuid.uuid4()}-u1", body)
        end = self._ends.popleft() if self._ends else self.end_all
        if end == FORGOTTEN:
            return job
        self.jobs[job.id] = job
        in_flight = sum(other.status not in FINAL for other in self.jobs.values())
        self.most_in_flight = max(self.most_in_flight, in_flight)
        if end is not None:
            job.status = end["status"]
            job.result = {name: end[name] for name in end if name != "status"}
        elif self._handler is None:
            self._queue.append(job)
        elif self.workers:
            self._tasks[job.id] = asyncio.create_task(self._work(job, self._handler))
        return job

    async def _work(self, job: Job, handler: JobHandler) -> None:
        """Have the handler work a job, and read its reply as the SDK does."""
        job.status = "IN_PROGRESS"
        await asyncio.sleep(self.delay_seconds)
        output = dict(await handler(job.message()))
        output.pop("refresh_worker", None)
        answer = {"error": output.pop("error")} if "error" in output else {}
        job.finish({**answer, "output": output} if output else answer)

    async def _run(self, request: web.Request) -> web.Response:
        job = await self._submit(request, "", RUN_BYTES)
        return web.json_response({"id": job.id, "status": "IN_QUEUE"})

    async def _runsync(self, request: web.Request) -> web.Response:
        wait = request.query.get("wait", str(DEFAULT_WAIT_MS))
        if not wait.isdigit() or not 1000 <= int(wait) <= 300_000:
            raise web.HTTPBadRequest(text="bad request: wait must be from 1000 to 300000")
        job = await self._submit(request, "sync-", RUNSYNC_BYTES)
        # When the wait runs out the job goes on; the reply says where it stands.
        until = time.monotonic() + int(wait) / 1000
        while job.status not in FINAL and time.monotonic() < until and not self._draining:
            await asyncio.sleep(0.01)
        return web.json_response(job.reply())

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._job(request).reply())

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._job(request)
        if job.id in self._tasks:
            self._tasks[job.id].cancel()
        elif job.status == "IN_PROGRESS":
            self.stop_jobs(job.id)
        if job.status not in FINAL:
            job.status = "CANCELLED"
        return web.json_response({"id": job.id, "status": job.status})

    async def _health(self, request: web.Request) -> web.Response:
        statuses = [job.status for job in list(self.jobs.values())]
        jobs = {
            "completed": statuses.count("COMPLETED"),
            "failed": statuses.count("FAILED"),
            "inProgress": statuses.count("IN_PROGRESS"),
            "inQueue": statuses.count("IN_QUEUE"),
            "retried": 0,
        }
        return web.json_response({"jobs": jobs, "workers": {"idle": int(self.workers)}})

    def _job(self, request: web.Request) -> Job:
        job = self.jobs.get(request.match_info["job"])
        if job is None:
            raise web.HTTPNotFound(text="job not found")
        return job
