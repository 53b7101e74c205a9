"""Limits on the connection, which an application cannot set.

uvicorn limits how long an idle connection is kept. It does not limit how long a request's head may
take, how long the rest of a body may take after the reply, or how long a reply waits for a client
that does not read.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import resource
import socket
import sys
import time
from collections import Counter
from termios import TIOCOUTQ
from typing import Any, ClassVar, Final

import h11
from typing_extensions import override
from uvicorn.protocols.http.flow_control import CLOSE_HEADER
from uvicorn.protocols.http.h11_impl import H11Protocol

from hatespeech.serving.guards.auth import known_caller, network_of
from hatespeech.serving.guards.limits import STRANGERS
from hatespeech.serving.settings import UNIX

HEAD_SECONDS: Final = 15.0  # for a request's line and headers, from connecting or the first byte
LINGER_SECONDS: Final = 15.0  # for the rest of a body after its reply
# A client must read so many bytes of its reply each second, on average over WRITE_SECONDS.
WRITE_SECONDS: Final = 60.0
WRITE_BYTES_PER_SECOND: Final = 8 * 1024
# Of the replies that clients have not read yet, all together. A request of a hundred bytes, such as
# one for a job's result, may have a reply of megabytes.
UNREAD_BYTES: Final = 256 * 1024 * 1024
# A turn of one connection. In chunks of a byte, what the event loop reads in one go, 256 KB, takes
# h11 half a second.
TURN_SECONDS: Final = 0.005
PART_BYTES: Final = 4096  # parsed before the clock is looked at
MAX_CONNECTIONS: Final = 2048
MAX_HEALTH_CONNECTIONS: Final = 64  # to PORT_HEALTH, beside the others
MAX_GRPC_CONNECTIONS: Final = 256  # each carries many calls
RESERVED_DESCRIPTORS: Final = 128 + MAX_HEALTH_CONNECTIONS  # for all other open files

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


class PortConnections:
    """The connections to one port. If there are too many, one that serves no known caller goes.

    Of these it is the one that came, or got its last reply, longest ago.
    """

    def __init__(self, most: int, most_of_address: int) -> None:
        self._most = most
        self._most_of_address = most_of_address
        self._members: dict[GuardedProtocol, str | None] = {}  # in the order in which they go
        self._by_address: Counter[str] = Counter()

    def enter(self, member: GuardedProtocol, address: str | None) -> bool:
        """Let a connection in; return whether there is room for it, made by closing another one.

        Only connections that have an address are counted by it.
        """
        own = address is not None and self._by_address[address] >= self._most_of_address
        if own or len(self._members) >= self._most:
            victim = next(
                (
                    each
                    for each, its in self._members.items()
                    if (its == address or not own) and not each.serves_caller
                ),
                None,
            )
            if victim is None:
                return False
            self.leave(victim)
            victim.transport.abort()
        self._members[member] = address
        if address is not None:
            self._by_address[address] += 1
        return True

    def leave(self, member: GuardedProtocol) -> None:
        """Forget a connection, if it is in."""
        address = self._members.pop(member, None)
        if address is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]

    def limit_unread(self) -> None:
        """Cut off clients while all together leave more than ``UNREAD_BYTES`` of their replies.

        The one goes that got its reply longest ago, of the caller with the most of these bytes. One
        reply always fits.
        """
        unread = {each: size for each in self._members if (size := each.unread)}
        while len(unread) > 1 and sum(unread.values()) > UNREAD_BYTES:
            of_callers: Counter[str] = Counter()
            for each, size in unread.items():
                of_callers[each.caller] += size
            ((most, _),) = of_callers.most_common(1)
            victim = next(each for each in unread if each.caller == most)
            del unread[victim]
            self.leave(victim)
            victim.transport.abort()

    def note_reply(self, member: GuardedProtocol) -> None:
        """Note that a connection has got a reply: all others go before it."""
        if member in self._members:
            self._members[member] = self._members.pop(member)


class GuardedProtocol(H11Protocol):
    """uvicorn's h11 protocol, with deadlines and with limits on the number of connections."""

    callers: ClassVar[PortConnections]
    probes: ClassVar[PortConnections]  # on their own port: callers cannot keep them out
    health_port: ClassVar[int | None] = None
    _warned: ClassVar[bool] = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting_for: str | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._write_deadline: asyncio.TimerHandle | None = None
        self._unread = 0  # bytes of the reply that the client had not read when last looked at
        self._port_connections = self.callers
        self._unparsed = bytearray()
        self._paused = False  # until what is unparsed has been parsed

    @property
    def serves_caller(self) -> bool:
        """Whether a known caller waits for a reply. A stranger may leave a request unfinished."""
        if self.cycle is None or self.cycle.response_complete:
            return False
        return known_caller(self.cycle.scope["state"]) is not None

    @property
    def caller(self) -> str:
        """Who has sent the last request, ``STRANGERS`` for all who are not known."""
        caller = None if self.cycle is None else known_caller(self.cycle.scope["state"])
        return STRANGERS if caller is None else caller.name

    @property
    def unread(self) -> int:
        """How many bytes of replies wait here, because the system has no room for them."""
        return self.transport.get_write_buffer_size()

    @override
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Accept a connection; if there are too many, cut it or another one off."""
        # The parameter's type is uvicorn's.
        super().connection_made(transport)
        if self.health_port and self.server is not None and self.server[1] == self.health_port:
            self._port_connections = self.probes
        address = None  # all connections of a Unix socket are one proxy's
        if transport.get_extra_info("socket").family == socket.AF_UNIX:
            self.client = (UNIX, 0)
        else:
            address = network_of(self.client[0] if self.client else "")
        if not self._port_connections.enter(self, address):
            if not self._warned:
                type(self)._warned = True  # once: it may be an attack
                log.warning("too many connections: further ones are cut off")
            transport.abort()
            return
        self._watch(new=True)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the deadlines."""
        super().connection_lost(exc)
        self._port_connections.leave(self)
        for timer in (self._deadline, self._write_deadline):
            if timer is not None:
                timer.cancel()

    @override
    def data_received(self, data: bytes) -> None:
        """Read, and check what is still missing."""
        waits = bool(self._unparsed)
        self._unparsed += data
        if not waits:
            self._parse()

    def _parse(self) -> None:
        """Read for a turn; let other connections have theirs before the rest."""
        end = time.perf_counter() + TURN_SECONDS
        while self._unparsed and not self.transport.is_closing():
            part = bytes(self._unparsed[:PART_BYTES])
            del self._unparsed[:PART_BYTES]
            super().data_received(part)
            if time.perf_counter() > end:
                break
        self._watch()
        if self.transport.is_closing():
            self._unparsed.clear()
        elif self._unparsed:
            self.transport.pause_reading()
            self._paused = True
            self.loop.call_soon(self._parse)
        elif self._paused:
            self._paused = False
            if not self.flow.read_paused:  # uvicorn pauses it, too
                self.transport.resume_reading()

    @override
    def on_response_complete(self) -> None:
        """Continue with a pipelined request or with the rest of the body."""
        self._port_connections.note_reply(self)
        super().on_response_complete()
        self._watch()

    @override
    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP, unless the request in front of it has an answer already."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(msg)
        self.transport.close()
        if self.cycle is not None:
            self.cycle.disconnected = True  # what the application still sends goes nowhere

    @override
    def shutdown(self) -> None:
        """Close the connection, after the reply that is being made, which says so."""
        super().shutdown()
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.default_headers = [*self.cycle.default_headers, CLOSE_HEADER]

    @override
    def pause_writing(self) -> None:
        """Give a client that does not read some time."""
        super().pause_writing()
        self._port_connections.note_reply(self)
        self._port_connections.limit_unread()
        if self._write_deadline is None:
            self._unread = self._count_unread()
            self._write_deadline = self.loop.call_later(WRITE_SECONDS, self._check_reader)

    @override
    def resume_writing(self) -> None:
        """Note that the client reads."""
        super().resume_writing()
        if self._write_deadline is not None:
            self._write_deadline.cancel()
            self._write_deadline = None

    def _check_reader(self) -> None:
        """Give a client more time if it reads, however long the reply is."""
        unread, before = self._count_unread(), self._unread
        if before - unread < WRITE_BYTES_PER_SECOND * WRITE_SECONDS:
            self.transport.abort()
            return
        self._unread = unread
        self._write_deadline = self.loop.call_later(WRITE_SECONDS, self._check_reader)

    def _count_unread(self) -> int:
        """Return how many bytes wait here, and in the system for the client to take them."""
        waiting = self.unread
        with contextlib.suppress(OSError):  # not every system tells
            answer = fcntl.ioctl(self.transport.get_extra_info("socket"), TIOCOUTQ, bytes(4))
            waiting += int.from_bytes(answer, sys.byteorder)
        return waiting

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


def guarded_protocol(
    max_connections: int, max_of_address: int, health_port: int | None
) -> type[GuardedProtocol]:
    """Return the protocol of one server; ``health_port`` is the port of the probes, if any."""

    class ServersProtocol(GuardedProtocol):
        callers = PortConnections(max_connections, max_of_address)
        probes = PortConnections(MAX_HEALTH_CONNECTIONS, MAX_HEALTH_CONNECTIONS)

    ServersProtocol.health_port = health_port
    return ServersProtocol
