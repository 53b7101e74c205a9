"""The SQLite file of asynchronous jobs: what was accepted, and what came of it.

One thread owns the connection and commits whatever waits for it together, so that many small jobs
share the cost of reaching the disk. A commit is on the disk (``synchronous=FULL``) before its
caller goes on. The file belongs to one process: SQLite's exclusive lock, which the system releases
even after ``kill -9``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from utils.errors import OverloadedError, SettingsError, ValidationError

Result = TypeVar("Result")

SCHEMA_VERSION: Final = 1
GROUP: Final = 256  # operations that share a commit, at most

# A job that was running every time the process died is not tried again.
MAX_ATTEMPTS: Final = 3

IN_QUEUE, IN_PROGRESS = "IN_QUEUE", "IN_PROGRESS"
COMPLETED, FAILED, CANCELLED = "COMPLETED", "FAILED", "CANCELLED"

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS meta (salt BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY,
    owner BLOB NOT NULL,        -- keyed hash of the token that made it
    status TEXT NOT NULL,
    input TEXT,                 -- JSON; gone once the job is answered
    output TEXT,                -- JSON
    error TEXT,
    attempts INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,      -- seconds since the epoch
    started REAL,
    finished REAL,
    retry_key BLOB,             -- keyed hashes, of the Idempotency-Key and of the body sent with it
    retry_body BLOB
);
CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, created);
CREATE UNIQUE INDEX IF NOT EXISTS jobs_by_retry_key ON jobs (owner, retry_key)
    WHERE retry_key IS NOT NULL;
"""


@dataclass(frozen=True)
class NewJob:
    """A job as it is accepted."""

    id: str
    owner: bytes
    input: str
    retry_key: bytes | None = None
    retry_body: bytes | None = None


@dataclass(frozen=True)
class Job:
    """A job as it stands; ``output`` is JSON text."""

    id: str
    status: str
    output: str | None
    error: str | None
    created: float
    started: float | None
    finished: float | None


_COLUMNS: Final = "id, status, output, error, created, started, finished"

_Operation = tuple[Callable[[sqlite3.Connection], Any], "asyncio.Future[Any]"]


class Store:
    """The file. Every method is one transaction; call them from one event loop."""

    def __init__(self, path: Path, ttl_seconds: float) -> None:
        """Open or create the file; raise :class:`SettingsError` if that can't be."""
        self._ttl = ttl_seconds
        self._truncate = False  # what was deleted is still in the log of changes
        try:
            self._connection = _connect(path)
            self.salt = _prepare(self._connection)
        except (OSError, sqlite3.Error) as exc:
            reason = "another process has it open" if _is_locked(exc) else _reason(exc)
            raise SettingsError(f"JOBS_DB={str(path)!r} cannot be opened: {reason}") from None
        self._operations: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="jobs-db", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Write what waits, and close the file."""
        self._operations.put(None)
        self._thread.join()
        self._connection.close()

    async def add(self, job: NewJob, max_queued: int) -> str:
        """Accept a job, or find the one that was accepted under its retry key; return its id.

        Raises :class:`OverloadedError` if ``max_queued`` jobs wait already, and
        :class:`ValidationError` if the key came with another body before.
        """

        def add(connection: sqlite3.Connection) -> str:
            if job.retry_key is not None:
                known = connection.execute(
                    "SELECT id, retry_body FROM jobs WHERE owner = ? AND retry_key = ?",
                    (job.owner, job.retry_key),
                ).fetchone()
                if known and known[1] != job.retry_body:
                    raise ValidationError("Idempotency-Key: came with another body before")
                if known:
                    return str(known[0])
            (waiting,) = connection.execute(
                "SELECT count(*) FROM jobs WHERE status = ?", (IN_QUEUE,)
            ).fetchone()
            if waiting >= max_queued:
                raise OverloadedError(f"{waiting} jobs wait already; try again")
            connection.execute(
                "INSERT INTO jobs (id, owner, status, input, created, retry_key, retry_body)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                (
                    *(job.id, job.owner, IN_QUEUE, job.input, time.time()),
                    *(job.retry_key, job.retry_body),
                ),
            )
            return job.id

        return await self._run(add)

    async def take(self, count: int) -> list[tuple[str, str]]:
        """Start the ``count`` oldest waiting jobs; return ids and inputs."""

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

        return await self._run(take)

    async def finish(
        self, job_id: str, status: str, output: str | None = None, error: str | None = None
    ) -> None:
        """Answer a job, unless it has been; forget its input."""

        def finish(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE jobs SET status = ?, output = ?, error = ?, finished = ?, input = NULL"
                " WHERE id = ? AND status IN (?, ?)",
                (status, output, error, time.time(), job_id, IN_QUEUE, IN_PROGRESS),
            )

        await self._run(finish)

    async def put_back(self, job_id: str, *, blameless: bool) -> None:
        """Return a job that was started to its place in the queue.

        A blameless one was interrupted on purpose, and the attempt does not count.
        """

        def put_back(connection: sqlite3.Connection) -> None:
            connection.execute(
                "UPDATE jobs SET status = ?, started = NULL, attempts = attempts - ?"
                " WHERE id = ? AND status = ?",
                (IN_QUEUE, int(blameless), job_id, IN_PROGRESS),
            )

        await self._run(put_back)

    async def get(self, job_id: str, owner: bytes) -> Job | None:
        """Return a job of this owner whose result has not expired."""

        def get(connection: sqlite3.Connection) -> Job | None:
            row = connection.execute(
                f"SELECT {_COLUMNS} FROM jobs WHERE id = ? AND owner = ?"  # noqa: S608 - constant
                " AND (finished IS NULL OR finished > ?)",
                (job_id, owner, time.time() - self._ttl),
            ).fetchone()
            return Job(*row) if row else None

        return await self._run(get)

    async def count(self) -> dict[str, int]:
        """Return how many jobs there are of each status."""

        def count(connection: sqlite3.Connection) -> dict[str, int]:
            return dict(connection.execute("SELECT status, count(*) FROM jobs GROUP BY status"))

        return await self._run(count)

    async def expire(self) -> None:
        """Delete what can't be asked for any more, from the log of changes too."""

        def expire(connection: sqlite3.Connection) -> None:
            before = time.time() - self._ttl
            cursor = connection.execute("DELETE FROM jobs WHERE finished <= ?", (before,))
            self._truncate = cursor.rowcount > 0

        await self._run(expire)

    async def _run(self, operation: Callable[[sqlite3.Connection], Result]) -> Result:
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._operations.put((operation, done))
        return await asyncio.shield(done)

    def _work(self) -> None:
        while (first := self._operations.get()) is not None:
            group = [first]
            stop = False
            with contextlib.suppress(queue.Empty):
                while len(group) < GROUP:
                    following = self._operations.get_nowait()
                    if following is None:
                        stop = True
                        break
                    group.append(following)
            self._commit(group)
            if stop:
                return

    def _commit(self, group: list[_Operation]) -> None:
        """Run operations in one transaction; one that raises has changed nothing yet."""
        outcomes: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for operation, done in group:
                try:
                    outcomes.append((done, operation(self._connection), None))
                except (OverloadedError, ValidationError) as exc:
                    outcomes.append((done, None, exc))
            self._connection.execute("COMMIT")
            if self._truncate:
                self._truncate = False
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as exc:
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            outcomes = [(done, None, exc) for _, done in group]
        for done, result, error in outcomes:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                done.get_loop().call_soon_threadsafe(_resolve, done, result, error)


def _resolve(done: asyncio.Future[Any], result: Any, error: Exception | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(result)
    else:
        done.set_exception(error)


def _connect(path: Path) -> sqlite3.Connection:
    # SQLite gives its companion files the mode of the file itself.
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    return connection


def _prepare(connection: sqlite3.Connection) -> bytes:
    """Make the tables, put back what was running when the last process died; return the salt."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, SCHEMA_VERSION):
        raise sqlite3.DatabaseError("it was written by another version")
    connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION};")
    connection.execute(
        "UPDATE jobs SET status = ?, error = ?, finished = ?, input = NULL"
        " WHERE status IN (?, ?) AND attempts >= ?",
        (
            *(FAILED, f"internal: the service died {MAX_ATTEMPTS} times while this job ran"),
            *(time.time(), IN_QUEUE, IN_PROGRESS, MAX_ATTEMPTS),
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


def _is_locked(exc: Exception) -> bool:
    return getattr(exc, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _reason(exc: Exception) -> str:
    if isinstance(exc, OSError):
        return (exc.strerror or type(exc).__name__).lower()
    return str(exc)
