"""What servers that share a database of jobs tell each other: jobs wait, a job has ended.

A notice may get lost, so nothing depends on it: it only saves the others the time until they look.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import Final

from hatespeech.serving.jobs.postgres.link import Link
from hatespeech.serving.jobs.store import Listener, StoreError

CHANNEL: Final = "hatespeech_jobs"
IDS_A_NOTICE: Final = 100  # PostgreSQL's notices hold 8000 bytes


class Notices:
    """Collects what the others need to know, and sends it together.

    A transaction with a notice locks out all others like it while it commits, so a notice has a
    transaction of its own, which writes nothing and commits immediately.
    """

    def __init__(self, link: Link, server: str) -> None:
        self._link = link
        self._server = server
        self._jobs_wait = False
        self._ended: list[str] = []
        self._due = asyncio.Event()

    def jobs_wait(self) -> None:
        """Tell the others that there are jobs to take."""
        self._jobs_wait = True
        self._due.set()

    def ended(self, job_id: str) -> None:
        """Tell the others that a job is answered or cancelled."""
        self._ended.append(job_id)
        self._due.set()

    async def send(self) -> None:
        """Send what there is to tell, for as long as this task lives."""
        while True:
            await self._due.wait()
            await self.flush()

    async def flush(self) -> None:
        """Send what there is to tell now."""
        self._due.clear()
        jobs_wait, self._jobs_wait = self._jobs_wait, False
        ended, self._ended = self._ended, []
        notices = [
            json.dumps(
                {
                    "from": self._server,
                    "wait": jobs_wait,
                    "ended": ended[start : start + IDS_A_NOTICE],
                }
            )
            for start in range(0, max(len(ended), int(jobs_wait)), IDS_A_NOTICE)
        ]
        if notices:
            with contextlib.suppress(StoreError):
                await self._link.fetch(
                    "SELECT pg_notify(%s, notice) FROM unnest(%s::text[]) AS notice",
                    (CHANNEL, notices),
                )

    def read(self, notice: str, listener: Listener) -> None:
        """Pass on what another server sent; everyone who can log in can send anything."""
        try:
            told = json.loads(notice)
            sender, jobs_wait, ended = told["from"], told["wait"], [str(i) for i in told["ended"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            return
        if sender == self._server:
            return
        if jobs_wait:
            listener.work_arrived()
        for job_id in ended:
            listener.job_ended(job_id)
