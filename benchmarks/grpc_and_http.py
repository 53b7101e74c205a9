"""The same tweets over gRPC and over HTTP, in turn, to one server.

``server.py`` with the embedded checkpoint in float32, as a process of its own, answers both on
loopback. Sixty-four clients, each of which sends its next tweet once the last is answered, give the
throughput; one client alone gives the time of a lone tweet. The clients share one event loop here
and cost time themselves: grpc.aio with one connection on one side, aiohttp with a connection for
each client on the other.

    python -m benchmarks.grpc_and_http
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf.message_factory import GetMessageClass

from benchmarks import clients, models, report, servers
from hatespeech.labels import LABELS
from hatespeech.serving.grpc.messages import METHOD, SERVICE
from tests.support.grpc_client import BEARER
from tests.support.ports import free_port

CLIENTS: Final = 64
WARM_UP_SECONDS: Final = 3.0
TARGET: Final = 1.0

Request: Final = GetMessageClass(METHOD.input_type)
Reply: Final = GetMessageClass(METHOD.output_type)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=7)
    parser.add_argument(
        "--seconds", type=report.positive, default=8, metavar="N", help="a round (%(default)s)"
    )
    options = parser.parse_args(arguments)
    texts = models.sample_texts()
    port = free_port()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "server"
        settings = {"GRPC": f"127.0.0.1:{port}"}
        with servers.ours(folder, models.embedded().path, settings) as target:
            over_grpc = partial(closed_loop, port, texts)
            over_http = partial(clients.closed_loop, target, texts)
            for each in (over_grpc, over_http):
                each(CLIENTS, WARM_UP_SECONDS)

            def rate(side: Callable[[int, float], clients.Outcome]) -> float:
                return side(CLIENTS, options.seconds).rate

            def lone(side: Callable[[int, float], clients.Outcome]) -> float:
                return side(1, options.seconds).percentile(50)

            rates, times = (
                report.in_turn(
                    partial(measure, over_grpc), partial(measure, over_http), options.rounds
                )
                for measure in (rate, lone)
            )
    against = "POST /score of the same server"
    figures = [
        report.at_least(
            f"gRPC throughput, {CLIENTS} clients, mini, texts/s", against, rates, TARGET
        ),
        report.at_most("one tweet over gRPC, mini, ms", against, times, TARGET),
    ]
    report.publish(figures, options.json)


def closed_loop(port: int, texts: Sequence[str], count: int, seconds: float) -> clients.Outcome:
    """Have every client send its next tweet once the last is answered."""

    async def run() -> clients.Outcome:
        outcome = clients.Outcome()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary(f"/{SERVICE.full_name}/{METHOD.name}")
            supply = itertools.cycle(texts)
            begun = time.perf_counter()

            async def client() -> None:
                while (now := time.perf_counter()) < begun + seconds:
                    request = Request(input={"prompt": next(supply)})
                    reply: Any = await call(request.SerializeToString(), metadata=BEARER)
                    result: Any = Reply.FromString(reply)
                    outcome.latencies.append(time.perf_counter() - now)
                    scores = [getattr(result.output, label) for label in LABELS]
                    if abs(sum(scores) - 1) >= 1e-3:
                        raise clients.LoadError("gRPC does not score")

            await asyncio.gather(*(client() for _ in range(count)))
            outcome.seconds = time.perf_counter() - begun
        return outcome

    return asyncio.run(run())


if __name__ == "__main__":
    main()
