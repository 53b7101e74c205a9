"""From process start to printed score: `python app.py` against importing torch and runpod only.

Both are whole processes, run in turn, on the embedded checkpoint and the repository's
`test_input.json`. The page cache is warm, as on a machine that starts its second worker.

    python -m benchmarks.cold_start
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks import report

ROOT = Path(__file__).resolve().parent.parent
TARGET = 1.25


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    options = report.parser(__doc__, rounds=7).parse_args(arguments)
    score(), imports()
    ours, theirs = report.in_turn(score, imports, options.rounds)
    figure = report.at_most(
        "cold start: python app.py, process start to exit, s",
        'python -c "import torch, runpod"',
        *(ours, theirs, TARGET),
    )
    report.publish([figure], options.json)


def score() -> float:
    """Return how many seconds a local run takes, its reply checked."""
    seconds, output = run("app.py")
    assert json.loads(output)["label"], output
    return seconds


def imports() -> float:
    """Return how many seconds the bare imports take."""
    return run("-c", "import torch, runpod")[0]


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
