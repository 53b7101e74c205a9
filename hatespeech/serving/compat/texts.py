"""Scores texts for the clients of one protocol: the batcher, thresholds, versions in the reply."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote

from starlette.requests import Request

from hatespeech.contract import Prediction, TextScore, Timing
from hatespeech.errors import ServiceError, TooLargeError
from hatespeech.labels import LABELS_OF, Flag
from hatespeech.serving.compat.protocol import Shared
from hatespeech.serving.guards.auth import Caller
from hatespeech.serving.reading import until_gone
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import ServerSettings


@dataclass(frozen=True)
class ScoredText:
    """One text's scores, or its error, and the language that the identifier says it is in."""

    item: TextScore
    language: str | None  # ISO 639; None if the identifier was not asked
    thresholds: Mapping[str, float]  # the request's, or those that the mapping names

    def is_flagged(self, flag: Flag) -> bool:
        """Say whether a score reaches its threshold.

        Without a threshold for it, whether the most probable label is meant.
        """
        if flag in self.thresholds:
            return flag in (self.item.flagged or ())
        return self.item.label in LABELS_OF[flag]


class TextScorer:
    """Scores the texts of one protocol, within the limits that one request of ours has."""

    def __init__(self, shared: Shared) -> None:
        self._settings = shared.settings
        self._rates = shared.rates
        self._usual = shared.meanings.thresholds

    def require_ready(self, request: Request) -> ServedModel:
        """Return the model; raise :class:`UnhealthyError` if it can't score now."""
        model: ServedModel = request.app.state.model
        model.require_ready()
        return model

    async def score(
        self,
        request: Request,
        texts: Sequence[str],
        thresholds: Mapping[str, float] | None = None,
        *,
        requests: int = 1,
    ) -> list[ScoredText]:
        """Score any number of texts, as many in one go as one request of ours may hold.

        Without ``thresholds`` those that the mapping names decide what is flagged. The request's
        caller, if there is one, gets a share of the queue only; as many ``requests`` of it are
        counted already. Raises :class:`OverloadedError`, :class:`RateLimitedError`,
        :class:`UnhealthyError`, and ``ClientDisconnect``.
        """
        model = self.require_ready(request)
        flags = model.thresholds.get(self._usual, {}) if thresholds is None else thresholds

        caller: Caller | None = request.scope["state"].get("caller")
        share = caller.share if caller else None
        if caller:
            needed = math.ceil(len(texts) / self._settings.max_texts_per_request)  # of POST /score
            more = max(0, needed - requests)
            await self._rates.charge_texts(caller, len(texts), requests, more)

        async def score_all() -> list[ScoredText]:
            found: list[ScoredText] = []
            for part in self._parts(texts):
                found += await self._score(model, part, flags, share)
            return found

        return await until_gone(request, score_all())

    async def _score(
        self,
        model: ServedModel,
        texts: Sequence[str],
        thresholds: Mapping[str, float],
        share: str | None,
    ) -> list[ScoredText]:
        outcomes: Sequence[Prediction | ServiceError]
        try:
            outcomes, timing = await model.predict(texts, caller=share)
        except TooLargeError as error:  # too many tokens together
            outcomes, timing = [error] * len(texts), Timing(0.0, 0.0)
        pairs = list(zip(texts, outcomes, strict=True))
        items = [TextScore.of(text, outcome, thresholds) for text, outcome in pairs]
        model.record(items, timing, thresholds)
        return [
            ScoredText(item, _language(outcome), thresholds)
            for item, (_, outcome) in zip(items, pairs, strict=True)
        ]

    def _parts(self, texts: Sequence[str]) -> Iterator[Sequence[str]]:
        """Cut texts into parts that are within the limits of a request."""
        start = chars = 0
        for index, text in enumerate(texts):
            full = index - start == self._settings.max_texts_per_request
            if full or (index > start and chars + len(text) > self._settings.max_request_chars):
                yield texts[start:index]
                start, chars = index, 0
            chars += len(text)
        if start < len(texts):
            yield texts[start:]


def _language(outcome: Prediction | ServiceError) -> str | None:
    spoken = outcome.language if isinstance(outcome, Prediction) else None
    return spoken[0] if spoken else None


def version_headers(model: str, mapping: str) -> dict[str, str]:
    """Return what tells which model answers, and by which mapping of names."""
    return {"X-Model-Version": quote(model, safe="@"), "X-Mapping-Version": mapping}


def require_room(texts: Sequence[str], settings: ServerSettings, field: str) -> None:
    """Raise :class:`TooLargeError` if texts hold more than one request may."""
    chars = sum(map(len, texts))
    if chars > settings.max_request_chars:
        most = settings.max_request_chars
        raise TooLargeError(f"{chars} characters in all, the limit is {most}", field=field)
