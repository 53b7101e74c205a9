"""A Ray cluster on this machine, and score.py on it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final, Self

from tests.paths import ROOT
from tests.support.ports import free_port
from tests.support.processes.score import SECONDS, environment, run_score
from tests.support.processes.worker import wait_until

ACTOR: Final = "ray::ScoringActor"  # what Ray calls the process of one
# Listen on the loopback address alone, on whatever system.
LOOPBACK: Final = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
# Ray's processes would else give way to any other test, for minutes.
NOT_NICE: Final = {"RAY_worker_niceness": "0"}


class RayCluster:
    """A cluster of this machine, as ``ray start`` makes it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.address = f"127.0.0.1:{free_port()}"
        self._machines: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        head = ["--head", "--port", self.address.rpartition(":")[2], "--include-dashboard", "false"]
        self._start(*head, "--temp-dir", self.folder / "ray", "--num-cpus", 2)
        return self

    def _start(self, *options: object) -> None:
        """Start a machine, and wait until it is part of the cluster."""
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", *options]
        command += ["--object-store-memory", 200_000_000, "--disable-usage-stats"]
        log = self.folder / f"output-{len(self._machines)}"
        with log.open("wb") as output:
            machine = subprocess.Popen(
                [str(part) for part in command],
                # No project: a machine of a cluster needs the libraries, and gets the rest.
                cwd=self.folder,
                env={**environment(self.home), **LOOPBACK, **NOT_NICE},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self._machines.append(machine)
        wait_until(lambda: "Ray runtime started" in log.read_text(), "Ray", seconds=SECONDS)

    def join(self) -> int:
        """Add a machine of one core to the cluster; return its Ray's process."""
        before = set(processes(self.home, "raylet/raylet"))
        self._start("--address", self.address, "--num-cpus", 1)
        (raylet,) = set(processes(self.home, "raylet/raylet")) - before
        return raylet

    def run(self, home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run score.py on the cluster."""
        return run_score(home, *arguments, "--address", self.address, more=LOOPBACK)

    def __exit__(self, *_exception: object) -> None:
        """End all that was started."""
        while found := processes(self.home):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            for machine in self._machines:
                machine.poll()
        for machine in self._machines:
            machine.wait(60)


def processes(home: Path, name: str = "") -> list[int]:
    """Return the processes of one home, by their environment; nobody else's."""
    wanted = f"HOME={home}".encode()
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if wanted in (entry / "environ").read_bytes().split(b"\0") and (
                name in (entry / "cmdline").read_text().replace("\0", " ")
            ):
                found.append(int(entry.name))
        except (OSError, ValueError):
            continue  # no process, another user's, or one that has ended
    return found


def start_score(
    home: Path, source: Path, out: Path, *arguments: object, more: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    """Start score.py as a terminal does: what follows Ctrl-C goes to all its processes."""
    command = [sys.executable, str(ROOT / "score.py"), source, out, *arguments]
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=ROOT,
        env={**environment(home), **LOOPBACK, **(more or {})},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def alive(running: subprocess.Popen[str]) -> Any:
    def watch() -> None:
        assert running.poll() is None, running.communicate()[1]

    return watch


def message(done: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of a run that failed."""
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    return done.stderr.replace("\r", "\n").splitlines()[-1]
