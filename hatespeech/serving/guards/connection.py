"""Limits on the connection, which an application cannot set.

uvicorn limits how long an idle connection is kept. It does not limit how long a request's head may
take, how long the rest of a body may take after the reply, or how long a reply waits for a client
that does not read.
"""

from __future__ import annotations

import asyncio
import logging
import resource
from typing import Any, ClassVar, Final

import h11
from typing_extensions import override
from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_SECONDS: Final = 15.0  # for a request's line and headers, from connecting or the first byte
LINGER_SECONDS: Final = 15.0  # for the rest of a body after its reply
WRITE_SECONDS: Final = 60.0  # for a client that does not read the reply
MAX_CONNECTIONS: Final = 2048
MAX_GRPC_CONNECTIONS: Final = 256  # each carries many calls
RESERVED_DESCRIPTORS: Final = 128  # for all other open files

log = logging.getLogger(__name__)


def connections_that_fit(*, beside_grpc: bool) -> int:
    """Raise the process's limit of open files if allowed; return how many HTTP connections fit.

    Above the limit the system refuses to open anything else, too.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    reserved = RESERVED_DESCRIPTORS + (MAX_GRPC_CONNECTIONS if beside_grpc else 0)
    wanted = MAX_CONNECTIONS + reserved
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return MAX_CONNECTIONS
    return max(1, min(MAX_CONNECTIONS, soft - reserved))


class GuardedProtocol(H11Protocol):
    """uvicorn's h11 protocol, which limits the size of a head, with deadlines."""

    max_connections: ClassVar[int] = MAX_CONNECTIONS
    _warned: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting_for: str | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection, or cut it off if there are too many."""
        # The parameter's type is uvicorn's.
        super().connection_made(transport)
        if len(self.connections) > self.max_connections:
            if not self._warned:
                type(self)._warned = True  # once: it may be an attack
                log.warning("%d connections: further ones are cut off", self.max_connections)
            transport.abort()
            return
        self._watch(new=True)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        super().connection_lost(exc)
        for timer in (self._deadline, self._write_deadline):
            if timer is not None:
                timer.cancel()

    @override
    def data_received(self, data: bytes) -> None:
        """Read, and check what is still missing."""
        super().data_received(data)
        self._watch()

    @override
    def on_response_complete(self) -> None:
        """Continue with a pipelined request or with the rest of the body."""
        super().on_response_complete()
        self._watch()

    @override
    def pause_writing(self) -> None:
        """Give a client that does not read some time."""
        super().pause_writing()
        if self._write_deadline is None:
            self._write_deadline = self.loop.call_later(WRITE_SECONDS, self.transport.abort)

    @override
    def resume_writing(self) -> None:
        """Note that the client reads."""
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _watch(self, *, new: bool = False) -> None:
        """Start a deadline when the connection waits for something new; data does not extend it."""
        answered = self.cycle is None or self.cycle.response_complete
        begun = new or self._waiting_for == "head" or bool(self.conn.trailing_data[0])
        waiting_for = None
        if answered and begun and self.conn.their_state is h11.IDLE:
            waiting_for = "head"
        elif answered and self.conn.their_state is h11.SEND_BODY:
            waiting_for = "rest"
        if waiting_for == self._waiting_for:
            return
        self._waiting_for = waiting_for
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if waiting_for is not None:
            seconds = HEAD_SECONDS if waiting_for == "head" else LINGER_SECONDS
            self._deadline = self.loop.call_later(seconds, self._expire)

    def _expire(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()
