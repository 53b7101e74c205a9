"""The workers' half of the endpoint: what the SDK of version 1.12 asks of the platform.

It hands out jobs by long polls, takes answers, and tells a worker which jobs to stop. It keeps in
``problems`` whatever the platform would choke on: an answer that is not UTF-8 or not JSON, a second
answer, one for a job that was stopped or never handed out.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
import time
import uuid
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NoReturn

from aiohttp import web

from tests.support.stand_ins.app_thread import AppThread
from tests.support.stand_ins.runpod.jobs import Fault, Job

POD: Final = "pod-1"
WORKER_KEY: Final = "key-of-the-workers"
RESULT_TYPE: Final = "application/x-www-form-urlencoded"
POLL_SECONDS: Final = 90.0


class JobQueue(AppThread):
    """Jobs, and the workers that take them. Tests read and set what is public at any time."""

    def __init__(self, silent_seconds: float = math.inf) -> None:
        """``silent_seconds`` after its last poll or ping, a worker loses its jobs to others."""
        super().__init__()
        self.jobs: dict[str, Job] = {}
        self.answered: list[str] = []  # ids of jobs, in the order of their answers
        self.problems: list[str] = []  # what broke the protocol so far
        self.pings: list[dict[str, str]] = []  # the query of each
        self.takes = 0  # how many times workers have asked for jobs
        self.answers_allowed: int | None = None  # after so many, workers get no more jobs
        self.kill_at_answer: dict[str, int] = {}  # pod to the process group that is killed
        self._silent_seconds = silent_seconds
        self._queue: deque[Job] = deque()
        self._faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._to_stop: defaultdict[str, list[str]] = defaultdict(list)
        self._told: defaultdict[str, list[str]] = defaultdict(list)  # to stop, by the last poll
        self._pods: set[str] = set()
        self._forgotten: set[str] = set()  # jobs, by whose answers no test is served
        self._seen: dict[str, float] = {}  # pod to its last sign of life
        self._draining = False

    # For the test.

    def environment(self, pod: str = POD) -> dict[str, str]:
        """Return the variables that the platform sets in the container of this worker."""
        self._pods.add(pod)
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

    def submit(self, *inputs: Any) -> list[str]:
        """Queue one job for each input, all at once; return their ids."""
        return self.submit_bodies({"input": value} for value in inputs)

    def submit_bodies(self, bodies: Iterable[Mapping[str, Any]]) -> list[str]:
        """Queue jobs by the whole bodies of their requests, which may lack ``input``."""
        jobs = [Job(f"{uuid.uuid4()}-u1", body) for body in bodies]
        self.jobs.update((job.id, job) for job in jobs)
        self._queue.extend(jobs)
        return [job.id for job in jobs]

    def stop_jobs(self, *job_ids: str) -> None:
        """Tell their workers to stop these jobs, as a cancellation or a time-out does."""
        for job_id in job_ids:
            self._to_stop[self.jobs[job_id].pods[-1]].append(job_id)

    def stopped(self, *job_ids: str) -> bool:
        """Say whether their workers have been told to stop these jobs, and have asked again."""
        return all(self.jobs[job_id].stopped for job_id in job_ids)

    def fail(self, operation: str, *faults: Fault) -> None:
        """Have the next requests of an operation, such as ``job-take``, get these instead."""
        self._faults[operation].extend(faults)

    def drain(self) -> None:
        """Hand out no further job, and end every long poll at once."""
        self._draining = True

    def answer(self, job_id: str) -> Mapping[str, Any] | None:
        """Return what a worker posted for a job: ``output`` or ``error``, and ``stopPod``."""
        return self.jobs[job_id].answer

    def all_answered(self, job_ids: Iterable[str]) -> bool:
        """Say whether workers have answered all these jobs."""
        return all(self.answer(job_id) is not None for job_id in job_ids)

    def forget(self) -> None:
        """Begin anew, with the workers that are there: no jobs, no faults, no records."""
        self._forgotten.update(self.jobs)
        for held in (self.jobs, self._queue, self._faults, self._to_stop, self._told):
            held.clear()
        self.answered.clear()
        self.answers_allowed = None

    def has_seen(self, *pods: str) -> bool:
        """Say whether all these workers have begun to ask or to ping."""
        return all(pod in self._seen for pod in pods)

    @property
    def answered_by(self) -> Counter[str]:
        """Count the answers of each pod."""
        return Counter(self.jobs[job_id].pods[-1] for job_id in self.answered)

    # The server.

    def make_app(self) -> web.Application:
        app = web.Application(middlewares=[self.gate], client_max_size=64 * 1024**2)
        app.router.add_get("/worker/job-take/{pod}", self._take)
        app.router.add_get("/worker/job-take-batch/{pod}", self._take)
        app.router.add_get("/worker/job-stop/{pod}", self._stop_poll)
        app.router.add_post("/worker/job-done/{pod}/{job}", self._done)
        app.router.add_get("/worker/ping/{pod}", self._ping)
        return app

    async def stop(self) -> None:
        self.drain()

    @web.middleware
    async def gate(self, request: web.Request, handler: Any) -> web.StreamResponse:
        """Check who asks, and let a fault step in."""
        operation = request.path.split("/")[2].removesuffix("-batch")
        if request.headers.get("Authorization") != WORKER_KEY:
            self.problems.append(f"{request.path}: wrong Authorization")
        if request.match_info.get("pod") not in self._pods:
            self.problems.append(f"{request.path}: wrong worker")
        if not self._faults[operation]:
            response: web.StreamResponse = await handler(request)
            return response
        fault = self._faults[operation].popleft()
        job = self.jobs.get(request.match_info.get("job", ""))
        if job is not None:
            job.refused = True
        if fault.lose:
            await handler(request)
            if job is not None:
                job.lost = True
        return hang_up(request) if fault.lose or fault.reset else web.Response(status=fault.status)

    async def _poll(self, request: web.Request, ready: Callable[[], bool]) -> bool:
        """Hold a long poll until there is something to say; say whether there is."""
        until = self._loop.time() + POLL_SECONDS
        while not self._draining and not hung_up(request) and self._loop.time() < until:
            self._seen[request.match_info["pod"]] = time.monotonic()
            if ready():
                return True
            self._put_back()
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)  # the SDK asks again without a pause
        return False

    def _put_back(self) -> None:
        """Put jobs of workers that have fallen silent at the head of the queue."""
        before = time.monotonic() - self._silent_seconds
        for job in list(self.jobs.values()):
            if job.status == "IN_PROGRESS" and job.pods and self._seen[job.pods[-1]] < before:
                job.status = "IN_QUEUE"
                self._queue.appendleft(job)

    def _has_jobs(self) -> bool:
        enough = self.answers_allowed is not None and len(self.answered) >= self.answers_allowed
        return bool(self._queue) and not enough

    async def _take(self, request: web.Request) -> web.Response:
        pod = request.match_info["pod"]
        batch = "/job-take-batch/" in request.path
        size = int(request.query.get("batch_size", "1"))
        if request.query.get("job_in_progress") not in ("0", "1"):
            self.problems.append("job-take: no job_in_progress")
        if batch != (size > 1):
            self.problems.append("job-take: batch_size does not fit the path")
        self.takes += 1
        taken: list[Job] = []
        if await self._poll(request, self._has_jobs):
            while self._queue and len(taken) < size:
                job = self._queue.popleft()
                if job.status == "IN_QUEUE":  # and not cancelled meanwhile
                    job.status = "IN_PROGRESS"
                    job.pods.append(pod)
                    taken.append(job)
        if not taken:
            return web.Response(status=204)
        messages = [job.message() for job in taken]
        return web.json_response(messages if batch else messages[0])

    async def _stop_poll(self, request: web.Request) -> web.Response:
        pod = request.match_info["pod"]
        # It asks again once it has stopped those that it was told before.
        for job_id in self._told.pop(pod, []):
            if job_id in self.jobs:
                self.jobs[job_id].stopped = True
        if not await self._poll(request, lambda: bool(self._to_stop[pod])):
            return web.Response(status=204)
        self._told[pod] = self._to_stop.pop(pod)
        return web.json_response({"jobsToStop": self._told[pod]})

    async def _ping(self, request: web.Request) -> web.Response:
        self._seen[request.match_info["pod"]] = time.monotonic()
        self.pings.append(dict(request.query))
        return web.Response(text="pong")

    async def _done(self, request: web.Request) -> web.Response:
        pod = request.match_info["pod"]
        if pod in self.kill_at_answer:
            # As late as can be: the work is done, and its answer is lost.
            os.killpg(self.kill_at_answer.pop(pod), signal.SIGKILL)
            return web.Response(status=500)
        if request.match_info["job"] not in self._forgotten:
            self._record(request, await request.read())
        return web.Response(text="ok")

    def _record(self, request: web.Request, body: bytes) -> None:
        job_id = request.match_info["job"]
        job = self.jobs.get(job_id)

        def problem(what: str) -> None:
            self.problems.append(f"{job_id}: {what}")

        if request.content_type != RESULT_TYPE:
            problem(f"content type {request.content_type}")
        # The SDK keeps this header on a session that all jobs share: a second try sends whichever
        # came last. The URL is right.
        retried = job is not None and job.refused
        if request.headers.get("X-Request-ID") != job_id and not retried:
            problem("X-Request-ID names another job")
        if request.query.get("isStream") != "false":
            problem("isStream is not false")
        if job is None or not job.pods:
            problem("answered, but never handed out")
            return
        if job.stopped:
            problem("answered after it was stopped")
        try:
            answer = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
        except ValueError as exc:
            problem(f"{type(exc).__name__} in the answer")
            answer = {}
        if not isinstance(answer, Mapping) or not ({"output", "error"} & answer.keys()):
            problem("neither output nor error in the answer")
            answer = {}
        if job.lost and answer == job.answer:
            job.lost = False  # the same again, as it has to be
            return
        if job.answer is not None and len(job.pods) == 1:
            problem("answered twice")
        self.answered.append(job_id)
        job.answer = answer
        job.finish(answer)


def hang_up(request: web.Request) -> web.Response:
    """Break the connection off; what is returned reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response()


def hung_up(request: web.Request) -> bool:
    """Say whether there is no longer a connection to answer on."""
    return request.transport is None or request.transport.is_closing()


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
