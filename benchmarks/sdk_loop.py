"""Jobs per second of a queue's worker: app.py against the SDK's own loop with a handler of nothing.

Both workers run in turn in front of a stand-in of Runpod's job API on this machine, at
MAX_CONCURRENCY 256 and 1024, with one tweet a job: on the embedded checkpoint, and on a model of
two layers of 32, which costs next to nothing, so that all the rest shows. The clock runs from the
submission of the first job to the last answer. The worker has started before.

    python -m benchmarks.sdk_loop
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from benchmarks import models, report
from hatespeech import paths
from hatespeech.model.network import ModelConfig
from tests.support.processes.worker import APP, WorkerProcess, clean_environment, wait_until
from tests.support.stand_ins.runpod.endpoint import RunpodEndpoint

WARM_UP_JOBS = 256
# Concurrency, model, and what is aimed at. When the SDK's own loop is full, it looks for jobs again
# after a second; at a concurrency of 1024 its work for each job shows as well.
TINY_NAME = "two layers of 32"
CASES = (
    (256, "mini", 0.8),
    (1024, "mini", 0.9),
    (1024, TINY_NAME, 0.9),
)
TINY = ModelConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)
CONSTANT = str(Path(__file__).with_name("constant_worker.py"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=3)
    parser.add_argument("--jobs", type=report.positive, default=2048, help="(%(default)s)")
    options = parser.parse_args(arguments)
    figures = []
    with tempfile.TemporaryDirectory() as name:
        tiny = Path(name)
        models.write_checkpoint(tiny, TINY)
        for concurrency, model, target in CASES:
            folder = paths.EMBEDDED if model == "mini" else tiny
            rates = report.in_turn(
                partial(jobs_per_second, APP, folder, options.jobs, concurrency),
                partial(jobs_per_second, CONSTANT, folder, options.jobs, concurrency),
                options.rounds,
            )
            figures.append(
                report.at_least(
                    f"jobs per second of a queue's worker, concurrency {concurrency}, {model}",
                    "the SDK's loop, a handler that returns a constant",
                    rates,
                    target,
                    jobs=options.jobs,
                )
            )
    report.publish(figures, options.json)


def jobs_per_second(script: str, model: Path, count: int, concurrency: int) -> float:
    """Start a worker, let it warm up, and time ``count`` jobs."""
    inputs = [
        {"prompt": text} for text in itertools.islice(itertools.cycle(models.sample_texts()), count)
    ]
    with tempfile.TemporaryDirectory() as name, RunpodEndpoint() as endpoint:
        folder = Path(name)
        environment = {
            **clean_environment(folder, model),
            **endpoint.environment(),
            "MAX_CONCURRENCY": str(concurrency),
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        }
        with WorkerProcess([script], environment, folder) as worker:
            warm = endpoint.submit(*inputs[:WARM_UP_JOBS])
            wait(endpoint, warm, worker)
            started = time.perf_counter()
            job_ids = endpoint.submit(*inputs)
            wait(endpoint, job_ids, worker)
            seconds = time.perf_counter() - started
        assert not endpoint.problems, endpoint.problems[:3]
        assert all("error" not in (endpoint.answer(job_id) or {}) for job_id in job_ids)
    return count / seconds


def wait(endpoint: RunpodEndpoint, job_ids: Sequence[str], worker: WorkerProcess) -> None:
    """Wait until all these jobs are answered."""
    wait_until(
        lambda: endpoint.all_answered(job_ids),
        f"{len(job_ids)} answers",
        watch=worker.require_running,
    )


if __name__ == "__main__":
    main()
