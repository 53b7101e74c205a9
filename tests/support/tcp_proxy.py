"""A network that can be cut: a proxy for one port of 127.0.0.1."""

from __future__ import annotations

import contextlib
import socket
import threading
from types import TracebackType
from typing import Final, Self

PIECE: Final = 65_536


class TcpProxy:
    """Passes on connections, until it is told to swallow what is sent or to refuse."""

    def __init__(self, target: int, port: int = 0) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port: int = self._listener.getsockname()[1]
        # Requests, and replies, pass while these are set.
        self._there, self._back = threading.Event(), threading.Event()
        self.heal()
        self._sockets: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.refuse()
        self._there.set()
        self._back.set()
        for thread in self._threads:
            thread.join(10)
        for each in self._sockets:
            each.close()

    def swallow(self) -> None:
        """Let nothing through any more, and tell neither side."""
        self._there.clear()
        self._back.clear()

    def swallow_replies(self) -> None:
        """Let requests through and no replies."""
        self._back.clear()

    def refuse(self) -> None:
        """Reset every connection, and every new one."""
        self._refuses = True
        for each in list(self._sockets):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def heal(self) -> None:
        """Let everything through again, also what was swallowed."""
        self._refuses = False
        self._there.set()
        self._back.set()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self._refuses:
                client.close()
                continue
            try:
                server = socket.create_connection(("127.0.0.1", self._target), 10)
            except OSError:
                client.close()
                continue
            server.settimeout(None)
            self._sockets |= {client, server}
            for way in ((client, server, self._there), (server, client, self._back)):
                thread = threading.Thread(target=self._pump, args=way, daemon=True)
                self._threads.append(thread)
                thread.start()

    def _pump(self, source: socket.socket, sink: socket.socket, passes: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(PIECE):
                passes.wait()
                sink.sendall(piece)
        for each in (source, sink):  # the other direction ends, too
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
