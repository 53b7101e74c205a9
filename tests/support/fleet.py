"""Three servers that share a PostgreSQL, many jobs, and a storm of kills, restarts and cuts.

python -m tests.support.fleet --jobs 3000 --blows 20
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import requests

from hatespeech.serving.jobs.store import GIVEN_UP
from tests.support.http_client import BEARER
from tests.support.processes.constant_server import CONSTANT_SERVER, read_runs
from tests.support.processes.server import HttpServer, http_server
from tests.support.services.postgres import Postgres, postgres
from tests.support.tcp_proxy import TcpProxy

SERVERS: Final = 3
CALLERS: Final = 6
LEASE_SECONDS: Final = 3.0
BLOWS: Final = ("kill", "restart", "refuse", "swallow")


@dataclass(frozen=True)
class Seen:
    """What came of a storm."""

    answers: Counter[str]
    runs: int
    refused: Counter[str]  # replies and errors that made a caller try again


class Fleet:
    """The servers, each with a network of its own that can be cut."""

    def __init__(self, database: Postgres, folder: Path, name: str, running: ExitStack) -> None:
        self.runs = folder / "runs"
        self.runs.touch()
        self._database = database
        self._name = name
        self._folder = folder
        self._running = running
        self.proxies = [running.enter_context(TcpProxy(database.port)) for _ in range(SERVERS)]
        self.servers = [self._start(i) for i in range(SERVERS)]
        for server in self.servers:
            server.ready()

    def _start(self, i: int) -> HttpServer:
        options = ("--runs", self.runs, "--score-seconds", "0.02", "--lease-seconds", LEASE_SECONDS)
        settings = {
            "JOBS_DB": self._database.url(self._name, self.proxies[i].port),
            "MAX_CONCURRENCY": "8",
            "MAX_QUEUE_JOBS": "100000",
        }
        return self._running.enter_context(
            http_server(
                self._folder / f"server-{i}",
                self._folder,
                settings,
                (*CONSTANT_SERVER, *map(str, options)),
            )
        )

    def strike(self, blow: str, i: int) -> None:
        """Do one bad thing to a server, or to the database; return once it is over."""
        if blow == "kill":
            process = self.servers[i].process
            os.kill(process.pid, signal.SIGKILL)
            process.wait(30)
            self.servers[i] = self._start(i)
            self.servers[i].ready()
        elif blow == "restart":
            self._database.stop("immediate")
            self._database.start()
        else:
            proxy = self.proxies[i]
            getattr(proxy, blow)()
            time.sleep(LEASE_SECONDS / 2)
            proxy.heal()

    def run(self, number: int, chance: random.Random, refused: Counter[str]) -> str:
        """Have some server accept a job, as a caller that tries again does; return its id."""
        headers = {**BEARER, "Idempotency-Key": f"job-{number}"}
        job = {"input": {"prompt": f"text {number}"}}
        path = "/runsync?wait=1000" if number % 10 == 0 else "/run"
        if path != "/run":
            del headers["Idempotency-Key"]  # which /runsync does not read
        while True:
            server = chance.choice(self.servers)
            with contextlib.suppress(requests.RequestException):
                reply = server.post(path, json=job, headers=headers)
                if reply.status_code == 200:
                    job_id: str = reply.json()["id"]
                    return job_id
                refused[str(reply.status_code)] += 1
                continue
            refused["no reply"] += 1

    def answer(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's answer, from any server."""
        while True:
            for server in self.servers:
                with contextlib.suppress(requests.RequestException):
                    reply = server.get(f"/status/{job_id}")
                    assert reply.status_code in (200, 503), (reply.status_code, reply.text)
                    if reply.status_code == 200 and "executionTime" in reply.json():
                        job: dict[str, Any] = reply.json()
                        return job
            time.sleep(0.1)


@contextmanager
def fleet(database: Postgres, folder: Path, name: str) -> Iterator[Fleet]:
    """Start the servers on an empty database."""
    database.create(name)
    with ExitStack() as running:
        yield Fleet(database, folder, name, running)


def storm(
    fleet: Fleet,
    database: Postgres,
    name: str,
    jobs: int,
    blows: Callable[[Fleet], None],
    seed: int,
) -> Seen:
    """Have callers send jobs while ``blows`` strike; check that each is answered once.

    Raises :class:`AssertionError` if one is lost, answered twice or run after its answer.
    """
    refused: Counter[str] = Counter()

    def call(number: int) -> str:
        return fleet.run(number, random.Random(seed + number), refused)

    with ThreadPoolExecutor(CALLERS) as callers:
        striking = threading.Thread(target=blows, args=(fleet,))
        striking.start()
        ids = list(callers.map(call, range(jobs)))
        striking.join()
        answers = list(callers.map(fleet.answer, ids))
        again = list(callers.map(fleet.answer, ids))
    assert len(set(ids)) == jobs
    assert again == answers
    for number, answer in enumerate(answers):
        if answer["status"] == "FAILED":
            assert answer["error"] == GIVEN_UP
        else:
            assert answer["status"] == "COMPLETED"
            assert answer["output"]["text"] == f"text {number}"
    rows = database.execute(
        name, "SELECT id, attempts, extract(epoch FROM finished)::float8 FROM hatespeech_jobs"
    )
    attempts = {job_id: count for job_id, count, _ in rows}
    finished = {job_id: when for job_id, _, when in rows}
    runs: dict[str, list[float]] = defaultdict(list)
    for when, text in read_runs(fleet.runs):
        runs[text].append(when)
    for number, (job_id, answer) in enumerate(zip(ids, answers, strict=True)):
        assert (answer["status"] == "FAILED") <= (attempts[job_id] == 3)
        # A /runsync whose reply was lost is another job with the same text.
        if number % 10 or len(runs[f"text {number}"]) == 1:
            assert max(runs[f"text {number}"]) < finished[job_id], "run after its answer"
    return Seen(
        Counter(answer["status"] for answer in answers), sum(map(len, runs.values())), refused
    )


def main() -> int:
    """Run a storm of random blows and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--blows", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    struck: Counter[str] = Counter()

    def blows(fleet: Fleet) -> None:
        for _ in range(options.blows):
            time.sleep(chance.uniform(0.2, 2.0))
            blow = chance.choice(BLOWS)
            struck[blow] += 1
            fleet.strike(blow, chance.randrange(SERVERS))

    started = time.monotonic()
    with (
        tempfile.TemporaryDirectory() as folder,
        postgres() as database,
        fleet(database, Path(folder), "storm") as servers,
    ):
        seen = storm(servers, database, "storm", options.jobs, blows, options.seed)
    print(f"{time.monotonic() - started:.0f} s; blows: {dict(struck)}")
    print(f"answers: {dict(seen.answers)}; runs: {seen.runs}; refused: {dict(seen.refused)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
