"""The HTTP server: ``python server.py``, or ``uvicorn server:app`` behind a proxy of your own.

Only ``python server.py`` reads HOST, PORT, UNIX_SOCKET, ROOT_PATH, KEEP_ALIVE and PORT_HEALTH,
bounds slow request heads and slow readers, and sends no ``Server`` header.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Final

from hatespeech.cli import make_parser
from hatespeech.collector import starting
from hatespeech.errors import SettingsError
from hatespeech.libraries import set_library_defaults
from hatespeech.logs import configure, log_the_rest, warn_of_mistyped
from hatespeech.serving.settings import SHUTDOWN_SECONDS, ServerSettings

if TYPE_CHECKING:
    import uvicorn
    from fastapi import FastAPI

log = logging.getLogger(__name__)

BACKLOG: Final = 2048
PROXIES: Final = "TRUSTED_PROXIES"
UVICORNS_PROXIES: Final = "FORWARDED_ALLOW_IPS"  # its own name for them
# As nginx, gunicorn and uvicorn do it: the folder's rights say who may connect.
SOCKET_MODE: Final = 0o666

DESCRIPTION = """\
Score tweets over HTTP: hate, abusing, neutral, spam.

All settings are environment variables; docs/settings.md lists them. Set BEARER_TOKEN, which callers
must send, or ALLOW_ANONYMOUS=1. While it runs, http://127.0.0.1:8000/docs documents the routes, and
/demo is a page to try them. docs/http.md is the guide."""

EPILOG = """\
examples:
  export BEARER_TOKEN=$(openssl rand -hex 32)
  COMMAND &
  curl -fsS --retry 9 --retry-connrefused http://127.0.0.1:8000/score \\
       -H "Authorization: Bearer $BEARER_TOKEN" \\
       -H 'Content-Type: application/json' -d '{"text": "good morning"}'
  kill %1

  ALLOW_ANONYMOUS=1 PORT=9000 COMMAND
"""


@cache  # uvicorn asks twice
def load_app() -> FastAPI:
    """Build the application from the environment; end the process with one line if it can't be."""
    set_library_defaults(os.environ)
    try:
        settings = read_settings(os.environ)

        with starting():
            from hatespeech.serving.app import create_app

        app = create_app(settings)
    except SettingsError as exc:
        sys.stderr.write(f"error: {exc}\n")
        sys.exit(1)
    log_the_rest()
    return app


def read_settings(environment: Mapping[str, str]) -> ServerSettings:
    """Read the settings, and log which names are mistyped; raise :class:`SettingsError`."""
    settings = ServerSettings.from_environment(environment)
    configure(settings)
    warn_of_mistyped(environment, ServerSettings)
    return settings


def server_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line; ``prog`` is how the program was called."""
    parser = make_parser(prog, DESCRIPTION, EPILOG)
    parser.add_argument(
        "--grpc",
        metavar="HOST:PORT",
        help="answer gRPC there as well (docs/grpc.md); wins over the variable GRPC",
    )
    return parser


def main(arguments: Sequence[str] | None = None, prog: str = "server.py") -> int:
    """Serve until told to stop; return the exit code, 1 if the model could not be served."""
    options = server_parser(prog).parse_args(arguments)
    set_library_defaults(os.environ)
    given = {} if options.grpc is None else {"GRPC": options.grpc}
    uvicorns = "" if os.environ.get(PROXIES) else os.environ.get(UVICORNS_PROXIES, "")
    if uvicorns:
        given[PROXIES] = uvicorns
    try:
        settings = read_settings({**os.environ, **given})

        with starting():
            from hatespeech.serving.app import create_app

        if settings.unix_socket is None:
            sockets = [listen(settings.host, settings.port, "PORT")]
        else:
            sockets = [listen_locally(settings.unix_socket)]
        if settings.health_port is not None:
            sockets.append(listen(settings.host, settings.health_port, "PORT_HEALTH"))
        if settings.grpc is not None:
            # gRPC binds its port itself, in the event loop: too late for one line and an exit code.
            host, _, port = settings.grpc.rpartition(":")
            listen(host.strip("[]"), int(port), "GRPC").close()
        app = create_app(settings)
    except SettingsError as exc:
        # The variable that is set, not the one that it stands for.
        message = str(exc).replace(f"{PROXIES}=", f"{UVICORNS_PROXIES}=") if uvicorns else exc
        sys.stderr.write(f"error: {message}\n")
        return 1
    log_the_rest()
    serve(app, sockets, settings)
    return 1 if app.state.model.state == "broken" else 0


def listen(host: str, port: int, name: str) -> socket.socket:
    """Bind a port; raise :class:`SettingsError` naming the setting if it is not free."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    both = host == "::" and socket.has_dualstack_ipv6()  # every network, as 0.0.0.0 says for IPv4
    try:
        return socket.create_server(
            (host, port), family=family, backlog=BACKLOG, dualstack_ipv6=both
        )
    except OSError as exc:
        # Python adds the address to what the system says.
        reason = (exc.strerror or type(exc).__name__).partition(" (while")[0].lower()
        place = f"HOST:{name} {shown_host(host)}:{port}"
        raise SettingsError(f"cannot listen on {place}: {reason}") from None


def listen_locally(path: Path) -> socket.socket:
    """Bind a Unix socket, in place of one that a server left behind when it died.

    Raises :class:`SettingsError` if another server listens there, or if it cannot be made.
    """
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket():
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
                if probe.connect_ex(str(path)) == 0:
                    raise SettingsError("UNIX_SOCKET: another server listens there")
            path.unlink()
        server.bind(str(path))
        path.chmod(SOCKET_MODE)
        server.listen(BACKLOG)
    except OSError as exc:
        server.close()
        reason = (exc.strerror or str(exc)).lower()  # a path that is too long has no number
        raise SettingsError(f"UNIX_SOCKET: cannot listen there: {reason}") from None
    except BaseException:
        server.close()
        raise
    return server


def shown_host(host: str) -> str:
    """Return a host as it stands in a URL: an IPv6 address in brackets."""
    return f"[{host}]" if ":" in host else host


def uvicorn_config(app: FastAPI, settings: ServerSettings) -> uvicorn.Config:
    """Return how uvicorn serves the application: what it must not say, do, trust or wait for."""
    import uvicorn

    from hatespeech.serving.guards.connection import connections_that_fit, guarded_protocol

    return uvicorn.Config(
        app,
        http=guarded_protocol(
            connections_that_fit(beside_grpc=settings.grpc is not None),
            settings.max_connections_per_address,
            settings.health_port,
        ),
        ws="none",
        root_path=settings.root_path,
        timeout_keep_alive=settings.keep_alive,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=settings.trusted_proxies is not None,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def serve(app: FastAPI, sockets: list[socket.socket], settings: ServerSettings) -> None:
    """Run uvicorn on bound sockets until a signal, which also stops the jobs immediately."""
    import uvicorn

    class Server(uvicorn.Server):
        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.jobs.drain()
            if app.state.grpc_server is not None:
                app.state.grpc_server.drain()
            await super().shutdown(sockets)

    config = uvicorn_config(app, settings)
    for each in sockets:
        if each.family == socket.AF_UNIX:
            log.info("listening on the Unix socket %s", each.getsockname())
        else:
            host, port = each.getsockname()[:2]
            log.info("listening on http://%s:%d", shown_host(host), port)

    # uvicorn, once done, raises again the signal that ended it: by then nothing is left to do.
    def ignore(_signal: int, _frame: FrameType | None) -> None:
        pass

    signal.signal(signal.SIGTERM, ignore)
    signal.signal(signal.SIGINT, ignore)
    Server(config).run(sockets)
