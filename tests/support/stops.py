"""Stops queue workers while jobs are handed to them, and counts the jobs that get no answer.

Each stop has a worker process of its own, with the SDK's loop or this project's in it, a control
plane of its own on loopback, real signals, and a plan drawn from its number: when jobs are handed
over, how long they take, which posts fail, when a second signal comes.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Final

from tests.support.processes.forked_worker import ended, work
from tests.support.processes.worker import wait_until
from tests.support.stand_ins.runpod.jobs import LOST, RESET, Fault
from tests.support.stand_ins.runpod.queue import JobQueue

PATIENT_SECONDS: Final = 60.0  # for scoring; more than the other jobs need
ENDLESS_SECONDS: Final = 600.0  # of a job that no worker finishes in time
# What becomes of a post: not taken, or taken without a word of it. A 500 is all that the SDK's own
# loop tries again.
FAULTS: Final = (RESET, LOST, Fault(500), Fault(502), Fault(429))


@dataclass(frozen=True)
class Plan:
    """What happens around one stop; times are seconds from the signal."""

    concurrency: int
    stop_seconds: float  # for scoring
    handed: tuple[tuple[float, tuple[float, ...]], ...]  # when, and how long each job takes
    faults: tuple[Fault, ...]  # of the first posts
    second: float | None  # when the second signal comes
    last: float  # when the platform ends the polls

    @classmethod
    def draw(cls, number: int) -> Plan:
        """Return the plan of this number."""
        rng = random.Random(number)
        short = rng.random() < 0.3  # time for scoring, and jobs that take longer
        handed = []
        for _ in range(rng.randint(1, 4)):
            when = rng.choice((rng.uniform(-0.3, 0), rng.uniform(-0.02, 0.02), rng.uniform(0, 0.5)))
            size = rng.choice((1, 1, rng.randint(2, 20)))
            endless = short and rng.random() < 0.4
            handed.append(
                (
                    when,
                    tuple(ENDLESS_SECONDS if endless else rng.uniform(0, 0.3) for _ in range(size)),
                )
            )
        return cls(
            concurrency=rng.choice((1, 4, 32, 256)),
            stop_seconds=rng.uniform(0, 0.6) if short else PATIENT_SECONDS,
            handed=tuple(sorted(handed)),
            faults=tuple(rng.choices(FAULTS, k=rng.choice((0, 0, 1, 3)))),
            second=rng.uniform(0.01, 0.5) if rng.random() < 0.25 else None,
            last=max(0.0, *(when for when, _ in handed)) + rng.uniform(0.05, 0.3),
        )


@dataclass(frozen=True)
class Stop:
    """What became of the jobs."""

    number: int
    handed: int
    lost: int  # handed over, never answered
    given_up: int  # answered with ``unhealthy``
    problems: tuple[str, ...]  # a second answer, or another job's
    ended: bool  # by itself, without an exception
    seconds: float  # from the end of the polls to the end of the process


def stop(
    number: int, context: ForkServerContext, folder: Path, *, ours: bool, kill_seconds: float
) -> Stop:
    """Run one stop, with this project's loop or the SDK's own.

    A worker that still runs ``kill_seconds`` after its polls have ended is killed, as the platform
    does.
    """
    plan = Plan.draw(number)
    with JobQueue() as queue:
        environment = {**queue.environment(f"pod-{number}"), "HOME": str(folder)}
        output = folder / f"{number}-{'ours' if ours else 'sdk'}.log"
        process = context.Process(
            target=work,
            args=(environment, plan.concurrency, plan.stop_seconds if ours else None, output),
            daemon=True,
        )
        process.start()
        pid = process.pid
        assert pid is not None
        wait_until(lambda: queue.takes > 0, f"worker {number} to ask for jobs")

        def end() -> None:
            with contextlib.suppress(ProcessLookupError):  # it has just ended
                os.kill(pid, signal.SIGTERM)

        def hand_over(seconds: tuple[float, ...]) -> Callable[[], None]:
            return lambda: submit(queue, seconds)

        queue.fail("job-done", *plan.faults)
        events = [(when, hand_over(seconds)) for when, seconds in plan.handed]
        events += [(0.0, end), (plan.last, queue.drain)]
        if plan.second is not None:
            events.append((plan.second, end))
        zero = time.monotonic() + 0.3
        for when, act in sorted(events, key=lambda event: event[0]):
            time.sleep(max(0.0, zero + when - time.monotonic()))
            if process.is_alive():
                act()
        process.join(kill_seconds)
        seconds = time.monotonic() - zero - plan.last
        if process.is_alive():
            process.kill()
            process.join()
        return judge(number, plan, queue, ended(output).exists(), seconds)


def submit(queue: JobQueue, seconds: tuple[float, ...]) -> None:
    """Queue jobs that take so long."""
    first = len(queue.jobs)
    queue.submit(*({"number": first + i, "seconds": each} for i, each in enumerate(seconds)))


def judge(number: int, plan: Plan, queue: JobQueue, ended_well: bool, seconds: float) -> Stop:
    """Count, and look at the answers."""
    handed = [job for job in queue.jobs.values() if job.pods]
    problems = list(queue.problems)
    given_up = 0
    for job in handed:
        answer = job.answer
        if answer is None:
            continue
        if str(answer.get("error", "")).startswith("unhealthy: "):
            given_up += 1
            if plan.stop_seconds == PATIENT_SECONDS and plan.second is None:
                problems.append(f"{job.id}: given up without need")
        elif answer != {"output": {"number": job.input["number"]}}:
            problems.append(f"{job.id}: a wrong answer")
    return Stop(
        number,
        handed=len(handed),
        lost=sum(job.answer is None for job in handed),
        given_up=given_up,
        problems=tuple(problems),
        ended=ended_well,
        seconds=seconds,
    )
