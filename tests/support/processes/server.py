"""Runs server.py as a process of its own, and talks to it over real sockets.

As a module of its own it is the server on the device of :mod:`tests.support.faulty_device`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.paths import ROOT
from tests.support.http_client import OTHER_TOKEN, TOKEN, HttpClient
from tests.support.ports import free_port
from tests.support.processes.worker import WorkerProcess, clean_environment

SERVER: Final = str(ROOT / "server.py")
FAULTY_SERVER: Final = ("-m", "tests.support.processes.server")


class HttpServer(WorkerProcess, HttpClient):
    """A server on a free port of 127.0.0.1; start one with :func:`http_server`."""


@contextmanager
def http_server(
    folder: Path,
    model_dir: Path,
    environment: Mapping[str, str] | None = None,
    command: tuple[str, ...] = (SERVER,),
) -> Iterator[HttpServer]:
    """Start a server whose files lie in ``folder``; an empty value unsets a variable."""
    settings = server_environment(folder, model_dir, environment or {})
    with HttpServer(command, settings, folder) as server:
        server.port = int(settings["PORT"])
        server.health_port = int(settings.get("PORT_HEALTH", server.port))
        yield server


def server_environment(
    folder: Path, model_dir: Path, environment: Mapping[str, str]
) -> dict[str, str]:
    """Return what a server of the tests needs, and what ``environment`` changes of it."""
    return {
        **clean_environment(folder, model_dir),
        "BEARER_TOKEN": f"{OTHER_TOKEN},{TOKEN}",
        "HOST": "127.0.0.1",
        "RATE_LIMIT": "off",
        "PORT": str(free_port()),
        "JOBS_DB": str(folder / "jobs.sqlite3"),
        **environment,
    }


def main() -> int:
    """Run server.py on the faulty device; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--switches", type=Path, required=True, help="folder of the switches")
    options = parser.parse_args()

    from hatespeech.serving import command as server
    from tests.support.faulty_device import Switches, faulty_device

    with faulty_device(Switches(options.switches)):
        return server.main([])


if __name__ == "__main__":
    sys.exit(main())
