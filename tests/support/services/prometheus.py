"""A real Prometheus of the test's own, with the configuration that we ship."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import yaml

from tests.paths import ROOT
from tests.support.ports import free_port
from tests.support.processes.worker import wait_until

DEPLOY: Final = ROOT / "deploy"
SECONDS: Final = 60.0


def need(program: str) -> str:
    """Return where a program of Prometheus is; skip the test if this machine has none."""
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"needs {program}: scripts/apt-packages names prometheus")
    return found


class Prometheus:
    """One that scrapes a server; start it with :func:`prometheus`."""

    def __init__(self, port: int, output: Path) -> None:
        self._url = f"http://127.0.0.1:{port}"
        self._output = output
        self.process: subprocess.Popen[bytes]

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        with contextlib.suppress(requests.ConnectionError):
            return requests.get(f"{self._url}/-/ready", timeout=SECONDS).ok
        return False

    def require_running(self) -> None:
        """Raise :class:`AssertionError` with what it said if it has ended."""
        assert self.process.poll() is None, self._output.read_text()[-4000:]

    def api(self, name: str, **query: str) -> Any:
        """Return ``data`` of an answer of its API; raise :class:`AssertionError` for an error."""
        reply = requests.get(f"{self._url}/api/v1/{name}", params=query, timeout=SECONDS).json()
        assert reply["status"] == "success", f"{query}: {reply.get('error')}"
        return reply["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the series that an expression gives now."""
        found: list[dict[str, Any]] = self.api("query", query=expression)["result"]
        return found


@contextlib.contextmanager
def prometheus(folder: Path, target: str, token: str) -> Iterator[Prometheus]:
    """Start one that scrapes ``target`` every second, with our rules; ``folder`` gets its files."""
    program = need("prometheus")
    config = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    (folder / "token").write_text(token)
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    (job,) = config["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    job["authorization"]["credentials_file"] = str(folder / "token")
    config["rule_files"] = [str(DEPLOY / name) for name in config["rule_files"]]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    port = free_port()
    server = Prometheus(port, folder / "prometheus.log")
    with (folder / "prometheus.log").open("wb") as output:
        server.process = subprocess.Popen(
            [
                program,
                f"--config.file={folder / 'prometheus.yml'}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            env={"PATH": os.environ["PATH"], "GOMAXPROCS": "1"},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(lambda: server.ready, "Prometheus", watch=server.require_running)
        yield server
    finally:
        server.process.kill()
        server.process.wait(30)
