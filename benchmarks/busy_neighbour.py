"""One tweet while other processes want the cores: our OpenMP settings against the default.

The embedded checkpoint scores one tweet at a time, beside as many endlessly computing processes as
there are cores, and then without them. By default OpenMP's threads spin for a long time while they
wait for each other; `hatespeech/libraries.py` says what we set instead. How the system shares the
cores is a matter of luck, so the rounds differ much. A round's figure is the mean of its tweets.

    python -m benchmarks.busy_neighbour
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks import report

SCRIPT = str(Path(__file__).with_name("busy_tweets.py"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = report.parser(__doc__, rounds=5).parse_args(arguments)
    figures = []
    for name, company in (("while others want every core", True), ("on an idle machine", False)):
        with busy_processes() if company else contextlib.nullcontext():
            ours, theirs = report.in_turn(
                partial(milliseconds, "--ours"), milliseconds, options.rounds
            )
        figures.append(
            report.at_most(
                f"one tweet {name}, mini, ms",
                "the same with OpenMP's defaults",
                *(ours, theirs, None),
            )
        )
    report.publish(figures, options.json)


@contextlib.contextmanager
def busy_processes() -> Iterator[None]:
    """Keep every core busy meanwhile."""
    command = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(command) for _ in os.sched_getaffinity(0)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


def milliseconds(*arguments: str) -> float:
    """Measure in a process whose environment has no settings of OpenMP's."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))
    }
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return float(done.stdout)


if __name__ == "__main__":
    main()
