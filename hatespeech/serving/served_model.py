"""The model behind the HTTP front: loading, ready or broken."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from hatespeech.collector import starting
from hatespeech.contract import Reply, ScoreRequest, TextScore, Timing
from hatespeech.errors import (
    CheckpointError,
    ServiceError,
    SettingsError,
    UnhealthyError,
    describe_exception,
)
from hatespeech.serving.settings import ServerSettings
from hatespeech.telemetry.recorder import Recorder

if TYPE_CHECKING:
    from hatespeech.engine.batcher import Outcome
    from hatespeech.engine.predictor import Predictor
    from hatespeech.engine.scorer import Scorer

log = logging.getLogger(__name__)

# How long a broken server answers 503 before it ends, so that a load balancer notices and callers
# get a reply.
LAST_REPLIES_SECONDS = 5.0


class ServedModel:
    """Loads the model in a thread and scores; calls ``stop`` if it cannot load or breaks."""

    def __init__(
        self, settings: ServerSettings, recorder: Recorder, stop: Callable[[], None]
    ) -> None:
        self.state: Literal["loading", "ready", "broken"] = "loading"
        self.model_id: str | None = None
        self.dtype: str | None = None
        self.embedded = False
        self.thresholds: Mapping[str, Mapping[str, float]] = {}  # by name
        self.languages: Sequence[str] = ()  # ISO 639 codes of what it was trained on
        self.scorer: Scorer | None = None
        self.settled = asyncio.Event()  # no longer loading
        self.broken = asyncio.Event()
        self._settings = settings
        self._recorder = recorder
        self._stop = stop
        self.loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Start to load. Call it in the event loop that will score."""
        threading.Thread(target=self._load, name="loader", daemon=True).start()

    def close(self) -> None:
        """Stop the threads that score."""
        if self.scorer is not None:
            self.scorer.close()

    def require_ready(self) -> None:
        """Raise :class:`UnhealthyError` while the model loads, and when it is broken."""
        if self.state == "loading":
            raise UnhealthyError("the model is being loaded; try again")
        if self.state == "broken":
            raise UnhealthyError("the device failed; this worker is being replaced")

    def _ready_scorer(self) -> Scorer:
        self.require_ready()
        assert self.scorer is not None  # noqa: S101 - it is ready
        return self.scorer

    def read(self, body: object) -> ScoreRequest:
        """Read the contract's ``input`` without scoring it.

        Raises the errors of :meth:`Scorer.read` and :meth:`require_ready`.
        """
        return self._ready_scorer().read(body)

    def made_by(self, options: Mapping[str, Any]) -> dict[str, Any]:
        """Return the model, its versions and the thresholds of a request with these options."""
        from hatespeech.formats.scores import made_by  # loads Arrow

        scorer = self._ready_scorer()
        request = scorer.read({"text": "any", **options})
        named = request.named.to_dict() if request.named else request.thresholds
        return made_by(self.model_id, scorer.versions, named)

    async def score(self, body: object, *, wait_for_room: bool, caller: str | None = None) -> Reply:
        """Score the contract's ``input``, and count the reply.

        Raises the errors of :meth:`Scorer.score` and :meth:`require_ready`.
        """
        scorer = self._ready_scorer()
        reply = await scorer.score(body, wait_for_room=wait_for_room, caller=caller)
        self._recorder.count(reply.items, reply.timing)
        return reply

    async def predict(
        self, texts: Sequence[str], *, caller: str | None
    ) -> tuple[Sequence[Outcome], Timing]:
        """Score texts that a front has checked itself; return a prediction or an error for each.

        Raises the errors of :meth:`Batcher.score` and :meth:`require_ready`.
        """
        batcher, robust = self._ready_scorer().batcher, self._settings.robust
        return await batcher.score(texts, None, robust, wait_for_room=False, caller=caller)

    def record(
        self, items: Sequence[TextScore], timing: Timing, thresholds: Mapping[str, float]
    ) -> None:
        """Count decisions that a front has made of :meth:`predict`, and write the audit log."""
        assert self.scorer is not None  # noqa: S101 - it has predicted
        self.scorer.record(items, thresholds)
        self._recorder.count(items, timing)

    def refused(self, item: TextScore) -> None:
        """Count a text for which there is no room in any request."""
        self._recorder.count([item], Timing(0.0, 0.0))

    def _load(self) -> None:
        try:
            with starting():
                # Here because torch takes seconds, and the port must be bound before that.
                from hatespeech.engine.predictor import Predictor
                from hatespeech.engine.scorer import Scorer

                predictor = Predictor.from_settings(self._settings)
                predictor.warm_up(self._settings.max_batch_tokens)
                scorer = Scorer(predictor, self._settings, self._on_broken)
        except (CheckpointError, SettingsError, ServiceError) as exc:
            self._report(str(exc))
        except Exception as exc:
            self._report(describe_exception(exc))
        else:
            self.loop.call_soon_threadsafe(self._serve, predictor, scorer)

    def _report(self, reason: str) -> None:
        log.error("error: %s", reason)
        self.loop.call_soon_threadsafe(self._break)

    def _serve(self, predictor: Predictor, scorer: Scorer) -> None:
        self.scorer = scorer
        self.model_id = predictor.model_id
        self.dtype = predictor.dtype
        self.embedded = predictor.embedded
        self.thresholds = {name: each.numbers for name, each in predictor.thresholds.items()}
        self.languages = predictor.languages
        self.state = "ready"
        self.settled.set()
        log.info("ready")

    def _on_broken(self) -> None:
        # Called by the device thread.
        self.loop.call_soon_threadsafe(self._break)

    def _break(self) -> None:
        self.state = "broken"
        self.settled.set()
        self.broken.set()
        self.loop.call_later(LAST_REPLIES_SECONDS, self._stop)
