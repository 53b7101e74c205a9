"""LiteLLM's generic guardrail: ``POST /beta/litellm_basic_guardrail_api``.

LiteLLM asks about the texts of a chat, before or after a language model reads them, and ends the
chat if the action is ``BLOCKED``. What it shows for an error is the status alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import pydantic
from fastapi import APIRouter
from pydantic import Field, TypeAdapter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from hatespeech.contract import Threshold, readable
from hatespeech.errors import ValidationError
from hatespeech.labels import FLAGS, Flag
from hatespeech.serving.compat.lenient import read_any_json
from hatespeech.serving.compat.protocol import Protocol, Shared
from hatespeech.serving.compat.texts import ScoredText, TextScorer, require_room, version_headers
from hatespeech.serving.openapi import EXAMPLE_TEXT, foreign_errors, json_body
from hatespeech.serving.served_model import ServedModel

GUARDRAIL: Final = "/beta/litellm_basic_guardrail_api"
PARAMETERS: Final = "additional_provider_specific_params"

BODY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["texts"],
    "properties": {
        "texts": {
            "type": ["array", "null"],
            "items": {"type": "string"},
            "description": "The texts to judge.",
        },
        "input_type": {
            "enum": ["request", "response"],
            "description": "Whether a user or a model wrote them; both are judged alike.",
        },
        PARAMETERS: {
            "type": ["object", "null"],
            "description": "What the guardrail's configuration adds.",
            "properties": {
                "thresholds": {
                    "description": "Numbers for labels and `toxic`, or the name of thresholds that "
                    "the server has; `toxic` of those that the mapping names if left out.",
                    "oneOf": [{"type": "object"}, {"type": "string"}],
                }
            },
        },
    },
}
EXAMPLES: Final[dict[str, Any]] = {
    "request": {
        "input_type": "request",
        "texts": [EXAMPLE_TEXT],
        PARAMETERS: {"thresholds": {"hate": 0.5}},
    }
}
ERRORS: Final = foreign_errors("The error of this server.")

_NUMBERS: Final = TypeAdapter(Annotated[dict[Flag, Threshold], Field(min_length=1)])


class LiteLLM(Protocol):
    """The protocol of LiteLLM's generic guardrail."""

    name = "litellm"
    title = "LiteLLM's generic guardrail"
    places = (GUARDRAIL,)
    routes = (f"POST {GUARDRAIL}",)


def litellm_routes(shared: Shared) -> APIRouter:
    """Return the guardrail's route."""
    router = APIRouter(tags=[LiteLLM.title])
    scorer = TextScorer(shared)

    @router.post(
        GUARDRAIL,
        operation_id="litellm_guardrail",
        summary="Block a chat, or let it pass",
        openapi_extra=json_body(BODY, EXAMPLES),
        responses=ERRORS,
    )
    async def guardrail(request: Request) -> Response:
        """`BLOCKED` if a text reaches a threshold, else `NONE`; images and tools are not read."""
        model = scorer.require_ready(request)
        body = await read_any_json(request)
        thresholds = read_thresholds(body.get(PARAMETERS), model)
        texts = read_texts(body.get("texts"))
        require_room(texts, shared.settings, "texts")
        pieces, places = cut([readable(text) for text in texts], shared.settings.max_text_chars)
        scored = await scorer.score(request, pieces, thresholds)
        flags: Sequence[Flag] = ("toxic",)
        if thresholds is not None:
            flags = [flag for flag in FLAGS if flag in thresholds]
        reasons = (reason(each, place, flags) for each, place in zip(scored, places, strict=True))
        found = next(filter(None, reasons), None)
        reply: dict[str, Any] = {"action": "NONE"}
        if found is not None:
            reply = {"action": "BLOCKED", "blocked_reason": f"{found} ({model.model_id})"}
        headers = version_headers(model.model_id or "", shared.meanings.version)
        return JSONResponse(reply, headers=headers)

    return router


def read_thresholds(parameters: object, model: ServedModel) -> Mapping[str, float] | None:
    """Return the thresholds that a request asks for, by name or as numbers, if it does.

    Raises :class:`ValidationError`.
    """
    given = {} if parameters is None else parameters
    if not isinstance(given, dict):
        raise ValidationError("must be an object", field=PARAMETERS)
    wanted = given.get("thresholds")
    if wanted is None:
        return None
    if isinstance(wanted, str):
        if wanted not in model.thresholds:
            raise ValidationError("there are none of this name", field="thresholds")
        return model.thresholds[wanted]
    try:
        numbers = _NUMBERS.validate_python(wanted)
    except pydantic.ValidationError:
        message = f"must be numbers from 0 to 1 for some of {', '.join(FLAGS)}"
        raise ValidationError(message, field="thresholds") from None
    return {str(flag): least for flag, least in numbers.items()}


def read_texts(value: object) -> list[str]:
    """Return the texts of a request; raise :class:`ValidationError`."""
    texts = [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValidationError("must be a list of strings", field="texts")
    return texts


def cut(texts: Sequence[str], limit: int) -> tuple[list[str], list[str]]:
    """Cut texts into pieces of ``limit`` characters; return these, and the place of each.

    A prompt may be longer than a text that people post, and a guardrail must not stop it for that.
    """
    pieces, places = [], []
    for index, text in enumerate(texts):
        for start in range(0, len(text), limit):
            pieces.append(text[start : start + limit])
            places.append(f"texts[{index}]")
    return pieces, places


def reason(scored: ScoredText, place: str, flags: Sequence[Flag]) -> str | None:
    """Return why a text is blocked, if it is, without a word of it.

    Raises the text's own error, except that it holds nothing to read.
    """
    error = scored.item.error
    if isinstance(error, ValidationError):
        return None
    if error is not None:
        raise error.at(place)
    for flag in flags:
        if scored.is_flagged(flag):
            value = getattr(scored.item, flag)
            if flag in scored.thresholds:
                return f"{place}: {flag} is {value:.2f}, the threshold {scored.thresholds[flag]:g}"
            return f"{place}: {scored.item.label} is its most probable label"
    return None
