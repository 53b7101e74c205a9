"""Connections to a PostgreSQL database: bounded, with a time limit, made again after an outage."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import os
import re
import socket
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from hatespeech.errors import SettingsError
from hatespeech.serving.jobs.postgres.schema import SchemaError, prepare
from hatespeech.serving.jobs.store import StoreError
from hatespeech.serving.settings import POSTGRES

log = logging.getLogger(__name__)

Parameters = Sequence[Any] | Mapping[str, Any]
Rows = list[tuple[Any, ...]]

# One more listens for notices. While the link is made, a third kind prepares the tables.
CONNECTIONS: Final = 8

CONNECT_SECONDS: Final = 3
STATEMENT_SECONDS: Final = 5.0  # and one more for each BYTES_PER_SECOND of a text
BYTES_PER_SECOND: Final = 1_000_000
BUSY_SECONDS: Final = 2.0  # for which an operation waits for one of the connections
CHECK_SECONDS: Final = 10.0  # after which a connection that hears nothing is tried
# After a statement that found no room, that is what there is said to be none of. Nothing tells when
# there is room again, and a small statement may find some where a large one finds none.
FULL_SECONDS: Final = 15.0
BUSY: Final = "every connection to the database is busy"
AGAIN_SECONDS: Final = 0.5  # before the next try to make the link

# For a network that swallows everything. libpq reads these itself, so pgbouncer lets them pass.
_NETWORK: Final[Mapping[str, str | int]] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 10,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "fallback_application_name": "hatespeech",
}

# libpq says why there is no connection in a sentence that may hold a piece of the URL: with a
# password that is not escaped, one of the password. So only what it has in common with these is
# told.
_CAUSES: Final = (
    "Connection refused",
    "timeout expired",
    "could not translate host name",
    "failed to resolve host",
    "No route to host",
    "Network is unreachable",
    "No such file or directory",
    "password authentication failed",
    "no password supplied",
    "no pg_hba.conf entry",
    "database does not exist",
    "role does not exist",
    "too many clients",
    "is starting up",
    "is shutting down",
    "certificate verify failed",
    "server does not support SSL",
    "server closed the connection",
)

# Classes of errors whose message holds names and no values: transactions, logins, names, syntax
# and rights, resources, an operator's acts, the system.
_PLAIN: Final = ("25", "28", "3D", "3F", "42", "53", "57", "58")
_LOST: Final = ("08", "57P")  # connections and a server that stops
_DISK_FULL: Final = "53100"
_READ_ONLY: Final = "25006"  # after a failover: what was the primary is one no more

# They say to standard error what has been said here, and more than may be said.
for _name in ("psycopg", "psycopg.pool"):
    logging.getLogger(_name).addHandler(logging.NullHandler())
    logging.getLogger(_name).propagate = False


class Link:
    """Runs statements, each a transaction. Out of reach of the database they fail immediately.

    One connection listens for notices. The link is up as long as it lives, and makes it again.
    """

    def __init__(self, url: str, channel: str) -> None:
        """Reach the database for the first time.

        Raises :class:`SettingsError` if the URL is wrong. A database that only can't be reached is
        tried again later.
        """
        try:
            given = conninfo_to_dict(url)
            if not re.fullmatch(r"[0-9,]*", str(given.get("port", ""))):
                raise psycopg.ProgrammingError
        except psycopg.Error:
            raise SettingsError(
                f"JOBS_DB={POSTGRES[0]}… is not a URL that libpq reads; write characters such as "
                "@ : / # % in a password as %40 %3A %2F %23 %25"
            ) from None
        self._url = make_conninfo(url, **{k: v for k, v in _NETWORK.items() if k not in given})
        self._channel = channel
        self._pool: AsyncConnectionPool[Any] | None = None
        self._listening: psycopg.AsyncConnection[Any] | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._running: set[asyncio.Task[Any]] = set()
        self._busy: set[psycopg.AsyncConnection[Any]] = set()
        # One connection is always free for what is urgent.
        self._places = asyncio.Semaphore(CONNECTIONS - 1)
        self.trouble: str | None = None
        self._full_at = -math.inf  # when a statement last found no room
        self.salt: bytes | None = None
        self.up_since = 0.0  # on the clock of time.monotonic, when the link was last made
        try:
            self.salt = self._greet()
        except (psycopg.Error, SchemaError) as exc:
            if isinstance(exc, SchemaError) or exc.sqlstate or _answers(self._url):
                raise SettingsError(f"JOBS_DB={POSTGRES[0]}… can't be used: {why(exc)}") from None
            self._note(why(exc))

    @property
    def full(self) -> bool:
        """Whether a statement found the database's disk full just now."""
        return time.monotonic() < self._full_at + FULL_SECONDS

    async def start(self, hear: Callable[[str], None], up: Callable[[], None]) -> None:
        """Make the link and keep it; call ``hear`` with each notice, ``up`` once it is there.

        Returns when the link is there, or it is clear that this takes longer.
        """
        made = asyncio.Event()

        def both() -> None:
            made.set()
            up()

        self._keeper = asyncio.create_task(self._keep(hear, both))
        if self.trouble is None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CONNECT_SECONDS):
                    await made.wait()

    async def close(self) -> None:
        """Let running statements end, and close every connection."""
        if self._running:
            await asyncio.wait(self._running, timeout=STATEMENT_SECONDS)
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper}, timeout=STATEMENT_SECONDS)

    async def fetch(
        self, statement: str, parameters: Parameters = (), *, size: int = 0, urgent: bool = False
    ) -> Rows:
        """Run one statement; return its rows once its changes last.

        It runs even if its caller is cancelled. ``size`` is roughly how many bytes go there or
        come back, at most. One that is ``urgent`` does not wait for others; run one at a time.
        Raises :class:`StoreError`; the statement may have been carried out even so.
        """
        pool = self._pool
        if pool is None:
            raise StoreError(self.trouble or "the database has not been reached yet")
        seconds = STATEMENT_SECONDS + size / BYTES_PER_SECOND
        run = partial(self._fetch, pool, statement, parameters, seconds)
        task = asyncio.create_task(run() if urgent else self._in_turn(run))
        self._running.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # which is told to the caller, if it is still there

    async def _in_turn(self, run: Callable[[], Awaitable[Rows]]) -> Rows:
        try:
            async with asyncio.timeout(BUSY_SECONDS):
                await self._places.acquire()
        except TimeoutError:
            raise StoreError(BUSY) from None
        try:
            return await run()
        finally:
            self._places.release()

    async def _fetch(
        self,
        pool: AsyncConnectionPool[Any],
        statement: str,
        parameters: Parameters,
        seconds: float,
    ) -> Rows:
        try:
            async with pool.connection(timeout=BUSY_SECONDS) as connection:
                self._busy.add(connection)
                try:
                    with limited(connection, seconds):
                        cursor = await connection.execute(statement, parameters)
                        return await cursor.fetchall() if cursor.description else []
                finally:
                    self._busy.discard(connection)
        except PoolTimeout:
            raise StoreError(BUSY) from None
        except psycopg.Error as exc:
            reason = why(exc)
            if exc.sqlstate == _DISK_FULL:
                self._full_at = time.monotonic()
            if not is_lost(exc):
                log.error("JOBS_DB: %s", reason)
            elif self._pool is pool:
                self._pool = None
                self._note(reason)
                # A statement on another connection would wait without end.
                for each in (*self._busy, *([] if self._listening is None else [self._listening])):
                    cut(each)
            raise StoreError(reason) from None

    async def _keep(self, hear: Callable[[str], None], up: Callable[[], None]) -> None:
        while True:
            try:
                self.salt = await asyncio.to_thread(self._greet)
                async with (
                    await psycopg.AsyncConnection.connect(
                        self._url, autocommit=True, prepare_threshold=None
                    ) as listening,
                    self._make_pool() as pool,
                ):
                    with limited(listening):
                        await listening.execute(f"LISTEN {self._channel}")
                    self._listening, self._pool = listening, pool
                    self.up_since = time.monotonic()
                    self._note(None)
                    up()
                    await self._listen(listening, hear)
            except (psycopg.Error, SchemaError) as exc:
                self._note(why(exc))
            except Exception as exc:  # a link that is not kept would never come back
                self._note(type(exc).__name__)
            finally:
                self._listening = self._pool = None
            await asyncio.sleep(AGAIN_SECONDS)

    async def _listen(
        self, listening: psycopg.AsyncConnection[Any], hear: Callable[[str], None]
    ) -> None:
        while True:
            async for notice in listening.notifies(timeout=CHECK_SECONDS):
                hear(notice.payload)
            with limited(listening):
                await listening.execute("SELECT 1")

    def _make_pool(self) -> AsyncConnectionPool[Any]:
        return AsyncConnectionPool(
            self._url,
            # pgbouncer gives each transaction another server, which knows no prepared statement.
            kwargs={"autocommit": True, "prepare_threshold": None},
            min_size=1,
            max_size=CONNECTIONS,
            reconnect_timeout=CONNECT_SECONDS,
            open=False,
        )

    def _greet(self) -> bytes:
        """Prepare the tables and return the salt. Blocks, but not for long."""
        with psycopg.connect(self._url, autocommit=True, prepare_threshold=None) as connection:
            timer = threading.Timer(STATEMENT_SECONDS, cut, [connection])
            timer.start()
            try:
                return prepare(connection)
            finally:
                timer.cancel()

    def _note(self, trouble: str | None) -> None:
        if trouble is not None and trouble != self.trouble:
            log.error("JOBS_DB: %s; jobs are refused until this is over", trouble)
        elif trouble is None and self.trouble is not None:
            log.warning("JOBS_DB: the database is reached again")
        self.trouble = trouble


@contextlib.contextmanager
def limited(
    connection: psycopg.AsyncConnection[Any], seconds: float = STATEMENT_SECONDS
) -> Iterator[None]:
    """Cut a connection whose work takes longer, which raises :class:`psycopg.OperationalError`.

    A task that is cancelled instead would go on to wait for a server that may never answer.
    """
    timer = asyncio.get_running_loop().call_later(seconds, cut, connection)
    try:
        yield
    finally:
        timer.cancel()


def cut(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    """End a connection under the task that uses it."""
    with (
        contextlib.suppress(OSError, psycopg.Error),
        socket.socket(fileno=os.dup(connection.fileno())) as copy,
    ):
        copy.shutdown(socket.SHUT_RDWR)


def is_lost(exc: psycopg.Error) -> bool:
    """Return whether an error ends its connection, or tells that it leads to the wrong server."""
    if exc.sqlstate is None:
        return isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError)
    return exc.sqlstate.startswith(_LOST) or exc.sqlstate == _READ_ONLY


def why(exc: psycopg.Error | SchemaError) -> str:
    """Say in words fit for a log why there is no connection, or why a statement failed."""
    if isinstance(exc, SchemaError):
        return str(exc)
    if exc.sqlstate is not None:
        said = exc.diag.message_primary if exc.sqlstate.startswith(_PLAIN) else None
        return f"PostgreSQL says {exc.sqlstate}: {said or type(exc).__name__}"
    if isinstance(exc, psycopg.OperationalError | psycopg.InterfaceError):
        text = re.sub(r'"[^"]*" ', "", str(exc))
        causes = [cause for cause in _CAUSES if cause in text]
        return ": ".join(["PostgreSQL can't be reached", *causes[:1]])
    return type(exc).__name__


def _answers(url: str) -> bool:
    """Return whether a server is there, so that another try would be refused, too."""
    return pq.PGconn.ping(url.encode()) == pq.Ping.OK
