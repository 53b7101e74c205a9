"""Our server, in a process of its own, to put under load."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.clients import Target
from hatespeech.labels import LABELS
from tests.support.http_client import BEARER
from tests.support.processes.server import SERVER, HttpServer, server_environment


@contextmanager
def ours(
    folder: Path,
    model_dir: Path,
    settings: Mapping[str, str] | None = None,
    command: Sequence[str] = (SERVER,),
) -> Iterator[Target]:
    """Serve a checkpoint by ``server.py`` in float32; ``folder`` holds what it writes."""
    environment = server_environment(folder, model_dir, settings or {})
    del environment["OMP_NUM_THREADS"]  # as many as torch itself chooses
    with HttpServer(command, environment, folder) as server:
        server.port = int(environment["PORT"])
        server.ready()
        yield Target(f"{server.url}/score", BEARER, lambda text: {"text": text}, our_scores)


def our_scores(reply: Any) -> Sequence[float]:
    """Return the scores of a reply of ``POST /score``."""
    return [reply[label] for label in LABELS]
