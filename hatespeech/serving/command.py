"""The HTTP server: ``python server.py``, or ``uvicorn server:app`` behind a proxy of your own.

Only ``python server.py`` reads HOST, PORT and PORT_HEALTH, bounds slow request heads and slow
readers, and sends no ``Server`` header.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from functools import cache
from types import FrameType
from typing import TYPE_CHECKING

from hatespeech.errors import SettingsError
from hatespeech.libraries import set_library_defaults
from hatespeech.serving.settings import ServerSettings

if TYPE_CHECKING:
    from fastapi import FastAPI

log = logging.getLogger(__name__)

# For requests in flight when told to stop; then they are cut off.
SHUTDOWN_SECONDS = 60

DESCRIPTION = """\
Score tweets over HTTP: hate, abusing, neutral, spam.

ServerSettings come from environment variables; the README lists them. BEARER_TOKEN is needed (or
ALLOW_ANONYMOUS=1). /docs documents the routes, docs/http.md how to use them."""

EXAMPLES = """\
examples:
  BEARER_TOKEN=$(openssl rand -hex 32) python server.py
  ALLOW_ANONYMOUS=1 PORT=9000 python server.py
      then: curl localhost:9000/score -H 'content-type: application/json' \\
                 -d '{"text": "good morning"}'
"""


@cache  # uvicorn asks twice
def load_app() -> FastAPI:
    """Build the application from the environment; end the process with one line if it can't be."""
    set_library_defaults(os.environ)
    try:
        settings = ServerSettings.from_environment(os.environ)

        from hatespeech.serving.app import create_app

        return create_app(settings)
    except SettingsError as exc:
        sys.stderr.write(f"error: {exc}\n")
        sys.exit(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until told to stop; return the exit code, 1 if the model could not be served."""
    parser = argparse.ArgumentParser(
        prog="server.py",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    set_library_defaults(os.environ)
    try:
        settings = ServerSettings.from_environment(os.environ)

        from hatespeech.serving.app import create_app

        sockets = [listen(settings.host, settings.port, "PORT")]
        if settings.port_health not in (None, settings.port):
            assert settings.port_health is not None  # noqa: S101 - see above
            sockets.append(listen(settings.host, settings.port_health, "PORT_HEALTH"))
        app = create_app(settings)
    except SettingsError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    serve(app, sockets)
    return 1 if app.state.model.state == "broken" else 0


def listen(host: str, port: int, name: str) -> socket.socket:
    """Bind a port; raise :class:`SettingsError` naming the setting if it can't be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=2048)
    except OSError as exc:
        reason = (exc.strerror or type(exc).__name__).lower()
        raise SettingsError(f"{name}={port} on HOST={host!r} cannot be had: {reason}") from None


def serve(app: FastAPI, sockets: list[socket.socket]) -> None:
    """Run uvicorn on bound sockets until a signal, which also has the jobs stop at once."""
    import uvicorn

    from hatespeech.serving.guards.connection import GuardedProtocol, connections_that_fit

    GuardedProtocol.max_connections = connections_that_fit()

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.jobs.drain()
            await super().shutdown(sockets)

    config = uvicorn.Config(
        app,
        http=GuardedProtocol,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
    for each in sockets:
        host, port = each.getsockname()[:2]
        log.info("listening on http://%s:%d", host, port)

    # uvicorn, once done, raises again the signal that ended it: by then nothing is left to do.
    def ignore(_signal: int, _frame: FrameType | None) -> None:
        pass

    signal.signal(signal.SIGTERM, ignore)
    signal.signal(signal.SIGINT, ignore)
    Server(config).run(sockets)
