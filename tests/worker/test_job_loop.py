"""The job loop: a hundred stops with jobs on their way, and the SDK that it is made for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from runpod.http_client import AsyncClientSession
from runpod.serverless.modules import rp_http, rp_job, rp_scale
from runpod.serverless.modules.worker_state import JobsProgress, PingJobMirror
from typing_extensions import override

from hatespeech.engine.predictor import Predictor
from hatespeech.settings import EngineSettings
from hatespeech.telemetry.recorder import Recorder
from hatespeech.worker import command, job_loop, sdk_shape
from hatespeech.worker.job_loop import JobLoop
from tests.paths import ROOT
from tests.support.processes.forked_worker import context
from tests.support.stand_ins.runpod.jobs import Fault
from tests.support.stand_ins.runpod.queue import JobQueue
from tests.support.stops import stop


@pytest.mark.slow
def test_a_hundred_stops_lose_no_job_and_answer_none_twice(tmp_path: Path) -> None:
    run = partial(stop, context=context(), folder=tmp_path, ours=True, kill_seconds=120)
    with ThreadPoolExecutor(8) as pool:
        stops = list(pool.map(run, range(100)))
    assert not [each for each in stops if each.lost or each.problems or not each.ended]
    # The plans hold what they are for.
    assert sum(each.handed for each in stops) > 300
    assert any(each.given_up for each in stops)
    assert any(each.given_up < each.handed for each in stops)


@pytest.fixture
def queue(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[JobQueue]:
    """A queue that the SDK in this process asks for jobs."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with JobQueue() as queue:
        environment = queue.environment()
        pod = environment["RUNPOD_POD_ID"]
        monkeypatch.setenv("RUNPOD_AI_API_KEY", environment["RUNPOD_AI_API_KEY"])
        for module, name, variable, placeholder in (
            (rp_job, "JOB_GET_URL", "RUNPOD_WEBHOOK_GET_JOB", "$ID"),
            (rp_http, "JOB_DONE_URL", "RUNPOD_WEBHOOK_POST_OUTPUT", "$RUNPOD_POD_ID"),
        ):
            monkeypatch.setattr(module, name, environment[variable].replace(placeholder, pod))
        yield queue
        assert not queue.problems


class Watched(JobLoop):
    """Says when it pauses."""

    pausing: asyncio.Event

    @override
    async def _pause(self, seconds: float) -> None:
        self.pausing.set()
        await super()._pause(seconds)


@pytest.mark.parametrize("status", [429, 500])
def test_a_worker_that_pauses_between_polls_stops_at_once(
    status: int, queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BUSY_SECONDS", "FAILED_SECONDS"):
        monkeypatch.setattr(job_loop, name, 3600.0)

    async def pause_and_stop() -> None:
        loop = Watched({}, stop_seconds=8.0)
        loop.pausing = asyncio.Event()
        async with AsyncClientSession() as session:
            taking = asyncio.create_task(loop.get_jobs(session))
            await asyncio.wait_for(loop.pausing.wait(), 60)
            assert loop.is_alive()
            loop.kill_worker()
            await asyncio.wait_for(taking, 60)
        assert not loop.is_alive()

    queue.fail("job-take", Fault(status))
    asyncio.run(pause_and_stop())
    assert queue.takes == 0


def test_a_full_worker_looks_for_jobs_again_when_some_have_ended(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job_loop, "FULL_SECONDS", 3600.0)
    together: list[int] = []
    running: set[str] = set()

    async def handle(job: dict[str, Any]) -> dict[str, Any]:
        running.add(job["id"])
        together.append(len(running))
        await asyncio.sleep(0.01)
        running.remove(job["id"])
        return {"label": "neutral"}

    async def answer_all(job_ids: list[str]) -> None:
        config = {"handler": handle, "concurrency_modifier": lambda _current: 4}
        loop = JobLoop(config, stop_seconds=8.0)
        working = asyncio.create_task(loop.run())
        async with asyncio.timeout(60):
            while not queue.all_answered(job_ids):
                await asyncio.sleep(0.01)
            loop.kill_worker()
            queue.drain()
            await working

    asyncio.run(answer_all(queue.submit(*({"prompt": "hi"} for _ in range(14)))))
    assert max(together) == 4


class Mirror(PingJobMirror):  # type: ignore[misc]  # the SDK has no types
    """The SDK's, which counts how often it is written."""

    written = 0

    @override
    def set(self, job_ids: str | None) -> None:
        self.written += 1
        super().set(job_ids)

    def ids(self) -> list[str]:
        return sorted(filter(None, (self.get() or "").split(",")))


def test_the_process_that_pings_is_told_of_many_jobs_at_once(queue: JobQueue) -> None:
    release = asyncio.Event()

    async def handle(_job: dict[str, Any]) -> dict[str, Any]:
        await release.wait()
        return {"label": "neutral"}

    async def follow(job_ids: list[str], mirror: Mirror) -> None:
        async def become(expected: list[str]) -> None:
            async with asyncio.timeout(60):
                while mirror.ids() != expected:
                    await asyncio.sleep(0.01)

        config = {"handler": handle, "concurrency_modifier": lambda _current: 100}
        loop = JobLoop(config, stop_seconds=8.0)
        working = asyncio.create_task(loop.run())
        await become(sorted(job_ids))
        assert mirror.written < len(job_ids)
        release.set()
        await become([])
        loop.kill_worker()
        queue.drain()
        await asyncio.wait_for(working, 60)
        loop.job_progress.add("another")  # the SDK's own writing is back
        assert mirror.ids() == ["another"]

    mirror = Mirror()
    JobsProgress().set_mirror(mirror)
    try:
        asyncio.run(follow(queue.submit(*({"prompt": "hi"} for _ in range(50))), mirror))
    finally:
        JobsProgress().clear()
        JobsProgress().set_mirror(None)


@pytest.mark.slow
def test_the_start_does_not_wait_for_the_processors_name() -> None:
    script = (
        "from hatespeech.worker.command import no_processor_info\n"
        "with no_processor_info():\n"
        "    from runpod.serverless.utils import rp_debugger\n"
        "print(rp_debugger.PROCESSOR)\n"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout == "Unable to get processor info.\n"


# The SDK's shape.


def test_the_pinned_sdk_has_the_shape_that_the_loop_relies_on() -> None:
    assert sdk_shape.difference() is None


async def other_get_jobs(self: Any, session: Any, batch: int) -> None:
    """Stand for a later SDK's."""


async def other_handle_job(self: Any, session: Any, job: Any) -> None:
    """Stand for a later SDK's."""


@pytest.mark.parametrize(
    ("name", "other", "words"),
    [
        ("set_scale", None, "JobScaler.set_scale is missing"),
        ("get_jobs", other_get_jobs, "takes (self, session, batch) instead of (self, session)"),
        ("handle_job", other_handle_job, "JobScaler.handle_job no longer uses jobs_handler"),
    ],
)
def test_a_worker_on_an_sdk_of_another_shape_says_so_and_does_not_start(
    name: str,
    other: Any,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    small_classifier: Predictor,
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py"])
    monkeypatch.setenv("RUNPOD_LOG_LEVEL", "INFO")
    if other is None:
        monkeypatch.delattr(rp_scale.JobScaler, name)
    else:
        monkeypatch.setattr(rp_scale.JobScaler, name, other)
    options = command.worker_parser("app.py").parse_args([])
    settings = EngineSettings()
    assert command.serve(small_classifier, settings, Recorder(settings), options) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the Runpod SDK 1.12.0 does not fit this worker: ")
    assert words in line
    assert line.endswith("; install runpod==1.12.0")
