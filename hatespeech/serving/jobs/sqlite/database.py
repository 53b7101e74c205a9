"""One thread that owns an SQLite file and commits all waiting operations together.

So many small operations share the cost of writing to the disk. A commit is on the disk
(``synchronous=FULL``) before its caller continues. The file belongs to one process by SQLite's
exclusive lock, which the system releases even after ``kill -9``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import queue
import sqlite3
import stat
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

from hatespeech.errors import ServiceError
from hatespeech.serving.jobs.sqlite.reserve import Reserve
from hatespeech.serving.jobs.store import StoreError

log = logging.getLogger(__name__)

Result = TypeVar("Result")

MAGIC: Final = b"SQLite format 3\0"  # the first bytes of a database that is not empty

GROUP: Final = 256  # operations that share a commit, at most
GROUP_BYTES: Final = 4 * 1024 * 1024  # of texts, after which a commit takes no more operations
GIVEN_BACK: Final = 256  # pages at a time that the file returns to a disk that is full

PAGE_BYTES: Final = 4096
LOG_PAGES: Final = 1000  # after so many, what the log holds goes to the file: SQLite's default

NO_ROOM: Final = "{}; new jobs are refused until there is room"


@dataclass(frozen=True)
class _Operation:
    run: Callable[[sqlite3.Connection], Any]
    done: asyncio.Future[Any]
    size: int
    needs_room: bool


class Database:
    """Runs operations in the order in which they arrive, each completely or not at all."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        """Take over a connection that :func:`connect` made to this path."""
        self.trouble: str | None = None  # why nothing that needs room can be written
        self.full = False  # whether the trouble is that there is no room
        self._path = path
        self._connection = connection
        self._identity = _identity(path)
        self._log_holds_deleted = False
        self._reserve = reserve_of(path)
        self._shorten_log_often()
        if not self._reserve.take():
            self._note(NO_ROOM.format("there is hardly any room on its disk"), full=True)
        self._operations: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="jobs-db", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Run the waiting operations and close the file."""
        self._operations.put(None)
        self._thread.join()
        self._connection.close()

    async def run(
        self,
        operation: Callable[[sqlite3.Connection], Result],
        *,
        size: int = 0,
        needs_room: bool = True,
    ) -> Result:
        """Return what ``operation`` returns, once its changes are on the disk.

        Operations share a transaction, so ``operation`` may raise :class:`ServiceError` only
        before it has written anything. An operation runs even if its caller is cancelled, and may
        run again if another one fails. ``size`` is roughly how many bytes it writes. One that
        reads or deletes doesn't need room: it runs when the disk is full, too.

        Raises :class:`StoreError` if the file can't be read or written.
        """
        done: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._operations.put(_Operation(operation, done, size, needs_room))
        try:
            return await asyncio.shield(done)
        except sqlite3.Error as exc:
            raise StoreError(self.trouble or str(exc)) from exc

    def empty_log(self) -> None:
        """Remove deleted rows from the write-ahead log, too. Call it inside an operation."""
        self._log_holds_deleted = True

    def _work(self) -> None:
        while (first := self._operations.get()) is not None:
            group = [first]
            size = first.size
            with contextlib.suppress(queue.Empty):
                while len(group) < GROUP and size < GROUP_BYTES:
                    following = self._operations.get_nowait()
                    if following is None:
                        self._operations.put(None)  # the last, after this group
                        break
                    group.append(following)
                    size += following.size
            self._commit(group)

    def _commit(self, group: list[_Operation], *, on_reserve: bool = False) -> None:
        outcomes: list[tuple[_Operation, Any, Exception | None]] = []
        try:
            if any(operation.needs_room for operation in group):
                self._require_place()
            self._connection.execute("BEGIN IMMEDIATE")
            for operation in group:
                try:
                    if operation.needs_room and self.trouble is not None:
                        raise StoreError(self.trouble)
                    outcomes.append((operation, operation.run(self._connection), None))
                except (ServiceError, StoreError) as exc:
                    outcomes.append((operation, None, exc))
            self._connection.execute("COMMIT")
        except Exception as exc:  # if this thread died, all later callers would wait forever
            with contextlib.suppress(sqlite3.Error):
                self._connection.execute("ROLLBACK")
            if needs_room(exc) and self.trouble is None:
                self._note(NO_ROOM.format(exc), full=True)
            elif isinstance(exc, sqlite3.Error) and len(group) == 1 and not needs_room(exc):
                log.error("JOBS_DB: %s", exc)
            if len(group) > 1:
                for operation in group:  # the others have done nothing wrong
                    self._commit([operation])
                return
            if needs_room(exc) and not group[0].needs_room and not on_reserve:
                self._reserve.release()
                self._shorten_log()
                self._commit(group, on_reserve=True)
                self._reserve.take()
                return
            outcomes = [(operation, None, exc) for operation in group]
        if self._log_holds_deleted or on_reserve:
            self._shorten_log()
        for operation, result, error in outcomes:
            with contextlib.suppress(RuntimeError):  # the loop has closed
                operation.done.get_loop().call_soon_threadsafe(
                    _resolve, operation.done, result, error
                )

    def _shorten_log_often(self) -> None:
        # What the log holds must fit into the file even when only the reserve is left.
        pages = min(LOG_PAGES, self._reserve.size // 2 // PAGE_BYTES)
        self._connection.execute(f"PRAGMA wal_autocheckpoint = {pages}")

    def _shorten_log(self) -> None:
        # If this fails, what was committed still stands, and the next commit tries again.
        with contextlib.suppress(sqlite3.Error):
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            self._log_holds_deleted = False

    def _require_place(self) -> None:
        """See that what is written now will be found by the next process, and that it fits."""
        file, log_file = _identity(self._path)
        if file == self._identity[0] and self._identity[1] in (None, log_file):
            self._identity = file, log_file
        else:
            try:
                self._return_to_place(file, log_file)
            except (OSError, sqlite3.Error) as exc:
                self._note(f"the file was deleted, and can't be made again: {why_not(exc)}")
                return
            log.warning("JOBS_DB: the file was deleted while it was used, and is restored")
            self.trouble, self.full = None, False
        if self.trouble is not None and self._reserve.take() and self._reserve.has_as_much_again():
            log.warning("JOBS_DB: there is room again")
            self.trouble, self.full = None, False

    def _return_to_place(self, file: int | None, log_file: int | None) -> None:
        if file == self._identity[0]:
            self._connection.close()  # which moves what the lost log holds to the file
            self._connection = connect(self._path)
        elif file is None:
            if log_file is not None:  # it is the lost file's, and would damage a new one
                self._path.with_name(f"{self._path.name}-wal").unlink()
            connection = connect(self._path)
            try:
                self._connection.backup(connection)
            except sqlite3.Error:
                connection.close()
                raise
            self._connection.close()
            self._connection = connection
        else:
            raise FileExistsError(0, "another file is in its place")
        self._shorten_log_often()
        self._identity = _identity(self._path)

    def _note(self, trouble: str, *, full: bool = False) -> None:
        if trouble != self.trouble:
            log.error("JOBS_DB: %s", trouble)
        self.trouble, self.full = trouble, full


def give_back(connection: sqlite3.Connection) -> bool:
    """Return some of the pages that hold nothing to the disk; return whether there were any.

    Call it inside an operation.
    """
    (before,) = connection.execute("PRAGMA freelist_count").fetchone()
    connection.execute(f"PRAGMA incremental_vacuum({GIVEN_BACK})").fetchall()
    (after,) = connection.execute("PRAGMA freelist_count").fetchone()
    return bool(after < before)


def needs_room(exc: BaseException) -> bool:
    """Return whether an operation failed for want of room, or may have."""
    code = getattr(exc, "sqlite_errorcode", 0) & 0xFF  # the rest is the detail
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR)


def reserve_of(path: Path) -> Reserve:
    """Return the room that is kept for a file."""
    return Reserve(path.with_name(f"{path.name}-reserve"))


def _identity(path: Path) -> tuple[int | None, int | None]:
    """Return what tells the file and its log from others of these names."""
    return _inode(path), _inode(path.with_name(f"{path.name}-wal"))


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None


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
    for suffix in ("-wal", "-shm", "-reserve"):
        with contextlib.suppress(FileNotFoundError):
            path.with_name(path.name + suffix).chmod(0o600)
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode = EXCLUSIVE")
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")  # of a file that is still empty
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def why_not(exc: OSError | sqlite3.Error) -> str:
    """Return in words why a file could not be opened."""
    if getattr(exc, "sqlite_errorcode", None) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return "another process has it open"
    if isinstance(exc, OSError):
        return (exc.strerror or type(exc).__name__).lower()
    return str(exc)
