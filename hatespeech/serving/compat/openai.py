"""OpenAI's ``POST /v1/moderations``.

A reply holds all thirteen categories in each of its three maps, because typed clients and LiteLLM
need them. One that the model does not tell is false, 0, and applied to no type of input: so OpenAI
itself reports a category that it did not assess.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Scope
from typing_extensions import override

from hatespeech.contract import readable
from hatespeech.errors import (
    InternalError,
    OverloadedError,
    ServiceError,
    TooLargeError,
    UnhealthyError,
    ValidationError,
)
from hatespeech.serving.compat.lenient import read_any_json
from hatespeech.serving.compat.mapping import OpenAIMapping
from hatespeech.serving.compat.protocol import Protocol, Shared
from hatespeech.serving.compat.texts import ScoredText, TextScorer, require_room, version_headers
from hatespeech.serving.http_errors import NotFoundError, RateLimitedError, UnauthorizedError
from hatespeech.serving.openapi import EXAMPLE_TEXT, foreign_errors, json_body
from hatespeech.serving.payments.prices import work_of_texts
from hatespeech.serving.payments.rail import PaidWork
from hatespeech.serving.payments.terms import PricedRoute
from hatespeech.serving.settings import ServerSettings

MODERATIONS: Final = "/v1/moderations"

# OpenAI's names of errors: their type, and their code.
NAMES: Final[Mapping[type[ServiceError], tuple[str, str | None]]] = {
    UnauthorizedError: ("invalid_request_error", "invalid_api_key"),
    RateLimitedError: ("requests", "rate_limit_exceeded"),
    OverloadedError: ("requests", "overloaded"),
    UnhealthyError: ("server_error", "unhealthy"),
    InternalError: ("server_error", None),
}

TEXT_PART: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {
        "type": {"const": "text", "description": "Images are not read."},
        "text": {"type": "string", "minLength": 1, "description": "The text to score."},
    },
}
BODY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["input"],
    "properties": {
        "input": {
            "description": "A text, several texts, or the parts of one text.",
            "oneOf": [
                {"type": "string", "minLength": 1},
                {"type": "array", "minItems": 1, "items": {"type": "string", "minLength": 1}},
                {"type": "array", "minItems": 1, "items": TEXT_PART},
            ],
        },
        "model": {
            "type": ["string", "null"],
            "description": "A name with `@` pins a checkpoint; any other is accepted.",
        },
    },
}
EXAMPLES: Final[dict[str, Any]] = {
    "one": {"model": "omni-moderation-latest", "input": EXAMPLE_TEXT},
    "many": {"input": [EXAMPLE_TEXT, "win a free phone now"]},
    "parts": {"input": [{"type": "text", "text": EXAMPLE_TEXT}]},
}
ERRORS: Final = foreign_errors("OpenAI's form of an error: `message`, `type`, `param` and `code`.")


class InputError(ValidationError):
    """OpenAI's error for a part of the request; ``field`` names it."""

    def __init__(self, message: str, field: str, code: str) -> None:
        super().__init__(message, field=field)
        self.openai_code = code


class UnknownModelError(NotFoundError):
    """The request pins a checkpoint that is not served."""


class OpenAI(Protocol):
    """The protocol of OpenAI's moderations."""

    name = "openai"
    title = "OpenAI's moderations"
    places = ("/v1/",)
    routes = (f"POST {MODERATIONS}",)

    @override
    def answer(self, scope: Scope, error: ServiceError, status: int) -> tuple[int, dict[str, Any]]:
        kind, code = NAMES.get(type(error), ("invalid_request_error", None))
        message, param = error.line, error.field
        if isinstance(error, UnauthorizedError):
            message = "Incorrect API key provided. Send a token of this server as Bearer."
        elif isinstance(error, UnknownModelError):
            param, code = "model", "model_not_found"
        elif isinstance(error, InputError):
            code = error.openai_code
        if status in (415, 422):
            status = 400
        return status, {"error": {"message": message, "type": kind, "param": param, "code": code}}


def openai_routes(shared: Shared) -> APIRouter:
    """Return ``POST /v1/moderations``."""
    router = APIRouter(tags=[OpenAI.title])
    scorer = TextScorer(shared)
    meanings = shared.meanings

    @router.post(
        MODERATIONS,
        operation_id="openai_moderations",
        summary="Moderate one text or many",
        openapi_extra=json_body(BODY, EXAMPLES),
        responses=ERRORS,
    )
    async def moderations(request: Request) -> Response:
        """OpenAI's moderations: `hate` and `harassment` are assessed, the other categories are not.

        A list of objects is one input. A text that cannot be scored fails the whole request.
        """
        model = scorer.require_ready(request)
        model_id = model.model_id or ""
        body = await read_any_json(request)
        check_model(body.get("model"), model_id)
        texts, places = read_input(body.get("input"), shared.settings)
        scored = await scorer.score(request, texts)
        for each, place in zip(scored, places, strict=True):
            if each.item.error is not None:
                raise text_error(each.item.error, place)
        reply = {
            "id": f"modr-{secrets.token_hex(12)}",
            "model": model_id,
            "results": [result(each, meanings.openai) for each in scored],
            "mapping": meanings.version,
        }
        return JSONResponse(reply, headers=version_headers(model_id, meanings.version))

    return router


def priced_openai_routes(settings: ServerSettings) -> Sequence[PricedRoute]:
    """Describe the route for buyers: OpenAI's clients take a ``fetch``, or a client of httpx."""

    async def read(request: Request) -> PaidWork:
        body = await read_any_json(request)
        texts, _ = read_input(body.get("input"), settings)
        return work_of_texts(texts, None, robust=settings.robust)

    about = "OpenAI's moderations: hate and harassment."
    reply = {"results": [{"flagged": False}]}
    return [PricedRoute("POST", MODERATIONS, about, {"input": EXAMPLE_TEXT}, reply, read)]


def check_model(name: object, served: str) -> None:
    """Raise :class:`UnknownModelError` if a name pins another checkpoint than the one served."""
    if name is not None and not isinstance(name, str):
        raise InputError("must be a string", "model", "invalid_type")
    if name and "@" in name and name != served:
        raise UnknownModelError(f"This checkpoint is not served here; {served} is")


def read_input(value: object, settings: ServerSettings) -> tuple[list[str], list[str]]:
    """Return the texts to score, and the name of each one's place in the request.

    Raises :class:`InputError`.
    """
    if value is None:
        raise InputError("Missing required parameter", "input", "missing_required_parameter")
    if isinstance(value, str):
        texts, places = [value], ["input"]
    elif not isinstance(value, list) or not value:
        raise InputError("must be a string, or a list that is not empty", "input", "invalid_type")
    elif len(value) > settings.max_texts_per_request:
        most = settings.max_texts_per_request
        raise InputError(f"holds more than {most} texts", "input", "array_above_max_length")
    elif isinstance(value[0], dict):
        texts, places = ["\n".join(_read_parts(value))], ["input"]
    else:
        texts, places = value, [f"input[{index}]" for index in range(len(value))]
    for text, place in zip(texts, places, strict=True):
        if not isinstance(text, str):
            raise InputError("must be a string", place, "invalid_type")
        if len(text) > settings.max_text_chars:
            raise long_text(place, f"is longer than {settings.max_text_chars} characters")
    require_room(texts, settings, "input")
    return [readable(text) for text in texts], places


def _read_parts(parts: Sequence[object]) -> list[str]:
    """Return the texts of a list of objects, which is one input."""
    texts = []
    for index, part in enumerate(parts):
        place = f"input[{index}]"
        if not isinstance(part, dict):
            raise InputError("must be an object, as those before it", place, "invalid_type")
        if part.get("type") == "image_url":
            raise InputError("is an image; this server reads texts alone", "input", "no_images")
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InputError("must have the type text, and a text", place, "invalid_type")
        texts.append(part["text"])
    return texts


def text_error(error: ServiceError, place: str) -> ServiceError:
    """Return OpenAI's error for one of the engine's about a text."""
    if isinstance(error, TooLargeError):
        return long_text(place, error.message)
    if isinstance(error, ValidationError):
        return InputError(error.message, place, "empty_string")
    return error.at(place)


def long_text(place: str, message: str) -> InputError:
    """Return OpenAI's error for a text that is too long."""
    return InputError(message, place, "string_above_max_length")


def result(scored: ScoredText, mapping: OpenAIMapping) -> dict[str, Any]:
    """Return one result, with the model's own scores beside OpenAI's categories."""
    flags, scores, applied = {}, {}, {}
    for name, meaning in mapping.categories.items():
        told = meaning.score is not None
        flags[name] = meaning.score is not None and scored.is_flagged(meaning.score)
        scores[name] = meaning.value(scored.item) if told else 0.0
        applied[name] = ["text"] if told else []
    return {
        "flagged": any(flags.values()) or (mapping.spam_flags and scored.is_flagged("spam")),
        "categories": flags,
        "category_scores": scores,
        "category_applied_input_types": applied,
        "scores": scored.item.scores,
        "warnings": list(scored.item.warnings or ()),
    }
