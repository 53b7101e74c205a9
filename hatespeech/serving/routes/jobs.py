"""Asynchronous jobs, in Runpod's format: its clients and the SingularityNET daemon work unchanged.

Every route also exists below ``/v2/{endpoint_id}``, where Runpod's clients expect it.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from hatespeech.errors import OverloadedError, UnhealthyError, ValidationError
from hatespeech.serving.guards.auth import caller_of
from hatespeech.serving.http_errors import UnauthorizedError, UnfinishedError, error_response
from hatespeech.serving.jobs import scores_or_error
from hatespeech.serving.jobs.runner import JobRunner
from hatespeech.serving.jobs.store import StoredJob
from hatespeech.serving.jobs.submission import read_submission, submission_schema
from hatespeech.serving.openapi import (
    EXAMPLE_TEXT,
    JOB,
    SCORING,
    WAITING,
    JobReply,
    PurgeReply,
    StreamReply,
    errors,
    json_body,
)
from hatespeech.serving.reading import read_json, read_query, read_whole_number, until_gone
from hatespeech.serving.settings import ServerSettings

MIN_WAIT_MS: Final = 1000
MAX_WAIT_MS: Final = 300_000
DEFAULT_WAIT_MS: Final = 90_000
# Runpod's Python client gives up after 10 s, and its JavaScript client asks again immediately.
STREAM_WAIT_MS: Final = 5000

Route = Callable[[Request], Awaitable[Response]]

# Characters that a header can hold; enough for a UUID, a hash or a name.
_RETRY_KEY: Final = re.compile(r"[!-~]{1,255}")

JOB_ID: Final = {
    "in": "path",
    "name": "job_id",
    "description": "As `/run` returned it.",
    "required": True,
    "schema": {"type": "string"},
}
RETRY_KEY: Final[dict[str, Any]] = {
    "in": "header",
    "name": "Idempotency-Key",
    "description": "Makes a retry safe: the same key and body give the same id.",
    "schema": {"type": "string", "pattern": "^[!-~]{1,255}$"},
}


def wait_parameter(default: int) -> dict[str, Any]:
    """Describe ``wait``."""
    limits = {"minimum": MIN_WAIT_MS, "maximum": MAX_WAIT_MS, "default": default}
    return {
        "in": "query",
        "name": "wait",
        "description": "Milliseconds to wait for the result.",
        "schema": {"type": "integer", **limits},
    }


WAIT: Final = wait_parameter(DEFAULT_WAIT_MS)
STREAM_WAIT: Final = wait_parameter(STREAM_WAIT_MS)
SCORES_OR_ERROR: Final[dict[str, Any]] = {
    "in": "header",
    "name": scores_or_error.HEADER,
    "description": "Makes every reply without scores an error: a job that failed has its error's "
    "status, one that is not finished 504, and a reply of more bytes than this, as the message of "
    "service.proto, 413.",
    "schema": {"type": "integer", "minimum": 1, "maximum": scores_or_error.MAX_BYTES},
}
WAITED: Final = JOB | errors(ValidationError, UnhealthyError)
RETRYING: Final = JOB | errors(ValidationError, OverloadedError, UnhealthyError)
EXAMPLES: Final[dict[str, Any]] = {
    "one": {"input": {"prompt": EXAMPLE_TEXT}},
    "many": {"input": {"prompts": ["a", "b"]}},
}


def job_routes(settings: ServerSettings) -> APIRouter:
    """Return ``/run``, ``/runsync``, ``/status``, ``/cancel`` and what else Runpod's clients call.

    Its Go client asks for a status by POST.
    """
    router = APIRouter(tags=["jobs"])
    body = json_body(submission_schema(settings), EXAMPLES)

    @router.post(
        "/run",
        operation_id="run",
        summary="Submit a job",
        openapi_extra={**body, "parameters": [RETRY_KEY]},
        responses={200: {"model": JobReply}, **SCORING},
    )
    async def run(request: Request) -> Response:
        """Returns an id immediately; get the result from `/status/{job_id}`.

        An accepted job survives a restart. An invalid input makes a job that fails.
        """
        read_query(request, ())
        key = read_retry_key(request)
        submission = read_submission(await read_json(request), settings)
        await request.app.state.rates.charge(caller_of(request), submission.input)
        job_id = await jobs_of(request).submit(caller_of(request), submission, retry_key=key)
        return JSONResponse({"id": job_id, "status": "IN_QUEUE"})

    @router.post(
        "/runsync",
        operation_id="runsync",
        summary="Submit a job and wait for it",
        openapi_extra={**body, "parameters": [WAIT, SCORES_OR_ERROR]},
        responses={200: {"model": JobReply}, **WAITING},
    )
    async def runsync(request: Request) -> Response:
        """Returns the job once it is finished, or as it is when the wait is over."""
        milliseconds, limit = read_wait(request), scores_or_error.read_limit(request.headers)
        submission = read_submission(await read_json(request), settings)
        await request.app.state.rates.charge(caller_of(request), submission.input)
        jobs, owner = jobs_of(request), owner_of(request)
        job_id = await jobs.submit(caller_of(request), submission, prefix="sync-")
        try:
            job = await until_gone(request, jobs.wait(job_id, owner, milliseconds / 1000))
        except ClientDisconnect:
            await jobs.cancel(job_id, owner)  # the caller does not know its id
            raise
        return job_response(job) if limit is None else await paid_response(request, job, limit)

    def get_and_post(path: str, name: str, **about: Any) -> Callable[[Route], Route]:
        def add(route: Route) -> Route:
            router.get(path, operation_id=name, **about)(route)
            router.post(path, operation_id=f"{name}_post", **about)(route)
            return route

        return add

    @get_and_post(
        "/status/{job_id}",
        "status",
        summary="Get a job's result",
        openapi_extra={"parameters": [JOB_ID]},
        responses={200: {"model": JobReply}, **JOB},
    )
    async def status(request: Request) -> Response:
        """Only the token that made a job can read it, until its result expires."""
        job_id = request.path_params["job_id"]
        return job_response(await jobs_of(request).get(job_id, owner_of(request)))

    @get_and_post(
        "/status-sync/{job_id}",
        "status_sync",
        summary="Wait for a job's result",
        openapi_extra={"parameters": [JOB_ID, WAIT]},
        responses={200: {"model": JobReply}, **WAITED},
    )
    async def status_sync(request: Request) -> Response:
        """Returns the job once it is finished, or as it is when the wait is over."""
        return job_response(await waited(request, read_wait(request)))

    @get_and_post(
        "/stream/{job_id}",
        "stream",
        summary="Wait for a job's end",
        openapi_extra={"parameters": [JOB_ID, STREAM_WAIT]},
        responses={200: {"model": StreamReply}, **WAITED},
    )
    async def stream(request: Request) -> Response:
        """A job here has no partial results, so `stream` is always empty: get `/status`."""
        job = await waited(request, read_wait(request, STREAM_WAIT_MS))
        return JSONResponse({"status": job.status, "stream": []})

    @router.post(
        "/retry/{job_id}",
        operation_id="retry",
        summary="Run a job again",
        openapi_extra={"parameters": [JOB_ID]},
        responses={200: {"model": JobReply}, **RETRYING},
    )
    async def retry(request: Request) -> Response:
        """Only a job that timed out, or that failed without its input being to blame."""
        job_id = request.path_params["job_id"]
        return job_response(await jobs_of(request).retry(job_id, owner_of(request)))

    @router.post(
        "/purge-queue",
        operation_id="purge_queue",
        summary="Cancel the jobs that wait",
        responses={200: {"model": PurgeReply}, **errors(UnhealthyError)},
    )
    async def purge_queue(request: Request) -> Response:
        """Only those of the same token. Jobs that run already go on."""
        if not caller_of(request).token:
            raise UnauthorizedError("this server can't tell whose jobs are whose without tokens")
        removed = await jobs_of(request).purge(owner_of(request))
        return JSONResponse({"removed": removed, "status": "completed"})

    @router.post(
        "/cancel/{job_id}",
        operation_id="cancel",
        summary="Cancel a job",
        openapi_extra={"parameters": [JOB_ID]},
        responses={200: {"model": JobReply}, **JOB},
    )
    async def cancel(request: Request) -> Response:
        """Returns the job. A job that is already finished stays as it is."""
        job_id = request.path_params["job_id"]
        return job_response(await jobs_of(request).cancel(job_id, owner_of(request)))

    return router


def endpoint_routes(jobs: APIRouter) -> APIRouter:
    """Return what Runpod's clients expect below an endpoint's id: jobs and ``/health``."""
    router = APIRouter()

    @router.get("/health")
    async def endpoint_health(request: Request) -> Response:
        # Runpod's endpoint has one owner. Here each token has its own jobs, and sees them alone.
        counts = await jobs_of(request).count(owner_of(request))
        state = request.app.state.model.state
        ready, running = state == "ready", counts.get("IN_PROGRESS", 0) > 0
        return JSONResponse(
            {
                "jobs": {
                    "completed": counts.get("COMPLETED", 0),
                    "failed": counts.get("FAILED", 0) + counts.get("TIMED_OUT", 0),
                    "cancelled": counts.get("CANCELLED", 0),
                    "inProgress": counts.get("IN_PROGRESS", 0),
                    "inQueue": counts.get("IN_QUEUE", 0),
                    "retried": 0,
                },
                # This server is the only worker that it knows. While it runs the jobs of other
                # tokens alone, it counts as idle.
                "workers": {
                    "idle": int(ready and not running),
                    "initializing": int(state == "loading"),
                    "ready": int(ready),
                    "running": int(ready and running),
                    "throttled": 0,
                    "unhealthy": int(state == "broken"),
                },
            }
        )

    router.include_router(jobs)
    return router


def jobs_of(request: Request) -> JobRunner:
    """Return the application's jobs."""
    jobs: JobRunner = request.app.state.jobs
    return jobs


def owner_of(request: Request) -> bytes:
    """Return the hash that stands for the caller in the file of jobs."""
    return jobs_of(request).owner(caller_of(request))


def read_retry_key(request: Request) -> str | None:
    """Return the header ``Idempotency-Key``, if there is one."""
    key = request.headers.get("idempotency-key")
    if key is not None and not _RETRY_KEY.fullmatch(key):
        raise ValidationError("must be 1 to 255 visible ASCII characters", field="Idempotency-Key")
    return key


async def waited(request: Request, milliseconds: int) -> StoredJob:
    """Return the job of the path once it is finished, or as it is when the wait is over."""
    job_id = request.path_params["job_id"]
    wait = jobs_of(request).wait(job_id, owner_of(request), milliseconds / 1000)
    return await until_gone(request, wait)


def read_wait(request: Request, default: int = DEFAULT_WAIT_MS) -> int:
    """Return how many milliseconds the caller wants to wait."""
    value = read_query(request, ("wait",)).get("wait", str(default))
    return read_whole_number(value, "wait", MIN_WAIT_MS, MAX_WAIT_MS)


def job_response(job: StoredJob) -> Response:
    """Return a job in Runpod's format."""
    return Response(job.to_json(), media_type="application/json")


async def paid_response(request: Request, job: StoredJob, limit: int) -> Response:
    """Return a job that has scores, or else its error: the caller pays for every 2xx."""
    response = job_response(job)
    error = await asyncio.to_thread(scores_or_error.refusal, job, bytes(response.body), limit)
    if error is None:
        return response
    refusal = error_response(request.scope, error, job_id=job.id)
    unfinished = isinstance(error, UnfinishedError) and job.status != "TIMED_OUT"
    if not unfinished and error.field != scores_or_error.REPLY:
        del request.scope["state"]["error_type"]  # the metrics have counted it with the job
    return refusal
