"""Jobs in a PostgreSQL database, for several servers.

A server that takes a job has a lease on it, and renews its leases as long as it lives. When one
runs out, the job goes back to the queue, and whatever the old server still says about it counts no
more. Every time is the database's: the clocks of servers may differ. Each statement is a
transaction of its own, so a pooler may stand between.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Final

from typing_extensions import override

from hatespeech.serving.jobs.postgres.link import Link
from hatespeech.serving.jobs.postgres.notices import CHANNEL, Notices
from hatespeech.serving.jobs.store import (
    GIVEN_UP,
    MAX_ATTEMPTS,
    WAITED_TOO_LONG,
    Delivery,
    JobResult,
    JobStatus,
    Lease,
    Listener,
    NewJob,
    Store,
    StoredJob,
    StoreError,
    require_room,
    require_same_body,
)
from hatespeech.serving.jobs.turns import Turns

LEASE_SECONDS: Final = 20.0
LOOK_SECONDS: Final = 2.0  # between two looks at the leases and at what others did
LARGEST_OUTPUT: Final = 50_000_000  # bytes, roughly
AT_ONCE: Final = 200  # rows that one statement deletes or returns to the queue

# How many jobs wait, and how many of the same owner if it shares the room; and whether there is
# room for one more, by the rule of :func:`require_room`.
_QUEUE: Final = """
waiting AS (
    SELECT count(*) AS jobs FROM (
        SELECT FROM hatespeech_jobs WHERE status = 'IN_QUEUE' LIMIT %(max_queued)s
    ) AS queue
), own AS (
    SELECT count(*) AS own_jobs FROM (
        SELECT FROM hatespeech_jobs
        WHERE %(shared)s AND status = 'IN_QUEUE' AND owner = %(owner)s LIMIT %(max_queued)s
    ) AS queue
), queue AS (
    SELECT jobs, own_jobs, jobs < %(max_queued)s
        AND (own_jobs = 0 OR own_jobs + 1 <= %(max_queued)s - jobs - 1) AS has_room
    FROM waiting, own
)
"""

_ADD: Final = f"""
WITH known AS (
    SELECT id, retry_body, expires <= now() AS expired FROM hatespeech_jobs
    WHERE owner = %(owner)s AND retry_key = %(retry_key)s::bytea
), {_QUEUE}, added AS (
    INSERT INTO hatespeech_jobs
        (id, owner, status, input, error, started, finished, expires, retry_key, retry_body,
        ttl, deadline, run_limit, webhook)
    SELECT %(id)s, %(owner)s, %(status)s::text, %(input)s::text, %(error)s::text, ended, ended,
        ended + %(kept)s * interval '1 second', %(retry_key)s::bytea, %(retry_body)s::bytea,
        %(ttl)s::float8, now() + %(ttl)s::float8 * interval '1 second', %(run_limit)s::float8,
        %(webhook)s::text
    FROM queue, (SELECT CASE WHEN %(error)s::text IS NOT NULL THEN now() END AS ended) AS times
    WHERE has_room AND NOT EXISTS (SELECT FROM known)
    ON CONFLICT (owner, retry_key) WHERE retry_key IS NOT NULL DO NOTHING
    RETURNING id
)
SELECT added.id, known.id, known.retry_body, known.expired, jobs, own_jobs
FROM queue LEFT JOIN added ON true LEFT JOIN known ON true
"""  # noqa: S608 - constants

_DELETE_EXPIRED_RETRY: Final = """
DELETE FROM hatespeech_jobs WHERE owner = %s AND retry_key = %s AND expires <= now()
"""

# How many jobs of each owner wait and have not run, as far as matters; and one row without an owner
# if there is a suspect. As in _COUNT_DUE, the time does not grow with what one owner has.
_FRESH: Final = "status = 'IN_QUEUE' AND attempts = 0"
_IN_TIME: Final = "(deadline IS NULL OR deadline > now())"
_COUNT_WAITING: Final = f"""
WITH RECURSIVE owners (owner) AS (
    (SELECT owner FROM hatespeech_jobs WHERE {_FRESH} ORDER BY attempts, owner, place LIMIT 1)
    UNION ALL
    SELECT (
        SELECT jobs.owner FROM hatespeech_jobs AS jobs
        WHERE {_FRESH} AND jobs.owner > owners.owner ORDER BY attempts, jobs.owner, place LIMIT 1
    ) FROM owners WHERE owner IS NOT NULL
)
SELECT owner, (
    SELECT count(*) FROM (
        SELECT FROM hatespeech_jobs AS jobs
        WHERE {_FRESH} AND jobs.owner = owners.owner AND {_IN_TIME}
        ORDER BY attempts, jobs.owner, place LIMIT %(most)s
    ) AS waiting
) FROM owners WHERE owner IS NOT NULL
UNION ALL (
    SELECT NULL, 1 FROM hatespeech_jobs
    WHERE status = 'IN_QUEUE' AND attempts > 0 AND {_IN_TIME} LIMIT 1
)
"""  # noqa: S608 - constants

# The suspect with the fewest attempts for a server that is idle, none for one that is not; if
# there is no suspect, the oldest jobs of each owner, in the turns that are given. Another server's
# choice, which is locked, is passed over.
_TAKE: Final = f"""
WITH suspects AS MATERIALIZED (
    SELECT id FROM hatespeech_jobs WHERE status = 'IN_QUEUE' AND attempts > 0 AND {_IN_TIME}
    ORDER BY attempts, place LIMIT 1 FOR UPDATE SKIP LOCKED
), turns AS (
    SELECT owner, turn, row_number() OVER (PARTITION BY owner ORDER BY turn) AS nth
    FROM unnest(%(turns)s::bytea[]) WITH ORDINALITY AS given (owner, turn)
), fresh AS MATERIALIZED (
    SELECT oldest.* FROM (SELECT owner, count(*) AS places FROM turns GROUP BY owner) AS owners,
    LATERAL (
        SELECT id, jobs.owner, place, octet_length(input) AS size FROM hatespeech_jobs AS jobs
        WHERE {_FRESH} AND jobs.owner = owners.owner AND {_IN_TIME}
            AND NOT EXISTS (SELECT FROM suspects)
        ORDER BY attempts, jobs.owner, place LIMIT owners.places FOR UPDATE SKIP LOCKED
    ) AS oldest
), in_turn AS (
    SELECT id, turn, size FROM turns JOIN (
        SELECT *, row_number() OVER (PARTITION BY owner ORDER BY place) AS nth FROM fresh
    ) AS numbered USING (owner, nth)
), fitting AS (
    SELECT id, turn, sum(size) OVER queue <= %(size)s::float8
        OR (%(idle)s AND row_number() OVER queue = 1) AS fits
    FROM in_turn WINDOW queue AS (ORDER BY turn)
), chosen AS (
    SELECT id, 1 AS turn FROM suspects WHERE %(idle)s
    UNION ALL SELECT id, turn FROM fitting WHERE fits
)
UPDATE hatespeech_jobs AS jobs SET status = 'IN_PROGRESS', started = now(),
    attempts = attempts + 1, server = %(server)s, lease = now() + %(lease)s * interval '1 second'
FROM chosen WHERE jobs.id = chosen.id
RETURNING turn, jobs.id, jobs.attempts, jobs.owner, jobs.input,
    least(run_limit, extract(epoch FROM deadline - now())::float8)
"""  # noqa: S608 - constants

_OURS: Final = "id = %(id)s AND server = %(server)s AND attempts = %(attempt)s" + (
    " AND status = 'IN_PROGRESS'"
)

_FINISH: Final = f"""
UPDATE hatespeech_jobs SET status = %(status)s, output = %(output)s, error = %(error)s,
    input = CASE WHEN %(keep_input)s THEN input END, server = NULL, lease = NULL,
    finished = now(), expires = now() + %(ttl)s * interval '1 second'
WHERE {_OURS}
"""  # noqa: S608 - constants

_END: Final = f"""
    status = CASE WHEN attempts < {MAX_ATTEMPTS} THEN 'IN_QUEUE' ELSE 'FAILED' END,
    started = CASE WHEN attempts < {MAX_ATTEMPTS} THEN NULL ELSE started END,
    input = CASE WHEN attempts < {MAX_ATTEMPTS} THEN input END,
    error = CASE WHEN attempts < {MAX_ATTEMPTS} THEN NULL ELSE %(given_up)s END,
    finished = CASE WHEN attempts < {MAX_ATTEMPTS} THEN NULL ELSE now() END,
    expires = CASE WHEN attempts < {MAX_ATTEMPTS} THEN NULL
        ELSE now() + %(ttl)s * interval '1 second' END,
    server = NULL, lease = NULL
"""

_BLAME: Final = f"UPDATE hatespeech_jobs SET {_END} WHERE {_OURS}"  # noqa: S608 - constants

_RETURN: Final = """
UPDATE hatespeech_jobs SET status = 'IN_QUEUE', started = NULL, attempts = attempts - 1,
    server = NULL, lease = NULL
"""
_PUT_BACK: Final = f"{_RETURN} WHERE {_OURS}"
_PUT_BACK_UNKNOWN: Final = (
    f"{_RETURN} WHERE server = %(server)s AND status = 'IN_PROGRESS' AND id <> ALL(%(ids)s)"
)

_RENEW: Final = """
UPDATE hatespeech_jobs AS jobs SET lease = now() + %(lease)s * interval '1 second'
FROM unnest(%(ids)s::text[], %(attempts)s::integer[]) AS ours (id, attempt)
WHERE jobs.id = ours.id AND jobs.attempts = ours.attempt AND server = %(server)s
    AND status = 'IN_PROGRESS'
RETURNING jobs.id
"""

_RETURN_DEAD: Final = f"""
WITH dead AS MATERIALIZED (
    SELECT id FROM hatespeech_jobs WHERE status = 'IN_PROGRESS' AND lease < now()
    LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED
)
UPDATE hatespeech_jobs AS jobs SET {_END}
FROM dead WHERE jobs.id = dead.id
RETURNING jobs.id, jobs.status = 'FAILED'
"""  # noqa: S608 - constants

_CANCEL: Final = """
UPDATE hatespeech_jobs SET status = 'CANCELLED', input = NULL, server = NULL, lease = NULL,
    finished = now(), expires = now() + %s * interval '1 second'
WHERE id = %s AND finished IS NULL
"""

_PURGE: Final = f"""
WITH waiting AS MATERIALIZED (
    SELECT id FROM hatespeech_jobs WHERE status = 'IN_QUEUE' AND owner = %s
    LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED
)
UPDATE hatespeech_jobs AS jobs SET status = 'CANCELLED', input = NULL, finished = now(),
    expires = now() + %s * interval '1 second'
FROM waiting WHERE jobs.id = waiting.id
RETURNING jobs.id
"""  # noqa: S608 - constants

_RETRY: Final = f"""
WITH {_QUEUE}, retried AS (
    UPDATE hatespeech_jobs SET status = 'IN_QUEUE', output = NULL, error = NULL, attempts = 0,
        created = now(), started = NULL, finished = NULL, expires = NULL,
        deadline = now() + ttl * interval '1 second',
        webhook_due = NULL, webhook_tries = 0, webhook_done = false
    FROM queue WHERE id = %(id)s AND owner = %(owner)s AND status IN ('FAILED', 'TIMED_OUT')
        AND input IS NOT NULL AND expires > now() AND has_room
    RETURNING id
)
SELECT retried.id, jobs, own_jobs FROM queue LEFT JOIN retried ON true
"""  # noqa: S608 - constants

_TIME_OUT: Final = f"""
WITH overdue AS MATERIALIZED (
    SELECT id FROM hatespeech_jobs WHERE status = 'IN_QUEUE' AND deadline <= now()
    LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED
)
UPDATE hatespeech_jobs AS jobs SET status = 'TIMED_OUT', error = %s, finished = now(),
    expires = now() + %s * interval '1 second'
FROM overdue WHERE jobs.id = overdue.id
RETURNING jobs.id
"""  # noqa: S608 - constants

_ENDED: Final = "SELECT id FROM hatespeech_jobs WHERE id = ANY(%s) AND finished IS NOT NULL"

_COLUMNS: Final = """id, status, output, error, extract(epoch FROM created)::float8,
    extract(epoch FROM started)::float8, extract(epoch FROM finished)::float8"""
_GET: Final = f"""
SELECT {_COLUMNS}
FROM hatespeech_jobs WHERE id = %s AND owner = %s AND (expires IS NULL OR expires > now())
"""  # noqa: S608 - constants

_TO_TELL: Final = "webhook IS NOT NULL AND NOT webhook_done AND expires IS NOT NULL"
_WHEN: Final = "coalesce(webhook_due, '-infinity')"
_DUE: Final = f"{_TO_TELL} AND expires > now() AND {_WHEN} <= now()"
# The owners one after the other, each by a look into the index, however many jobs each has. All
# that is asked for in the index's order is read from it, whatever the planner knows of the table.
_COUNT_DUE: Final = f"""
WITH RECURSIVE owners (owner) AS (
    (SELECT owner FROM hatespeech_jobs WHERE {_TO_TELL} ORDER BY owner, {_WHEN} LIMIT 1)
    UNION ALL
    SELECT (
        SELECT jobs.owner FROM hatespeech_jobs AS jobs
        WHERE {_TO_TELL} AND jobs.owner > owners.owner ORDER BY jobs.owner, {_WHEN} LIMIT 1
    ) FROM owners WHERE owner IS NOT NULL
)
SELECT owner, (
    SELECT count(*) FROM (
        SELECT FROM hatespeech_jobs AS jobs WHERE jobs.owner = owners.owner AND {_DUE}
        ORDER BY {_WHEN} LIMIT %s
    ) AS due
) FROM owners WHERE owner IS NOT NULL
"""  # noqa: S608 - constants
_TAKE_DELIVERIES: Final = f"""
WITH due AS MATERIALIZED (
    SELECT id AS due_id FROM hatespeech_jobs WHERE owner = %(owner)s AND {_DUE}
    ORDER BY {_WHEN} LIMIT %(count)s FOR UPDATE SKIP LOCKED
)
UPDATE hatespeech_jobs SET webhook_due = now() + %(seconds)s * interval '1 second',
    webhook_tries = webhook_tries + 1
FROM due WHERE id = due_id
RETURNING webhook, webhook_tries, {_COLUMNS}
"""  # noqa: S608 - constants

_END_DELIVERY: Final = """
UPDATE hatespeech_jobs SET webhook_due = now() + %(again)s * interval '1 second',
    webhook_done = %(done)s
WHERE id = %(id)s AND webhook_tries = %(tries)s
"""

_COUNT: Final = "SELECT status, count(*) FROM hatespeech_jobs GROUP BY status"
_COUNT_OF_OWNER: Final = (
    "SELECT status, count(*) FROM hatespeech_jobs WHERE owner = %s GROUP BY status"
)

_EXPIRE: Final = f"""
WITH expired AS MATERIALIZED (
    SELECT id FROM hatespeech_jobs WHERE expires <= now() LIMIT {AT_ONCE} FOR UPDATE SKIP LOCKED
)
DELETE FROM hatespeech_jobs AS jobs USING expired WHERE jobs.id = expired.id RETURNING 1
"""  # noqa: S608 - constants


class PostgresStore(Store):
    """The jobs of every server that uses this database."""

    def __init__(self, url: str, ttl_seconds: float) -> None:
        """Reach the database; raise :class:`SettingsError` if the URL is wrong."""
        self._ttl = ttl_seconds
        self._server = secrets.token_hex(8)  # of this process alone
        self._link = Link(url, CHANNEL)
        self._notices = Notices(self._link, self._server)
        self._turns = Turns()
        self._held: dict[str, Lease] = {}
        # A look must not see jobs as unknown that are just being taken.
        self._taking = asyncio.Lock()
        self._may_hold_unknown = False  # a take failed, and may have been carried out
        self._tasks: list[asyncio.Task[None]] = []

    @property
    @override
    def salt(self) -> bytes:
        if self._link.salt is None:
            raise StoreError("the database has not been reached yet")
        return self._link.salt

    @property
    @override
    def trouble(self) -> str | None:
        return self._link.trouble or ("its disk is full" if self.full else None)

    @property
    @override
    def full(self) -> bool:
        return self._link.full

    @override
    async def start(self, listener: Listener) -> None:
        await self._link.start(
            lambda notice: self._notices.read(notice, listener), listener.work_arrived
        )
        self._tasks = [
            asyncio.create_task(self._keep_looking(listener)),
            asyncio.create_task(self._notices.send()),
        ]

    @override
    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._notices.flush()
        await self._link.close()

    @override
    async def add(self, job: NewJob, max_queued: int, *, shared: bool = False) -> str:
        parameters = {
            **asdict(job),
            "status": "IN_QUEUE" if job.error is None else "FAILED",
            "error": storable(job.error),
            "kept": self._ttl,
            "max_queued": max_queued,
            "shared": shared,
        }
        while True:
            ((added, known, body, expired, waiting, own),) = await self._link.fetch(
                _ADD, parameters, size=len(job.input or "")
            )
            if added is not None:
                self._notices.jobs_wait()
                return str(added)
            if expired:
                await self._link.fetch(_DELETE_EXPIRED_RETRY, (job.owner, job.retry_key))
            elif known is not None:
                require_same_body(job, body)
                return str(known)
            else:
                require_room(waiting, own, max_queued)
                # Another server has just added it, and the next look finds it.

    @override
    async def take(
        self, count: int, *, idle: bool, size: float = math.inf
    ) -> list[tuple[Lease, str]]:
        async with self._taking:
            try:
                rows = await self._take(count, idle=idle, size=size)
            except StoreError:
                self._may_hold_unknown = True
                raise
            taken = [
                (Lease(job_id, attempt, owner, seconds, len(text)), text)
                for _, job_id, attempt, owner, text, seconds in sorted(rows)
            ]
            self._held.update((lease.id, lease) for lease, _ in taken)
            return taken

    async def _take(self, count: int, *, idle: bool, size: float) -> list[tuple[Any, ...]]:
        for _ in range(2):
            found = await self._link.fetch(_COUNT_WAITING, {"most": count})
            waiting = {owner: jobs for owner, jobs in found if owner is not None}
            suspects = len(found) > len(waiting)
            running = Counter(lease.owner for lease in self._held.values())
            turns = self._turns.share(waiting, running, count)
            if not turns and not suspects:
                break
            rows = await self._link.fetch(
                _TAKE, self._ours(turns=turns, idle=idle, size=size, lease=LEASE_SECONDS)
            )
            if rows or not idle:
                return rows
            # Another server has just taken them all. An idle one looks for the next.
        return []

    @override
    async def finish(self, lease: Lease, result: JobResult) -> None:
        values = {**asdict(result), "error": storable(result.error), "ttl": self._ttl}
        await self._link.fetch(_FINISH, self._of(lease, **values), size=len(result.output or ""))
        self._let_go(lease)
        self._notices.ended(lease.id)

    @override
    async def put_back(self, lease: Lease, *, blameless: bool) -> None:
        if blameless:
            await self._link.fetch(_PUT_BACK, self._of(lease))
        else:
            await self._link.fetch(_BLAME, self._of(lease, ttl=self._ttl, given_up=GIVEN_UP))
        self._let_go(lease)
        self._notices.jobs_wait()

    @override
    async def cancel(self, job_id: str) -> None:
        await self._link.fetch(_CANCEL, (self._ttl, job_id))
        self._notices.ended(job_id)

    @override
    async def purge(self, owner: bytes) -> Sequence[str]:
        return await self._end_all(_PURGE, (owner, self._ttl))

    @override
    async def retry(
        self, job_id: str, owner: bytes, max_queued: int, *, shared: bool = False
    ) -> bool:
        if "\0" in job_id:  # which PostgreSQL does not even read
            return False
        ((retried, waiting, own),) = await self._link.fetch(
            _RETRY, {"id": job_id, "owner": owner, "max_queued": max_queued, "shared": shared}
        )
        if retried is None:
            require_room(waiting, own, max_queued)
            return False
        self._notices.jobs_wait()
        return True

    @override
    async def get(self, job_id: str, owner: bytes) -> StoredJob | None:
        if "\0" in job_id:  # which PostgreSQL does not even read
            return None
        rows = await self._link.fetch(_GET, (job_id, owner), size=LARGEST_OUTPUT)
        return StoredJob(*rows[0]) if rows else None

    @override
    async def count(self, owner: bytes | None = None) -> dict[JobStatus, int]:
        if owner is None:
            return dict(await self._link.fetch(_COUNT))
        return dict(await self._link.fetch(_COUNT_OF_OWNER, (owner,)))

    @override
    async def expire(self) -> Sequence[str]:
        while len(await self._link.fetch(_EXPIRE)) == AT_ONCE:
            pass
        return await self._end_all(_TIME_OUT, (WAITED_TOO_LONG, self._ttl))

    async def _end_all(self, statement: str, parameters: Sequence[Any]) -> Sequence[str]:
        """Repeat what ends ``AT_ONCE`` jobs until there are no more; return their ids."""
        ended: list[str] = []
        while True:
            some = [job_id for (job_id,) in await self._link.fetch(statement, parameters)]
            for job_id in some:
                self._notices.ended(job_id)
            ended += some
            if len(some) < AT_ONCE:
                return ended

    @override
    async def count_due(self, most: int) -> Mapping[bytes, int]:
        return {owner: due for owner, due in await self._link.fetch(_COUNT_DUE, (most,)) if due}

    @override
    async def take_deliveries(self, owner: bytes, count: int, seconds: float) -> Sequence[Delivery]:
        rows = await self._link.fetch(
            _TAKE_DELIVERIES,
            {"owner": owner, "count": count, "seconds": seconds},
            size=count * LARGEST_OUTPUT,
        )
        return [Delivery(StoredJob(*job), owner, url, tries) for url, tries, *job in rows]

    @override
    async def end_delivery(self, delivery: Delivery, again: float | None) -> None:
        await self._link.fetch(
            _END_DELIVERY,
            {
                "id": delivery.job.id,
                "tries": delivery.tries,
                "again": again or 0,
                "done": again is None,
            },
        )

    async def _keep_looking(self, listener: Listener) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            with contextlib.suppress(StoreError):  # leases last for several looks
                await self._look(listener)

    async def _look(self, listener: Listener) -> None:
        """Renew the leases, end those of dead servers, and find what no notice told."""
        async with self._taking:
            held = list(self._held.values())
            kept = await self._link.fetch(
                _RENEW,
                self._ours(
                    ids=[lease.id for lease in held],
                    attempts=[lease.attempt for lease in held],
                    lease=LEASE_SECONDS,
                ),
                urgent=True,
            )
            if self._may_hold_unknown:
                await self._link.fetch(
                    _PUT_BACK_UNKNOWN, self._ours(ids=list(self._held)), urgent=True
                )
                self._may_hold_unknown = False
        lost = {lease.id for lease in held} - {job_id for (job_id,) in kept}
        for lease in held:
            if lease.id in lost and self._held.get(lease.id) == lease:
                self._let_go(lease)
                listener.job_ended(lease.id)
        # After an outage, servers that live need time to reach the database and renew theirs.
        if time.monotonic() - self._link.up_since > LEASE_SECONDS:
            await self._end_leases_of_the_dead(listener)
        awaited = list(listener.awaited())
        if awaited:
            for (job_id,) in await self._link.fetch(_ENDED, (awaited,)):
                listener.job_ended(job_id)
        listener.work_arrived()

    async def _end_leases_of_the_dead(self, listener: Listener) -> None:
        for job_id, failed in await self._link.fetch(
            _RETURN_DEAD, {"given_up": GIVEN_UP, "ttl": self._ttl}
        ):
            if failed:
                listener.job_ended(job_id)
                self._notices.ended(job_id)
            else:
                self._notices.jobs_wait()

    def _ours(self, **parameters: Any) -> dict[str, Any]:
        return {"server": self._server, **parameters}

    def _of(self, lease: Lease, **parameters: Any) -> dict[str, Any]:
        return self._ours(id=lease.id, attempt=lease.attempt, **parameters)

    def _let_go(self, lease: Lease) -> None:
        if self._held.get(lease.id) == lease:
            del self._held[lease.id]


def storable(error: str | None) -> str | None:
    """Return an error without the one character that PostgreSQL can't hold."""
    return None if error is None else error.replace("\0", "\ufffd")
