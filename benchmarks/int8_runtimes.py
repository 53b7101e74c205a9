"""A list of tweets in int8: our engine against its other dtypes, ONNX Runtime and OpenVINO.

RoBERTa-base's shape with random weights. This engine gets raw texts in the order of the file. The
other runtimes get token ids of the same texts, normalised, sorted by length, in batches of one
length each, so that they read no padding. All have the same threads, take turns, and score the
same texts. At BERTweet-large's shape it compares the dtypes alone, on an eighth of the texts.

The runtimes need packages that this project does not. The first run makes a virtual environment for
each, from benchmarks/requirements-onnxruntime.txt and benchmarks/requirements-openvino.txt.

    python -m benchmarks.int8_runtimes [--threads 1] [--shapes base]
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import Final

import torch

from benchmarks import environments, models, report

HERE: Final = Path(__file__).resolve().parent
LARGEST_BATCH: Final = 32
DTYPES: Final = {"float32": 2.7, "bfloat16": 1.4}
RUNTIMES: Final = {"onnxruntime": "ONNX Runtime, dynamic", "openvino": "OpenVINO, NNCF"}
TARGET: Final = 1.6
# Each with the share of the texts that it scores: one of so many.
SHAPES: Final = {"base": (models.BASE, 1), "large": (models.LARGE, 8)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=3)
    parser.add_argument("--texts", type=report.positive, default=256, help="(%(default)s)")
    parser.add_argument(
        "--threads", type=report.positive, default=torch.get_num_threads(), help="(%(default)s)"
    )
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=SHAPES, help="(both)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    found: list[report.Figure] = []
    for shape in options.shapes:
        texts = models.sample_texts()[: options.texts // SHAPES[shape][1]]
        found += compare(shape, texts, options.threads, options.rounds)
    report.publish(found, options.json)


def compare(name: str, texts: list[str], threads: int, rounds: int) -> list[report.Figure]:
    """Measure one shape."""
    is_base = name == "base"
    shape = SHAPES[name][0]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        passes = {
            dtype: engine(texts, models.random_predictor(getattr(torch, dtype), shape).score)
            for dtype in ("int8", *DTYPES)
        }
        if is_base:
            models.write_checkpoint(Path(folder))
            batches = Path(folder, "batches.json")
            batches.write_text(json.dumps(by_length(texts)), encoding="utf-8")
            for runtime in RUNTIMES:
                python = environments.interpreter(HERE / f"requirements-{runtime}.txt")
                command = [python, HERE / "int8_side.py", runtime, folder, batches]
                side = runtime_side([*map(str, command), str(threads)])
                passes[runtime] = stack.enter_context(side)
        rates = measure(passes, len(texts), rounds)
    return figures(rates, name, threads)


def engine(texts: list[str], score: Callable[[list[str]], object]) -> Callable[[], float]:
    """Return what scores all texts and returns the seconds."""

    return partial(report.seconds, partial(score, texts))


def by_length(texts: list[str]) -> list[list[list[int]]]:
    """Return token ids in batches of one length each, shortest first."""
    encoder = models.random_predictor(torch.float32).encoder
    windows = [window for text in texts for window in encoder.encode(text).windows]
    batches: list[list[list[int]]] = []
    for _, alike in groupby(sorted(windows, key=len), key=len):
        rows = list(alike)
        batches += [
            rows[start : start + LARGEST_BATCH] for start in range(0, len(rows), LARGEST_BATCH)
        ]
    return batches


@contextmanager
def runtime_side(command: list[str]) -> Iterator[Callable[[], float]]:
    """Run a runtime's process; yield what lets it score all texts and returns the seconds."""
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        asked, answers = process.stdin, process.stdout

        def seconds() -> float:
            asked.write("\n")
            asked.flush()
            while not (line := answers.readline()).replace(".", "").strip().isdigit():
                if not line:
                    raise SystemExit("error: the other runtime's process has ended")
            return float(line)

        seconds()  # quantising may print; and nothing is measured before all have warmed up
        yield seconds
        asked.close()


def measure(
    passes: dict[str, Callable[[], float]], texts: int, rounds: int
) -> dict[str, list[float]]:
    """Let all take turns; return the texts a second of each in each round."""
    for seconds in passes.values():
        seconds()
    rates: dict[str, list[float]] = {name: [] for name in passes}
    for index in range(rounds):
        for name in list(passes)[:: 1 if index % 2 else -1]:
            rates[name].append(texts / passes[name]())
    return rates


def figures(rates: dict[str, list[float]], shape: str, threads: int) -> list[report.Figure]:
    """Compare int8 with each dtype, and with the faster runtime."""
    name = f"offline throughput, {shape} shape, int8, {threads} threads, texts/s"
    is_base = shape == "base"
    found = [
        report.at_least(name, f"this engine, {d}", (rates["int8"], rates[d]), target)
        for d, target in (DTYPES if is_base else dict.fromkeys(DTYPES)).items()
    ]
    if is_base:
        best = max(RUNTIMES, key=lambda runtime: median(rates[runtime]))
        medians = {RUNTIMES[runtime]: round(median(rates[runtime]), 1) for runtime in RUNTIMES}
        against = f"{RUNTIMES[best]}, int8, sorted by length, the faster of {len(RUNTIMES)}"
        pair = (rates["int8"], rates[best])
        found.append(report.at_least(name, against, pair, TARGET, **medians))
    return found


if __name__ == "__main__":
    main()
