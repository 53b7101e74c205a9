"""Scoring while the caller waits: one text or many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hatespeech.contract import MAX_ID_CHARS, parse_request
from hatespeech.errors import OverloadedError, TooLargeError, UnhealthyError, ValidationError
from hatespeech.labels import THRESHOLD_NAMES
from hatespeech.serving.guards.auth import caller_of
from hatespeech.serving.openapi import (
    EXAMPLE_TEXT,
    EXPLAIN,
    ROBUST_PARAMETER,
    SCORING,
    SUMMARY,
    VISIBLE,
    ManyReply,
    OneReply,
    errors,
    json_body,
    score_input,
)
from hatespeech.serving.payments.prices import work_of
from hatespeech.serving.payments.rail import PaidWork
from hatespeech.serving.payments.terms import PricedRoute
from hatespeech.serving.reading import SWITCHES, read_json, read_query, read_switch, until_gone
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import ServerSettings

EXAMPLES: Final[dict[str, Any]] = {
    "one": {"text": EXAMPLE_TEXT},
    "many": {"texts": [EXAMPLE_TEXT, "win a free phone now"]},
    "explained": {"text": EXAMPLE_TEXT, "explain": True, "thresholds": {"hate": 0.7}},
}

# Shortened: the header that holds it has little room.
EXAMPLE_REPLY: Final[dict[str, Any]] = {
    **{"hate": 0.01, "abusing": 0.02, "neutral": 0.96, "spam": 0.01},
    "label": "neutral",
}


def score_routes(settings: ServerSettings) -> APIRouter:
    """Return ``GET /score`` and ``POST /score``."""
    router = APIRouter(tags=["score"])

    async def answer(request: Request, body: Any) -> Response:
        model: ServedModel = request.app.state.model
        caller = caller_of(request)
        await request.app.state.rates.charge(caller, body)
        work = model.score(body, wait_for_room=False, caller=caller.share)
        reply = await until_gone(request, work)
        request.state.scored = sum(item.error is None for item in reply.items)
        return JSONResponse(reply.to_dict())

    @router.get(
        "/score",
        operation_id="score_get",
        summary="Score one text",
        openapi_extra={"parameters": query_parameters(settings)},
        responses={
            200: {"model": OneReply},
            **errors(ValidationError, TooLargeError, OverloadedError, UnhealthyError),
        },
    )
    async def score_get(request: Request) -> Response:
        """URLs end up in logs and browser histories, so send real texts with `POST /score`.

        `prompt` is an alias of `text`. To send thresholds as numbers, use `POST`.
        """
        return await answer(request, await read_input(request))

    @router.post(
        "/score",
        operation_id="score",
        summary="Score one text or many",
        openapi_extra=json_body(score_input(settings), EXAMPLES),
        responses={200: {"model": OneReply | ManyReply}, **SCORING},
    )
    async def score(request: Request) -> Response:
        """Send exactly one of `text`, `prompt`, `texts` and `prompts`.

        A text among many that cannot be scored gets its own `error`; the others get their scores.
        """
        return await answer(request, await read_input(request))

    return router


def priced_score_routes(settings: ServerSettings) -> Sequence[PricedRoute]:
    """Describe the routes of :func:`score_routes` for buyers."""

    async def read(request: Request) -> PaidWork:
        return work_of(parse_request(await read_input(request), settings))

    example = {"text": EXAMPLE_TEXT}
    return [
        PricedRoute(method, "/score", SUMMARY, example, EXAMPLE_REPLY, read)
        for method in ("POST", "GET")
    ]


async def read_input(request: Request) -> Any:
    """Read the contract's ``input`` from the query of a GET, else from the body."""
    if request.method == "GET":
        return read_score_query(request)
    read_query(request, ())
    return await read_json(request)


def query_parameters(settings: ServerSettings) -> list[dict[str, Any]]:
    """Describe what ``GET /score`` reads."""
    text = {"type": "string", "minLength": 1, "maxLength": settings.max_text_chars}
    return [
        {
            "in": "query",
            "name": "text",
            "description": "The text to score.",
            "required": True,
            "example": EXAMPLE_TEXT,
            "schema": {**text, "pattern": VISIBLE},
        },
        {"in": "query", "name": "explain", "schema": EXPLAIN},
        ROBUST_PARAMETER,
        {
            "in": "query",
            "name": "thresholds",
            "description": "The name of thresholds that the model recommends, or that the operator "
            "chose.",
            "schema": {
                "type": "string",
                **({"enum": list(THRESHOLD_NAMES)} if settings.thresholds_file is None else {}),
            },
        },
        {
            "in": "query",
            "name": "id",
            "description": "Comes back with the scores.",
            "schema": {"type": "string", "maxLength": MAX_ID_CHARS},
        },
    ]


def read_score_query(request: Request) -> dict[str, Any]:
    """Read the contract's ``input`` from the query string."""
    names = ("text", "prompt", "explain", "robust", "thresholds", "id")
    fields: dict[str, Any] = dict(read_query(request, names))
    if "explain" in fields:  # it can be the name of a method, too
        fields["explain"] = SWITCHES.get(fields["explain"], fields["explain"])
    if "robust" in fields:
        fields["robust"] = read_switch(fields["robust"], "robust")
    return fields
