"""Emulates the public API of a Runpod serverless endpoint, on 127.0.0.1.

Real HTTP, and in its normal mode real work: a job that is submitted is handed to our
:class:`Handler`. What the platform does besides (no worker free, a slow one, a
refused key, too many requests, a fault of its own) is done on demand.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import threading
import uuid
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Final, Self

from aiohttp import web

RUNSYNC_BYTES: Final = 20 * 1024 * 1024
RUN_BYTES: Final = 10 * 1024 * 1024
DEFAULT_WAIT_MS: Final = 90_000
FINAL: Final = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")

JobHandler = Callable[[Mapping[str, Any]], Awaitable[dict[str, Any]]]


@dataclass
class Job:
    """A job as the platform knows it; ``reply`` is what it tells about it."""

    id: str
    input: Any
    status: str = "IN_QUEUE"
    result: dict[str, Any] = field(default_factory=dict)
    done: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None

    def reply(self) -> dict[str, Any]:
        times = {"delayTime": 12, "executionTime": 34} if self.status in FINAL else {}
        return {**times, "id": self.id, **self.result, "status": self.status}


class RunpodCloud:
    """One endpoint. Set the attributes below, at any time, to change what it does."""

    def __init__(
        self, handler: JobHandler, api_key: str, endpoint_id: str = "test0endpoint"
    ) -> None:
        self.workers = True  # False: jobs stay in the queue
        self.delay_seconds = 0.0  # how long a worker takes besides
        self.answer: tuple[int, str] | None = None  # status and body of every reply
        self.requests: list[tuple[str, str]] = []  # method and path with query, in order
        self.jobs: dict[str, Job] = {}
        self.endpoint_id = endpoint_id
        self.base_url = ""
        self._handler = handler
        self._authorization = f"Bearer {api_key}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._runner = web.AppRunner(self._app(), shutdown_timeout=1)

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(30)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[self._gate], client_max_size=RUNSYNC_BYTES)
        base = f"/v2/{self.endpoint_id}"
        app.add_routes(
            [
                web.post(f"{base}/runsync", self._runsync),
                web.post(f"{base}/run", self._run),
                web.get(f"{base}/status/{{job}}", self._status),
                web.post(f"{base}/cancel/{{job}}", self._cancel),
                web.get(f"{base}/health", self._health),
            ]
        )
        return app

    async def _start(self) -> None:
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.base_url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/v2"

    async def _stop(self) -> None:
        for job in self.jobs.values():
            await self._end(job)
        await self._runner.cleanup()

    @web.middleware
    async def _gate(
        self,
        request: web.Request,
        handler: Callable[[web.Request], Awaitable[web.StreamResponse]],
    ) -> web.StreamResponse:
        self.requests.append((request.method, request.path_qs))
        given = request.headers.get("Authorization", "")
        if not hmac.compare_digest(given.encode(), self._authorization.encode()):
            return web.json_response({"error": "Unauthorized"}, status=401)
        if self.answer is not None:
            status, body = self.answer
            return web.Response(status=status, text=body, content_type="application/json")
        return await handler(request)

    async def _submit(self, request: web.Request, limit: int) -> Job:
        raw = await request.read()
        if len(raw) > limit:
            raise web.HTTPRequestEntityTooLarge(limit, len(raw))
        try:
            body = json.loads(raw)
        except ValueError:
            raise web.HTTPBadRequest(text="bad request: body is not JSON") from None
        if not isinstance(body, dict) or "input" not in body:
            raise web.HTTPBadRequest(text="bad request: input is missing")
        job = Job(f"{'sync' if limit == RUNSYNC_BYTES else 'job'}-{uuid.uuid4()}", body["input"])
        self.jobs[job.id] = job
        if self.workers:
            job.task = asyncio.create_task(self._work(job))
        return job

    async def _work(self, job: Job) -> None:
        job.status = "IN_PROGRESS"
        await asyncio.sleep(self.delay_seconds)
        reply = await self._handler({"id": job.id, "input": job.input})
        reply.pop("refresh_worker", None)
        error = reply.pop("error", None)
        if error is not None:
            job.result = {"error": error}
        if reply:
            job.result["output"] = reply
        job.status = "COMPLETED" if error is None else "FAILED"
        job.done.set()

    async def _end(self, job: Job) -> None:
        """Stop a job's work, as cancelling it does."""
        if job.task is not None and not job.task.done():
            job.task.cancel()
            await asyncio.wait([job.task], timeout=10)
        if job.status not in FINAL:
            job.status = "CANCELLED"
            job.done.set()

    async def _runsync(self, request: web.Request) -> web.Response:
        wait = request.query.get("wait", str(DEFAULT_WAIT_MS))
        if not wait.isdigit() or not 1000 <= int(wait) <= 300_000:
            raise web.HTTPBadRequest(text="bad request: wait must be from 1000 to 300000")
        job = await self._submit(request, RUNSYNC_BYTES)
        # When the wait runs out the job goes on; the reply says where it stands.
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(job.done.wait(), int(wait) / 1000)
        return web.json_response(job.reply())

    async def _run(self, request: web.Request) -> web.Response:
        job = await self._submit(request, RUN_BYTES)
        return web.json_response({"id": job.id, "status": "IN_QUEUE"})

    async def _status(self, request: web.Request) -> web.Response:
        return web.json_response(self._job(request).reply())

    async def _cancel(self, request: web.Request) -> web.Response:
        job = self._job(request)
        await self._end(job)
        return web.json_response({"id": job.id, "status": job.status})

    async def _health(self, request: web.Request) -> web.Response:
        statuses = [job.status for job in self.jobs.values()]
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
