"""What tests of both stores share: jobs to store, and a listener that notes what it is told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from hatespeech.serving.jobs.store import NewJob

OWNER = b"somebody"


def new_job(job_id: str, **changes: bytes | str | float | None) -> NewJob:
    given: dict[str, bytes | str | float | None] = {"owner": OWNER, "input": '{"prompt": "hello"}'}
    return NewJob(id=job_id, **{**given, **changes})  # type: ignore[arg-type]  # each as it is named


class Ears:
    """Notes what a store tells."""

    def __init__(self) -> None:
        self.ended: list[str] = []
        self.arrivals = 0
        self.waited: list[str] = []

    def work_arrived(self) -> None:
        self.arrivals += 1

    def job_ended(self, job_id: str) -> None:
        self.ended.append(job_id)

    def awaited(self) -> Collection[str]:
        return self.waited


async def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Return once ``condition`` holds, while the event loop goes on."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain for: {what}"
        await asyncio.sleep(0.01)
