"""Loading a full-size float32 checkpoint against reading its file once.

The checkpoint has BERTweet-large's shape with random weights; the page cache is warm. The
vocabulary is the embedded checkpoint's, which makes the file an eighth smaller (1.25 GB). Loading
is `describe` and `load_model`, which map the weights. Reading is one `read()` of the whole file, in
the same process.

The peak of memory is the kernel's high-water mark of resident memory, less what was resident after
the imports. It is measured in a process of its own, which then touches every weight: so the peak
includes what mapping leaves for later. Mapping also leaves work to the first pass, so the script
prints the times of the first and the second pass over one tweet as well.

    python -m benchmarks.load
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch

from benchmarks import models, report
from hatespeech.model import checkpoint as checkpoints
from tests.paths import ROOT
from tests.support.memory import reset_peak, resident

TARGET_SECONDS = 1.5
TARGET_MEMORY = 1.15
TWEET = [0, *range(10, 32), 2]


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the checkpoint, measure and print."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("--measure", type=Path, help="measure this folder once; print JSON")
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        models.write_checkpoint(path, models.LARGE)
        rounds = [in_a_process(path) for _ in range(options.rounds)]
    columns = {key: [each[key] for each in rounds] for key in rounds[0]}
    figures = [
        report.at_most(
            "load of a full-size float32 checkpoint, s",
            "reading the file once",
            (columns["load"], columns["read"]),
            TARGET_SECONDS,
            first_pass=columns["first_pass"],
            second_pass=columns["second_pass"],
        ),
        report.at_most(
            "peak memory of loading it and touching every weight, GB",
            "the file's size",
            (columns["peak_gb"], columns["file_gb"]),
            TARGET_MEMORY,
        ),
    ]
    report.publish(figures, options.json)


def in_a_process(path: Path) -> dict[str, float]:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.load", "--measure", str(path)]
    done = subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, float] = json.loads(done.stdout)
    return measured


def measure(path: Path) -> dict[str, float]:
    """Read the file, load the checkpoint, and run it twice."""
    weights = path / checkpoints.WEIGHTS
    # The first may be the page cache's.
    read_seconds = min(report.seconds(weights.read_bytes) for _ in range(2))
    resident_before = reset_peak()
    started = time.perf_counter()
    model = checkpoints.load_model(checkpoints.describe(path), reorder=True)
    load_seconds = time.perf_counter() - started
    with torch.inference_mode():
        one_pass = partial(model.forward_sequences, [TWEET])
        passes = [report.seconds(one_pass) for _ in range(2)]
        for weight in model.parameters():
            weight.sum()
    return {
        "load": load_seconds,
        "read": read_seconds,
        "first_pass": round(passes[0], 4),
        "second_pass": round(passes[1], 4),
        "peak_gb": (resident("VmHWM") - resident_before) / 1e9,
        "file_gb": weights.stat().st_size / 1e9,
    }


if __name__ == "__main__":
    main()
