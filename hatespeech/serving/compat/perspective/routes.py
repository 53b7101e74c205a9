"""``comments:analyze`` and what belongs to it."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Iterator
from importlib import resources
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hatespeech.contract import readable
from hatespeech.errors import ServiceError
from hatespeech.serving.compat.lenient import read_any_json, read_object
from hatespeech.serving.compat.perspective import batch
from hatespeech.serving.compat.perspective.analysis import Work
from hatespeech.serving.compat.perspective.batch import BatchPart
from hatespeech.serving.compat.perspective.errors import invalid_request
from hatespeech.serving.compat.perspective.google import (
    ANALYZE,
    BATCH,
    DISCOVERY,
    SUGGEST,
    Perspective,
)
from hatespeech.serving.compat.perspective.requests import MAX_BYTES, Terms, read_analysis
from hatespeech.serving.compat.perspective.suggestions import Suggestions
from hatespeech.serving.compat.protocol import Shared
from hatespeech.serving.compat.texts import ScoredText, TextScorer
from hatespeech.serving.guards.auth import Tokens
from hatespeech.serving.http_errors import NotFoundError, UnauthorizedError, error_response
from hatespeech.serving.openapi import OPEN, foreign_errors, json_body

# Of a batch so much is read before one of its parts must have shown a right key.
STRANGERS_BYTES: Final = 262_144

EXAMPLES: Final[dict[str, Any]] = {
    "one": {
        "comment": {"text": "good morning everyone, what a lovely day"},
        "languages": ["en"],
        "requestedAttributes": {"TOXICITY": {}},
        "doNotStore": True,
    }
}
COMMENT: Final[dict[str, Any]] = {
    "type": "object",
    "description": "What to score.",
    "required": ["text"],
    "properties": {
        "text": {"type": "string", "minLength": 1, "description": f"At most {MAX_BYTES} bytes."}
    },
}
ANALYZE_BODY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["comment", "requestedAttributes"],
    "properties": {
        "comment": COMMENT,
        "requestedAttributes": {
            "type": "object",
            "minProperties": 1,
            "description": "Names, such as `TOXICITY`, or `TOXICITY@` and the digits of a model; "
            "`scoreThreshold` leaves lower scores out.",
            "additionalProperties": {"type": "object"},
        },
        "languages": {
            "type": "array",
            "items": {"type": "string"},
            "description": "Of the comment; the server's own if left out.",
        },
        "spanAnnotations": {"type": "boolean", "description": "Score each sentence, too."},
        "dropUnsupportedAttributes": {
            "type": "boolean",
            "description": "Leave out attributes that cannot be scored, instead of an error.",
        },
        "clientToken": {"type": "string", "description": "Comes back in the reply."},
    },
}
SUGGEST_BODY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["comment", "attributeScores"],
    "properties": {
        "comment": COMMENT,
        "attributeScores": {
            "type": "object",
            "additionalProperties": {"type": "object"},
            "description": "Which scores the comment should have.",
        },
    },
}
BATCH_CONTENT: Final = {"multipart/mixed": {"schema": {"type": "string", "format": "binary"}}}
ERRORS: Final = foreign_errors(
    "Google's form of an error: `code`, `message`, `status` and `details`."
)


class Analyzer:
    """Answers requests to analyse comments, one or a batch of them."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self._tokens = Tokens(shared.settings.tokens)
        self._scorer = TextScorer(shared)

    async def one(self, request: Request) -> Response:
        """Answer one request."""
        terms = self._terms(request)
        work = Work(read_analysis(await read_any_json(request), terms), terms)
        return work.response(await self._scorer.score(request, work.texts))

    async def many(self, request: Request) -> Response:
        """Answer a batch: each part has its own key, its own status, and counts as a request."""
        terms = self._terms(request)
        boundary = batch.read_boundary(request)
        raw = batch.split_parts(await self._receive(request, boundary), boundary)
        if not 0 < len(raw) <= batch.MOST_PARTS:
            raise invalid_request(f"A batch must hold from 1 to {batch.MOST_PARTS} parts")
        begun = [await self._begin(batch.read_part(each, request.scope), terms) for each in raw]
        sound = [(part, work) for part, work in begun if isinstance(work, Work)]
        texts = [text for _, work in sound for text in work.texts]
        if sound:
            request.scope["state"]["caller"] = self._tokens.sender_of(sound[0][0].scope)
        found = await self._scorer.score(request, texts, requests=len(sound))
        scored = iter(found)
        return batch.join_replies(
            (part.content_id, self._end(part, work, scored)) for part, work in begun
        )

    def _terms(self, request: Request) -> Terms:
        model = self._scorer.require_ready(request)
        return Terms(self._shared.meanings, model.model_id or "", model.languages)

    async def _receive(self, request: Request, boundary: bytes) -> bytes:
        """Read a batch, to its end only if its sender has shown a right key by then."""
        received = bytearray()
        state = request.scope["state"]
        async for chunk in request.stream():
            received += chunk
            if "caller" not in state and len(received) > STRANGERS_BYTES:
                parts = batch.split_parts(bytes(received[:STRANGERS_BYTES]), boundary)
                if not parts:
                    raise UnauthorizedError("the first part of the batch has no right key")
                first = batch.read_part(parts[0], request.scope)
                state["caller"] = self._tokens.sender_of(first.scope)
        return bytes(received)

    async def _begin(self, part: BatchPart, terms: Terms) -> tuple[BatchPart, Work | ServiceError]:
        """Return what a part needs scored, or why it is refused."""
        try:
            await asyncio.sleep(0)  # others are answered between the parts
            await self._shared.rates.count(self._tokens.sender_of(part.scope))
            if (part.method, part.path) != ("POST", ANALYZE):
                raise NotFoundError(f"a batch holds requests of POST {ANALYZE}")
            return part, Work(read_analysis(await read_object(part.body), terms), terms)
        except ServiceError as error:
            return part, error

    def _end(
        self, part: BatchPart, work: Work | ServiceError, scored: Iterator[ScoredText]
    ) -> Response:
        """Return the reply to a part, taking its scores from ``scored``."""
        if isinstance(work, Work):
            own = list(itertools.islice(scored, len(work.texts)))
            try:
                return work.response(own)
            except ServiceError as error:
                work = error
        self._shared.metrics.count_error(work.code)  # the status of no request tells of it
        return error_response(part.scope, work)


def perspective_routes(shared: Shared) -> APIRouter:
    """Return Perspective's routes. Raises :class:`SettingsError` for a bad ``SUGGESTIONS_FILE``."""
    router = APIRouter(tags=[Perspective.title])
    analyzer = Analyzer(shared)
    suggestions = Suggestions(shared.settings.suggestions_file)
    document = json.loads(
        resources.files("hatespeech.serving.compat.perspective")
        .joinpath("discovery.json")
        .read_text("utf-8")
    )

    @router.post(
        ANALYZE,
        operation_id="perspective_analyze",
        summary="Analyse a comment",
        openapi_extra=json_body(ANALYZE_BODY, EXAMPLES),
        responses=ERRORS,
    )
    async def analyze(request: Request) -> Response:
        """Perspective's `comments:analyze`. The key may be a token in `?key=`."""
        return await analyzer.one(request)

    @router.post(
        BATCH,
        operation_id="perspective_batch",
        summary="Analyse many comments",
        openapi_extra={**OPEN, "requestBody": {"required": True, "content": BATCH_CONTENT}},
        response_class=Response,
        responses={200: {"content": BATCH_CONTENT}, **ERRORS},
    )
    async def many(request: Request) -> Response:
        """At most 1000 requests of `comments:analyze`, as Google's client libraries batch them."""
        return await analyzer.many(request)

    @router.post(
        SUGGEST,
        operation_id="perspective_suggestscore",
        summary="Suggest scores for a comment",
        openapi_extra=json_body(SUGGEST_BODY, {}),
        responses=ERRORS,
    )
    async def suggest(request: Request) -> Response:
        """Adds a line to the operator's file; 501 if there is none."""
        suggestion = suggestions.read(await read_any_json(request))
        await asyncio.to_thread(suggestions.keep, suggestion)
        token = suggestion.clientToken
        return JSONResponse({} if token is None else {"clientToken": readable(token)})

    @router.get(
        DISCOVERY,
        operation_id="perspective_discovery",
        summary="The discovery document",
        openapi_extra=OPEN,
        responses=ERRORS,
    )
    async def discovery(request: Request) -> Response:
        """What Google's client libraries ask for first; it says where to send the rest."""
        root = (shared.settings.public_url or str(request.base_url)).rstrip("/") + "/"
        return JSONResponse({**document, "rootUrl": root, "baseUrl": root})

    return router
