"""A Runpod job in, a reply out.

The SDK defines what a handler may return: a dict becomes the job's ``output``; ``{"error": …}``
fails the job with that reason. An exception would send its traceback to the caller, so the handler
raises none. ``refresh_worker`` beside an error makes the platform replace the worker after the
reply.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from hatespeech.engine.scorer import Scorer
from hatespeech.errors import InternalError, ServiceError, UnhealthyError, describe_exception

log = logging.getLogger(__name__)


class JobHandler:
    """Answers jobs by a scorer. Call it from one event loop only."""

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    async def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one job: the contract's reply, or ``{"error": "<code>: <message>"}``.

        A cancelled job releases what it holds and raises ``asyncio.CancelledError``.
        """
        try:
            reply = await self._scorer.score(job.get("input"))
            return reply.to_dict()
        except UnhealthyError as error:
            return {"error": str(error), "refresh_worker": True}
        except ServiceError as error:
            return {"error": str(error)}
        except Exception as exc:
            log.error("a job failed: %s", describe_exception(exc))
            return {"error": str(InternalError("the job could not be scored"))}
