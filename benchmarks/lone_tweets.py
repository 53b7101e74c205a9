"""One tweet at a time, in a row and after pauses: our engine against ONNX Runtime in float32.

The commonest call of a live site is one short text after a pause. Both sides are processes of
their own, with the threads that they choose themselves. They take turns. ONNX Runtime's threads
spin on a core for 30 ms after a call, so each turn starts 0.1 s after the other side's. The figures
"20 ms after the other's call" show what a neighbour that spins costs: no side waits for it to end.
At the base shape our engine runs in int8 as well. The times are from token
ids to scores, without normalising and tokenising. A figure is of the length, among 8 to 32 tokens,
at which we compare worst.

ONNX Runtime needs packages that this project does not. The first run makes a virtual environment
for it, from benchmarks/requirements-onnxruntime.txt.

    python -m benchmarks.lone_tweets
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Final

from benchmarks import environments, models, report
from hatespeech import paths

HERE: Final = Path(__file__).resolve().parent
REQUIREMENTS: Final = HERE / "requirements-onnxruntime.txt"
COMPARED: Final = (8, 16, 24, 32)
TOKENS: Final = (*COMPARED, 64)
AFTER_OTHER: Final = "20 ms after the other's call"
# Seconds before each turn and before each of its calls; calls in a turn; turns in a round.
TURNS: Final = {
    "in a row": (0.1, 0.0, 10, 2),
    "after 20 ms": (0.1, 0.02, 5, 1),
    "after 1 s": (0.1, 1.0, 1, 1),
    AFTER_OTHER: (0.02, 0.0, 1, 5),
}
TARGETS: Final = {
    ("base shape", "float32"): 1.0,
    ("base shape", "int8"): 0.5,
    ("mini", "float32"): None,
}
TOLERANCE: Final = {"float32": 1e-4, "int8": 0.02}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("--answer", type=Path, metavar="FOLDER", help="be our side, for FOLDER")
    parser.add_argument("--dtype", choices=list(TOLERANCE), help="of our side, with --answer")
    options = parser.parse_args(arguments)
    if options.answer:
        answer(options.answer, options.dtype)
        return
    python = environments.interpreter(REQUIREMENTS)
    figures: list[report.Figure] = []
    with tempfile.TemporaryDirectory() as name:
        models.write_checkpoint(Path(name))
        folders = {"base shape": name, "mini": str(paths.EMBEDDED)}
        for (shape, dtype), target in TARGETS.items():
            us = [sys.executable, "-m", "benchmarks.lone_tweets", "--answer", folders[shape]]
            them = [str(python), str(HERE / "lone_onnxruntime.py"), folders[shape]]
            with side([*us, "--dtype", dtype]) as ours, side(them) as theirs:
                require_equal(ours, theirs, TOLERANCE[dtype])
                figures += compare(ours, theirs, f"{shape}, {dtype}", target, options.rounds)
    report.publish(figures, options.json)


class Side:
    """A process that scores what it is asked to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, tokens: int, calls: int) -> tuple[list[float], list[float]]:
        """Score a text of so many tokens; return each call's milliseconds, and the scores."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        ids = [0, *range(4, tokens + 2), 2]
        self._process.stdin.write(json.dumps([ids, calls]) + "\n")
        self._process.stdin.flush()
        times, scores = json.loads(self._process.stdout.readline())
        return times, scores

    def turn(self, tokens: int, first: float, pause: float, calls: int) -> float:
        """Wait, then score after each pause; return the median of the calls."""
        time.sleep(first)
        if not pause:
            return median(self.ask(tokens, calls)[0])
        times = []
        for _ in range(calls):
            time.sleep(pause)
            times += self.ask(tokens, 1)[0]
        return median(times)


@contextmanager
def side(command: Sequence[str]) -> Iterator[Side]:
    """Run a side's process until the block ends."""
    process = subprocess.Popen(
        command, cwd=HERE.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        yield Side(process)
        assert process.stdin is not None
        process.stdin.close()


def require_equal(ours: Side, theirs: Side, tolerance: float) -> None:
    """Score every length once; end the program if both sides do not compute the same."""
    for tokens in TOKENS:
        mine, their = ours.ask(tokens, 3)[1], theirs.ask(tokens, 3)[1]
        if max(abs(a - b) for a, b in zip(mine, their, strict=True)) > tolerance:
            raise SystemExit(f"error: both sides must compute the same: {mine}, {their}")


def compare(
    ours: Side, theirs: Side, what: str, target: float | None, rounds: int
) -> list[report.Figure]:
    """Measure every length with every pause."""
    figures = []
    for when, (first, pause, calls, turns) in TURNS.items():
        by_tokens = {}
        for tokens in TOKENS:
            turn = (tokens, first, pause, calls)
            us, them = partial(ours.turn, *turn), partial(theirs.turn, *turn)
            by_tokens[tokens] = report.at_most(
                f"a lone text of {tokens} tokens, {what}, {when}, ms",
                "ONNX Runtime, float32",
                report.in_turn(us, them, rounds * turns),
                None if when == AFTER_OTHER else target,
            )
        ratios = {tokens: round(figure.ratio, 3) for tokens, figure in by_tokens.items()}
        worst = by_tokens[max(COMPARED, key=ratios.__getitem__)]
        figures.append(replace(worst, raw={**worst.raw, "ratios_by_tokens": ratios}))
    return figures


def answer(folder: Path, dtype: str) -> None:
    """Be our side: answer each line of the input."""
    predictor = models.load(folder, dtype)
    for line in sys.stdin:
        ids, calls = json.loads(line)
        times = []
        for _ in range(calls):
            started = time.perf_counter()
            (scores,) = predictor.probabilities([ids])
            times.append((time.perf_counter() - started) * 1e3)
        print(json.dumps([times, scores]), flush=True)


if __name__ == "__main__":
    main()
