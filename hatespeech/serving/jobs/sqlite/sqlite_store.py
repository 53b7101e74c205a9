"""Jobs in an SQLite file, for one server."""

from __future__ import annotations

import asyncio
import contextlib
import math
import secrets
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from hatespeech.errors import SettingsError
from hatespeech.serving.jobs.sqlite.database import (
    Database,
    connect,
    give_back,
    needs_room,
    reserve_of,
    why_not,
)
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
    require_room,
    require_same_body,
)
from hatespeech.serving.jobs.turns import Turns

SCHEMA_VERSION: Final = 1

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (salt BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    owner BLOB NOT NULL,        -- keyed hash of the token that submitted it
    status TEXT NOT NULL,
    input TEXT,                 -- JSON; NULL once the job is finished
    output TEXT,                -- JSON
    error TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,      -- seconds since the epoch
    started REAL,
    finished REAL,
    retry_key BLOB,             -- keyed hash of the Idempotency-Key
    retry_body BLOB,            -- keyed hash of the body sent with it
    ttl REAL,                   -- seconds after which it must be answered
    deadline REAL,              -- when those are over
    run_limit REAL,             -- seconds for which it may run
    webhook TEXT,               -- URL to tell when it has ended
    webhook_due REAL,           -- not before that
    webhook_tries INTEGER NOT NULL DEFAULT 0,
    webhook_done INTEGER NOT NULL DEFAULT 0
);
DROP INDEX IF EXISTS jobs_by_status;  -- these three are of versions before
DROP INDEX IF EXISTS jobs_by_webhook;
DROP INDEX IF EXISTS jobs_by_state;
CREATE INDEX IF NOT EXISTS jobs_in_turn ON jobs (status, attempts, owner);
CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, status);
CREATE INDEX IF NOT EXISTS jobs_by_end ON jobs (finished) WHERE finished IS NOT NULL;
CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_retry_key ON jobs (owner, retry_key)
    WHERE retry_key IS NOT NULL;
"""
# Columns that a file of an older release lacks. That release reads a file that has them.
_ADDED: Final = {
    "ttl": "REAL",
    "deadline": "REAL",
    "run_limit": "REAL",
    "webhook": "TEXT",
    "webhook_due": "REAL",
    "webhook_tries": "INTEGER NOT NULL DEFAULT 0",
    "webhook_done": "INTEGER NOT NULL DEFAULT 0",
}
_ADDED_INDEXES: Final = """
CREATE INDEX IF NOT EXISTS jobs_by_deadline ON jobs (deadline) WHERE deadline IS NOT NULL;
CREATE INDEX IF NOT EXISTS jobs_by_owner_to_tell ON jobs (owner, coalesce(webhook_due, 0))
    WHERE webhook IS NOT NULL AND webhook_done = 0 AND finished IS NOT NULL;
"""

# Jobs that callers read at the same moment: each may have an output of megabytes.
READ_AT_ONCE: Final = 16
# Deleting may hold up other operations for this long at a time.
EXPIRE_SECONDS: Final = 0.02
EXPIRED_AT_ONCE: Final = 256
# Jobs that one operation cancels or times out.
ENDED_AT_ONCE: Final = 256

_ADD: Final = """
INSERT INTO jobs (id, owner, status, input, error, created, started, finished, retry_key,
    retry_body, ttl, deadline, run_limit, webhook)
VALUES (:id, :owner, :status, :input, :error, :now, :ended, :ended, :retry_key,
    :retry_body, :ttl, :now + :ttl, :run_limit, :webhook)
"""
_FINISH: Final = """
UPDATE jobs SET status = :status, output = :output, error = :error, finished = :now,
    input = CASE WHEN :keep_input THEN input END
WHERE id = :id AND status = 'IN_PROGRESS' AND attempts = :attempt
"""
_PUT_BACK: Final = """
UPDATE jobs SET status = 'IN_QUEUE', started = NULL, attempts = attempts - :blameless
WHERE id = :id AND status = 'IN_PROGRESS' AND attempts = :attempt
"""
_CANCEL: Final = """
UPDATE jobs SET status = 'CANCELLED', finished = :now, input = NULL
WHERE id = :id AND finished IS NULL
"""
_PURGE: Final = """
UPDATE jobs SET status = 'CANCELLED', finished = :now, input = NULL
WHERE rowid IN (SELECT rowid FROM jobs WHERE status = 'IN_QUEUE' AND owner = :owner LIMIT :most)
RETURNING id
"""
_RETRY: Final = """
UPDATE jobs SET status = 'IN_QUEUE', output = NULL, error = NULL, attempts = 0, created = :now,
    started = NULL, finished = NULL, deadline = :now + ttl,
    webhook_due = NULL, webhook_tries = 0, webhook_done = 0
WHERE id = :id AND owner = :owner AND status IN ('FAILED', 'TIMED_OUT') AND input IS NOT NULL
    AND finished > :expired
"""
_TIME_OUT: Final = """
UPDATE jobs SET status = 'TIMED_OUT', error = :error, finished = :now
WHERE rowid IN (SELECT rowid FROM jobs WHERE status = 'IN_QUEUE' AND deadline <= :now LIMIT :most)
RETURNING id
"""
_COLUMNS: Final = "id, status, output, error, created, started, finished"
_GET: Final = f"""
SELECT {_COLUMNS} FROM jobs
WHERE id = :id AND owner = :owner AND (finished IS NULL OR finished > :expired)
"""  # noqa: S608 - constants
_COUNT: Final = "SELECT status, count(*) FROM jobs GROUP BY status"
_COUNT_OF_OWNER: Final = "SELECT status, count(*) FROM jobs WHERE owner = :owner GROUP BY status"
_TO_TELL: Final = "webhook IS NOT NULL AND webhook_done = 0 AND finished IS NOT NULL"
_DUE: Final = f"{_TO_TELL} AND finished > :expired AND coalesce(webhook_due, 0) <= :now"
# The owners one after the other, each by a look into the index, however many jobs each has.
_COUNT_DUE: Final = f"""
WITH RECURSIVE owners (owner) AS (
    SELECT min(owner) FROM jobs WHERE {_TO_TELL}
    UNION ALL
    SELECT (SELECT min(owner) FROM jobs WHERE {_TO_TELL} AND owner > owners.owner)
    FROM owners WHERE owner IS NOT NULL
)
SELECT owner, (
    SELECT count(*) FROM (SELECT 1 FROM jobs WHERE owner = owners.owner AND {_DUE} LIMIT :most)
) FROM owners WHERE owner IS NOT NULL
"""  # noqa: S608 - constants
_TAKE_DELIVERIES: Final = f"""
UPDATE jobs SET webhook_due = :now + :seconds, webhook_tries = webhook_tries + 1
WHERE rowid IN (
    SELECT rowid FROM jobs WHERE owner = :owner AND {_DUE}
    ORDER BY coalesce(webhook_due, 0) LIMIT :count
)
RETURNING webhook, webhook_tries, {_COLUMNS}
"""  # noqa: S608 - constants
_END_DELIVERY: Final = """
UPDATE jobs SET webhook_due = :now + :again, webhook_done = :done
WHERE id = :id AND webhook_tries = :tries
"""
# The owners one after the other, as in _COUNT_DUE.
_FRESH: Final = "status = 'IN_QUEUE' AND attempts = 0"
_WAITING_OWNERS: Final = f"""
WITH RECURSIVE owners (owner) AS (
    SELECT min(owner) FROM jobs WHERE {_FRESH}
    UNION ALL
    SELECT (SELECT min(owner) FROM jobs WHERE {_FRESH} AND owner > owners.owner)
    FROM owners WHERE owner IS NOT NULL
)
SELECT owner FROM owners WHERE owner IS NOT NULL
"""  # noqa: S608 - constants
_RUNNING: Final = "SELECT owner, count(*) FROM jobs WHERE status = 'IN_PROGRESS' GROUP BY owner"
_WAITING: Final = (
    "SELECT id, attempts + 1, owner, input, run_limit, deadline FROM jobs"
    " WHERE status = 'IN_QUEUE' AND (deadline IS NULL OR deadline > ?)"
)


class SqliteStore(Store):
    """A file of jobs, which belongs to one server."""

    def __init__(self, path: Path, ttl_seconds: float) -> None:
        """Open or create the file; raise :class:`SettingsError` if that fails."""
        self._ttl = ttl_seconds
        self._started = time.time() - time.monotonic()
        try:
            try:
                connection, self._salt = _open(path, self._now())
            except sqlite3.Error as exc:
                if not needs_room(exc):
                    raise
                reserve_of(path).release()
                connection, self._salt = _open(path, self._now())
        except (OSError, sqlite3.Error) as exc:
            reason = why_not(exc)
            raise SettingsError(f"JOBS_DB={str(path)!r} cannot be opened: {reason}") from None
        self._database = Database(path, connection)
        self._turns = Turns()
        self._reads = asyncio.Semaphore(READ_AT_ONCE)

    @property
    @override
    def salt(self) -> bytes:
        return self._salt

    @property
    @override
    def trouble(self) -> str | None:
        return self._database.trouble

    @property
    @override
    def full(self) -> bool:
        return self._database.full

    @override
    async def start(self, listener: Listener) -> None:
        pass  # there is no other server

    @override
    async def close(self) -> None:
        await asyncio.to_thread(self._database.close)

    @override
    async def add(self, job: NewJob, max_queued: int, *, shared: bool = False) -> str:
        def add(connection: sqlite3.Connection) -> str:
            now = self._now()
            if job.retry_key is not None:
                expired = connection.execute(
                    "DELETE FROM jobs WHERE owner = ? AND retry_key = ? AND finished <= ?",
                    (job.owner, job.retry_key, now - self._ttl),
                )
                if expired.rowcount:
                    self._database.empty_log()
                known = connection.execute(
                    "SELECT id, retry_body FROM jobs WHERE owner = ? AND retry_key = ?",
                    (job.owner, job.retry_key),
                ).fetchone()
                if known:
                    require_same_body(job, known[1])
                    return str(known[0])
            _require_room(connection, job.owner if shared else None, max_queued)
            status, ended = ("IN_QUEUE", None) if job.error is None else ("FAILED", now)
            values = {**asdict(job), "status": status, "now": now, "ended": ended}
            connection.execute(_ADD, values)
            return job.id

        return await self._database.run(add, size=len(job.input or ""))

    @override
    async def take(
        self, count: int, *, idle: bool, size: float = math.inf
    ) -> list[tuple[Lease, str]]:
        def take(connection: sqlite3.Connection) -> list[tuple[Lease, str]]:
            now = self._now()
            rows = connection.execute(
                f"{_WAITING} AND attempts > 0 ORDER BY attempts, rowid LIMIT 1", (now,)
            ).fetchall()
            if rows and not idle:
                return []
            if not rows:
                left = size
                # One after the other, for the inputs that don't fit must not be in memory either.
                for row in self._in_turn(connection, now):
                    left -= len(row[3])
                    if left < 0 and (rows or not idle):
                        break
                    rows.append(row)
                    if len(rows) == count:
                        break
            connection.executemany(
                "UPDATE jobs SET status = 'IN_PROGRESS', started = ?, attempts = ? WHERE id = ?",
                [(now, attempt, job_id) for job_id, attempt, *_ in rows],
            )
            return [
                (
                    Lease(job_id, attempt, owner, _seconds(run_limit, deadline, now), len(text)),
                    text,
                )
                for job_id, attempt, owner, text, run_limit, deadline in rows
            ]

        return await self._database.run(take)

    def _in_turn(self, connection: sqlite3.Connection, now: float) -> Iterator[tuple[Any, ...]]:
        """Read the jobs that wait and have not run, those of each owner in its turns."""

        def of_owner(owner: bytes) -> Iterator[tuple[Any, ...]]:
            yield from connection.execute(
                f"{_WAITING} AND attempts = 0 AND owner = ? ORDER BY rowid", (now, owner)
            )

        oldest = {owner: of_owner(owner) for (owner,) in connection.execute(_WAITING_OWNERS)}
        taken = Counter(dict(connection.execute(_RUNNING)))
        while oldest:
            owner = self._turns.next(oldest, taken)
            row = next(oldest[owner], None)
            if row is None:
                del oldest[owner]
            else:
                taken[owner] += 1
                yield row

    @override
    async def finish(self, lease: Lease, result: JobResult) -> None:
        await self._fetch(
            _FINISH,
            size=len(result.output or ""),
            needs_room=True,
            id=lease.id,
            attempt=lease.attempt,
            **asdict(result),
        )

    @override
    async def put_back(self, lease: Lease, *, blameless: bool) -> None:
        await self._fetch(_PUT_BACK, id=lease.id, attempt=lease.attempt, blameless=blameless)

    @override
    async def cancel(self, job_id: str) -> None:
        await self._fetch(_CANCEL, id=job_id)

    @override
    async def purge(self, owner: bytes) -> Sequence[str]:
        return await self._end_all(_PURGE, owner=owner)

    @override
    async def retry(
        self, job_id: str, owner: bytes, max_queued: int, *, shared: bool = False
    ) -> bool:
        def retry(connection: sqlite3.Connection) -> bool:
            _require_room(connection, owner if shared else None, max_queued)
            values = {**self._times(), "id": job_id, "owner": owner}
            return connection.execute(_RETRY, values).rowcount == 1

        return await self._database.run(retry)

    @override
    async def get(self, job_id: str, owner: bytes) -> StoredJob | None:
        async with self._reads:
            rows = await self._fetch(_GET, id=job_id, owner=owner)
        return StoredJob(*rows[0]) if rows else None

    @override
    async def count(self, owner: bytes | None = None) -> dict[JobStatus, int]:
        return dict(await self._fetch(_COUNT if owner is None else _COUNT_OF_OWNER, owner=owner))

    @override
    async def expire(self) -> Sequence[str]:
        while await self._database.run(self._expire_some, needs_room=False):
            pass
        return await self._end_all(_TIME_OUT, error=WAITED_TOO_LONG)

    @override
    async def count_due(self, most: int) -> Mapping[bytes, int]:
        return {owner: due for owner, due in await self._fetch(_COUNT_DUE, most=most) if due}

    @override
    async def take_deliveries(self, owner: bytes, count: int, seconds: float) -> Sequence[Delivery]:
        rows = await self._fetch(
            _TAKE_DELIVERIES, needs_room=True, owner=owner, count=count, seconds=seconds
        )
        return [Delivery(StoredJob(*job), owner, url, tries) for url, tries, *job in rows]

    @override
    async def end_delivery(self, delivery: Delivery, again: float | None) -> None:
        await self._fetch(
            _END_DELIVERY,
            id=delivery.job.id,
            tries=delivery.tries,
            again=again or 0,
            done=again is None,
        )

    async def _fetch(
        self, statement: str, *, size: int = 0, needs_room: bool = False, **values: Any
    ) -> list[tuple[Any, ...]]:
        """Run one statement, which may name ``values`` and :meth:`_times`; return its rows."""

        def fetch(connection: sqlite3.Connection) -> list[tuple[Any, ...]]:
            return connection.execute(statement, {**self._times(), **values}).fetchall()

        return await self._database.run(fetch, size=size, needs_room=needs_room)

    async def _end_all(self, statement: str, **values: Any) -> Sequence[str]:
        """Repeat what ends ``most`` jobs until there are no more; return their ids."""
        ended: list[str] = []
        while True:
            some = await self._fetch(statement, most=ENDED_AT_ONCE, **values)
            ended += [job_id for (job_id,) in some]
            if len(some) < ENDED_AT_ONCE:
                return ended

    def _expire_some(self, connection: sqlite3.Connection) -> bool:
        """Delete some jobs, also from the log; return whether there may be more to do."""
        short = self._database.trouble is not None
        deadline = time.monotonic() + EXPIRE_SECONDS
        rows = connection.execute(
            "SELECT rowid FROM jobs WHERE finished <= ? ORDER BY finished LIMIT ?",
            (self._now() - self._ttl, 1 if short else EXPIRED_AT_ONCE),
        ).fetchall()
        for row in rows:
            connection.execute("DELETE FROM jobs WHERE rowid = ?", row)
            self._database.empty_log()
            if time.monotonic() > deadline:
                break
        return (short and give_back(connection)) or bool(rows)

    def _times(self) -> dict[str, float]:
        """Return the time, and until when a job must have ended whose result has expired."""
        now = self._now()
        return {"now": now, "expired": now - self._ttl}

    def _now(self) -> float:
        """Return the time, which no change of the machine's clock moves while this runs."""
        return self._started + time.monotonic()


def _require_room(connection: sqlite3.Connection, sharer: bytes | None, max_queued: int) -> None:
    """Raise the error of :func:`require_room`; ``sharer`` is an owner that shares the room."""
    count = "SELECT count(*) FROM jobs WHERE status = 'IN_QUEUE'"
    (waiting,) = connection.execute(count).fetchone()
    (own,) = connection.execute(f"{count} AND owner = ?", (sharer,)).fetchone()
    require_room(waiting, own, max_queued)


def _seconds(run_limit: float | None, deadline: float | None, now: float) -> float | None:
    """Return for how long a job may run: its limit, or less if its deadline comes before."""
    limits = [run_limit, None if deadline is None else deadline - now]
    return min((limit for limit in limits if limit is not None), default=None)


def _open(path: Path, now: float) -> tuple[sqlite3.Connection, bytes]:
    connection = connect(path)
    try:
        return connection, _prepare(connection, now)
    except sqlite3.Error:
        connection.close()
        raise


def _prepare(connection: sqlite3.Connection, now: float) -> bytes:
    """Make the tables, return interrupted jobs to the queue, and return the salt."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, SCHEMA_VERSION):
        raise sqlite3.DatabaseError("it was written by another version")
    if connection.execute("PRAGMA auto_vacuum").fetchone() == (0,):
        # A file of an older release. On a full disk it stays as it is, which only costs room.
        with contextlib.suppress(sqlite3.Error):
            connection.executescript("PRAGMA auto_vacuum = INCREMENTAL; VACUUM;")
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};")
    found = {row[1] for row in connection.execute("PRAGMA table_info(jobs)")}
    for name, kind in _ADDED.items():
        if name not in found:
            connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} {kind}")
    for statement in _ADDED_INDEXES.strip().split(";\n"):
        connection.execute(statement)
    connection.execute(
        "UPDATE jobs SET status = 'FAILED', error = ?, finished = ?, input = NULL"
        " WHERE status IN ('IN_QUEUE', 'IN_PROGRESS') AND attempts >= ?",
        (GIVEN_UP, now, MAX_ATTEMPTS),
    )
    connection.execute(
        "UPDATE jobs SET status = 'IN_QUEUE', started = NULL WHERE status = 'IN_PROGRESS'"
    )
    # The machine's clock was wrong then, or is wrong now: no result is to stay for years.
    connection.execute(
        "UPDATE jobs SET created = min(created, ?), started = min(started, ?),"
        " finished = min(finished, ?), deadline = min(deadline, ? + ttl)"
        " WHERE created > ? OR finished > ?",
        (now,) * 6,
    )
    # None is on its way, whatever the last process said.
    connection.execute("UPDATE jobs SET webhook_due = ? WHERE webhook_due > ?", (now, now))
    row = connection.execute("SELECT salt FROM meta").fetchone()
    salt = bytes(row[0]) if row else secrets.token_bytes(32)
    if not row:
        connection.execute("INSERT INTO meta (salt) VALUES (?)", (salt,))
    connection.execute("COMMIT")
    return salt
