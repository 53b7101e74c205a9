"""A Runpod job in, a reply out.

The SDK defines what a handler may return: a dict becomes the job's ``output``; ``{"error": …}``
fails the job with that reason. An exception would send its traceback to the caller, so the handler
raises none. ``refresh_worker`` beside an error makes the platform replace the worker after the
reply.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Final

from hatespeech.engine.scorer import Scorer
from hatespeech.errors import InternalError, ServiceError, UnhealthyError, describe_exception
from hatespeech.settings import EngineSettings
from hatespeech.telemetry.recorder import Recorder

log = logging.getLogger(__name__)

QUEUE: Final = "queue"  # the protocol, in the metrics


class JobHandler:
    """Answers jobs by a scorer. Call it from one event loop only."""

    def __init__(self, scorer: Scorer, recorder: Recorder | None = None) -> None:
        """Without a recorder, nothing but a log line tells of a job."""
        self._scorer = scorer
        self._recorder = recorder or Recorder(EngineSettings(log_counters=False))

    async def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one job: the contract's reply, or ``{"error": "<code>: <message>"}``.

        A cancelled job releases what it holds and raises ``asyncio.CancelledError``.
        """
        self._recorder.start()
        with self._recorder.account(QUEUE):
            try:
                reply = await self._answer(job)
            except asyncio.CancelledError:
                self._end(job, "stopped")
                raise
            except ServiceError as error:
                self._end(job, "failed", error.code)
                replace = {"refresh_worker": True} if isinstance(error, UnhealthyError) else {}
                return {"error": str(error), **replace}
            self._end(job, "finished")
            return reply

    async def _answer(self, job: Mapping[str, Any]) -> dict[str, Any]:
        try:
            reply = await self._scorer.score(job.get("input"))
            self._recorder.count(reply.items, reply.timing)
            return reply.to_dict()
        except ServiceError:
            raise
        except Exception as exc:
            log.error("a job failed: %s", describe_exception(exc))
            raise InternalError("the job could not be scored") from None

    def _end(self, job: Mapping[str, Any], outcome: str, error_type: str | None = None) -> None:
        job_id = str(job.get("id", "local"))
        # Runpod's console finds the lines of a job by this name.
        self._recorder.job_ended(job_id, outcome, error_type, requestId=job_id)
