"""A lone text beside bulk requests: how long it waits, and what the bulk requests pay for that.

Two callers send requests of 512 texts, one after another, and a third sends one text, waits for the
reply, pauses for 20 ms and sends the next. Through each front this is done twice in turn: with
passes that follow the device's speed, as they do, and with passes of MAX_BATCH_TOKENS. The worker's
handler and the library run in this process; the server has a process of its own and answers over
HTTP and over gRPC. The embedded checkpoint goes through every front, BERTweet-large's shape with
random weights through the handler, once. gRPC takes one text a call, so its bulk goes over HTTP.
All in float32 on the CPU.

A pass is the time of the run divided by the number of passes, times the number of lanes in which
they run beside each other. The throughput is that of the bulk requests in a run without the third
caller, who would send more texts where each waits less. The script also counts the passes that end
while a lone text waits, which other processes disturb less.
With ``--sizes`` it measures instead what a token costs in passes of different sizes, in seconds of
processor time.

    python -m benchmarks.beside_bulk
"""

from __future__ import annotations

import asyncio
import itertools
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any, Final
from unittest.mock import patch

import aiohttp
import grpc
import torch
from google.protobuf.message_factory import GetMessageClass

from benchmarks import clients, models, report, servers
from hatespeech import Classifier
from hatespeech.engine import pass_size
from hatespeech.engine.predictor import Predictor
from hatespeech.engine.scorer import Scorer
from hatespeech.model import threads
from hatespeech.serving.grpc.messages import METHOD, SERVICE
from hatespeech.settings import EngineSettings
from hatespeech.telemetry.families import PREFIX
from hatespeech.worker.handler import JobHandler
from tests.paths import ROOT
from tests.support.grpc_client import BEARER
from tests.support.ports import free_port

REQUEST_TEXTS: Final = 512
CALLERS: Final = 2  # of bulk requests: more waits than a pass of MAX_BATCH_TOKENS takes
PAUSE_SECONDS: Final = 0.02
MOST_PASSES: Final = 3.0
LEAST_RATE: Final = 0.97
UNPACED: Final = 1e9  # seconds a pass may take
SIZES: Final = (64, 128, 256, 512, 1024, 2048, 16_384)

SETTINGS: Final = EngineSettings()

Score = Callable[[list[str]], Awaitable[object]]
Request: Final = GetMessageClass(METHOD.input_type)


@dataclass
class Front:
    """Ways to score one text and many, and how many passes the device has done so far."""

    one: Score
    many: Score
    passes: Callable[[], Awaitable[int]]


@dataclass
class Side:
    """What was measured with passes of one kind, in all rounds."""

    rates: list[float] = field(default_factory=list)  # texts a second, of each round
    pass_ms: list[float] = field(default_factory=list)
    lone_ms: list[float] = field(default_factory=list)
    waited: list[int] = field(default_factory=list)  # passes that ended while a lone text waited

    def percentile(self, percent: int) -> float:
        """Return a percentile of the lone texts' times, in ms."""
        return report.percentile(self.lone_ms, percent)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=3)
    parser.add_argument(
        "--texts", type=report.positive, default=6144, help="in bulk, of mini (%(default)s)"
    )
    parser.add_argument("--fronts", nargs="+", choices=FRONTS, default=FRONTS, help="(all)")
    parser.add_argument("--sizes", choices=("mini", "large"), help="measure this shape's passes")
    options = parser.parse_args(arguments)
    if options.sizes:
        report.publish(sizes(options.sizes, options.rounds), options.json)
        return
    figures = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for front in options.fronts:
            texts, rounds, shape = options.texts, options.rounds, "mini"
            if front == "large":
                texts, rounds, shape = texts // 6, 1, "large shape"
            title, opened = FRONTS[front]
            figures += compare(f"{title}, {shape}", opened(folder), texts, rounds)
            print("\n".join(f"{each.name}: {each.ratio:.3f}" for each in figures[-2:]), flush=True)
    report.publish(figures, options.json)


def compare(
    name: str, opened: Callable[[float], Any], texts: int, rounds: int
) -> list[report.Figure]:
    """Measure both kinds of passes in turn, through a front that ``opened`` opens for a kind."""
    paced, unpaced = Side(), Side()
    for index in range(rounds):
        for side, seconds in ((paced, pass_size.PASS_SECONDS), (unpaced, UNPACED))[
            :: 1 - index % 2 * 2
        ]:
            asyncio.run(measure(opened(seconds), texts, side))
            asyncio.run(measure(opened(seconds), texts, side, beside=False))
    ratio = paced.percentile(99) / mean(paced.pass_ms)
    return [
        report.Figure(
            f"one text beside bulk requests through {name}, 99th percentile, ms",
            "a pass",
            ratio=ratio,
            target=f"at most {MOST_PASSES:g}",
            met=ratio <= MOST_PASSES,
            raw={
                "ours": round(paced.percentile(99), 1),
                "theirs": round(mean(paced.pass_ms), 1),
                "median": round(paced.percentile(50), 1),
                "lone texts": len(paced.lone_ms),
                "passes that ended while one waited, 99th percentile": report.percentile(
                    paced.waited, 99
                ),
                "99th percentile with passes of MAX_BATCH_TOKENS": round(unpaced.percentile(99), 1),
                "median with them": round(unpaced.percentile(50), 1),
                "a pass of them": round(mean(unpaced.pass_ms), 1),
            },
        ),
        report.at_least(
            f"bulk requests through {name}, texts/s",
            "passes of MAX_BATCH_TOKENS",
            (paced.rates, unpaced.rates),
            LEAST_RATE,
        ),
    ]


async def measure(opened: Any, texts: int, side: Side, beside: bool = True) -> None:
    """Score ``texts`` texts in bulk and, ``beside`` them, one at a time until they are done."""
    supply = itertools.cycle(models.sample_texts())
    left = scored = 0
    lone: list[float] = []
    async with opened as front:
        await front.one(["good morning"])
        left, passes = texts, await front.passes()
        began = time.perf_counter()

        async def bulk() -> None:
            nonlocal left, scored
            while left > 0:
                left -= REQUEST_TEXTS
                await front.many(list(itertools.islice(supply, REQUEST_TEXTS)))
                scored += REQUEST_TEXTS

        async def one_by_one() -> None:
            while True:
                await asyncio.sleep(PAUSE_SECONDS)
                before = await front.passes()
                sent = time.perf_counter()
                await front.one([next(supply)])
                lone.append((time.perf_counter() - sent) * 1e3)
                side.waited.append(await front.passes() - before)

        alone = asyncio.create_task(one_by_one()) if beside else None
        await asyncio.gather(*(bulk() for _ in range(CALLERS)))
        seconds = time.perf_counter() - began
        if alone is None:
            side.rates.append(scored / seconds)
            return
        passes = await front.passes() - passes
        alone.cancel()
    side.pass_ms.append(seconds * threads.lanes() / passes * 1e3)
    side.lone_ms += lone


@asynccontextmanager
async def handler(predictor: Predictor, pass_seconds: float) -> AsyncIterator[Front]:
    """Open the worker's handler in this process."""
    scorer = Scorer(predictor, SETTINGS)
    handle = JobHandler(scorer)

    async def score(texts: list[str]) -> None:
        reply = await handle({"input": {"texts": texts}})
        assert "error" not in reply, reply

    async def passes() -> int:
        return scorer.batcher.counters.batches

    with patch.object(pass_size, "PASS_SECONDS", pass_seconds):
        predictor.warm_up(SETTINGS.max_batch_tokens)
        try:
            yield Front(score, score, passes)
        finally:
            scorer.close()


@asynccontextmanager
async def library(predictor: Predictor, pass_seconds: float) -> AsyncIterator[Front]:
    """Open the library in this process; each caller is a thread."""
    with (
        patch.object(pass_size, "PASS_SECONDS", pass_seconds),
        Classifier(predictor, SETTINGS) as classifier,
    ):

        async def score(texts: list[str]) -> None:
            await asyncio.to_thread(classifier.score, texts)

        async def passes() -> int:
            return classifier._running._shared().counters.batches

        yield Front(score, score, passes)


@asynccontextmanager
async def http(folder: Path, pass_seconds: float) -> AsyncIterator[Front]:
    """Start a server, and call it over HTTP."""
    with served(folder, pass_seconds, {}) as target:
        async with clients.session(target) as calls:
            posted = partial(post, calls, target)
            yield Front(posted, posted, partial(served_passes, calls, target))


@asynccontextmanager
async def over_grpc(folder: Path, pass_seconds: float) -> AsyncIterator[Front]:
    """Start a server; call it over gRPC, which takes one text, and over HTTP for the bulk."""
    address = f"127.0.0.1:{free_port()}"
    with served(folder, pass_seconds, {"GRPC": address}) as target:
        async with clients.session(target) as calls, grpc.aio.insecure_channel(address) as channel:
            call: Any = channel.unary_unary(f"/{SERVICE.full_name}/{METHOD.name}")

            async def one(texts: list[str]) -> None:
                request = Request(input={"prompt": texts[0]})
                await call(request.SerializeToString(), metadata=BEARER)

            yield Front(one, partial(post, calls, target), partial(served_passes, calls, target))


async def post(calls: aiohttp.ClientSession, target: clients.Target, texts: list[str]) -> None:
    """Score texts over HTTP."""
    await clients.post(calls, target.url, {"texts": texts})


@contextmanager
def served(
    folder: Path, pass_seconds: float, settings: Mapping[str, str]
) -> Iterator[clients.Target]:
    """Serve the embedded checkpoint in a process whose passes may take so long."""
    command = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\n"
        "from hatespeech.engine import pass_size\n"
        f"pass_size.PASS_SECONDS = {pass_seconds}\n"
        "from server import main\n"
        "sys.exit(main())"
    )
    own = Path(tempfile.mkdtemp(dir=folder)) / "server"
    with servers.ours(own, models.embedded().path, settings, ("-c", command)) as target:
        yield target


async def served_passes(calls: aiohttp.ClientSession, target: clients.Target) -> int:
    """Read a server's number of passes from its metrics."""
    async with calls.get(target.url.replace("/score", "/metrics")) as response:
        lines = (await response.text()).splitlines()
    (passes,) = (line for line in lines if line.startswith(f"{PREFIX}batches_total "))
    return int(float(passes.split()[1]))


def sizes(shape: str, rounds: int) -> list[report.Figure]:
    """Measure what a token costs in passes of different sizes."""
    if shape == "mini":
        predictor, amount = models.load(), 2 * SIZES[-1]
    else:
        predictor, amount = models.random_predictor(torch.float32, models.LARGE), 2048
    sequences = [predictor.encode(text).windows[0] for text in models.sample_texts()]
    tokens = itertools.accumulate(map(len, itertools.cycle(sequences)))
    count = sum(1 for _ in itertools.takewhile(lambda total: total <= amount, tokens))
    work = list(itertools.islice(itertools.cycle(sequences), count))

    def rate(size: int) -> float:
        began = time.process_time()
        predictor._in_budget(work, size)
        return sum(map(len, work)) / (time.process_time() - began)

    tried = [size for size in SIZES if size <= amount]
    rates: dict[int, list[float]] = {size: [] for size in tried}
    for index in range(rounds + 1):
        for size in tried[:: 1 - index % 2 * 2]:
            found = rate(size)
            if index:  # the first builds primitives
                rates[size].append(found)
    largest = tried[-1]
    return [
        report.at_least(
            f"passes of {size} tokens, {shape}, tokens for each second of processor time",
            f"passes of {largest} tokens, median {median(rates[largest]):,.0f}",
            (rates[size], rates[largest]),
            threads=os.environ.get("OMP_NUM_THREADS", "all"),
        )
        for size in tried[:-1]
    ]


# By its name: what it is called, and what makes a function that opens it from a folder.
FRONTS: Final[Mapping[str, tuple[str, Callable[[Path], Callable[[float], Any]]]]] = {
    "handler": ("the worker's handler", lambda _: partial(handler, models.load())),
    "library": ("the library", lambda _: partial(library, models.load())),
    "http": ("HTTP", lambda folder: partial(http, folder)),
    "grpc": ("gRPC", lambda folder: partial(over_grpc, folder)),
    "large": (
        "the worker's handler",
        lambda _: partial(handler, models.random_predictor(torch.float32, models.LARGE)),
    ),
}


if __name__ == "__main__":
    main()
