"""Jobs a second over HTTP: one server and two on one PostgreSQL, and the SQLite file.

Clients send small jobs to /run, one after another each; the clock stops when the last job is
answered. The servers' scorer answers the same for every text without a pause, so the figures are of
accepting, storing, taking and answering. Everything shares the cores of this machine, the clients
and PostgreSQL included: two servers gain only where there are cores for them.

Needs Debian's postgresql.

    python -m benchmarks.job_servers
"""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Final

import aiohttp

from benchmarks import report
from tests.support.http_client import BEARER
from tests.support.processes.constant_server import CONSTANT_SERVER
from tests.support.processes.server import HttpServer, http_server
from tests.support.services.postgres import postgres

CLIENTS: Final = 16
SETTINGS: Final = {"MAX_QUEUE_JOBS": "1000000", "LOG_LEVEL": "ERROR"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument(
        "--jobs", type=report.positive, default=2000, metavar="N", help="a round (%(default)s)"
    )
    options = parser.parse_args(arguments)
    figures = []
    with tempfile.TemporaryDirectory() as name, postgres() as database, ExitStack() as running:
        start = partial(constant_server, running, Path(name))
        one = [start("one", JOBS_DB=database.create("one"))]
        url = database.create("two")
        two = [start("first", JOBS_DB=url), start("second", JOBS_DB=url)]
        file = [start("file")]
        for what, against, ours, theirs in (
            ("jobs/s, two servers on PostgreSQL", "one server", two, one),
            ("jobs/s, one server on PostgreSQL", "one with the SQLite file", one, file),
        ):
            rates = report.in_turn(
                partial(rate, ours, options.jobs),
                partial(rate, theirs, options.jobs),
                options.rounds,
            )
            figures.append(report.at_least(what, against, rates))
    report.publish(figures, options.json)


def constant_server(running: ExitStack, folder: Path, name: str, **settings: str) -> HttpServer:
    """Start a server whose scorer is a constant, for as long as ``running`` lives."""
    command = (*CONSTANT_SERVER, "--runs", "/dev/null")
    server = http_server(folder / name, folder, {**SETTINGS, **settings}, command)
    return running.enter_context(server).ready()


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
            if (await reply.json())["status"] == "COMPLETED":
                return
        await asyncio.sleep(0.005)


if __name__ == "__main__":
    main()
