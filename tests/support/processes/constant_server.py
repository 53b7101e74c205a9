"""server.py with a scorer that answers the same for every text, and needs no model.

For tests of what is around the scorer. It notes each text that it scores, with the time, in a file
that several servers may share.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final
from unittest.mock import patch

from hatespeech.contract import Prediction, Reply, TextScore, Timing, Versions, parse_request
from hatespeech.serving.jobs.postgres import link, postgres_store
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import ServerSettings

CONSTANT_SERVER: Final = ("-m", "tests.support.processes.constant_server")
PREDICTION: Final = Prediction((0.1, 0.2, 0.3, 0.4), 1, None, None)
VERSIONS: Final = Versions("0", "0", "0")


def read_runs(file: Path) -> Iterator[tuple[float, str]]:
    """Yield when each text was scored, in seconds since the epoch."""
    for line in file.read_text(encoding="utf-8").splitlines():
        when, text = json.loads(line)
        yield when, text


def main() -> int:
    """Run it; return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, required=True, help="file to note texts in")
    parser.add_argument("--score-seconds", type=float, default=0.0, help="for which a text takes")
    parser.add_argument("--lease-seconds", type=float, default=postgres_store.LEASE_SECONDS)
    options = parser.parse_args()

    def load(self: ServedModel) -> None:
        self.loop.call_soon_threadsafe(become_ready, self)

    def become_ready(self: ServedModel) -> None:
        self.state = "ready"
        self.model_id = "constant@0"
        self.settled.set()

    async def score(
        self: ServedModel, body: object, *, wait_for_room: bool, caller: str | None = None
    ) -> Reply:
        self.require_ready()
        request = parse_request(body, ServerSettings())
        lines = "".join(json.dumps([time.time(), text]) + "\n" for text in request.texts)
        runs = os.open(options.runs, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.write(runs, lines.encode())
        os.close(runs)
        await asyncio.sleep(options.score_seconds)
        items = [TextScore.of(text, PREDICTION, None) for text in request.texts]
        return Reply(items, request.many, "constant@0", Timing(0.0, 0.0), VERSIONS)

    with ExitStack() as changed:
        changed.enter_context(patch.object(ServedModel, "_load", load))
        changed.enter_context(patch.object(ServedModel, "score", score))
        changed.enter_context(patch.object(postgres_store, "LEASE_SECONDS", options.lease_seconds))
        changed.enter_context(
            patch.object(postgres_store, "LOOK_SECONDS", options.lease_seconds / 10)
        )
        changed.enter_context(patch.object(link, "AGAIN_SECONDS", 0.1))
        from hatespeech.serving import command

        return command.main([])


if __name__ == "__main__":
    sys.exit(main())
