"""Talks to the server over real sockets, whether it is a process or a thread."""

from __future__ import annotations

import csv
import io
import socket
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, Self

import requests
from prometheus_client.parser import text_string_to_metric_families

from tests.support.processes.worker import wait_until

TOKEN: Final = "a-token-of-the-tests-0123456789"
OTHER_TOKEN: Final = "another-token-of-the-tests-9876"
BEARER: Final = {"Authorization": f"Bearer {TOKEN}"}
SECONDS: Final = 60.0  # more than any reply takes on a busy machine


class HttpClient:
    """A client of the server on a port of 127.0.0.1."""

    port: int
    health_port: int

    @property
    def stderr(self) -> str:
        """What the server has written to standard error so far."""
        raise NotImplementedError

    def require_running(self) -> None:
        """Raise :class:`AssertionError` with the server's last words if it has ended."""
        raise NotImplementedError

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

    def wait_ping(self, status: int, path: str = "/ping") -> None:
        """Wait until a path answers so."""

        def answers() -> bool:
            try:
                return self.get(path, headers={}).status_code == status
            except requests.ConnectionError:
                return False

        wait_until(answers, f"{path} to answer {status}", watch=self.require_running)


def together(count: int, call: Callable[[int], Any]) -> list[Any]:
    """Call ``call`` with 0 … count-1 from as many threads; return the results in order."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(call, range(count)))


def read_csv(text: str) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    return list(csv.DictReader(io.StringIO(text, newline="")))
