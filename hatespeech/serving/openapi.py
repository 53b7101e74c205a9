"""The document at ``/openapi.json``: requests, replies, errors, and how to authenticate.

These models only describe: :mod:`hatespeech.contract` decides what every front accepts.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Final

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
    RateLimitedError,
    UnauthorizedError,
    UnfinishedError,
    UnsupportedMediaError,
)
from hatespeech.serving.jobs.store import (
    CANCELLED,
    COMPLETED,
    FAILED,
    IN_PROGRESS,
    IN_QUEUE,
    TIMED_OUT,
)
from hatespeech.serving.settings import ServerSettings

TITLE: Final = "Hate-speech detection"
SUMMARY: Final = "Scores tweets: hate, abusing, neutral, spam."
DESCRIPTION: Final = """\
Send one text or many; each gets four probabilities, which sum to 1. A text longer than 512 tokens
is read in overlapping windows, and the window with the lowest `neutral` speaks for it.

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


class Closed(BaseModel):
    """A schema that allows no other fields."""

    model_config = ConfigDict(extra="forbid")


class ErrorReply(Closed):
    """Every error, whatever its status."""

    error: Annotated[str, Field(description="One line; names the field, never quotes a text.")]
    error_type: Annotated[str, Field(examples=["validation"])]
    id: Annotated[str | None, Field(description="The job's, if the request made one.")] = None


def _schema(name: str, sentence: str, fields: Mapping[str, Any]) -> type[BaseModel]:
    """Build a schema; clients made from the document call it by ``name``."""
    return create_model(name, __base__=Closed, __doc__=sentence, **fields)


TIMING: Final = _schema(
    "Timing",
    "Where the time went, in milliseconds.",
    {field.name: (float, ...) for field in dataclasses.fields(Timing)},
)
WORD: Final = _schema(
    "Word",
    "How much of the scores a word carries.",
    {
        "word": (str, ...),
        "start": (Annotated[int, Field(description="Code points into the text as sent.")], ...),
        "end": (int, ...),
        **dict.fromkeys((*LABELS, "toxic"), (float, ...)),
    },
)

NAMED_THRESHOLDS: Final = _schema(
    "NamedThresholds",
    "Thresholds that were asked for by name.",
    {
        "name": (str, ...),
        "version": (str, ...),
        **dict.fromkeys(FLAGS, (Probability | None, None)),
    },
)
VERSIONS: Final = _schema(
    "Versions",
    "What made the reply.",
    {field.name: (str, ...) for field in dataclasses.fields(Versions)},
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
    """Return the contract's fields as pydantic declares them."""
    declared: dict[str, Any] = {}
    for field in fields:
        kind, described = TYPES[field.kind], Field(description=field.description)
        if field.always:
            declared[field.name] = (Annotated[kind, described], ...)
        else:
            declared[field.name] = (Annotated[kind | None, described], None)
    return declared


_scored: Final = [field for field in ITEM_FIELDS if field.kind != "error"]
_once: Final = [field for field in FIELDS if field.once and field.kind != "items"]

Scores = _schema("Scores", "The scores of one text.", _fields(_scored))
OneReply = _schema("OneReply", "The reply to one text.", _fields([*_scored, *_once]))


class NotScored(Closed):
    """A text among many that has no scores."""

    text: str
    error: str
    id: str | None = None


ManyReply = _schema(
    "ManyReply",
    "The reply to many texts, in the order sent.",
    _fields(_once) | {"items": (list[Scores | NotScored], ...)},  # type: ignore[valid-type]  # a class made above
)


JobStatus = Annotated[
    str,
    Field(
        json_schema_extra={"enum": [IN_QUEUE, IN_PROGRESS, COMPLETED, FAILED, CANCELLED, TIMED_OUT]}
    ),
]


class JobReply(Closed):
    """A job: `output` if it is completed, `error` if it failed or timed out."""

    id: str
    status: JobStatus
    delayTime: Annotated[int | None, Field(description="Milliseconds in the queue.")] = None
    executionTime: Annotated[int | None, Field(description="Milliseconds of work.")] = None
    output: OneReply | ManyReply | None = None  # type: ignore[valid-type]  # a class made above
    error: str | None = None


class StreamReply(Closed):
    """Where a job stands; it has no partial results."""

    status: JobStatus
    stream: Annotated[list[dict[str, Any]], Field(max_length=0)]


class PurgeReply(Closed):
    """How many jobs no longer wait."""

    removed: int
    status: Annotated[str, Field(json_schema_extra={"enum": ["completed"]})]


class Card(Closed):
    """What this service is."""

    name: str
    version: str
    summary: str
    model: str | None
    links: dict[str, str]
    protocols: Annotated[
        dict[str, list[str]],
        Field(description="The protocols of other services that are answered, and their routes."),
    ]


class Health(Closed):
    """Whether texts can be scored."""

    status: Annotated[str, Field(json_schema_extra={"enum": ["loading", "ready", "broken"]})]
    model: str | None
    dtype: Annotated[
        str | None,
        Field(description="The number format in which the model multiplies, such as float32."),
    ]
    jobs: Annotated[
        str,
        Field(
            description="Whether jobs can be stored; if not, the log says why.",
            json_schema_extra={"enum": ["ready", "unavailable"]},
        ),
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
    }
    texts = {
        "type": "array",
        "items": {"description": "A string; anything else gets its own error in the reply."},
        "minItems": 1,
        "maxItems": settings.max_texts_per_request,
    }
    names: dict[str, Any] = {"enum": list(THRESHOLD_NAMES)}
    if settings.thresholds_file is not None:  # whose name is known once the model is loaded
        names = {"type": "string"}
    identity = {"type": ["string", "null"], "maxLength": MAX_ID_CHARS}
    ids = {"type": ["array", "null"], "items": identity}
    options = {
        "explain": EXPLAIN,
        "robust": {
            "type": ["boolean", "null"],
            "description": "Also read the text without its disguise; `ROBUST` if left out.",
        },
        "thresholds": {
            "oneOf": [
                {
                    "title": "numbers",
                    "type": ["object", "null"],
                    "additionalProperties": False,
                    "properties": {
                        flag: {"type": "number", "minimum": 0, "maximum": 1} for flag in FLAGS
                    },
                },
                {
                    "title": "name",
                    "description": "The name of thresholds that the model recommends, or that the "
                    "operator chose.",
                    **names,
                },
                {
                    "title": "name in an object",
                    "type": "object",
                    "required": ["name"],
                    "additionalProperties": False,
                    "properties": {"name": names},
                },
            ]
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


def install_openapi(app: FastAPI, settings: ServerSettings) -> None:
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
            if settings.tokens:
                schema["components"]["securitySchemes"] = {
                    "bearer": {"type": "http", "scheme": "bearer"},
                    "apiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                }
                schema["security"] = [{"bearer": []}, {"apiKey": []}]
            app.openapi_schema = schema
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way


def _json_errors(responses: dict[str, Any]) -> None:
    """Declare errors as JSON; FastAPI gives them the media type of the route's other replies."""
    for status, response in responses.items():
        if status >= "400" and response.get("content"):
            (schema,) = response["content"].values()
            response["content"] = {"application/json": schema}
