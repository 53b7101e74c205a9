"""A Runpod job in, a reply out.

The contract of what a handler may return is the SDK's: a dict becomes the job's ``output``;
``{"error": …}`` fails the job with that reason; an exception would send its traceback to the
caller, so none leaves here. ``refresh_worker`` beside an error has the platform replace the worker
after the reply.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from hatespeech.contract import Timing, build_reply, parse_request
from hatespeech.engine.batcher import Batcher, Result
from hatespeech.engine.classifier import Classifier
from hatespeech.errors import InternalError, ServiceError, UnhealthyError, describe_exception
from hatespeech.settings import EngineSettings

log = logging.getLogger(__name__)


class Handler:
    """Scores jobs on a shared batcher. Call it from one event loop only."""

    def __init__(
        self,
        classifier: Classifier,
        settings: EngineSettings,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._classifier = classifier
        self._settings = settings
        self._on_broken = on_broken
        self._batcher: Batcher | None = None

    async def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Answer one job: the contract's reply, or ``{"error": "<code>: <message>"}``.

        A cancelled job releases what it holds and raises ``asyncio.CancelledError``.
        """
        try:
            return await self.score(job.get("input"))
        except UnhealthyError as error:
            return {"error": str(error), "refresh_worker": True}
        except ServiceError as error:
            return {"error": str(error)}
        except Exception as exc:
            log.error("a job failed: %s", describe_exception(exc))
            return {"error": str(InternalError("the job could not be scored"))}

    async def score(self, body: object, *, wait_for_room: bool = True) -> dict[str, Any]:
        """Score the contract's ``input``; raise :class:`ServiceError` for what has no reply.

        With a full queue it waits for room, or raises :class:`OverloadedError`.
        """
        request = parse_request(body, self._settings).resolve(self._classifier.thresholds)
        sound = [i for i in range(len(request.texts)) if i not in request.faults]
        scored: list[Result] = []
        timing = Timing(0.0, 0.0)
        if sound:
            texts = [request.texts[i] for i in sound]
            scored, timing = await self.batcher.score(
                texts, request.explain, wait_for_room=wait_for_room
            )
        results: dict[int, Result] = {**request.faults, **dict(zip(sound, scored, strict=True))}
        ordered = [results[i] for i in range(len(request.texts))]
        return build_reply(request, ordered, timing, self._classifier.model_id)

    def close(self) -> None:
        """Stop the batcher's threads, and log what they did."""
        if self._batcher is not None:
            self._batcher.close()
            log.info("scored: %s", self._batcher.counters)
            self._batcher = None

    @property
    def batcher(self) -> Batcher:
        """The batcher that all callers share, made for the running event loop at its first use."""
        # Not before the first job: the SDK runs its start-up checks in another event loop, and
        # forks a process after them, which threads would not survive.
        if self._batcher is None:
            self._batcher = Batcher(
                self._classifier,
                max_batch_tokens=self._settings.max_batch_tokens,
                max_queue_texts=self._settings.max_queue_texts,
                max_request_tokens=self._settings.max_request_tokens,
                on_broken=self._on_broken,
            )
        return self._batcher
