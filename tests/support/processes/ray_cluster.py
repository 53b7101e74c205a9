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
# Machines of one core each. ``ray start`` can't put two on the loopback address.
TWO_MACHINES: Final = """
import os, sys, time
from ray.cluster_utils import Cluster
port, folder = sys.argv[1:]
os.mkdir(folder)
options = {"num_cpus": 1, "include_dashboard": False, "node_ip_address": "127.0.0.1"}
cluster = Cluster(
    initialize_head=True,
    head_node_args={**options, "gcs_server_port": int(port), "temp_dir": folder},
)
cluster.add_node(**options)
print("Ray runtime started", flush=True)
time.sleep(3600)
"""


class RayCluster:
    """A cluster of this machine, as ``ray start`` makes it; with two, Ray itself plays two."""

    def __init__(self, folder: Path, machines: int = 1) -> None:
        self.folder = folder
        self.home = folder / "home"
        self.home.mkdir()
        self.address = f"127.0.0.1:{free_port()}"
        port = self.address.rpartition(":")[2]
        options = ["--num-cpus", "2", "--object-store-memory", "200000000", "--disable-usage-stats"]
        options += ["--temp-dir", str(folder / "ray"), "--include-dashboard", "false"]
        command = ["-m", "ray.scripts.scripts", "start", "--head", "--block", "--port", port]
        if machines == 2:
            command, options = ["-c", TWO_MACHINES, port, str(folder / "ray")], []
        with (folder / "output").open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, *command, *options],
                # No project: a machine of a cluster needs the libraries, and gets the rest.
                cwd=folder,
                env={**environment(self.home), **LOOPBACK, **NOT_NICE, "RAY_TMPDIR": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )

    def __enter__(self) -> Self:
        output = self.folder / "output"

        def watch() -> None:
            assert self.process.poll() is None, output.read_text()

        started = "Ray runtime started"
        wait_until(lambda: started in output.read_text(), "Ray", seconds=SECONDS, watch=watch)
        return self

    def __exit__(self, *_exception: object) -> None:
        """End all that was started."""
        while found := processes(self.home):
            for pid in found:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.process.poll()
        self.process.wait(60)

    def run(self, home: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Run score.py on the cluster."""
        return run_score(home, *arguments, "--address", self.address, more=LOOPBACK)


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
