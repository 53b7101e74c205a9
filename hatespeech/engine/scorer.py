"""A request's input in, its reply out: what every front calls."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hatespeech.contract import (
    Reply,
    ScoreRequest,
    TextScore,
    Timing,
    Versions,
    build_reply,
    parse_request,
)
from hatespeech.engine.audit import AuditLog
from hatespeech.engine.batcher import Batcher, Counters, Outcome
from hatespeech.engine.pass_size import PassSize
from hatespeech.engine.predictor import Predictor
from hatespeech.logs import FIELDS
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
        """Open the audit log, if there is one; raise :class:`SettingsError` if that fails."""
        self._predictor = predictor
        self._settings = settings
        self._on_broken = on_broken
        self._batcher: Batcher | None = None
        self._audit = None
        if settings.audit_log is not None:
            self._audit = AuditLog(settings.audit_log, predictor.model_id, predictor.versions)

    @property
    def about(self) -> dict[str, str]:
        """Names and versions: the model, what made it, and what it runs on."""
        predictor = self._predictor
        return {
            "model": predictor.model_id,
            **dataclasses.asdict(predictor.versions),
            "device": str(predictor.device),
            "dtype": predictor.dtype,
        }

    def measures(self) -> dict[str, int]:
        """Return the batcher's counters, the texts in its queue, and lost lines of the audit log.

        Any thread may ask.
        """
        batcher = self._batcher
        return {
            **dataclasses.asdict(Counters() if batcher is None else batcher.counters),
            "queue_texts": 0 if batcher is None else batcher.queued_texts,
            "audit_unwritten": self._audit.unwritten if self._audit else 0,
        }

    @property
    def versions(self) -> Versions:
        """What replies say of the versions."""
        return self._predictor.versions

    def read(self, body: object) -> ScoreRequest:
        """Read the contract's ``input``; raise the errors for the request as a whole."""
        return parse_request(body, self._settings).resolve(self._predictor.thresholds)

    async def score(
        self, body: object, *, wait_for_room: bool = True, caller: str | None = None
    ) -> Reply:
        """Score the contract's ``input``.

        If the queue is full, waits for room or, without ``wait_for_room``, raises
        :class:`OverloadedError`; then a ``caller`` gets its share of the queue only. The requests
        of one caller share its turns on the device. Raises another :class:`ServiceError` if the
        request as a whole fails. If the caller is cancelled, its queued texts are dropped.
        """
        request = self.read(body)
        sound = [i for i in range(len(request.texts)) if i not in request.faults]
        scored: list[Outcome] = []
        timing = Timing(0.0, 0.0)
        if sound:
            texts = [request.texts[i] for i in sound]
            scored, timing = await self.batcher.score(
                texts,
                request.explain,
                request.robust,
                wait_for_room=wait_for_room,
                caller=caller,
            )
        outcomes: dict[int, Outcome] = {**request.faults, **dict(zip(sound, scored, strict=True))}
        ordered = [outcomes[i] for i in range(len(request.texts))]
        reply = build_reply(
            request, ordered, timing, self._predictor.model_id, self._predictor.versions
        )
        self.record(reply.items, request.named.to_dict() if request.named else request.thresholds)
        return reply

    def record(self, items: Sequence[TextScore], thresholds: Mapping[str, Any] | None) -> None:
        """Write decisions into the audit log, if there is one; see :meth:`AuditLog.write`."""
        if self._audit is not None:
            self._audit.write(items, thresholds)

    def close(self) -> None:
        """Stop the batcher's threads and log what they did."""
        if self._batcher is not None:
            self._batcher.close()
            counters = self._batcher.counters
            log.info("scored %s", counters, extra={FIELDS: dataclasses.asdict(counters)})
            self._batcher = None
        if self._audit is not None:
            self._audit.close()
            self._audit = None

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
