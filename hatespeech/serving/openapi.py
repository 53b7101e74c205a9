"""The document at ``/openapi.json``: requests, replies, errors, and how to authenticate.

These models only describe: :mod:`hatespeech.contract` decides what every front accepts.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Annotated, Any, Final, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, ConfigDict, Field, create_model

from hatespeech.contract import (
    FIELDS,
    ITEM_FIELDS,
    MAX_ID_CHARS,
    Kind,
    ReadAs,
    ReplyField,
    Timing,
    Versions,
)
from hatespeech.errors import (
    InternalError,
    OverloadedError,
    ServiceError,
    TooLargeError,
    UnhealthyError,
    UnreadError,
    ValidationError,
)
from hatespeech.labels import (
    EXPLANATIONS,
    FLAGS,
    LABELS,
    THRESHOLD_NAMES,
    Flag,
    Label,
    WarningCode,
)
from hatespeech.serving.http_errors import (
    STATUSES,
    MethodNotAllowedError,
    NotFoundError,
    PaymentRequiredError,
    RateLimitedError,
    UnauthorizedError,
    UnfinishedError,
    UnsupportedMediaError,
)
from hatespeech.serving.jobs.store import JobStatus
from hatespeech.serving.payments.shop import Shop
from hatespeech.serving.settings import ServerSettings

TITLE: Final = "Hate-speech detection"
SUMMARY: Final = "Scores tweets: hate, abusing, neutral, spam."
DESCRIPTION: Final = """\
Send one text or many; each gets four probabilities, which sum to 1. A text longer than 512 tokens
is read in overlapping windows; its scores are those of the window with the lowest `neutral`.

An error is `{"error", "error_type"}` and never quotes a text."""

# A text needs one character that is not white space, a control character, or invisible by Unicode.
# The few invisible characters above U+FFFF are not listed, because JavaScript's regular expressions
# do not agree about them.
VISIBLE: Final = (
    r"[^\u0000-\u0020\u007F-\u00A0\u00AD\u034F\u0600-\u0605\u061C\u06DD\u070F\u0890\u0891\u08E2"
    r"\u115F\u1160\u1680\u17B4\u17B5\u180B-\u180F\u2000-\u200F\u2028-\u202F\u205F-\u206F\u3000"
    r"\u3164\uFE00-\uFE0F\uFEFF\uFFA0\uFFF0-\uFFFB]"
)

EXAMPLE_TEXT: Final = "good morning everyone, what a lovely day"
EXPLAIN: Final[dict[str, Any]] = {
    "description": f"`true` is `{EXPLANATIONS[0]}`.",
    "oneOf": [{"type": "boolean"}, {"enum": list(EXPLANATIONS)}],
    "default": False,
}
ROBUST_PARAMETER: Final[dict[str, Any]] = {
    "in": "query",
    "name": "robust",
    "description": "Also read the text without its disguise; the server's setting if left out.",
    "schema": {"type": "boolean"},
}
OPEN: Final[dict[str, Any]] = {"security": []}

Probability = Annotated[float, Field(ge=0, le=1)]


class Open(BaseModel):
    """A schema that allows further fields: a client made today must read the replies of later."""

    model_config = ConfigDict(extra="allow")


def _about(description: str, **options: Any) -> Any:
    return Field(description=description, **options)


class ErrorReply(Open):
    """Every error, whatever its status."""

    error: Annotated[str, _about("One line; names the field, never quotes a text.")]
    error_type: Annotated[str, _about("What went wrong, for programs.", examples=["validation"])]
    id: Annotated[str | None, _about("The job's, if the request made one.")] = None


def _schema(name: str, sentence: str, fields: Mapping[str, Any]) -> type[BaseModel]:
    """Build a schema; clients made from the document call it by ``name``."""
    return create_model(name, __base__=Open, __doc__=sentence, **fields)


def _field(kind: Any, description: str, *, always: bool = True) -> Any:
    """Declare a field as :func:`_schema` takes it; one that is not ``always`` there may be null."""
    described = _about(description)
    if always:
        return Annotated[kind, described], ...
    return Annotated[kind | None, described], None


TIMES: Final = {
    "queue_ms": "Until the first of the texts was read by the model.",
    "compute_ms": "From then until the last of them had its scores.",
}
TIMING: Final = _schema(
    "Timing",
    "Where the time went, in milliseconds.",
    {name: _field(float, TIMES[name]) for name in Timing(0.0, 0.0).to_dict()},
)
WORD: Final = _schema(
    "Word",
    "How much of the scores a word carries.",
    {
        "word": _field(str, "As it stands in the text."),
        "start": _field(int, "Where it begins, in code points of the text as sent."),
        "end": _field(int, "Where it ends, the same way."),
        **{flag: _field(float, f"How much it adds to `{flag}`.") for flag in (*LABELS, "toxic")},
    },
)

NAMED_THRESHOLDS: Final = _schema(
    "NamedThresholds",
    "Thresholds that were asked for by name.",
    {
        "name": _field(str, "As the request named them."),
        "version": _field(str, "Changes with any of the numbers."),
        **{
            flag: _field(Probability, f"`{flag}` is flagged from here.", always=False)
            for flag in FLAGS
        },
    },
)
VERSIONS: Final = _schema(
    "Versions",
    "What made the reply.",
    {each.name: _field(str, f"Of the {each.name}.") for each in dataclasses.fields(Versions)},
)

# The type of each kind of field of the contract.
TYPES: Final[dict[Kind, Any]] = {
    "text": str,
    "probability": Probability,
    "label": Label,
    "flags": list[Flag],
    "count": Annotated[int, Field(ge=1)],
    "span": list[int],
    "reading": ReadAs,
    "words": list[WORD],  # type: ignore[valid-type]  # a class made above
    "warnings": list[WarningCode],
    "error": str,
    "timing": TIMING,
    "thresholds": NAMED_THRESHOLDS,
    "versions": VERSIONS,
}


def _fields(fields: Iterable[ReplyField]) -> dict[str, Any]:
    """Return the contract's fields as :func:`_schema` takes them."""
    return {
        each.name: _field(TYPES[each.kind], each.description, always=each.always) for each in fields
    }


_scored: Final = [field for field in ITEM_FIELDS if field.kind != "error"]
_once: Final = [field for field in FIELDS if field.once and field.kind != "items"]

Scores = _schema("Scores", "The scores of one text.", _fields(_scored))
OneReply = _schema("OneReply", "The reply to one text.", _fields([*_scored, *_once]))


class NotScored(Open):
    """A text among many that has no scores."""

    text: Annotated[str, _about("The text as sent.")]
    error: Annotated[str, _about("One line; never quotes the text.")]
    id: Annotated[str | None, _about("As sent.")] = None


ManyReply = _schema(
    "ManyReply",
    "The reply to many texts, in the order sent.",
    _fields(_once) | {"items": _field(list[Scores | NotScored], "One for each text.")},  # type: ignore[valid-type]  # a class made above
)


Status = Annotated[JobStatus, _about("Where the job stands.")]


class JobReply(Open):
    """A job: `output` if it is completed, `error` if it failed or timed out."""

    id: Annotated[str, _about("Ask for the job by it.")]
    status: Status
    delayTime: Annotated[int | None, _about("Milliseconds in the queue.")] = None
    executionTime: Annotated[int | None, _about("Milliseconds of work.")] = None
    output: Annotated[
        OneReply | ManyReply | None,  # type: ignore[valid-type]  # classes made above
        _about("What `/score` would have replied."),
    ] = None
    error: Annotated[str | None, _about("The error's code and one line.")] = None


class StreamReply(Open):
    """Where a job stands; it has no partial results."""

    status: Status
    stream: Annotated[list[dict[str, Any]], _about("Always empty.", max_length=0)]


class PurgeReply(Open):
    """How many jobs no longer wait."""

    removed: Annotated[int, _about("Jobs of this caller that waited.")]
    status: Annotated[str, _about("As Runpod says it.", json_schema_extra={"enum": ["completed"]})]


class PaymentTerms(Open):
    """What calls cost callers without a token."""

    routes: Annotated[list[str], _about("What is sold.")]
    unit: Annotated[str, _about("What the price is for.")]
    accepts: Annotated[list[dict[str, str]], _about("Ways to pay: price, minimum and who is paid.")]


class Card(Open):
    """What this service is."""

    name: Annotated[str, _about("The service's.")]
    version: Annotated[str, _about("The service's.")]
    summary: Annotated[str, _about("What it does, in a sentence.")]
    model: Annotated[str | None, _about("The checkpoint; null while it is being loaded.")]
    links: Annotated[dict[str, str], _about("Paths of the pages and of the health check.")]
    protocols: Annotated[
        dict[str, list[str]],
        _about("The protocols of other services that are answered, and their routes."),
    ]
    payment: Annotated[
        PaymentTerms | None, _about("Only if calls are sold: what they cost, and how.")
    ] = None


class Health(Open):
    """Whether texts can be scored."""

    status: Annotated[Literal["loading", "ready", "broken"], _about("The model's.")]
    model: Annotated[str | None, _about("The checkpoint; null while it is being loaded.")]
    dtype: Annotated[
        str | None,
        _about("The number format in which the model multiplies, such as float32."),
    ]
    embedded: Annotated[
        bool, _about("Whether the small embedded checkpoint serves, which is for trying only.")
    ]
    jobs: Annotated[
        Literal["ready", "full", "unavailable"],
        _about("Whether jobs can be stored, or else whether a disk is full; the log says why."),
    ]


# The errors of every route that needs a token.
ALWAYS: Final[tuple[type[ServiceError], ...]] = (
    UnauthorizedError,
    MethodNotAllowedError,
    RateLimitedError,
    InternalError,
)


def errors(*kinds: type[ServiceError]) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of a route that needs a token: ``ALWAYS`` and ``kinds``."""
    all_kinds: set[type[ServiceError]] = {*ALWAYS, *kinds}
    found: dict[int | str, dict[str, Any]] = {}
    for kind in sorted(all_kinds, key=lambda kind: (STATUSES[kind], kind.code)):
        entry = found.setdefault(STATUSES[kind], {"model": ErrorReply, "description": ""})
        sentence = (kind.__doc__ or "").strip().splitlines()[0]
        entry["description"] = f"{entry['description']} `{kind.code}`: {sentence}".strip()
        if kind.retry_after is not None or kind is RateLimitedError:
            entry["headers"] = {"Retry-After": {"schema": {"type": "string"}}}
        if kind is UnauthorizedError:
            entry["headers"] = {"WWW-Authenticate": {"schema": {"type": "string"}}}
    return found


SCORING: Final = errors(
    ValidationError,
    TooLargeError,
    UnreadError,
    UnsupportedMediaError,
    OverloadedError,
    UnhealthyError,
)
WAITING: Final = SCORING | errors(UnfinishedError)
JOB: Final = errors(NotFoundError)


def score_input(settings: ServerSettings) -> dict[str, Any]:
    """Return the JSON schema of the contract's ``input``."""
    text = {
        "type": "string",
        "minLength": 1,
        "maxLength": settings.max_text_chars,
        "pattern": VISIBLE,
        "examples": [EXAMPLE_TEXT],
        "description": "The text to score.",
    }
    texts = {
        "type": "array",
        "items": {"description": "A string; anything else gets its own error in the reply."},
        "minItems": 1,
        "maxItems": settings.max_texts_per_request,
        "description": "The texts to score.",
    }
    names: dict[str, Any] = {
        "enum": list(THRESHOLD_NAMES),
        "description": "Of thresholds that the model recommends, or that the operator chose.",
    }
    if settings.thresholds_file is not None:  # whose name is known once the model is loaded
        names = {"type": "string", "description": names["description"]}
    identity = {
        "type": ["string", "null"],
        "maxLength": MAX_ID_CHARS,
        "description": "Comes back with the scores.",
    }
    ids = {
        "type": ["array", "null"],
        "items": identity,
        "description": "One for each text, or null; they come back with the scores.",
    }
    options = {
        "explain": EXPLAIN,
        "robust": {
            "type": ["boolean", "null"],
            "description": "Also read the text without its disguise; `ROBUST` if left out.",
        },
        "thresholds": {
            "description": "Adds `flagged`: the labels whose probability reaches theirs.",
            "oneOf": [
                {
                    "title": "numbers",
                    "type": ["object", "null"],
                    "additionalProperties": False,
                    "properties": {
                        flag: {
                            "type": "number",
                            "minimum": 0,
                            "maximum": 1,
                            "description": f"`{flag}` is flagged from here.",
                        }
                        for flag in FLAGS
                    },
                },
                {
                    "title": "name",
                    **names,
                },
                {
                    "title": "name in an object",
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {"name": names},
                },
            ],
        },
    }
    return {
        "type": "object",
        "oneOf": [
            {
                "title": name,
                "type": "object",
                "required": [name],
                "additionalProperties": False,
                "properties": {name: schema, identities: described, **options},
            }
            for name, schema, identities, described in (
                ("prompt", text, "id", identity),
                ("text", text, "id", identity),
                ("prompts", texts, "ids", ids),
                ("texts", texts, "ids", ids),
            )
        ],
    }


def json_body(schema: dict[str, Any], examples: dict[str, Any]) -> dict[str, Any]:
    """Describe a JSON body; ``examples`` maps names to bodies."""
    content = {"schema": schema, "examples": {k: {"value": v} for k, v in examples.items()}}
    return {"requestBody": {"required": True, "content": {"application/json": content}}}


def foreign_errors(description: str) -> dict[int | str, dict[str, Any]]:
    """Describe the errors of another service's protocol, in its form."""
    schema = {"type": "object", "required": ["error"]}
    content = {"application/json": {"schema": schema}}
    return {"default": {"description": description, "content": content}}


def install_openapi(app: FastAPI, settings: ServerSettings, shop: Shop | None) -> None:
    """Let the application make its OpenAPI document with security schemes and JSON errors."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title,
                version=app.version,
                summary=app.summary,
                description=app.description,
                routes=app.routes,
                # Beside this document, so that a page behind a proxy's prefix stays below it.
                servers=[{"url": "."}],
            )
            # FastAPI describes its own validation error, which this application never returns.
            for name in ("HTTPValidationError", "ValidationError"):
                schema["components"]["schemas"].pop(name, None)
            for methods in schema["paths"].values():
                for operation in methods.values():
                    _json_errors(operation["responses"])
                    _add_examples(operation)
            if settings.tokens:
                schema["components"]["securitySchemes"] = {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                }
                schema["security"] = [{"bearer": []}, {"apiKey": []}]
            if shop is not None:
                _sell(schema, shop.card())
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _add_examples(operation: dict[str, Any]) -> None:
    """Show what each status looks like: replies that were recorded, see ``examples.json``."""
    recorded = _examples()
    for status, response in operation["responses"].items():
        codes = re.findall("`([a-z_]+)`:", response["description"])
        examples = recorded["replies"].get(operation["operationId"], {}).get(status, {})
        if status >= "400":
            errors_of_status = {code: recorded["errors"][code] for code in codes}
            examples = examples or errors_of_status
        for kind, content in response.get("content", {}).items():
            # An example that is named by a media type is of that type alone.
            fitting = {
                name: body for name, body in examples.items() if "/" not in name or name == kind
            }
            if fitting:
                content["examples"] = {name: {"value": body} for name, body in fitting.items()}


@cache
def _examples() -> dict[str, Any]:
    file = resources.files("hatespeech.serving").joinpath("examples.json")
    found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return found


def _sell(schema: dict[str, Any], card: dict[str, Any]) -> None:
    """Say which operations take a payment instead of a token, and what it must be."""
    prices = "; ".join(
        f"{way['price']} {way['currency']} by {way['protocol']} on {way['network']}, at least "
        f"{way['minimum']}"
        for way in card["accepts"]
    )
    schema["components"]["securitySchemes"]["payment"] = {
        "type": "apiKey",
        "in": "header",
        "name": "PAYMENT-SIGNATURE",
        "description": f"A payment as x402 has it. For {card['unit']}: {prices}. `robust` doubles "
        "it, and `explain` costs it once more for each reading. Status 402 has the exact terms.",
    }
    reply = {
        "description": "`payment_required`: "
        + (PaymentRequiredError.__doc__ or "").strip().splitlines()[0],
        "headers": {"PAYMENT-REQUIRED": {"schema": {"type": "string"}}},
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/ErrorReply"}},
        },
    }
    for route in card["routes"]:
        method, path = route.split(" ")
        operation = schema["paths"][path][method.lower()]
        operation["security"] = [*schema["security"], {"payment": []}]
        operation["x-payment"] = card["accepts"]
        operation["responses"].setdefault("402", reply)


def _json_errors(responses: dict[str, Any]) -> None:
    """Declare errors as JSON; FastAPI gives them the media type of the route's other replies."""
    for status, response in responses.items():
        if status >= "400" and response.get("content"):
            (schema,) = response["content"].values()
            response["content"] = {"application/json": schema}
