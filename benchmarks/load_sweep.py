"""How server.py answers as more and more tweets arrive.

First, 64 clients in a closed loop measure the capacity, in requests a second. Then tweets arrive at
random times (a Poisson process, one tweet a request), at rates from a tenth of the capacity to a
fifth above it, whether or not the earlier ones are answered. A latency counts from the time at
which the request was due, so it includes the waiting that the load itself causes.

The model has RoBERTa-base's shape with random weights, in float32, or is the checkpoint of
--model-dir.

    python -m benchmarks.load_sweep --json sweep.json --plot sweep.png
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any, Final

from tqdm import tqdm

from benchmarks import clients, models, report, servers
from hatespeech.errors import CheckpointError
from hatespeech.model import checkpoint as checkpoints

CLIENTS: Final = 64
STEPS: Final = (0.1, 0.25, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.2)  # of the capacity
WARM_UP_SECONDS: Final = 5.0


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print, write and draw."""
    parser = report.parser(__doc__, rounds=3)
    parser.add_argument("--model-dir", type=Path, metavar="DIR", help="a checkpoint folder")
    parser.add_argument(
        "--seconds", type=report.positive, default=10, metavar="N", help="a step (%(default)s)"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw there, a .png or .svg")
    options = parser.parse_args(arguments)
    if options.plot is not None:
        if options.plot.suffix not in (".png", ".svg"):
            parser.error("--plot: the name must end in .png or .svg")
        pyplot(parser)  # before minutes of measuring, not after
    if options.model_dir is not None:
        try:
            checkpoints.describe(options.model_dir)
        except CheckpointError as error:
            parser.error(f"--model-dir: {error}")
    try:
        sweep = measure(options.model_dir, options.rounds, options.seconds)
    except clients.LoadError as error:
        raise SystemExit(f"error: {error}") from None
    print("of capacity  offered/s  answered/s  median ms  99th ms  refused")
    for step in sweep.steps:
        refused = ", ".join(f"{count} x {what}" for what, count in step.refused.items()) or "none"
        print(
            f"{step.share:11.0%}  {step.offered:9.1f}  {step.answered:10.1f}"
            f"  {step.p50_ms:9.0f}  {step.p99_ms:7.0f}  {refused}"
        )
    shape = "base shape" if options.model_dir is None else "--model-dir"
    columns: dict[str, Any] = {
        each.name: [getattr(step, each.name) for step in sweep.steps] for each in fields(Step)
    }
    overload = report.at_least(
        f"answered while {STEPS[-1]:.0%} of the capacity are offered, {shape}, float32, requests/s",
        f"the capacity: {CLIENTS} clients in a closed loop",
        (sweep.overloaded, sweep.capacities),
        **columns,
    )
    report.publish([overload], options.json)
    if options.plot is not None:
        draw(pyplot(parser), options.plot, median(sweep.capacities), sweep.steps)


@dataclass(frozen=True)
class Step:
    """One rate of arrivals and its results, all rounds together."""

    share: float  # of the capacity
    offered: float  # requests/s sent
    answered: float  # requests/s, until the last reply
    p50_ms: float
    p99_ms: float
    refused: dict[str, int]  # by status and error type, or by the client's error


@dataclass
class Sweep:
    """The measurements: requests/s in each round, and the steps."""

    capacities: list[float] = field(default_factory=list)
    overloaded: list[float] = field(default_factory=list)  # answered in the last step
    steps: list[Step] = field(default_factory=list)


def measure(model_dir: Path | None, rounds: int, seconds: float) -> Sweep:
    """Start a server, and go through all rates once a round."""
    texts = models.sample_texts()
    sweep = Sweep()
    outcomes = [clients.Outcome() for _ in STEPS]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if model_dir is None:
            model_dir = models.write_checkpoint(folder / "checkpoint").path
        with (
            servers.ours(folder / "server", model_dir.resolve()) as target,
            tqdm(total=rounds * len(STEPS), unit="step", leave=False) as bar,
        ):
            clients.closed_loop(target, texts, CLIENTS, WARM_UP_SECONDS)
            for seed in range(rounds):
                capacity = clients.closed_loop(target, texts, CLIENTS, seconds).rate
                sweep.capacities.append(capacity)
                for share, total in zip(STEPS, outcomes, strict=True):
                    outcome = clients.open_loop(target, texts, share * capacity, seconds, seed)
                    total.add(outcome)
                    bar.update()
                sweep.overloaded.append(outcome.rate)
    for share, total in zip(STEPS, outcomes, strict=True):
        sent = len(total.latencies) + total.refused.total()
        sweep.steps.append(
            Step(
                share,
                round(sent / (rounds * seconds), 2),
                round(total.rate, 2),
                round(total.percentile(50), 1),
                round(total.percentile(99), 1),
                dict(total.refused),
            )
        )
    return sweep


def pyplot(parser: argparse.ArgumentParser) -> Any:
    """Import matplotlib, which only a plot needs; end with one line if it is missing."""
    try:
        import matplotlib
    except ModuleNotFoundError:
        parser.error("--plot: needs matplotlib: pip install -r requirements-dev.txt")
    matplotlib.use("Agg")  # no display is needed
    from matplotlib import pyplot as plt

    return plt


def draw(plt: Any, path: Path, capacity: float, steps: Sequence[Step]) -> None:
    """Draw throughput and latency against the offered load, one above the other."""
    offered = [step.offered for step in steps]
    figure, (above, below) = plt.subplots(2, 1, sharex=True, figsize=(7, 6.5), layout="constrained")
    above.plot(offered, offered, color="0.6", linestyle=":", label="offered")
    above.plot(offered, [step.answered for step in steps], marker="o", label="answered")
    above.set_ylabel("throughput (requests/s)")
    above.set_ylim(bottom=0)
    below.plot(offered, [step.p50_ms for step in steps], marker="o", label="median")
    below.plot(offered, [step.p99_ms for step in steps], marker="s", label="99th percentile")
    below.set_yscale("log")
    below.set_ylabel("latency (ms)")
    below.set_xlabel("offered load (requests/s, one tweet each)")
    below.set_xlim(left=0)
    for axes in (above, below):
        axes.axvline(capacity, color="0.3", linestyle="--", linewidth=1, label="capacity")
        axes.grid(True, which="both", alpha=0.25)
        axes.legend(loc="upper left")
    figure.savefig(path, dpi=150, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    main()
