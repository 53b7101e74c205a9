"""Hugging Face's text classification, in its two shapes, which one address can't serve together.

    POST /models/{id}   a list for each text, as ``InferenceClient`` and ``@huggingface/inference``
                        read it
    POST /predict       one list for one text, as text-embeddings-inference (TEI) answers;
    GET /info           which model does so

Labels are the model's own, each with its probability, the most probable first.
"""

from __future__ import annotations

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
from hatespeech.labels import LABELS
from hatespeech.serving.compat.lenient import read_any_json
from hatespeech.serving.compat.protocol import Protocol, Shared
from hatespeech.serving.compat.texts import ScoredText, TextScorer, require_room, version_headers
from hatespeech.serving.http_errors import NotFoundError, RateLimitedError
from hatespeech.serving.openapi import EXAMPLE_TEXT, foreign_errors, json_body
from hatespeech.serving.settings import ServerSettings
from hatespeech.version import __version__

MODELS: Final = "/models/{model_id:path}"
PREDICT: Final = "/predict"
INFO: Final = "/info"

# TEI's names of its errors; every other is Validation.
NAMES: Final[Mapping[type[ServiceError], str]] = {
    UnhealthyError: "Unhealthy",
    InternalError: "Backend",
    OverloadedError: "Overloaded",
    RateLimitedError: "Overloaded",
}

ANY_TEXT: Final = {"type": "string", "minLength": 1}
MODEL_BODY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {
            "description": "A text, or several.",
            "oneOf": [ANY_TEXT, {"type": "array", "minItems": 1, "items": ANY_TEXT}],
        },
        "parameters": {
            "type": ["object", "null"],
            "description": "As Hugging Face's text classification has them.",
            "properties": {
                "top_k": {
                    "type": ["integer", "null"],
                    "minimum": 1,
                    "description": "How many labels to return, the likeliest first; all if unset.",
                },
                "function_to_apply": {
                    "enum": ["softmax", None],
                    "description": "Scores are probabilities; nothing else is offered.",
                },
            },
        },
    },
}
ONE_TEXT: Final = {"type": "array", "minItems": 1, "maxItems": 1, "items": ANY_TEXT}
PREDICT_BODY: Final[dict[str, Any]] = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "inputs": {
            "description": "A text, or a list of lists of one text.",
            "oneOf": [ANY_TEXT, {"type": "array", "minItems": 1, "items": ONE_TEXT}],
        },
        "truncate": {
            "type": ["boolean", "null"],
            "description": "Cut a text of more characters than the server reads.",
        },
        "truncation_direction": {
            "enum": ["Left", "Right", None],
            "description": "Which end to cut; `left` and `right` mean the same.",
        },
        "raw_scores": {"enum": [False, None], "description": "Logits are not offered."},
    },
}
MODEL_ID: Final = {
    "in": "path",
    "name": "model_id",
    "required": True,
    "description": "Any name; one with `@` pins a checkpoint.",
    "schema": {"type": "string", "minLength": 1},
}
ERRORS: Final = foreign_errors("`error`, and TEI's `error_type`.")

Ranking = list[dict[str, Any]]  # label and score of each label, the most probable first


class HuggingFace(Protocol):
    """The protocols of Hugging Face's inference and of its TEI."""

    name = "huggingface"
    title = "Hugging Face's text classification"
    places = ("/models/", PREDICT, INFO)
    routes = ("POST /models/{id}", f"POST {PREDICT}", f"GET {INFO}")

    @override
    def answer(self, scope: Scope, error: ServiceError, status: int) -> tuple[int, dict[str, Any]]:
        name = NAMES.get(type(error), "Validation")
        return 422 if status == 415 else status, {"error": error.line, "error_type": name}


def huggingface_routes(shared: Shared) -> APIRouter:
    """Return the routes of both shapes."""
    router = APIRouter(tags=[HuggingFace.title])
    scorer = TextScorer(shared)

    async def rank(request: Request, texts: Sequence[str]) -> list[Ranking]:
        return [ranking(each) for each in await scorer.score(request, texts)]

    def reply(request: Request, body: Any) -> Response:
        model_id = scorer.require_ready(request).model_id or ""
        return JSONResponse(body, headers=version_headers(model_id, shared.meanings.version))

    models_body = json_body(MODEL_BODY, {"one": {"inputs": EXAMPLE_TEXT}})

    @router.post(
        MODELS,
        operation_id="huggingface_models",
        summary="Classify one text or many",
        openapi_extra={**models_body, "parameters": [MODEL_ID]},
        responses=ERRORS,
    )
    async def models(request: Request) -> Response:
        """As Hugging Face's `InferenceClient` and `@huggingface/inference` ask: a list a text."""
        served = scorer.require_ready(request).model_id
        name = request.path_params["model_id"]
        if "@" in name and name != served:
            raise NotFoundError(f"this checkpoint is not served here; {served} is")
        body = await read_any_json(request)
        most = read_parameters(body.get("parameters"))
        texts = read_texts(body.get("inputs"), shared.settings)
        return reply(request, [each[:most] for each in await rank(request, texts)])

    @router.post(
        PREDICT,
        operation_id="huggingface_predict",
        summary="Classify one text, or a batch",
        openapi_extra=json_body(PREDICT_BODY, {"one": {"inputs": EXAMPLE_TEXT}}),
        responses=ERRORS,
    )
    async def predict(request: Request) -> Response:
        """As text-embeddings-inference answers: one list for a text, a list of them for a batch.

        A batch is a list of lists of one text. A list of two texts is a pair, which is refused.
        """
        scorer.require_ready(request)
        body = await read_any_json(request)
        if body.get("raw_scores"):
            raise ValidationError("are not known; only probabilities are", field="raw_scores")
        inputs = body.get("inputs")
        many = isinstance(inputs, list) and bool(inputs) and isinstance(inputs[0], list)
        texts = read_texts(single_texts(inputs), shared.settings, truncation(body))
        rankings = await rank(request, texts)
        return reply(request, rankings if many else rankings[0])

    @router.get(
        INFO, operation_id="huggingface_info", summary="The model behind /predict", responses=ERRORS
    )
    async def info(request: Request) -> Response:
        """The fields of text-embeddings-inference's `GET /info` that hold here."""
        model = scorer.require_ready(request)
        name, _, digits = (model.model_id or "").partition("@")
        names = {str(index): label for index, label in enumerate(LABELS)}
        kind = {"id2label": names, "label2id": {label: int(i) for i, label in names.items()}}
        body = {
            "model_id": name,
            "model_sha": digits,
            "model_dtype": model.dtype,
            "model_type": {"classifier": kind},
            "max_client_batch_size": shared.settings.max_texts_per_request,
            "auto_truncate": False,
            "version": __version__,
        }
        return reply(request, body)

    return router


def read_parameters(parameters: object) -> int:
    """Return how many labels a reply holds; raise :class:`ValidationError`."""
    given = {} if parameters is None else parameters
    if not isinstance(given, dict):
        raise ValidationError("must be an object", field="parameters")
    if given.get("function_to_apply") not in (None, "softmax"):
        raise ValidationError("may be softmax alone", field="parameters.function_to_apply")
    most = given.get("top_k")
    if most is None:
        return len(LABELS)
    if type(most) is not int or most < 1:
        raise ValidationError("must be a whole number from 1", field="parameters.top_k")
    return most


def truncation(body: Mapping[str, Any]) -> str | None:
    """Return the side at which texts that are too long are cut, if they are."""
    side = body.get("truncation_direction") or "Right"
    if side not in ("Left", "Right", "left", "right"):
        raise ValidationError("must be Left or Right", field="truncation_direction")
    return str(side).lower() if body.get("truncate") else None


def single_texts(inputs: object) -> object:
    """Return TEI's ``inputs`` as one text or a list of texts; refuse pairs of sentences."""
    if not isinstance(inputs, list):
        return inputs
    rows = [[each] if isinstance(each, str) else each for each in inputs]
    if all(isinstance(each, str) for each in inputs):
        rows = [inputs]
    if not all(isinstance(row, list) and len(row) == 1 for row in rows):
        raise ValidationError(
            "holds a pair of sentences; a batch is a list of lists of one text", field="inputs"
        )
    return [text for (text,) in rows]


def read_texts(value: object, settings: ServerSettings, cut: str | None = None) -> list[str]:
    """Return the texts to score; raise :class:`ValidationError` or :class:`TooLargeError`."""
    texts = value if isinstance(value, list) else [value]
    if not texts or len(texts) > settings.max_texts_per_request:
        most = settings.max_texts_per_request
        raise ValidationError(f"must hold from 1 to {most} texts", field="inputs")
    read = [_read_text(text, settings.max_text_chars, cut) for text in texts]
    require_room(read, settings, "inputs")
    return read


def _read_text(text: object, limit: int, cut: str | None) -> str:
    if not isinstance(text, str) or not text:
        raise ValidationError("must be a text, or a list of texts", field="inputs")
    if len(text) > limit and cut is None:
        raise TooLargeError(f"holds a text of more than {limit} characters", field="inputs")
    return readable(text[-limit:] if cut == "left" else text[:limit])


def ranking(scored: ScoredText) -> Ranking:
    """Return a text's labels by their scores; raise the text's own error."""
    if scored.item.error is not None:
        raise scored.item.error.at("inputs")
    ranked = sorted(scored.item.scores.items(), key=lambda each: -each[1])
    return [{"label": label, "score": score} for label, score in ranked]
