"""What every store of jobs promises, and what passes in and out of one."""

from __future__ import annotations

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol

from hatespeech.errors import OverloadedError, ValidationError

# A job that was running this many times when its server died is not tried again.
MAX_ATTEMPTS: Final = 3
GIVEN_UP: Final = f"internal: the service died {MAX_ATTEMPTS} times while this job ran"
WAITED_TOO_LONG: Final = "unfinished: the job waited longer than its policy's ttl allows"

JobStatus = Literal["IN_QUEUE", "IN_PROGRESS", "COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"]


class StoreError(Exception):
    """The store can't read or write now. The message says why, and is fit for a log."""


@dataclass(frozen=True)
class NewJob:
    """A job to accept; its input is ``None`` if it has already failed."""

    id: str
    owner: bytes
    input: str | None
    error: str | None = None  # why it has already failed
    retry_key: bytes | None = None
    retry_body: bytes | None = None
    ttl: float | None = None  # seconds after which it must be answered
    run_limit: float | None = None  # seconds for which it may run
    webhook: str | None = None  # the URL to tell when it has ended


@dataclass(frozen=True)
class Lease:
    """The right to answer a job, from one attempt to run it. A later attempt ends it."""

    id: str
    attempt: int  # from 1
    owner: bytes = field(compare=False, repr=False)
    # For which it may run, ``None`` without a limit.
    seconds: float | None = field(default=None, compare=False)
    size: int = field(default=0, compare=False)  # characters of its input

    @property
    def suspect(self) -> bool:
        """Whether the job was running when its server died, so that it may be the cause."""
        return self.attempt > 1


@dataclass(frozen=True)
class JobResult:
    """The result of a job that ran; ``output`` is JSON text."""

    status: JobStatus
    output: str | None = None
    error: str | None = None
    keep_input: bool = False  # which :meth:`Store.retry` needs


@dataclass(frozen=True)
class StoredJob:
    """A job in its current state; ``output`` is JSON text, times are seconds since the epoch."""

    id: str
    status: JobStatus
    output: str | None
    error: str | None
    created: float
    started: float | None
    finished: float | None  # ``None`` as long as it waits or runs

    def to_json(self) -> str:
        """Return the job in Runpod's format, its output spliced in as it is stored."""
        head: dict[str, Any] = {}
        if self.started is not None and self.finished is not None:
            head["delayTime"] = round((self.started - self.created) * 1e3)
            head["executionTime"] = round((self.finished - self.started) * 1e3)
        head |= {"id": self.id, "status": self.status}
        if self.error is not None:
            head["error"] = self.error
        text = json.dumps(head)
        return text if self.output is None else f'{text[:-1]}, "output": {self.output}}}'


@dataclass(frozen=True)
class Delivery:
    """A job that has ended, and the URL to tell."""

    job: StoredJob
    owner: bytes
    url: str
    tries: int  # with this one


def require_room(waiting: int, own: int, max_queued: int) -> None:
    """Raise :class:`OverloadedError` unless one more job may wait.

    Of the jobs that wait, ``own`` are of the same owner; 0 if it shares the room with none. An
    owner whose jobs wait already gets more room only if it leaves as much for others as it has
    then. So one of them alone fills half of the room, and two fill two thirds.
    """
    if waiting >= max_queued:
        raise OverloadedError(f"{waiting} jobs are already waiting; try again")
    if own and own + 1 > max_queued - waiting - 1:
        raise OverloadedError(
            f"{own} jobs of this token are already waiting, and the room that is left is for the "
            "jobs of other tokens; try again"
        )


def require_same_body(job: NewJob, sent: bytes | None) -> None:
    """Raise :class:`ValidationError` if the retry key of a job came with another body before."""
    if sent != job.retry_body:
        raise ValidationError("was sent before with a different body", field="Idempotency-Key")


class Listener(Protocol):
    """Who runs the jobs of a store, and is told what other servers do to them."""

    def work_arrived(self) -> None:
        """Some jobs may wait."""

    def job_ended(self, job_id: str) -> None:
        """Another server answered or cancelled this job, or runs it now."""

    def awaited(self) -> Collection[str]:
        """Return the ids of the jobs whose end callers wait for."""


class Store(ABC):
    """Jobs and their results. A method succeeds completely or not at all; then its changes last.

    Call the methods from one event loop. All except ``close`` raise :class:`StoreError` while the
    store can't do its work.
    """

    @property
    @abstractmethod
    def salt(self) -> bytes:
        """A random value that is the same for all servers of this store."""

    @property
    @abstractmethod
    def trouble(self) -> str | None:
        """Why jobs can't be stored now; ``None`` if they can, as far as is known."""

    @property
    @abstractmethod
    def full(self) -> bool:
        """Whether jobs can't be stored because a disk is full."""

    @abstractmethod
    async def start(self, listener: Listener) -> None:
        """Start what goes on in the background."""

    @abstractmethod
    async def close(self) -> None:
        """Finish what goes on and let go of the store."""

    @abstractmethod
    async def add(self, job: NewJob, max_queued: int, *, shared: bool = False) -> str:
        """Accept a job, or find the one that was accepted with its retry key; return the id.

        ``shared`` says whether others must have room, too. Raises the errors of
        :func:`require_room` and :func:`require_same_body`.
        """

    @abstractmethod
    async def take(
        self, count: int, *, idle: bool, size: float = math.inf
    ) -> list[tuple[Lease, str]]:
        """Start up to ``count`` waiting jobs; return their leases and inputs, in their turns.

        The next turn has the owner with the fewest jobs that run on this server; of several, the
        one whose last turn is the longest ago. Of its jobs the oldest is next. The time that this
        takes does not grow with what one owner has waiting.

        ``size`` is how many bytes the inputs may have together, roughly. The job that is next waits
        until it fits, but a server that is ``idle`` takes it in any case.
        Suspects come first, one at a time and only to a server that is ``idle``, so that only
        the job that is to blame runs out of attempts. Those with the fewest attempts come first.
        A job that has waited longer than its ``ttl`` is passed over.
        """

    @abstractmethod
    async def finish(self, lease: Lease, result: JobResult) -> None:
        """Finish a started job, unless the lease has ended.

        Its input is deleted unless the result keeps it.
        """

    @abstractmethod
    async def put_back(self, lease: Lease, *, blameless: bool) -> None:
        """Return a started job to its place in the queue, unless the lease has ended.

        If ``blameless``, it was interrupted on purpose and the attempt does not count.
        """

    @abstractmethod
    async def cancel(self, job_id: str) -> None:
        """Cancel a job, unless it is already finished; delete its input."""

    @abstractmethod
    async def purge(self, owner: bytes) -> Sequence[str]:
        """Cancel this owner's jobs that wait, and delete their inputs; return their ids."""

    @abstractmethod
    async def retry(
        self, job_id: str, owner: bytes, max_queued: int, *, shared: bool = False
    ) -> bool:
        """Queue a job of this owner anew that failed or timed out and still has its input.

        It is then as if it had just been accepted. Returns whether there is such a job. Raises
        the error of :func:`require_room`.
        """

    @abstractmethod
    async def get(self, job_id: str, owner: bytes) -> StoredJob | None:
        """Return this owner's job, or ``None`` if there is none or its result has expired."""

    @abstractmethod
    async def count(self, owner: bytes | None = None) -> dict[JobStatus, int]:
        """Return the number of jobs of each status: of this owner, or of all."""

    @abstractmethod
    async def expire(self) -> Sequence[str]:
        """Delete jobs whose result has expired, a few at a time.

        Jobs that have waited longer than their ``ttl`` become ``TIMED_OUT``; returns their ids.
        """

    @abstractmethod
    async def count_due(self, most: int) -> Mapping[bytes, int]:
        """Return how many webhooks of each owner are due, as far as ``most``.

        A webhook is due when its job has ended, until :meth:`end_delivery` says otherwise, or the
        job's result expires. The time that this takes does not grow with what one owner has.
        """

    @abstractmethod
    async def take_deliveries(self, owner: bytes, count: int, seconds: float) -> Sequence[Delivery]:
        """Return up to ``count`` webhooks of an owner that are due.

        For so many seconds they are then due to no other server.
        """

    @abstractmethod
    async def end_delivery(self, delivery: Delivery, again: float | None) -> None:
        """Have a webhook due again after so many seconds, or never if that is ``None``."""
