"""A real Redis of the test's own, which can be stopped and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from tests.support.ports import free_port, listens
from tests.support.processes.worker import wait_until

PASSWORD: Final = "a-password-of-redis"


class Redis:
    """A server without files; start one with :func:`redis`."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        self._program = program
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where it is."""
        return f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    def start(self) -> None:
        """Start it; return once it listens."""
        settings = {"port": self.port, "bind": "127.0.0.1", "save": "", "requirepass": PASSWORD}
        words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
        self._process = subprocess.Popen(
            [self._program, *words],
            cwd=self._folder,
            env={"PATH": os.environ["PATH"]},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        wait_until(lambda: listens(self.port), "Redis to listen")

    def stop(self) -> None:
        """Kill it; what it counted is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None


@contextlib.contextmanager
def redis(folder: Path) -> Iterator[Redis]:
    """Start a Redis; skip the test if this machine has none."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("needs redis-server: scripts/apt-packages names it")
    server = Redis(program, folder)
    server.start()
    try:
        yield server
    finally:
        server.stop()
