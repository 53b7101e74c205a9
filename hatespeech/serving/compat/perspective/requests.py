"""Reads ``AnalyzeCommentRequest``: ``null`` counts as unset, and unknown fields are ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar

import pydantic
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool

from hatespeech.contract import readable
from hatespeech.serving.compat.mapping import Meaning, Meanings, PerspectiveMapping
from hatespeech.serving.compat.perspective.errors import (
    CommentError,
    LanguageError,
    empty_comment,
    invalid_request,
    long_comment,
)

# Google's limit; MAX_TEXT_CHARS does not change it.
MAX_BYTES: Final = 20_480
MOST_NAMES: Final = 100  # attributes or languages: Perspective never had as many
SHOWN_CHARS: Final = 64

PROBABILITY: Final = "PROBABILITY"
OTHER_TYPES: Final = ("STD_DEV_SCORE", "PERCENTILE", "RAW")
PLAIN_TEXT: Final = "PLAIN_TEXT"
TEXT_TYPES: Final = ("TEXT_TYPE_UNSPECIFIED", PLAIN_TEXT)

_LANGUAGE: Final = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{1,8}){0,4}")


def _or(default: Any) -> BeforeValidator:
    return BeforeValidator(lambda value: default if value is None else value)


def _as_list(value: Any) -> Any:
    """Read one language without its list, as R's client peRspective sends it."""
    return [value] if isinstance(value, str) else value or []


class _Loose(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Comment(_Loose):
    """The text to analyse."""

    text: Annotated[str, _or("")] = ""
    type: Annotated[str, _or(PLAIN_TEXT)] = PLAIN_TEXT


class AttributeParameters(_Loose):
    """What a request asks for one attribute."""

    scoreType: Annotated[str, _or("")] = ""
    scoreThreshold: Annotated[float, Field(allow_inf_nan=False), _or(0.0)] = 0.0


class AnalyzeRequest(_Loose):
    """What Perspective reads of a request, and we do too."""

    comment: Annotated[Comment, _or(Comment())] = Comment()
    requestedAttributes: Annotated[
        dict[str, Annotated[AttributeParameters, _or(AttributeParameters())]], _or({})
    ] = {}
    languages: Annotated[list[str], BeforeValidator(_as_list)] = []
    spanAnnotations: Annotated[StrictBool, _or(False)] = False
    dropUnsupportedAttributes: Annotated[StrictBool, _or(False)] = False
    clientToken: str | None = None
    context: Annotated[dict[str, Any], _or({})] = {}


@dataclass(frozen=True)
class Attribute:
    """An attribute to score."""

    key: str  # as requested, with its version
    meaning: Meaning
    threshold: float


@dataclass(frozen=True)
class Analysis:
    """A request that can be answered."""

    text: str
    attributes: Sequence[Attribute]
    languages: Sequence[str]  # as requested
    spans: bool
    client_token: str | None


@dataclass(frozen=True)
class Terms:
    """What a request is checked against, and its reply made with."""

    meanings: Meanings
    model: str  # its id, which a version pins
    languages: Sequence[str]  # of the model

    @property
    def mapping(self) -> PerspectiveMapping:
        """What Perspective's names mean."""
        return self.meanings.perspective


def read_analysis(body: Mapping[str, Any], terms: Terms) -> Analysis:
    """Read a request; raise :class:`CommentError` for one that Perspective refuses."""
    for name in ("requestedAttributes", "languages"):
        if isinstance(body.get(name), dict | list) and len(body[name]) > MOST_NAMES:
            raise invalid_request(f"Invalid value at '{name}': it holds more than {MOST_NAMES}")
    request = read_fields(AnalyzeRequest, body)
    text = read_comment(request.comment)
    if request.context.get("entries") and request.context.get("articleAndParentComment"):
        raise invalid_request(
            "Context can have either entries or article_and_parent_comment, but both fields were "
            "populated."
        )
    if not request.requestedAttributes:
        raise CommentError("NO_REQUESTED_ATTRIBUTES", "Missing requested_attributes")
    found = [
        Attribute(key, _meaning(key, parameters, terms), parameters.scoreThreshold)
        for key, parameters in request.requestedAttributes.items()
    ]
    languages = request.languages
    if not all(_LANGUAGE.fullmatch(code) for code in languages):
        raise invalid_request("Invalid value at 'languages': a BCP 47 tag, such as en, is needed")
    foreign = [code for code in languages if primary(code) not in terms.languages]
    if foreign and terms.mapping.languages == "refuse":
        raise LanguageError(found[0].key, foreign, requested=True)
    scored = [attribute for attribute in found if attribute.meaning.score is not None]
    drops = request.dropUnsupportedAttributes or terms.mapping.unsupported == "drop"
    if not scored or (len(scored) < len(found) and not drops):
        key = next(each.key for each in found if each.meaning.score is None)
        raise LanguageError(key, languages or terms.languages, requested=bool(languages))
    return Analysis(text, scored, languages, request.spanAnnotations, request.clientToken)


Fields = TypeVar("Fields", bound=BaseModel)


def read_fields(kind: type[Fields], body: Mapping[str, Any]) -> Fields:
    """Read an object; raise :class:`CommentError`, which quotes no value, for a wrong type."""
    try:
        return kind.model_validate(body)
    except pydantic.ValidationError as exc:
        error = exc.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(shown(str(part)) for part in error["loc"])
        raise invalid_request(f"Invalid value at '{place}'") from None


def read_comment(comment: Comment) -> str:
    """Return a comment's text; raise :class:`CommentError` if it can't be analysed."""
    if comment.type not in TEXT_TYPES:
        known = comment.type == "HTML"
        raise invalid_request(
            "Currently, only 'PLAIN_TEXT' comments are supported" if known else "Unknown text type"
        )
    if not comment.text:
        raise empty_comment()
    if len(comment.text) > MAX_BYTES:  # millions of characters are not made readable first
        raise long_comment()
    text = readable(comment.text)
    if len(text.encode()) > MAX_BYTES:
        raise long_comment()
    return text


def primary(code: str) -> str:
    """Return the language of a BCP 47 tag, such as ``en`` for ``en-GB``."""
    return code.partition("-")[0].lower()


def shown(name: str) -> str:
    """Return a caller's name for something, cut and without what can't be printed."""
    name = readable(name[:SHOWN_CHARS])
    return name if name.isprintable() else "(not printable)"


def _meaning(key: str, parameters: AttributeParameters, terms: Terms) -> Meaning:
    """Return what an attribute means; raise :class:`CommentError` if it is not known."""
    name, pinned, version = key.partition("@")
    meaning = terms.mapping.attributes.get(name)
    if meaning is None:
        raise invalid_request(f"Unknown requested attribute: {shown(key)}")
    if pinned and version not in (terms.model, terms.model.rpartition("@")[2]):
        raise invalid_request(
            f"Unknown requested attribute: {shown(key)} (this server has {terms.model})"
        )
    if parameters.scoreType in OTHER_TYPES:
        raise invalid_request(
            f"Requested score type {parameters.scoreType} is not supported by attribute "
            f"{shown(key)}"
        )
    if parameters.scoreType not in ("", "SCORE_TYPE_UNSPECIFIED", PROBABILITY):
        raise invalid_request(f"Unknown score type of attribute {shown(key)}")
    return meaning
