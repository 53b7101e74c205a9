"""Load over HTTP and its outcome: a closed loop of clients, or arrivals on a schedule.

All requests come from one event loop in the script's own process; the servers have processes of
their own. A request holds one tweet. A connection carries one request at a time and is kept alive.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp

from benchmarks import report

# The servers close connections that are idle for 5 s: one that is about to be closed must not be
# picked for the next request.
KEEPALIVE_SECONDS: Final = 2.0
REPLY_SECONDS: Final = 300.0


class LoadError(Exception):
    """A server does not start, or does not answer as it must; the message says why."""


@dataclass(frozen=True)
class Target:
    """Where to send tweets, and how."""

    url: str
    headers: Mapping[str, str]
    body: Callable[[str], Mapping[str, Any]]  # of a text
    scores: Callable[[Any], Sequence[float]]  # of a reply


@dataclass
class Outcome:
    """The outcome of the requests of one run, or of several."""

    seconds: float = 0.0  # from the first request's time to the last reply
    latencies: list[float] = field(default_factory=list)  # seconds, of those that were answered
    refused: Counter[str] = field(default_factory=Counter)  # by status and error type

    @property
    def rate(self) -> float:
        """Return answered requests a second."""
        return len(self.latencies) / self.seconds

    def add(self, other: Outcome) -> None:
        """Count another run's requests, and its time, in."""
        self.seconds += other.seconds
        self.latencies += other.latencies
        self.refused += other.refused

    def percentile(self, percent: int) -> float:
        """Return a percentile of the latencies, of which there must be some, in ms."""
        return report.percentile(self.latencies, percent) * 1e3


def closed_loop(target: Target, texts: Sequence[str], clients: int, seconds: float) -> Outcome:
    """Have every client send its next tweet once the last is answered.

    After ``seconds`` no client sends any more. The rate counts the time until the last reply, so it
    is a little lower than while all clients were busy. Raises :class:`LoadError` at the first reply
    without scores.
    """

    async def run() -> Outcome:
        async with session(target) as http:
            outcome = Outcome()
            supply = itertools.cycle(texts)
            begun = time.perf_counter()

            async def client() -> None:
                while (now := time.perf_counter()) < begun + seconds and not outcome.refused:
                    await exchange(http, target, next(supply), now, outcome)

            await asyncio.gather(*(client() for _ in range(clients)))
            outcome.seconds = time.perf_counter() - begun
            if outcome.refused:
                raise LoadError(f"{target.url} does not score: {', '.join(outcome.refused)}")
            return outcome

    return asyncio.run(run())


def open_loop(
    target: Target, texts: Sequence[str], rate: float, seconds: float, seed: int
) -> Outcome:
    """Send tweets at random times, ``rate`` a second on average, answered or not.

    A latency counts from the time that the request was due: if the client is late, or waits for a
    connection, that is part of it.
    """

    async def run() -> Outcome:
        outcome = Outcome()
        schedule = zip(itertools.cycle(texts), arrivals(rate, seconds, seed), strict=False)
        async with session(target) as http:
            begun = time.perf_counter()
            async with asyncio.TaskGroup() as group:
                for text, offset in schedule:
                    due = begun + offset
                    await asyncio.sleep(due - time.perf_counter())
                    group.create_task(exchange(http, target, text, due, outcome))
            outcome.seconds = max(seconds, time.perf_counter() - begun)
        return outcome

    return asyncio.run(run())


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield the times, in seconds, of a Poisson process; the first is 0."""
    chance = random.Random(seed)
    now = 0.0
    while now < seconds:
        yield now
        now += chance.expovariate(rate)


@asynccontextmanager
async def session(target: Target) -> AsyncIterator[aiohttp.ClientSession]:
    """Open connections as needed, without a limit on the client's side."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_SECONDS),
        headers={**target.headers, "Content-Type": "application/json"},
        timeout=aiohttp.ClientTimeout(total=REPLY_SECONDS),
        trust_env=False,
    ) as http:
        yield http


async def post(http: aiohttp.ClientSession, url: str, body: object) -> None:
    """Send a request, which must be answered with 200."""
    async with http.post(url, json=body) as response:
        await response.read()
        if response.status != 200:
            raise LoadError(f"{url} answers {response.status}")


async def exchange(
    http: aiohttp.ClientSession, target: Target, text: str, due: float, outcome: Outcome
) -> None:
    """Send one tweet and note when its reply arrived; a 200 must hold four scores."""
    data = json.dumps(target.body(text)).encode()
    try:
        async with http.post(target.url, data=data) as response:
            raw = await response.read()
    except (aiohttp.ClientError, TimeoutError) as error:
        outcome.refused[type(error).__name__] += 1
        return
    latency = time.perf_counter() - due
    if response.status != 200:
        outcome.refused[f"{response.status} {error_type(raw)}".strip()] += 1
        return
    scores = target.scores(json.loads(raw))
    if len(scores) == 4 and abs(sum(scores) - 1) < 1e-3:
        outcome.latencies.append(latency)
    else:
        outcome.refused["200 without four scores"] += 1


def error_type(raw: bytes) -> str:
    """Return the contract's error code, or nothing."""
    try:
        return str(json.loads(raw)["error_type"])
    except (ValueError, KeyError, TypeError):
        return ""
