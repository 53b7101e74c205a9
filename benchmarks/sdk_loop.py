"""Jobs per second through the real Runpod SDK loop: app.py against a handler that does nothing.

Both workers run in turn in front of a stand-in of Runpod's job API on this machine, at
MAX_CONCURRENCY 256 and 1024, with one tweet a job, on the embedded checkpoint. The clock runs from
the submission of the first job to the last answer. The worker has started before.

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
from tests.support.processes.worker import APP, WorkerProcess, clean_environment, wait_until
from tests.support.stand_ins.runpod.endpoint import RunpodEndpoint

CONCURRENCY = 256
# A worker that is full looks for jobs again after a second, so that one with fast jobs gets about
# as many a second; with this many the SDK's own work shows.
MANY = 1024
TARGET = 0.8
CONSTANT = str(Path(__file__).with_name("constant_worker.py"))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=3)
    parser.add_argument("--jobs", type=report.positive, default=2048, help="(%(default)s)")
    options = parser.parse_args(arguments)
    figures = []
    for concurrency, target in ((CONCURRENCY, TARGET), (MANY, None)):
        ours, theirs = report.in_turn(
            partial(jobs_per_second, APP, options.jobs, concurrency),
            partial(jobs_per_second, CONSTANT, options.jobs, concurrency),
            options.rounds,
        )
        figures.append(
            report.at_least(
                f"jobs per second through the SDK loop, concurrency {concurrency}, mini",
                "a handler that returns a constant",
                *(ours, theirs, target),
                jobs=options.jobs,
            )
        )
    report.publish(figures, options.json)


def jobs_per_second(script: str, count: int, concurrency: int) -> float:
    """Start a worker, let it warm up, and time ``count`` jobs."""
    inputs = [
        {"prompt": text} for text in itertools.islice(itertools.cycle(models.sample_texts()), count)
    ]
    with tempfile.TemporaryDirectory() as name, RunpodEndpoint() as endpoint:
        folder = Path(name)
        environment = {
            **clean_environment(folder, paths.EMBEDDED),
            **endpoint.environment(),
            "MAX_CONCURRENCY": str(concurrency),
            "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0))),
        }
        with WorkerProcess([script], environment, folder) as worker:
            warm = endpoint.submit(*inputs[:CONCURRENCY])
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
