"""Servers to put under load, ours and others, each in a process of its own."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from benchmarks.clients import LoadError, Target
from hatespeech.labels import LABELS
from tests.support.http_client import BEARER, TOKEN
from tests.support.ports import free_port
from tests.support.processes.server import SERVER
from tests.support.processes.worker import clean_environment

START_SECONDS: Final = 300.0
STOP_SECONDS: Final = 60.0


@contextmanager
def ours(
    folder: Path,
    model_dir: Path,
    settings: Mapping[str, str] | None = None,
    command: Sequence[str] = (sys.executable, SERVER),
) -> Iterator[Target]:
    """Serve a checkpoint by ``server.py`` in float32; ``folder`` holds what it writes."""
    folder.mkdir()
    port = free_port()
    environment = environment_of(folder) | {
        "MODEL_DIR": str(model_dir),
        "BEARER_TOKEN": TOKEN,
        "RATE_LIMIT": "off",
        "PORT": str(port),
        "JOBS_DB": str(folder / "jobs.sqlite3"),
        **(settings or {}),
    }
    url = f"http://127.0.0.1:{port}"
    with process(command, environment, folder, port, "/ping"):
        yield Target(f"{url}/score", BEARER, lambda text: {"text": text}, our_scores)


def our_scores(reply: Any) -> Sequence[float]:
    """Return the scores of a reply of ``POST /score``."""
    return [reply[label] for label in LABELS]


def environment_of(folder: Path) -> dict[str, str]:
    """Return a clean environment, threads as torch itself chooses them."""
    environment = clean_environment(folder, None)
    del environment["OMP_NUM_THREADS"]
    return environment


@contextmanager
def process(
    command: Sequence[str], environment: Mapping[str, str], folder: Path, port: int, ping: str
) -> Iterator[None]:
    """Run a server until the block ends. The block begins once the path ``ping`` answers 200.

    Raises :class:`~benchmarks.clients.LoadError` with the end of its log if it ends, or takes too
    long to start.
    """
    log = folder / "log"
    with log.open("wb") as output:
        running = subprocess.Popen(
            command,
            cwd=folder,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
        try:
            deadline = time.monotonic() + START_SECONDS
            while not answers(port, ping):
                if running.poll() is not None or time.monotonic() > deadline:
                    end = log.read_text(encoding="utf-8", errors="replace")[-4000:]
                    raise LoadError(f"{command[0]} does not answer {ping}\n{end}")
                time.sleep(0.1)
            yield
        finally:
            running.terminate()
            try:
                running.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                running.kill()
                running.wait()


def answers(port: int, path: str) -> bool:
    """Say whether a GET answers 200, without a proxy."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
