"""Sixty-four clients over HTTP, one tweet a request: server.py against infinity-emb's /classify.

The model has RoBERTa-base's shape with random weights, in float32, on the CPU. Every client sends
its next tweet once the last is answered. Both servers are processes of their own. They start once
and get their load in turn; an idle server costs nothing. Both check a bearer token and choose
threads and batch sizes themselves. Infinity gets its texts normalised already and needs no
normaliser, which is in its favour.

Infinity needs other packages than this project. The first run makes a virtual environment for it,
from benchmarks/requirements-infinity.txt. TORCH_INDEX_URL works as in scripts/install.

    python -m benchmarks.http_throughput [--infinity-python /path/to/venv/bin/python]
"""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any, Final

import torch
from tqdm import tqdm

from benchmarks import clients, environments, models, report, servers
from tests.support.http_client import BEARER, TOKEN
from tests.support.ports import free_port
from tests.support.processes.server import HttpServer
from tests.support.processes.worker import clean_environment

CLIENTS: Final = 64
WARM_UP_SECONDS: Final = 5.0
TARGET_RATE: Final = 1.8
TARGET_P99: Final = 1.0

REQUIREMENTS: Final = Path(__file__).resolve().parent / "requirements-infinity.txt"
MODEL: Final = "random"  # the name that requests give
THEIR_PACKAGES: Final = ("infinity-emb", "torch", "transformers", "tokenizers", "fastapi")
OUR_PACKAGES: Final = ("torch", "tokenizers", "fastapi")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument(
        "--infinity-python",
        type=Path,
        metavar="PATH",
        help="interpreter of a virtual environment with infinity-emb (default: make one in the "
        "temporary folder, and keep it there)",
    )
    parser.add_argument(
        "--seconds", type=report.positive, default=30, metavar="N", help="a round (%(default)s)"
    )
    options = parser.parse_args(arguments)
    python = options.infinity_python or environments.interpreter(REQUIREMENTS)
    try:
        versions = packages(python)
    except (OSError, subprocess.CalledProcessError):
        parser.error(f"--infinity-python: {python} is no interpreter with infinity-emb")
    try:
        ours, theirs = measure(python, options.rounds, options.seconds)
    except clients.LoadError as error:
        raise SystemExit(f"error: {error}") from None
    report.publish(figures(ours, theirs, versions), options.json)


class Side:
    """One server and its results of each round."""

    def __init__(self, target: clients.Target, texts: list[str]) -> None:
        self.outcomes: list[clients.Outcome] = []
        self._target = target
        self._texts = texts

    def run(self, seconds: float) -> float:
        """Load it for one round; return answered requests a second."""
        self.outcomes.append(clients.closed_loop(self._target, self._texts, CLIENTS, seconds))
        return self.outcomes[-1].rate

    @property
    def rates(self) -> list[float]:
        """Each round's answered requests a second."""
        return [outcome.rate for outcome in self.outcomes]

    def percentiles(self, percent: int) -> list[float]:
        """Return each round's percentile of the latencies, in ms."""
        return [outcome.percentile(percent) for outcome in self.outcomes]


def measure(python: Path, rounds: int, seconds: float) -> tuple[Side, Side]:
    """Start both servers and load them in turn; return their results."""
    texts = models.sample_texts()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        models.write_checkpoint(folder / "checkpoint")
        write_transformers_checkpoint(folder / "transformers")
        with (
            servers.ours(folder / "ours", folder / "checkpoint") as our_target,
            infinity(folder / "theirs", folder / "transformers", python) as their_target,
            tqdm(total=2 * rounds, unit="run", leave=False) as bar,
        ):
            ours = Side(our_target, texts)
            theirs = Side(their_target, models.normalized(texts))
            for side in (ours, theirs):
                side.run(WARM_UP_SECONDS)
                side.outcomes.clear()

            def load(side: Side) -> float:
                rate = side.run(seconds)
                bar.update()
                return rate

            report.in_turn(partial(load, ours), partial(load, theirs), rounds)
    return ours, theirs


def figures(ours: Side, theirs: Side, versions: dict[str, dict[str, str]]) -> list[report.Figure]:
    """Compare throughput and the 99th percentile of latency."""
    against = f"infinity-emb {versions['theirs']['infinity-emb']}, /classify, normalised texts"
    return [
        report.at_least(
            f"HTTP throughput, {CLIENTS} clients, base shape, float32, requests/s",
            against,
            (ours.rates, theirs.rates),
            TARGET_RATE,
            requests=sum(len(each.latencies) for each in (*ours.outcomes, *theirs.outcomes)),
            **{f"versions_{side}": each for side, each in versions.items()},
        ),
        report.at_most(
            f"HTTP latency, {CLIENTS} clients, base shape, float32, 99th percentile, ms",
            against,
            (ours.percentiles(99), theirs.percentiles(99)),
            TARGET_P99,
            median_ours=round(median(ours.percentiles(50)), 1),
            median_theirs=round(median(theirs.percentiles(50)), 1),
            median_rounds=[
                [round(value, 1) for value in pair]
                for pair in zip(ours.percentiles(50), theirs.percentiles(50), strict=True)
            ],
        ),
    ]


def write_transformers_checkpoint(folder: Path) -> None:
    """Write what ``from_pretrained`` reads, by transformers 4 as well as 5."""
    models.transformers_model(torch.float32).save_pretrained(folder)
    models.transformers_tokenizer().save_pretrained(folder)
    # Version 5 names a class that 4 has not. RoBERTa needs no token types.
    settings = folder / "tokenizer_config.json"
    config: dict[str, Any] = json.loads(settings.read_text(encoding="utf-8"))
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    config["model_input_names"] = ["input_ids", "attention_mask"]
    settings.write_text(json.dumps(config), encoding="utf-8")


@contextmanager
def infinity(folder: Path, model: Path, python: Path) -> Iterator[clients.Target]:
    """Serve a transformers checkpoint by infinity-emb; ``folder`` holds what it writes."""
    port = free_port()
    environment = clean_environment(folder, None) | {
        "HF_HUB_OFFLINE": "1",
        "DO_NOT_TRACK": "1",
        "INFINITY_API_KEY": TOKEN,
    }
    del environment["OMP_NUM_THREADS"]  # as many as torch itself chooses
    command = (
        *("-P", "-m", "infinity_emb.cli", "v2", "--host", "127.0.0.1", "--port", str(port)),
        *("--model-id", str(model), "--served-model-name", MODEL, "--no-model-warmup"),
        *("--engine", "torch", "--device", "cpu", "--dtype", "float32", "--no-bettertransformer"),
    )
    with HttpServer(command, environment, folder, str(python)) as server:
        server.port = port
        server.wait_ping(200, "/health")
        yield clients.Target(
            f"http://127.0.0.1:{port}/classify",
            BEARER,
            lambda text: {"model": MODEL, "input": [text]},
            lambda reply: [each["score"] for each in reply["data"][0]],
        )


def packages(python: Path) -> dict[str, dict[str, str]]:
    """Return the versions of what both sides are made of."""
    program = "import json, sys; from importlib.metadata import version as v; " + (
        "print(json.dumps({name: v(name) for name in sys.argv[1:]}))"
    )
    command = [str(python), "-c", program, *THEIR_PACKAGES]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return {
        "ours": {name: metadata.version(name) for name in OUR_PACKAGES},
        "theirs": json.loads(done.stdout),
    }


if __name__ == "__main__":
    main()
