"""What several tests of the SingularityNET front share: a service that answers as it is told."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest


@dataclass
class Service:
    """An HTTP service that answers as it is told, and remembers what it was asked."""

    url: str = ""
    status: int = 200
    body: str = '{"text": "ok"}'
    paths: list[str] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    proceed: threading.Event = field(default_factory=threading.Event)
    wait_seconds: float = 0.0


@pytest.fixture
def service() -> Iterator[Service]:
    state = Service()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            state.paths.append(self.path)
            state.headers.append({name.lower(): value for name, value in self.headers.items()})
            state.bodies.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            state.proceed.wait(state.wait_seconds)
            body = state.body.encode()
            try:
                self.send_response(state.status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
            except OSError:
                pass  # the daemon gave up

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    yield state
    state.proceed.set()
    server.shutdown()
    thread.join(10)
    server.server_close()
