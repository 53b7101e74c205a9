"""A comment over Perspective's protocol beside bulk requests, against an idle server.

Coral, which runs comment sections, gives Perspective 800 ms and then lets a comment pass unread. A
caller sends ``comments:analyze`` one comment after another, with a pause of 20 ms between them:
once while the server does nothing else, once beside callers that send requests of 512 texts all
the time. Each round does both. The embedded checkpoint runs in a process of its own, in float32 on
the CPU.

    python -m benchmarks.comment_beside_bulk
"""

from __future__ import annotations

import asyncio
import itertools
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import clients, models, report, servers
from tests.support.http_client import TOKEN

REQUEST_TEXTS: Final = 512
BULK_CALLERS: Final = 2
PAUSE_SECONDS: Final = 0.02
MOST_MS: Final = 800.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=3)
    parser.add_argument(
        "--comments", type=report.positive, default=200, help="in each half round (%(default)s)"
    )
    options = parser.parse_args(arguments)
    texts = models.sample_texts()
    with (
        tempfile.TemporaryDirectory() as name,
        servers.ours(Path(name) / "server", models.embedded().path) as target,
    ):
        asyncio.run(measure(target, texts, 20, callers=0))
        times = report.in_turn(
            lambda: asyncio.run(measure(target, texts, options.comments, callers=BULK_CALLERS)),
            lambda: asyncio.run(measure(target, texts, options.comments, callers=0)),
            options.rounds,
        )
    figure = report.at_most(
        "one comment beside bulk requests over Perspective's protocol, 99th percentile, ms",
        "the same on an idle server",
        times,
    )
    met = median(times[0]) <= MOST_MS
    report.publish([replace(figure, target=f"at most {MOST_MS:g} ms", met=met)], options.json)


async def measure(
    target: clients.Target, texts: Sequence[str], comments: int, callers: int
) -> float:
    """Return the 99th percentile of the comments' times, in ms, beside so many bulk callers."""
    supply = itertools.cycle(texts)
    times: list[float] = []
    async with clients.session(target) as calls:

        async def bulk() -> None:
            while True:
                body = {"texts": list(itertools.islice(supply, REQUEST_TEXTS))}
                await clients.post(calls, target.url, body)

        beside = [asyncio.create_task(bulk()) for _ in range(callers)]
        address = target.url.replace("/score", f"/v1alpha1/comments:analyze?key={TOKEN}")
        for text in itertools.islice(supply, comments):
            await asyncio.sleep(PAUSE_SECONDS)
            sent = time.perf_counter()
            body = {
                "comment": {"text": text},
                "requestedAttributes": {"TOXICITY": {}},
                "languages": ["en"],
                "doNotStore": True,
            }
            await clients.post(calls, address, body)
            times.append((time.perf_counter() - sent) * 1e3)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
    return report.percentile(times, 99)


if __name__ == "__main__":
    main()
