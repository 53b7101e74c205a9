"""A queue worker with a handler that only waits, forked from a process that has imported the SDK.

Starting a worker takes seconds, most of them to import; forking one takes milliseconds. The SDK
reads its variables at import, so the fork sets again what they are for.
"""

from __future__ import annotations

import asyncio
import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Mapping
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any, Final

os.environ["RUNPOD_LOG_LEVEL"] = "INFO"  # as app.py has it; the SDK reads it at import

import runpod
from runpod.serverless.modules import rp_http, rp_job, rp_scale, worker_state

from hatespeech.worker import job_loop

PR_SET_PDEATHSIG: Final = 1  # prctl(2)


def context() -> ForkServerContext:
    """Return what starts :func:`work` in processes of its own, quickly."""
    found = multiprocessing.get_context("forkserver")
    found.set_forkserver_preload([__name__])
    return found


def work(
    environment: Mapping[str, str], concurrency: int, stop_seconds: float | None, output: Path
) -> None:
    """Work the queue until told to stop, in the SDK's own loop if ``stop_seconds`` is ``None``."""
    # The parent ends with the program that asked for this worker, however that ends.
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    del os.environ["RUNPOD_WEBHOOK_PING"]  # it would start another process
    pod = environment["RUNPOD_POD_ID"]
    rp_job.JOB_GET_URL = environment["RUNPOD_WEBHOOK_GET_JOB"].replace("$ID", pod)
    rp_http.JOB_DONE_URL = environment["RUNPOD_WEBHOOK_POST_OUTPUT"].replace("$RUNPOD_POD_ID", pod)
    worker_state.IS_LOCAL_TEST = rp_scale.IS_LOCAL_TEST = False
    sys.argv[1:] = []
    if stop_seconds is not None:
        job_loop.install(stop_seconds)
    runpod.serverless.start(
        {"handler": handle, "concurrency_modifier": lambda _current: concurrency}
    )
    ended(output).touch()


def ended(output: Path) -> Path:
    """Return the file that a worker leaves when it ends by itself.

    The exit code that ``multiprocessing`` tells is not always the true one: threads that start and
    await processes of one fork server may read each other's, and 255 is left.
    """
    return output.with_suffix(".ended")


async def handle(job: dict[str, Any]) -> dict[str, Any]:
    """Take as long as the job says, and say which one it was."""
    await asyncio.sleep(job["input"]["seconds"])
    return {"number": job["input"]["number"]}
