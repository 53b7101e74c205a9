"""Asynchronous jobs: accept them, run them, answer callers, delete old results.

A job is stored before its id is returned, and its result before anyone sees it. The process can die
at any moment: accepted jobs run later, here or on another server, and finished ones keep their
result.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hmac
import json
import logging
import secrets
from collections import defaultdict
from collections.abc import Collection, Coroutine, Iterable
from typing import TYPE_CHECKING, Any, Final, Literal

from hatespeech.contract import parse_request, readable
from hatespeech.errors import (
    InternalError,
    ServiceError,
    UnhealthyError,
    ValidationError,
    describe_exception,
)
from hatespeech.serving.guards.auth import Caller
from hatespeech.serving.http_errors import NotFoundError, UnfinishedError
from hatespeech.serving.jobs.store import (
    JobResult,
    JobStatus,
    Lease,
    NewJob,
    Store,
    StoredJob,
    StoreError,
)
from hatespeech.serving.jobs.submission import Submission
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import ServerSettings, read_webhook_secret

if TYPE_CHECKING:
    from hatespeech.serving.jobs.webhooks import Webhooks

log = logging.getLogger(__name__)

SWEEP_SECONDS: Final = 10.0
DRAIN_SECONDS: Final = 20.0  # for running jobs when the server is told to stop
RETRY_SECONDS: Final = 1.0  # before the next try to reach the store after one that failed
TAKEN_AT_ONCE: Final = 32
# Of the inputs of all jobs that run. With its values and its output, a job takes several times as
# much memory.
RUNNING_BYTES: Final = 64 * 1024 * 1024


class JobRunner:
    """Runs jobs from the store on the model, at most ``MAX_CONCURRENCY`` at a time."""

    def __init__(
        self, store: Store, model: ServedModel, metrics: Metrics, settings: ServerSettings
    ) -> None:
        self._store = store
        self._model = model
        self._metrics = metrics
        self._settings = settings
        self._shared = len(settings.tokens) > 1  # so that each must leave room for the others
        self._running: dict[str, tuple[Lease, asyncio.Task[None]]] = {}
        # For each caller that waits for a job: set when there may be something to tell.
        self._waiting: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._webhooks: Webhooks | None = None
        if settings.webhook_secret is not None:
            key = read_webhook_secret(settings.webhook_secret.get_secret_value())
            # Imported here, because its HTTP client takes a third of a second.
            from hatespeech.serving.jobs.webhooks import Webhooks

            self._webhooks = Webhooks(store, key, settings.webhook_targets)
        self._work = asyncio.Event()
        self._stopping = asyncio.Event()
        self._feeder: asyncio.Task[None] | None = None
        self._watchers: list[asyncio.Task[None]] = []
        self.unfinished = 0  # jobs that waited or ran at the last count

    @property
    def state(self) -> Literal["ready", "full", "unavailable"]:
        """Whether jobs can be stored, or the kind of what is in the way."""
        if self._store.trouble is None:
            return "ready"
        return "full" if self._store.full else "unavailable"

    def start(self) -> None:
        """Start to run jobs, those of the last process first, once the model is loaded."""
        self._feeder = asyncio.create_task(self._feed())
        watches = [self._begin(), self._sweep(), self._wake_all_if_broken()]
        if self._webhooks is not None:
            watches.append(self._webhooks.run())
        self._watchers = [asyncio.create_task(each) for each in watches]

    def drain(self) -> None:
        """Stop starting jobs, and answer the callers that wait for a job that has not started."""
        self._stopping.set()
        self._work.set()
        for job_id in self._waiting:
            if job_id not in self._running:
                self._wake(job_id)

    async def close(self) -> None:
        """Wait up to ``DRAIN_SECONDS`` for running jobs; leave the rest to the next process."""
        self.drain()
        for task in self._watchers:
            task.cancel()
        await asyncio.gather(*self._watchers, return_exceptions=True)
        if self._feeder is not None:
            # Not cancelled: it may just have taken jobs, which would then be lost.
            await asyncio.gather(self._feeder, return_exceptions=True)
        if self._running:
            tasks = [task for _, task in self._running.values()]
            await asyncio.wait(tasks, timeout=DRAIN_SECONDS)
        left = list(self._running.values())
        for _, task in left:
            task.cancel()
        await asyncio.gather(*(task for _, task in left), return_exceptions=True)
        await self._put_back((lease for lease, _ in left), blameless=True)

    def work_arrived(self) -> None:
        """Look for jobs: another server has some, or put some back."""
        self._work.set()

    def job_ended(self, job_id: str) -> None:
        """Stop to run a job that was cancelled, or that another server answered or took over."""
        if job_id in self._running:
            self._running[job_id][1].cancel()
        self._wake(job_id)

    def awaited(self) -> Collection[str]:
        """Return the ids of the jobs whose end callers wait for."""
        return list(self._waiting)

    async def submit(
        self,
        caller: Caller,
        submission: Submission,
        *,
        prefix: str = "",
        retry_key: str | None = None,
    ) -> str:
        """Accept a job; return its id, or that of the job first sent with this retry key.

        An invalid input makes a job that has already failed, and is not stored. Raises the errors
        of :meth:`Store.add` and :meth:`ServedModel.require_ready`.
        """
        self._model.require_ready()
        kept = refusal = code = None
        try:
            parse_request(submission.input, self._settings)
        except ServiceError as exc:
            refusal, code = str(exc), exc.code
        else:
            # Not escaped, which takes up to three times the room.
            kept = readable(json.dumps(submission.input, allow_nan=False, ensure_ascii=False))
        key = body = None
        if retry_key is not None:
            # Keyed with the token, which is not stored: a plain hash of a short text can be
            # guessed.
            key = self._keyed(caller, f"key {retry_key}")
            body = self._keyed(caller, f"body {comparable(submission)}")
        job = NewJob(
            prefix + secrets.token_hex(16),
            self.owner(caller),
            kept,
            refusal,
            key,
            body,
            ttl=submission.ttl,
            run_limit=submission.run_limit,
            webhook=submission.webhook,
        )
        job_id = await self._store.add(job, self._settings.max_queue_jobs, shared=self._shared)
        self._metrics.recorder.submitted(job_id)
        self._work.set()
        if code is not None:
            self._never_ran(job_id, code)
            self._wake(job_id)
        return job_id

    async def wait(self, job_id: str, owner: bytes, seconds: float) -> StoredJob:
        """Return a job once it is finished, or in its current state when the time is up.

        Raises :class:`UnhealthyError` if the device fails before that.
        """
        done = asyncio.Event()
        self._waiting[job_id].add(done)
        try:
            job = await self.get(job_id, owner)
            if job.finished is not None or (
                self._stopping.is_set() and job_id not in self._running
            ):
                return job
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    while job.finished is None:
                        await done.wait()
                        done.clear()
                        if self._stopping.is_set() or self._model.state == "broken":
                            break
                        job = await self.get(job_id, owner)
            if self._model.state == "broken":
                self._model.require_ready()  # raises
            return await self.get(job_id, owner)
        finally:
            self._waiting[job_id].discard(done)
            if not self._waiting[job_id]:
                del self._waiting[job_id]

    async def get(self, job_id: str, owner: bytes) -> StoredJob:
        """Return a job; raise :class:`NotFoundError` if this owner does not have it."""
        job = await self._store.get(job_id, owner)
        if job is None:
            raise NotFoundError("this job does not exist or has expired", field="id")
        return job

    async def cancel(self, job_id: str, owner: bytes) -> StoredJob:
        """Cancel a job unless it is finished; return it in its new state."""
        await self.get(job_id, owner)
        await self._store.cancel(job_id)
        self.job_ended(job_id)
        return await self.get(job_id, owner)

    async def purge(self, owner: bytes) -> int:
        """Cancel this owner's jobs that wait; return how many there were."""
        purged = await self._store.purge(owner)
        for job_id in purged:
            self._wake(job_id)
        return len(purged)

    async def retry(self, job_id: str, owner: bytes) -> StoredJob:
        """Queue a job anew that failed or timed out; return it in its new state.

        Raises :class:`ValidationError` for any other, and the errors of :meth:`Store.retry`.
        """
        await self.get(job_id, owner)
        if not await self._store.retry(
            job_id, owner, self._settings.max_queue_jobs, shared=self._shared
        ):
            raise ValidationError(
                "only a job that timed out, or that failed without its input being to blame, can "
                "be retried",
                field="id",
            )
        self._work.set()
        return await self.get(job_id, owner)

    async def count(self, owner: bytes) -> dict[JobStatus, int]:
        """Return the number of this owner's jobs of each status."""
        return await self._store.count(owner)

    async def count_unfinished(self) -> None:
        """Count the jobs of all that wait or run; raise :class:`StoreError` if that fails."""
        counts = await self._store.count()
        self.unfinished = counts.get("IN_QUEUE", 0) + counts.get("IN_PROGRESS", 0)

    def owner(self, caller: Caller) -> bytes:
        """Return the keyed hash that stands for a caller in the store."""
        return self._keyed(caller, "owner")

    def _keyed(self, caller: Caller, value: str) -> bytes:
        return hmac.digest(self._store.salt + caller.token, value.encode(), "sha256")

    async def _begin(self) -> None:
        await self._model.settled.wait()
        self._work.set()

    async def _feed(self) -> None:
        while not self._stopping.is_set() and self._model.state != "broken":
            await self._work.wait()  # for the model, a job, room for one, or the stop
            self._work.clear()
            running = self._running.values()
            room = min(self._settings.max_concurrency - len(running), TAKEN_AT_ONCE)
            alone = any(lease.suspect for lease, _ in running)  # a suspect runs by itself
            if room <= 0 or alone or not self._may_start():
                continue
            try:
                left = RUNNING_BYTES - sum(lease.size for lease, _ in running)
                taken = await self._store.take(room, idle=not running, size=left)
            except StoreError:  # the store has logged why
                await asyncio.sleep(RETRY_SECONDS)
                taken = []
                self._work.set()
            if not self._may_start():  # it may have changed meanwhile
                await self._put_back((lease for lease, _ in taken), blameless=True)
                continue
            for lease, text in taken:
                run = self._follow(lease, self._run(lease, text))
                self._running[lease.id] = lease, asyncio.create_task(run)
            if len(taken) == room:
                self._work.set()
            taken = []  # the next job may be long in coming, and these texts can be large
            text = ""

    def _may_start(self) -> bool:
        return self._model.state == "ready" and not self._stopping.is_set()

    async def _put_back(self, leases: Iterable[Lease], *, blameless: bool) -> None:
        """Return jobs to the queue; if that fails, the store does it and counts an attempt."""
        for lease in leases:
            try:
                await self._store.put_back(lease, blameless=blameless)
            except StoreError as exc:
                log.error("JOBS_DB: a job could not be put back: %s", exc)

    async def _follow(self, lease: Lease, run: Coroutine[Any, Any, None]) -> None:
        """Have a job counted while it runs. It logs its end itself, unless it is cancelled."""
        with self._metrics.recorder.account(job_id=lease.id):
            try:
                await run
            except asyncio.CancelledError:
                self._metrics.recorder.job_ended(lease.id, "stopped")
                raise

    async def _run(self, lease: Lease, text: str) -> None:
        limit = asyncio.timeout(lease.seconds)
        try:
            body = json.loads(text)
            del text  # it can be large
            owner = f"owner {lease.owner.hex()}"
            async with limit:
                reply = await self._model.score(body, wait_for_room=True, caller=owner)
            output = json.dumps(reply.to_dict(), ensure_ascii=False, allow_nan=False)
            self._metrics.recorder.job_ended(lease.id, "finished")
            await self._finish(lease, JobResult("COMPLETED", output))
        except UnhealthyError:
            # For the process that replaces this one, unless this job is what keeps breaking it.
            self._metrics.recorder.job_ended(lease.id, "returned")
            await self._put_back([lease], blameless=False)
        except ServiceError as exc:
            await self._end(lease, "FAILED", exc)
        except Exception as exc:
            if limit.expired():
                error = UnfinishedError("the job ran longer than its policy allows")
                await self._end(lease, "TIMED_OUT", error)
            else:
                log.error("a job failed: %s", describe_exception(exc))
                await self._end(lease, "FAILED", InternalError("the job could not be scored"))
        finally:
            if self._running.get(lease.id, (None, None))[1] == asyncio.current_task():
                del self._running[lease.id]  # it was not taken anew
            self._wake(lease.id)
            self._work.set()

    async def _end(self, lease: Lease, status: JobStatus, error: ServiceError) -> None:
        self._metrics.recorder.job_ended(lease.id, "failed", error.code)
        # The same input would fail again if it is to blame; else it can be retried.
        result = JobResult(status, error=str(error), keep_input=not error.blames_input)
        await self._finish(lease, result)

    async def _finish(self, lease: Lease, result: JobResult) -> None:
        """Write a result, and try again as long as that fails: a job must not run twice."""
        while True:
            try:
                await self._store.finish(lease, result)
                return
            except StoreError:
                await asyncio.sleep(RETRY_SECONDS)

    def _never_ran(self, job_id: str, code: str) -> None:
        """Count a job that failed before it ran."""
        with self._metrics.recorder.account(job_id=job_id):
            self._metrics.recorder.job_ended(job_id, "failed", code)

    def _wake(self, job_id: str) -> None:
        for done in self._waiting.get(job_id, ()):
            done.set()
        if self._webhooks is not None:
            self._webhooks.job_ended()

    async def _wake_all_if_broken(self) -> None:
        await self._model.broken.wait()
        for job_id in self._waiting:
            self._wake(job_id)

    async def _sweep(self) -> None:
        while True:
            with contextlib.suppress(StoreError):  # the next round tries again
                for job_id in await self._store.expire():
                    self._never_ran(job_id, UnfinishedError.code)
                    self._wake(job_id)
            await asyncio.sleep(min(SWEEP_SECONDS, self._settings.job_ttl))


def comparable(submission: Submission) -> str:
    """Return what must be the same if a submission is sent again; raises for deep nesting."""
    try:
        text = json.dumps(submission.input, allow_nan=False)
    except RecursionError:
        raise ValidationError("is nested too deeply", field="input") from None
    beside = dataclasses.replace(submission, input=None)
    return text if beside == Submission(None) else text + json.dumps(dataclasses.astuple(beside))
