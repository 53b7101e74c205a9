"""What the machine of the command spends on a row of a cluster's work, by file and fed row by row.

A Ray of this machine scores a folder of Parquet files with a model that costs next to nothing. By
file, actors read and write the files themselves; fed, this process reads and writes every row. The
first figure is this process's own processor seconds a million rows, without what Ray takes to start
and end. The second is rows a second with two actors of one thread, by file, against one.

    python -m benchmarks.cluster_feed [--rows N] [--files N]
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import models, report
from hatespeech.bulk.by_file import run_by_file
from hatespeech.bulk.command import parse
from hatespeech.bulk.engines import ray_options
from hatespeech.bulk.engines.local import LocalEngine
from hatespeech.bulk.plan import RunOptions, make_plan
from hatespeech.bulk.run import run
from hatespeech.engine.predictor import Predictor
from hatespeech.model.network import ModelConfig
from hatespeech.settings import EngineSettings

# By file, this process spends at most a twentieth of what it spends on feeding every row.
TARGET: Final = 0.05
TINY: Final = ModelConfig(
    hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
)
CHARS: Final = 40  # of a text


@dataclass(frozen=True)
class Measured:
    """One run."""

    driver: float  # processor seconds of this process
    rows_a_second: float  # from the start of scoring to the last file or row


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=1)
    parser.add_argument("--rows", type=report.positive, default=100_000, help="(%(default)s)")
    parser.add_argument("--files", type=report.positive, default=4, help="(%(default)s)")
    options = parser.parse_args(arguments)
    rates: dict[int, list[float]] = {1: [], 2: []}
    with tempfile.TemporaryDirectory() as folder:
        source = write_files(Path(folder) / "in", options.rows, options.files)
        models.write_checkpoint(Path(folder) / "tiny", TINY)

        def driver(actors: int, *, by_file: bool) -> float:
            # Each in a process of its own: one process can start Ray once.
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(1, mp_context=spawn) as alone:
                asked = alone.submit(score, source, Path(folder) / "tiny", actors, by_file=by_file)
                measured = asked.result()
            if by_file:
                rates[actors].append(measured.rows_a_second)
            return measured.driver * 1e6 / int(options.rows)

        seconds = report.in_turn(
            lambda: driver(2, by_file=True), lambda: driver(2, by_file=False), options.rounds
        )
        for _ in range(options.rounds):
            driver(1, by_file=True)
    figures = [
        report.at_most(
            "a cluster's work by file, the command's processor seconds a million rows",
            "fed row by row",
            seconds,
            TARGET,
            rows=options.rows,
            files=options.files,
        ),
        report.at_least(
            "a cluster's work by file, a tiny model, two actors of one thread, rows/s",
            "one actor",
            (rates[2], rates[1]),
        ),
    ]
    report.publish(figures, options.json)


def write_files(folder: Path, rows: int, files: int) -> Path:
    """Write files of short texts."""
    folder.mkdir()
    sample = models.sample_texts()
    texts = [sample[index % len(sample)][:CHARS] for index in range(rows)]
    for number in range(files):
        part = texts[number::files]
        table = pa.table({"id": list(range(len(part))), "text": part})
        pq.write_table(table, folder / f"{number:04}.parquet")
    return folder


def score(source: Path, model: Path, actors: int, *, by_file: bool) -> Measured:
    """Score a folder with a Ray that is started for it."""
    settings = EngineSettings(model_dir=model, device="cpu", dtype="float32")
    with tempfile.TemporaryDirectory() as folder:  # so that nothing is imported while it counts
        one = write_files(Path(folder) / "in", 1, 1)
        options = RunOptions(str(one), f"{folder}/out", "text", 4096, "", None, False)
        run(
            make_plan(options, settings),
            lambda: LocalEngine(Predictor.from_settings(settings), settings),
        )
    apart = 0.0  # processor seconds that Ray takes to start and end

    def timed(work: Callable[[], Any]) -> Any:
        nonlocal apart
        started = processor_seconds()
        try:
            return work()
        finally:
            apart += processor_seconds() - started

    def make_engine(plan: Any = None) -> Any:
        options = ["--engine", "ray", "--num-actors", str(actors), "--cpus-per-actor", "1"]
        asked = parse([str(source), "out", *options])
        engine = timed(lambda: ray_options.make_engine(asked, settings, plan))
        close = engine.close
        engine.close = lambda: timed(close)
        return engine

    with tempfile.TemporaryDirectory() as folder:
        options = RunOptions(str(source), f"{folder}/out", "text", 4096, "", None, False)
        started, begun = processor_seconds(), time.perf_counter()
        plan = make_plan(options, settings)
        if by_file:
            outcome = run_by_file(plan, lambda: make_engine(plan), lambda: None)
        else:
            outcome = run(plan, make_engine)
        assert outcome is not None
        driver = processor_seconds() - started - apart
        way = "by file" if by_file else "fed"
        print(
            f"{way}, {actors} actors: {driver:.2f} processor seconds of this process, "
            f"{outcome.scored / outcome.seconds:,.0f} rows/s, "
            f"{time.perf_counter() - begun:.0f} s in all",
            flush=True,
        )
        return Measured(driver, outcome.scored / outcome.seconds)


def processor_seconds() -> float:
    """Return what this process has used so far, in all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
