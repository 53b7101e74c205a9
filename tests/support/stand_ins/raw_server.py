"""A server on 127.0.0.1 that sends bytes as they are, to misbehave in ways that no server should.

A connection is one request, read as a whole, and one act. Acts are taken in order; the last stays.
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

Act = Callable[[socket.socket], object]
SECONDS = 60.0  # longer than a client of the tests waits


class RawServer:
    """Listens until the ``with`` block ends; ``requests`` are what has come in."""

    def __init__(self, *acts: Act, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[bytes] = []
        self._acts = list(acts)
        self._tls = tls
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve, name="raw server")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing = True
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), 5).close()
        self._thread.join(SECONDS)
        self._listener.close()

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Its address."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}"

    def _serve(self) -> None:
        while True:
            connection, _ = self._listener.accept()
            if self._closing:
                connection.close()
                return
            connection.settimeout(SECONDS)
            # The client goes away while it is served: that is what the tests are about.
            with contextlib.suppress(OSError), connection:
                if self._tls is None:
                    self._answer(connection)
                else:
                    with self._tls.wrap_socket(connection, server_side=True) as encrypted:
                        self._answer(encrypted)

    def _answer(self, connection: socket.socket) -> None:
        act = self._acts.pop(0) if len(self._acts) > 1 else self._acts[0]
        if act is reset_early:
            reset_early(connection)
            return
        self.requests.append(read_request(connection))
        act(connection)


def read_request(connection: socket.socket) -> bytes:
    """Read a head, and the body that it announces."""
    data = b""
    while b"\r\n\r\n" not in data:
        data += _more(connection)
    head, _, body = data.partition(b"\r\n\r\n")
    found = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    while found and len(body) < int(found[1]):
        body += _more(connection)
    return head + b"\r\n\r\n" + body


def _more(connection: socket.socket) -> bytes:
    data = connection.recv(65_536)
    if not data:
        raise ConnectionError("the client has gone")
    return data


def answering(data: bytes) -> Act:
    """Send these bytes and close the connection."""
    return lambda connection: connection.sendall(data)


def dripping(data: bytes, seconds: float) -> Act:
    """Send the bytes one at a time, a pause after each, and then again from the last one."""

    def act(connection: socket.socket) -> None:
        index = 0
        while True:
            connection.sendall(data[index : index + 1])
            index = min(index + 1, len(data) - 1)
            time.sleep(seconds)

    return act


def endless(head: bytes, piece: bytes) -> Act:
    """Send a head, and then the same piece again and again."""

    def act(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(piece)

    return act


def reset_early(connection: socket.socket) -> None:
    """Reset the connection before anything is read."""
    reset(connection)


def reset(connection: socket.socket) -> None:
    """Reset the connection: closing it sends RST."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
