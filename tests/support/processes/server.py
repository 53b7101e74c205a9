"""Runs server.py as a process of its own, and talks to it over real sockets.

As a module of its own it is the server with a device that can be held, made to fail or broken (see
:mod:`tests.support.processes.faulty_worker`), and with deadlines that a test can wait for.
"""

from __future__ import annotations

import argparse
import csv
import io
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self
from unittest.mock import patch

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.paths import ROOT
from tests.support.ports import free_port
from tests.support.processes.worker import WorkerProcess, clean_environment, wait_until

SERVER: Final = str(ROOT / "server.py")
FAULTY_SERVER: Final = ("-m", "tests.support.processes.server")
TOKEN: Final = "a-token-of-the-tests-0123456789"
OTHER_TOKEN: Final = "another-token-of-the-tests-9876"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}
SECONDS: Final = 60.0  # more than any reply takes on a busy machine


class HttpServer(WorkerProcess):
    """A server on a free port of 127.0.0.1; start one with :func:`http_server`."""

    port: int
    health_port: int

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def request(
        self, method: str, path: str, headers: Mapping[str, str] | None = None, **options: Any
    ) -> requests.Response:
        """Send one request, with the right token unless ``headers`` are given."""
        given = BEARER if headers is None else headers
        return requests.request(method, self.url + path, headers=given, timeout=SECONDS, **options)

    def get(self, path: str, **options: Any) -> requests.Response:
        """GET ``path``."""
        return self.request("GET", path, **options)

    def post(self, path: str, **options: Any) -> requests.Response:
        """POST to ``path``."""
        return self.request("POST", path, **options)

    def run(self, job_input: Any, **options: Any) -> str:
        """Submit a job; return its id."""
        reply = self.post("/run", json={"input": job_input}, **options)
        assert reply.status_code == 200, reply.text
        job_id: str = reply.json()["id"]
        return job_id

    def status(self, job_id: str) -> dict[str, Any]:
        """Ask for a job."""
        reply: dict[str, Any] = self.get(f"/status/{job_id}").json()
        return reply

    def finished(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's answer."""
        wait_until(
            lambda: self.status(job_id)["status"] not in ("IN_QUEUE", "IN_PROGRESS"),
            f"job {job_id}",
            watch=self.require_running,
        )
        return self.status(job_id)

    def metrics(self) -> dict[str, float]:
        """Read every sample: name, and its labels' values after colons."""
        text = self.get("/metrics").text
        return {
            ":".join([sample.name.removeprefix("hate_speech_"), *sample.labels.values()]): (
                sample.value
            )
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def connect(self) -> socket.socket:
        """Open a connection of one's own."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=SECONDS)

    def ready(self) -> Self:
        """Wait until it scores."""
        self.wait_ping(200)
        return self

    def wait_ping(self, status: int) -> None:
        """Wait until ``/ping`` answers so."""

        def answers() -> bool:
            try:
                return self.get("/ping", headers={}).status_code == status
            except requests.ConnectionError:
                return False

        wait_until(answers, f"/ping to answer {status}", watch=self.require_running)


@contextmanager
def http_server(
    folder: Path,
    model_dir: Path,
    environment: Mapping[str, str] | None = None,
    command: tuple[str, ...] = (SERVER,),
) -> Iterator[HttpServer]:
    """Start a server whose files lie in ``folder``; an empty value unsets a variable."""
    port = int((environment or {}).get("PORT", free_port()))
    settings = {
        **clean_environment(folder, model_dir),
        "BEARER_TOKEN": f"{OTHER_TOKEN},{TOKEN}",
        "RATE_LIMIT": "off",
        "PORT": str(port),
        "JOBS_DB": str(folder / "jobs.sqlite3"),
        **(environment or {}),
    }
    with HttpServer(command, settings, folder) as server:
        server.port = port
        yield server


def together(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Call ``call`` with 0 … count-1 from as many threads; return the results in order."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def read_csv(text: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(text, newline="")))


def main() -> int:
    """Run server.py on the faulty device; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--switches", type=Path, required=True, help="folder of hold and broken")
    parser.add_argument("--deadline", type=float, help="seconds instead of every longer deadline")
    options = parser.parse_args()
    options.culprit, options.memory_tokens = "", None

    from hatespeech.engine.classifier import Classifier
    from hatespeech.serving import command as server
    from hatespeech.serving.guards import connection as protocol
    from hatespeech.serving.guards import limits
    from tests.support.processes.faulty_worker import faulty

    if options.deadline is not None:
        for module, name in (
            (protocol, "HEAD_SECONDS"),
            (protocol, "LINGER_SECONDS"),
            (protocol, "WRITE_SECONDS"),
            (limits, "BODY_GRACE_SECONDS"),
        ):
            patch.object(module, name, options.deadline).start()
    with patch.object(Classifier, "probabilities", faulty(Classifier.probabilities, options)):
        return server.main([])


if __name__ == "__main__":
    sys.exit(main())
