"""What callers send and what they get back, the same on every front.

A request asks for one text (``prompt``, alias ``text``) or many (``prompts``, alias ``texts``).
Reading it costs the whole request only for faults of the request itself; a fault of one text among
many stays with that text, as its :class:`ServiceError` in place of a string.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from ctypes import c_float
from dataclasses import dataclass
from typing import Annotated, Any

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from hatespeech.errors import ServiceError, TooLargeError, ValidationError
from hatespeech.labels import LABELS, THRESHOLD_NAMES, Label
from hatespeech.settings import EngineSettings

# What a caller's own key may take up in an error message.
SHOWN_KEY_CHARS = 40

Threshold = Annotated[float, Field(ge=0, le=1, strict=True, allow_inf_nan=False)]


class _Body(BaseModel):
    """The request as it is written; which of the four text fields are there is checked after."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Any = None
    text: Any = None
    prompts: Any = None
    texts: Any = None
    explain: bool = False
    thresholds: dict[Label, Threshold] | None = None


@dataclass(frozen=True)
class WordInfluence:
    """One word's share of a score: the score with it minus the score without it."""

    word: str
    start: int  # code points into the text as sent
    end: int
    scores: Sequence[float]  # in the order of LABELS


@dataclass(frozen=True)
class TextScore:
    """What the classifier found out about one text."""

    scores: Sequence[float]  # probabilities in the order of LABELS, summing to 1
    windows: int  # how many 512-token windows the text was read in
    window: tuple[int, int] | None  # code points of the one that spoke, if there were several
    words: Sequence[WordInfluence] | None  # only when asked for


@dataclass(frozen=True)
class ScoreRequest:
    """A request that holds at least one text to score."""

    name: str  # the field that held the text or texts
    texts: Sequence[str]  # as echoed: lone surrogates already replaced, "" for what was no string
    faults: Mapping[int, ServiceError]  # positions that can't be scored, and why
    many: bool
    explain: bool
    thresholds: Mapping[str, float] | None
    recommended: str | None = None  # the name of the checkpoint's thresholds to use instead

    def resolve(self, thresholds: Mapping[str, Mapping[str, float]]) -> ScoreRequest:
        """Put the numbers a checkpoint recommends for a name.

        Raises :class:`ValidationError` if it recommends none by that name.
        """
        if self.recommended is None:
            return self
        if self.recommended not in thresholds:
            raise ValidationError(
                f"thresholds: this model recommends none called {self.recommended}; send numbers"
            )
        return dataclasses.replace(self, thresholds=thresholds[self.recommended], recommended=None)


@dataclass(frozen=True)
class Timing:
    """Where a request's time went, in milliseconds."""

    queue_ms: float  # until the device began with its first text
    compute_ms: float  # from then until its last result


def parse_request(body: object, settings: EngineSettings) -> ScoreRequest:
    """Read the contract's ``input`` object.

    Raises :class:`ValidationError` or :class:`TooLargeError` for faults of the whole request, and
    for those of the text where only one was sent.
    """
    if not isinstance(body, dict):
        raise ValidationError("input: must be an object with prompt or prompts")
    _require_known_keys(body)
    recommended = _threshold_name(body)
    if recommended:
        body = {key: value for key, value in body.items() if key != "thresholds"}
    try:
        fields = _Body.model_validate(body)
    except pydantic.ValidationError as exc:
        raise ValidationError(_explain(exc)) from None

    name = _text_field(body)
    value = getattr(fields, name)
    many = name in ("prompts", "texts")
    if not many:
        texts, faults = _read_texts([value], settings)
        if faults:
            raise locate_error(faults[0], name)
    else:
        if not isinstance(value, list):
            raise ValidationError(f"{name}: must be a list of strings")
        if not value:
            raise ValidationError(f"{name}: must hold at least one text")
        if len(value) > settings.max_texts_per_request:
            raise TooLargeError(
                f"{name}: holds {len(value)} texts, the limit is {settings.max_texts_per_request}"
            )
        texts, faults = _read_texts(value, settings)
    chars = sum(map(len, texts))
    if chars > settings.max_request_chars:
        raise TooLargeError(
            f"{name}: {chars} characters in all, the limit is {settings.max_request_chars}"
        )
    thresholds: dict[str, float] | None = None
    if fields.thresholds is not None:
        thresholds = {str(label): least for label, least in fields.thresholds.items()}
    return ScoreRequest(name, texts, faults, many, fields.explain, thresholds, recommended)


def _require_known_keys(body: Mapping[object, object]) -> None:
    """Raise :class:`ValidationError` for the first key that has no place here.

    pydantic would collect a finding for each: a body of a million keys would take seconds, and
    gigabytes.
    """
    for key in body:
        if key not in _Body.model_fields:
            name = _readable(str(key))
            shown = name if len(name) <= SHOWN_KEY_CHARS else f"{name[:SHOWN_KEY_CHARS]}…"
            raise ValidationError(f"{shown!r}: is not a known field")
    thresholds = body.get("thresholds")
    if isinstance(thresholds, dict) and not thresholds.keys() <= {*LABELS, "name"}:
        raise ValidationError(f"thresholds: labels are {', '.join(LABELS)}")


def _threshold_name(body: Mapping[object, object]) -> str | None:
    """Return the name of recommended thresholds, if that is what the request asks for.

    A message of the proto can't hold a string where it held an object: there, it is ``name`` in it.
    """
    value = body.get("thresholds")
    if isinstance(value, dict) and "name" in value:
        if len(value) > 1:
            raise ValidationError("thresholds: ask for recommended ones or give numbers, not both")
        value = value["name"]
    elif not isinstance(value, str):
        return None
    if value not in THRESHOLD_NAMES:
        raise ValidationError(f"thresholds: names are {' and '.join(THRESHOLD_NAMES)}")
    return str(value)


def _text_field(body: Mapping[object, object]) -> str:
    given = [name for name in ("prompt", "text", "prompts", "texts") if name in body]
    if len(given) > 1:
        raise ValidationError(f"{', '.join(given)}: give only one of them")
    if not given:
        raise ValidationError("prompt: is missing; give prompt, a string, or prompts, a list")
    return given[0]


def _read_texts(
    values: Sequence[object], settings: EngineSettings
) -> tuple[list[str], dict[int, ServiceError]]:
    texts: list[str] = []
    faults: dict[int, ServiceError] = {}
    for index, value in enumerate(values):
        text = _readable(value) if isinstance(value, str) else ""
        texts.append(text)
        if value is None:
            faults[index] = ValidationError("must be a string, not null")
        elif not isinstance(value, str):
            faults[index] = ValidationError("must be a string")
        elif not text:
            faults[index] = ValidationError("must not be empty")
        elif len(text) > settings.max_text_chars:
            faults[index] = TooLargeError(
                f"has {len(text)} characters, the limit is {settings.max_text_chars}"
            )
    return texts, faults


def _readable(text: str) -> str:
    """Replace lone surrogates, which no UTF-8 reply can hold, by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _explain(exc: pydantic.ValidationError) -> str:
    """Turn pydantic's first finding into one line that quotes no value."""
    error = exc.errors(include_url=False, include_input=False)[0]
    first, *rest = (str(part) for part in error["loc"])
    if first == "explain":
        return "explain: must be true or false"
    if rest:
        return f"thresholds.{rest[0]}: must be a number from 0 to 1"
    names = " or ".join(THRESHOLD_NAMES)
    return f"thresholds: must be an object of label and number, or {names}"


def build_reply(
    request: ScoreRequest,
    results: Sequence[TextScore | ServiceError],
    timing: Timing,
    model: str,
) -> dict[str, Any]:
    """Return the contract's reply, ready for ``json.dumps``.

    ``results`` stand in the order of ``request.texts``. Raises the error of a lone text.
    """
    spent = {"queue_ms": round(timing.queue_ms, 3), "compute_ms": round(timing.compute_ms, 3)}
    if not request.many:
        (result,) = results
        if isinstance(result, ServiceError):
            raise locate_error(result, request.name)
        item = _item(request.texts[0], result, request.thresholds)
        return {**item, "model": model, "timing": spent}
    items = [
        {"text": text, "error": str(locate_error(result, f"{request.name}[{index}]"))}
        if isinstance(result, ServiceError)
        else _item(text, result, request.thresholds)
        for index, (text, result) in enumerate(zip(request.texts, results, strict=True))
    ]
    return {"items": items, "model": model, "timing": spent}


def locate_error(error: ServiceError, place: str) -> ServiceError:
    """Name the field in an error about its text; a fault of the service belongs to no field."""
    if isinstance(error, ValidationError | TooLargeError):
        return type(error)(f"{place}: {error.message}")
    return error


def _reaches(score: float, threshold: float) -> bool:
    """Compare in float32, the precision of scores and of the proto's fields.

    A float32 that travels as the shortest decimal for it may come back as a double just above it.
    """
    return c_float(score).value >= c_float(threshold).value


def _item(text: str, result: TextScore, thresholds: Mapping[str, float] | None) -> dict[str, Any]:
    scores = dict(zip(LABELS, result.scores, strict=True))
    item: dict[str, Any] = {
        "text": text,
        **scores,
        "label": max(scores, key=scores.__getitem__),
        "windows": result.windows,
    }
    if result.window is not None:
        item["window"] = list(result.window)
    if thresholds is not None:
        item["flagged"] = [
            label for label in LABELS if _reaches(scores[label], thresholds.get(label, math.inf))
        ]
    if result.words is not None:
        item["words"] = [
            {
                "word": word.word,
                "start": word.start,
                "end": word.end,
                **dict(zip(LABELS, word.scores, strict=True)),
            }
            for word in result.words
        ]
    return item
