"""Jobs a second over HTTP: one server and two on one PostgreSQL, and the SQLite file.

Clients send small jobs to /run, one after another each; the clock stops when the last job is
answered. The servers' scorer answers the same for every text without a pause, so the figures are of
accepting, storing, taking and answering. Everything shares the cores of this machine, the clients
and PostgreSQL included: two servers gain only where there are cores for them.

With --before, the file is compared with the file of an older commit; both sides score with a tiny
checkpoint there, because an older commit knows no other scorer. Needs Debian's postgresql.

    python -m benchmarks.job_servers [--before COMMIT]
"""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp

from benchmarks import report
from hatespeech.serving.jobs.store import COMPLETED
from tests.paths import ROOT
from tests.support.checkpoints import build_checkpoint
from tests.support.http_client import BEARER
from tests.support.processes.constant_server import CONSTANT_SERVER
from tests.support.processes.server import SERVER, HttpServer, http_server
from tests.support.services.postgres import postgres

CLIENTS: Final = 16
SETTINGS: Final = {"MAX_QUEUE_JOBS": "1000000", "LOG_LEVEL": "ERROR"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument(
        "--jobs", type=report.positive, default=2000, metavar="N", help="a round (%(default)s)"
    )
    parser.add_argument("--before", metavar="COMMIT", help="an older commit to compare with")
    options = parser.parse_args(arguments)
    figures: list[report.Figure] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def compare(
            what: str,
            against: str,
            ours: Sequence[HttpServer],
            theirs: Sequence[HttpServer],
            target: float | None,
        ) -> None:
            rates = report.in_turn(
                partial(rate, ours, options.jobs),
                partial(rate, theirs, options.jobs),
                options.rounds,
            )
            figures.append(report.at_least(what, against, *rates, target))

        if options.before is not None:
            with two_files(folder, options.before) as (new, old):
                compare("jobs/s, SQLite file", f"that of {options.before}", [new], [old], None)
        with postgres() as database, ExitStack() as running:
            start = partial(constant_server, running, folder)
            one = [start("one", JOBS_DB=database.create("one"))]
            url = database.create("two")
            two = [start("first", JOBS_DB=url), start("second", JOBS_DB=url)]
            file = [start("file")]
            compare("jobs/s, two servers on PostgreSQL", "one server", two, one, None)
            compare("jobs/s, one server on PostgreSQL", "one with the SQLite file", one, file, None)
    report.publish(figures, options.json)


def constant_server(running: ExitStack, folder: Path, name: str, **settings: str) -> HttpServer:
    """Start a server whose scorer is a constant, for as long as ``running`` lives."""
    command = (*CONSTANT_SERVER, "--runs", "/dev/null")
    server = http_server(folder / name, folder, {**SETTINGS, **settings}, command)
    return running.enter_context(server).ready()


@contextmanager
def two_files(folder: Path, before: str) -> Iterator[tuple[HttpServer, HttpServer]]:
    """Serve a tiny checkpoint with the SQLite file of today, and with that of a commit."""
    model = build_checkpoint(folder / "checkpoint").path
    old = folder / "before"
    old.mkdir()
    archive = subprocess.run(["git", "archive", before], cwd=ROOT, check=True, capture_output=True)
    subprocess.run(["tar", "-x"], cwd=old, input=archive.stdout, check=True)
    with (
        http_server(folder / "new", model, SETTINGS) as ours,
        http_server(folder / "old", model, SETTINGS, (str(old / Path(SERVER).name),)) as theirs,
    ):
        yield ours.ready(), theirs.ready()


def rate(servers: Sequence[HttpServer], jobs: int) -> float:
    """Send jobs to the servers in turn; return how many a second were answered."""

    async def run() -> float:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(headers=BEARER, connector=connector) as http:
            numbers = iter(range(jobs))
            last: deque[tuple[HttpServer, str]] = deque(maxlen=CLIENTS)

            async def client() -> None:
                for number in numbers:
                    server = servers[number % len(servers)]
                    job = {"input": {"prompt": f"good morning {number}"}}
                    async with http.post(f"{server.url}/run", json=job) as reply:
                        reply.raise_for_status()
                        last.append((server, (await reply.json())["id"]))

            started = time.perf_counter()
            await asyncio.gather(*(client() for _ in range(CLIENTS)))
            for server, job_id in last:
                await answered(http, server, job_id)
            return jobs / (time.perf_counter() - started)

    return asyncio.run(run())


async def answered(http: aiohttp.ClientSession, server: HttpServer, job_id: str) -> None:
    """Wait for a job's answer."""
    while True:
        async with http.get(f"{server.url}/status/{job_id}") as reply:
            if (await reply.json())["status"] == COMPLETED:
                return
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    main()
