"""Runs ``app.py --rp_serve_api``: the SDK's development server around the worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path

import requests

from tests.support.ports import free_port
from tests.support.processes.worker import APP, WorkerProcess, wait_until


class DevelopmentApi(WorkerProcess):
    """The running server; start one with :func:`development_api`."""

    url: str


@contextlib.contextmanager
def development_api(folder: Path, environment: Mapping[str, str]) -> Iterator[DevelopmentApi]:
    """Start it with these variables and no others, and wait until it answers."""
    port = free_port()
    command = [APP, "--rp_serve_api", "--rp_api_host", "127.0.0.1", "--rp_api_port", str(port)]
    with DevelopmentApi(command, environment, folder) as api:
        api.url = f"http://127.0.0.1:{port}"

        def answers() -> bool:
            with contextlib.suppress(requests.ConnectionError):
                return requests.get(f"{api.url}/openapi.json", timeout=60).status_code == 200
            return False

        wait_until(answers, "the development server", watch=api.require_running)
        yield api
