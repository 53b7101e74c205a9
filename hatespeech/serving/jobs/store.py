"""SQLite storage for asynchronous jobs and their results."""

from __future__ import annotations

import secrets
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hatespeech.errors import OverloadedError, SettingsError, ValidationError
from hatespeech.serving.jobs.database import Database, connect, why_not

SCHEMA_VERSION: Final = 1

# A job that was running this many times when the process died is not tried again.
MAX_ATTEMPTS: Final = 3

IN_QUEUE, IN_PROGRESS = "IN_QUEUE", "IN_PROGRESS"
COMPLETED, FAILED, CANCELLED = "COMPLETED", "FAILED", "CANCELLED"

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
    retry_body BLOB             -- keyed hash of the body sent with it
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, created);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_retry_key ON jobs (owner, retry_key)
    WHERE retry_key IS NOT NULL;
"""


@dataclass(frozen=True)
class NewJob:
    """A job to accept; its input is ``None`` if it has already failed."""

    id: str
    owner: bytes
    input: str | None
    error: str | None = None  # why it has already failed
    retry_key: bytes | None = None
    retry_body: bytes | None = None


@dataclass(frozen=True)
class StoredJob:
    """A job in its current state; ``output`` is JSON text."""

    id: str
    status: str
    output: str | None
    error: str | None
    created: float
    started: float | None
    finished: float | None


_COLUMNS: Final = "id, status, output, error, created, started, finished"


class Store:
    """The file of jobs. A method succeeds completely or not at all; then its changes are on disk.

    Call the methods from one event loop. All except ``close`` raise ``sqlite3.Error`` if the file
    cannot be written.
    """

    def __init__(self, path: Path, ttl_seconds: float) -> None:
        """Open or create the file; raise :class:`SettingsError` if that fails."""
        self._ttl = ttl_seconds
        try:
            connection = connect(path)
            self.salt = _prepare(connection)
        except (OSError, sqlite3.Error) as exc:
            reason = why_not(exc)
            raise SettingsError(f"JOBS_DB={str(path)!r} cannot be opened: {reason}") from None
        self._database = Database(connection)

    def close(self) -> None:
        """Finish the waiting operations and close the file."""
        self._database.close()

    async def add(self, job: NewJob, max_queued: int) -> str:
        """Accept a job, or find the one that was accepted with its retry key; return the id.

        Raises :class:`OverloadedError` if ``max_queued`` jobs are already waiting, and
        :class:`ValidationError` if the key was sent before with a different body.
        """

        def add(connection: sqlite3.Connection) -> str:
            if job.retry_key is not None:
                known = connection.execute(
                    "SELECT id, retry_body FROM jobs WHERE owner = ? AND retry_key = ?",
                    (job.owner, job.retry_key),
                ).fetchone()
                if known and known[1] != job.retry_body:
                    raise ValidationError(
                        "was sent before with a different body", field="Idempotency-Key"
                    )
                if known:
                    return str(known[0])
            (waiting,) = connection.execute(
                "SELECT count(*) FROM jobs WHERE status = ?", (IN_QUEUE,)
            ).fetchone()
            if waiting >= max_queued:
                raise OverloadedError(f"{waiting} jobs are already waiting; try again")
            now = time.time()
            done = None if job.error is None else now
            connection.execute(
                "INSERT INTO jobs (id, owner, status, input, error, created, started, finished,"
                " retry_key, retry_body) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job.id,
                    job.owner,
                    IN_QUEUE if done is None else FAILED,
                    job.input,
                    job.error,
                    now,
                    done,
                    done,
                    job.retry_key,
                    job.retry_body,
                ),
            )
            return job.id

        return await self._database.run(add)

    async def take(self, count: int) -> list[tuple[str, str]]:
        """Start the ``count`` oldest waiting jobs; return their ids and inputs."""

        def take(connection: sqlite3.Connection) -> list[tuple[str, str]]:
            rows = connection.execute(
                "SELECT id, input FROM jobs WHERE status = ? ORDER BY created, rowid LIMIT ?",
                (IN_QUEUE, count),
            ).fetchall()
            connection.executemany(
                "UPDATE jobs SET status = ?, started = ?, attempts = attempts + 1 WHERE id = ?",
                [(IN_PROGRESS, time.time(), job_id) for job_id, _ in rows],
            )
            return rows

        return await self._database.run(take)

    async def finish(
        self, job_id: str, status: str, output: str | None = None, error: str | None = None
    ) -> None:
        """Finish a job, unless it is already finished; delete its input."""

        def finish(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE jobs SET status = ?, output = ?, error = ?, finished = ?, input = NULL"
                " WHERE id = ? AND status IN (?, ?)",
                (status, output, error, time.time(), job_id, IN_QUEUE, IN_PROGRESS),
            )

        await self._database.run(finish)

    async def put_back(self, job_id: str, *, blameless: bool) -> None:
        """Return a started job to its place in the queue.

        If ``blameless``, it was interrupted on purpose and the attempt does not count.
        """

        def put_back(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE jobs SET status = ?, started = NULL, attempts = attempts - ?"
                " WHERE id = ? AND status = ?",
                (IN_QUEUE, int(blameless), job_id, IN_PROGRESS),
            )

        await self._database.run(put_back)

    async def get(self, job_id: str, owner: bytes) -> StoredJob | None:
        """Return this owner's job, or ``None`` if there is none or its result has expired."""

        def get(connection: sqlite3.Connection) -> StoredJob | None:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE id = ? AND owner = ?"  # noqa: S608 - constant
                " AND (finished IS NULL OR finished > ?)",
                (job_id, owner, time.time() - self._ttl),
            ).fetchone()
            return StoredJob(*row) if row else None

        return await self._database.run(get)

    async def count(self) -> dict[str, int]:
        """Return the number of jobs of each status."""

        def count(connection: sqlite3.Connection) -> dict[str, int]:
            return dict(connection.execute("SELECT status, count(*) FROM jobs GROUP BY status"))

        return await self._database.run(count)

    async def expire(self) -> None:
        """Delete jobs whose result has expired, also from the write-ahead log."""

        def expire(connection: sqlite3.Connection) -> None:
            before = time.time() - self._ttl
            cursor = connection.execute("DELETE FROM jobs WHERE finished <= ?", (before,))
            if cursor.rowcount:
                self._database.empty_log()

        await self._database.run(expire)


def _prepare(connection: sqlite3.Connection) -> bytes:
    """Make the tables, return interrupted jobs to the queue, and return the salt."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, SCHEMA_VERSION):
        raise sqlite3.DatabaseError("it was written by another version")
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};")
    connection.execute(
        "UPDATE jobs SET status = ?, error = ?, finished = ?, input = NULL"
        " WHERE status IN (?, ?) AND attempts >= ?",
        (
            FAILED,
            f"internal: the service died {MAX_ATTEMPTS} times while this job ran",
            time.time(),
            IN_QUEUE,
            IN_PROGRESS,
            MAX_ATTEMPTS,
        ),
    )
    connection.execute(
        "UPDATE jobs SET status = ?, started = NULL WHERE status = ?", (IN_QUEUE, IN_PROGRESS)
    )
    row = connection.execute("SELECT salt FROM meta").fetchone()
    salt = bytes(row[0]) if row else secrets.token_bytes(32)
    if not row:
        connection.execute("INSERT INTO meta (salt) VALUES (?)", (salt,))
    connection.execute("COMMIT")
    return salt
