"""One thread that owns an SQLite file and commits all waiting operations together.

So many small operations share the cost of writing to the disk. A commit is on the disk
(``synchronous=FULL``) before its caller continues. The file belongs to one process by SQLite's
exclusive lock, which the system releases even after ``kill -9``.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import sqlite3
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from hatespeech.errors import ServiceError

Result = TypeVar("Result")

MAGIC: Final = b"SQLite format 3\0"  # the first bytes of a database that is not empty

GROUP: Final = 256  # operations that share a commit, at most

_Operation = tuple[Callable[[sqlite3.Connection], Any], "asyncio.Future[Any]"]


class Database:
    """Runs operations in the order in which they arrive, each completely or not at all."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Take over a connection that :func:`connect` made."""
        self._connection = connection
        self._log_holds_deleted = False
        self._operations: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="jobs-db", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Run the waiting operations and close the file."""
        self._operations.put(None)
        self._thread.join()
        self._connection.close()

    async def run(self, operation: Callable[[sqlite3.Connection], Result]) -> Result:
        """Return what ``operation`` returns, once its changes are on the disk.

        Operations share a transaction, so ``operation`` may raise :class:`ServiceError` only
        before it has written anything. Any other exception, such as ``sqlite3.Error`` when the
        disk is full, undoes the whole transaction and is raised for all of its callers. An
        operation runs even if its caller is cancelled.
        """
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._operations.put((operation, done))
        return await asyncio.shield(done)

    def empty_log(self) -> None:
        """Remove deleted rows from the write-ahead log, too. Call it inside an operation."""
        self._log_holds_deleted = True

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
        outcomes: list[tuple[asyncio.Future[Any], Any, Exception | None]] = []
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for operation, done in group:
                try:
                    outcomes.append((done, operation(self._connection), None))
                except ServiceError as exc:
                    outcomes.append((done, None, exc))
            self._connection.execute("COMMIT")
        except Exception as exc:  # if this thread died, all later callers would wait forever
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            outcomes = [(done, None, exc) for _, done in group]
        if self._log_holds_deleted:
            # If this fails, the commit still stands, and the next commit tries again.
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                self._log_holds_deleted = False
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


def connect(path: Path) -> sqlite3.Connection:
    """Open or create a file that only this process uses and only its user can read.

    Raises ``OSError`` and ``sqlite3.Error``; :func:`why_not` puts them in words.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        # Never modify a file that is not ours; reading a pipe would block.
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise sqlite3.DatabaseError("not a regular file")
        if os.read(descriptor, len(MAGIC)) not in (b"", MAGIC):
            raise sqlite3.DatabaseError("file is not a database")
        os.fchmod(descriptor, 0o600)
    finally:
        os.close(descriptor)
    # SQLite gives new companion files the file's mode; these may be left from a process that died.
    for suffix in ("-wal", "-shm"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).chmod(0o600)
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA locking_mode = EXCLUSIVE")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA secure_delete = ON")
    return connection


def why_not(exc: OSError | sqlite3.Error) -> str:
    """Return in words why a file could not be opened."""
    if getattr(exc, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another process has it open"
    if isinstance(exc, OSError):
        return (exc.strerror or type(exc).__name__).lower()
    return str(exc)
