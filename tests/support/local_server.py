"""Runs the HTTP front in a thread of this process: its sockets are as real as those of a process.

For tests that ask it something. What a signal, a limit of the process or another start does to it
takes a process: :mod:`tests.support.processes.server`.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from unittest.mock import patch

import uvicorn

from hatespeech.serving import command
from hatespeech.serving.app import create_app
from hatespeech.serving.settings import ServerSettings
from tests.support.http_client import HttpClient
from tests.support.loggers import loggers_kept
from tests.support.processes.server import server_environment


class LocalServer(HttpClient):
    """A server in a thread; start one with :func:`local_server`."""

    def __init__(self, settings: ServerSettings) -> None:
        self.port = settings.port
        self.health_port = settings.port_health or settings.port
        self._log = io.StringIO()
        with contextlib.redirect_stderr(self._log):
            self._app = create_app(settings, stop=lambda: None)
        config = command.uvicorn_config(self._app, settings)
        sockets = [
            command.listen(settings.host, port, "PORT") for port in {self.port, self.health_port}
        ]
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=(sockets,), name="server")

    @property
    def stderr(self) -> str:
        return self._log.getvalue()

    @property
    def connections(self) -> list[Any]:
        """The open connections: objects of :class:`GuardedProtocol`."""
        return list(self._server.server_state.connections)

    def call_soon(self, callback: Callable[[], object]) -> None:
        """Call something in the server's event loop."""
        self._app.state.model.loop.call_soon_threadsafe(callback)

    def require_running(self) -> None:
        assert self._thread.is_alive(), self.stderr[-4000:]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        assert not self._thread.is_alive(), self.stderr[-4000:]


@contextlib.contextmanager
def local_server(
    folder: Path, model_dir: Path, environment: Mapping[str, str] | None = None
) -> Iterator[LocalServer]:
    """Start a server whose files lie in ``folder``; an empty value unsets a variable."""
    settings = ServerSettings.from_environment(
        server_environment(folder, model_dir, environment or {})
    )
    with loggers_kept(), LocalServer(settings) as server:
        yield server


def refusal(environment: Mapping[str, str]) -> str:
    """Run ``server.py`` in this process, which must not start; return the one line it says."""

    def serve(*_arguments: object) -> None:
        raise AssertionError("it starts")

    def listen(*place: Any) -> socket.socket:
        return sockets.enter_context(real_listen(*place))

    err, real_listen = io.StringIO(), command.listen
    with (
        contextlib.ExitStack() as sockets,
        loggers_kept(),
        patch.object(command, "listen", listen),
        patch.dict(os.environ, environment, clear=True),
        patch.object(command, "serve", serve),
        contextlib.redirect_stderr(err),
    ):
        assert command.main([]) == 1
    assert err.getvalue().startswith("error: ")
    assert err.getvalue().count("\n") == 1
    return err.getvalue()
