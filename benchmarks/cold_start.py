"""From process start to a score: `python app.py` against importing torch and runpod only.

A local run scores the repository's `test_input.json` and ends. A worker of a queue starts in front
of a stand-in of Runpod's job API, where one job waits; the clock stops when the worker takes it,
and the answer follows. All are processes on the embedded checkpoint, run in turn. The page cache is
warm, as on a machine that starts its second worker.

    python -m benchmarks.cold_start
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from benchmarks import report
from tests.paths import ROOT
from tests.support.processes.worker import APP, WorkerProcess, clean_environment, wait_until
from tests.support.stand_ins.runpod.endpoint import RunpodEndpoint

LOCAL_TARGET = 1.25
QUEUE_TARGET = 1.15


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = report.parser(__doc__, rounds=7).parse_args(arguments)
    score(), imports()
    against = 'python -c "import torch, runpod"'
    local = report.at_most(
        "cold start: python app.py, process start to exit, s",
        against,
        report.in_turn(score, imports, options.rounds),
        LOCAL_TARGET,
    )
    answers: list[float] = []
    queue = report.at_most(
        "cold start of a queue's worker, process start to first job taken, s",
        against,
        report.in_turn(lambda: first_job(answers), imports, options.rounds),
        QUEUE_TARGET,
        answered=round(median(answers), 4),
    )
    report.publish([local, queue], options.json)


def score() -> float:
    """Return how many seconds a local run takes, its reply checked."""
    seconds, output = run("app.py")
    assert json.loads(output)["label"], output
    return seconds


def imports() -> float:
    """Return how many seconds the bare imports take."""
    return run("-c", "import torch, runpod")[0]


def first_job(answers: list[float]) -> float:
    """Return when a worker takes its first job; note when it has answered it, both in seconds."""
    with tempfile.TemporaryDirectory() as name, RunpodEndpoint() as endpoint:
        (job_id,) = endpoint.submit({"prompt": "good morning"})
        folder = Path(name)
        settings = {**clean_environment(folder, None), **endpoint.environment()}
        del settings["OMP_NUM_THREADS"]
        started = time.perf_counter()
        with WorkerProcess([APP], settings, folder) as worker:
            while endpoint.jobs[job_id].status == "IN_QUEUE":
                worker.require_running()
                time.sleep(0.002)
            taken = time.perf_counter() - started
            wait_until(lambda: endpoint.all_answered([job_id]), "the answer")
            answers.append(time.perf_counter() - started)
    return taken


def run(*command: str) -> tuple[float, str]:
    """Run Python on ``command``; return seconds and standard output."""
    environment = {"PATH": os.environ["PATH"], "LOG_LEVEL": "ERROR", "HOME": os.environ["HOME"]}
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=environment,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return time.perf_counter() - started, done.stdout


if __name__ == "__main__":
    main()
