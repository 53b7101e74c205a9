"""Sixteen tweets while other processes want the cores: our OpenMP settings against others.

The embedded checkpoint scores sixteen tweets at a time, beside as many endlessly computing
processes as there are cores, and then without them. By default OpenMP's threads spin for a long
time while they wait for each other; `hatespeech/libraries.py` says what we set instead. Threads
bound to cores (`OMP_PROC_BIND=true`) are never woken on one core, but cannot give way to another
process either. How the system shares the cores is a matter of luck, so the rounds differ much. A
round's figure is the mean of its calls.

The neighbour may also live in the same process: a thread that scores sixteen texts of 32 tokens,
endlessly, by ONNX Runtime or OpenVINO with their own defaults, on the same checkpoint. They have
threads of their own, and wait for work in their own ways. Their packages come from virtual
environments that the first run makes, as for ``lone_tweets`` and ``int8_runtimes``.

Each round is a process that uses the library, with nothing else of OpenMP's in its environment.
It imports `hatespeech`, which sets the variables. For the defaults it imports torch before, which
makes that too late.

    python -m benchmarks.busy_neighbour
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from benchmarks import environments, report
from benchmarks.busy_tweets import TWEETS
from hatespeech import paths

HERE = Path(__file__).resolve().parent
SCRIPT = str(HERE / "busy_tweets.py")
RUNTIMES = {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = report.parser(__doc__, rounds=5).parse_args(arguments)
    figures = []
    for name, company in (("while others want every core", True), ("on an idle machine", False)):
        for against, theirs in (
            ("the same with OpenMP's defaults", partial(milliseconds, "--torch-first")),
            ("the same with threads bound to cores", partial(milliseconds, OMP_PROC_BIND="true")),
        ):
            with busy_processes() if company else contextlib.nullcontext():
                times = report.in_turn(milliseconds, theirs, options.rounds)
            figures.append(report.at_most(f"{TWEETS} tweets {name}, mini, ms", against, times))
    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder, "model.onnx")
        writer = environments.interpreter(HERE / "requirements-onnxruntime.txt")
        subprocess.run([writer, HERE / "lone_onnxruntime.py", paths.EMBEDDED, graph], check=True)
        for runtime, title in RUNTIMES.items():
            python = environments.interpreter(HERE / f"requirements-{runtime}.txt")
            (packages,) = python.parent.parent.glob("lib/python3*/site-packages")
            beside = ("--graph", str(graph), "--beside", runtime, str(packages))
            times = report.in_turn(
                partial(milliseconds, *beside),
                partial(milliseconds, *beside, "--torch-first"),
                options.rounds,
            )
            name = f"{TWEETS} tweets beside {title} in the same process, mini, ms"
            against = "the same with OpenMP's defaults"
            figures.append(report.at_most(name, against, times))
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


def milliseconds(*arguments: str, **environment: str) -> float:
    """Measure in a process whose environment has no other settings of OpenMP's."""
    others = {
        name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))
    }
    done = subprocess.run(
        [sys.executable, SCRIPT, *arguments],
        env=others | environment,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    return float(done.stdout)


if __name__ == "__main__":
    main()
