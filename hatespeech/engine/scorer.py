"""A request's input in, its reply out: what every front calls."""

from __future__ import annotations

import logging
from collections.abc import Callable

from hatespeech.contract import Reply, Timing, build_reply, parse_request
from hatespeech.engine.batcher import Batcher, Outcome
from hatespeech.engine.pass_size import PassSize
from hatespeech.engine.predictor import Predictor
from hatespeech.settings import EngineSettings

log = logging.getLogger(__name__)


class Scorer:
    """Scores requests on a shared batcher. Call it from one event loop only."""

    def __init__(
        self,
        predictor: Predictor,
        settings: EngineSettings,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._predictor = predictor
        self._settings = settings
        self._on_broken = on_broken
        self._batcher: Batcher | None = None

    async def score(self, body: object, *, wait_for_room: bool = True) -> Reply:
        """Score the contract's ``input``.

        If the queue is full, waits for room or, without ``wait_for_room``, raises
        :class:`OverloadedError`. Raises another :class:`ServiceError` if the request as a whole
        fails. If the caller is cancelled, its queued texts are dropped.
        """
        request = parse_request(body, self._settings).resolve(self._predictor.thresholds)
        sound = [i for i in range(len(request.texts)) if i not in request.faults]
        scored: list[Outcome] = []
        timing = Timing(0.0, 0.0)
        if sound:
            texts = [request.texts[i] for i in sound]
            scored, timing = await self.batcher.score(
                texts, request.explain, request.robust, wait_for_room=wait_for_room
            )
        outcomes: dict[int, Outcome] = {**request.faults, **dict(zip(sound, scored, strict=True))}
        ordered = [outcomes[i] for i in range(len(request.texts))]
        return build_reply(request, ordered, timing, self._predictor.model_id)

    def close(self) -> None:
        """Stop the batcher's threads and log what they did."""
        if self._batcher is not None:
            self._batcher.close()
            log.info("scored: %s", self._batcher.counters)
            self._batcher = None

    @property
    def batcher(self) -> Batcher:
        """The batcher that all callers share, made for the running event loop on first use."""
        # Not earlier: Runpod's SDK runs its start-up checks in another event loop and then forks a
        # process, which threads would not survive.
        if self._batcher is None:
            self._batcher = Batcher(
                self._predictor,
                pass_size=PassSize(
                    self._settings.max_batch_tokens, self._predictor.tokens_per_second
                ),
                max_queue_texts=self._settings.max_queue_texts,
                max_request_tokens=self._settings.max_request_tokens,
                on_broken=self._on_broken,
            )
        return self._batcher
