"""What callers send and what they get back, the same on every front.

A request holds one text (``prompt``, alias ``text``) or many (``prompts``, alias ``texts``). An
error of the request itself fails the whole request. An error of one text among many concerns that
text alone.

:data:`FIELDS` declares every field of a reply once. OpenAPI's models, the columns of tables and the
table in ``docs/contract.md`` are made from it; ``service.proto`` and the examples are checked
against it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from ctypes import c_float
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from hatespeech.errors import ServiceError, TooLargeError, ValidationError
from hatespeech.labels import (
    EXPLANATIONS,
    FLAGS,
    LABELS,
    LABELS_OF,
    THRESHOLD_NAMES,
    Explanation,
    Flag,
    Label,
    WarningCode,
)
from hatespeech.named_thresholds import NamedThresholds
from hatespeech.settings import EngineSettings

# Error messages cut an unknown key to this length.
SHOWN_KEY_CHARS: Final = 40
MAX_ID_CHARS: Final = 128

_SURROGATE: Final = re.compile(r"[\ud800-\udfff]")
_SURROGATE_PAIR: Final = re.compile(r"[\ud800-\udbff][\udc00-\udfff]")

Threshold = Annotated[float, Field(ge=0, le=1, strict=True, allow_inf_nan=False)]

# How a field looks in JSON. A front maps each kind to its own types.
Kind = Literal[
    "text",
    "probability",
    "label",
    "flags",
    "count",
    "span",
    "words",
    "warnings",
    "reading",
    "error",
    "items",
    "timing",
    "thresholds",
    "versions",
]

ReadAs = Literal["folded"]


@dataclass(frozen=True)
class ReplyField:
    """One field of a reply."""

    name: str
    kind: Kind
    proto: int  # its number in the message ``results`` of service.proto
    description: str  # one sentence, for the documents
    always: bool = False  # in every item that has scores
    once: bool = False  # once for a reply, not in each item
    column: str | None = None  # its Arrow type in tables; None if tables do not have it


def _probability(name: str, proto: int, description: str) -> ReplyField:
    return ReplyField(name, "probability", proto, description, always=True, column="float")


FIELDS: Final[tuple[ReplyField, ...]] = (
    ReplyField("text", "text", 5, "The text as sent.", always=True),
    _probability("hate", 2, "Probability that the text is hateful."),
    _probability("abusing", 1, "Probability that the text is offensive or abusive."),
    _probability("neutral", 3, "Probability that the text is none of the other three."),
    _probability("spam", 4, "Probability that the text is spam."),
    _probability(
        "toxic", 15, "The sum of `hate` and `abusing`: probability that the text is one of them."
    ),
    ReplyField("label", "label", 6, "The most probable label.", always=True, column="string"),
    ReplyField(
        "windows",
        "count",
        7,
        "How many windows of 512 tokens the text was read in.",
        always=True,
        column="int32",
    ),
    ReplyField(
        "window",
        "span",
        8,
        "Only if there are several windows: start and end, in code points of the text, of the "
        "window whose scores these are, the least neutral.",
    ),
    ReplyField(
        "flagged",
        "flags",
        9,
        "Only if thresholds are sent: the labels, and `toxic`, whose score reaches its threshold.",
    ),
    ReplyField(
        "words",
        "words",
        10,
        "Only if `explain` is set: how much of the scores each word carries.",
    ),
    ReplyField(
        "warnings",
        "warnings",
        16,
        "Only if there are any: why the scores may mean nothing. `unread`: at least half of the "
        "letters are unknown to the model; `language`: the text is in none of its languages.",
        column="string",
    ),
    ReplyField(
        "read_as",
        "reading",
        17,
        "`folded` if `robust` is on and the scores are those of the text without its disguise, the "
        "less neutral reading.",
        column="string",
    ),
    ReplyField(
        "error",
        "error",
        11,
        "Only in `items` and tables: why this text has no scores.",
        column="string",
    ),
    ReplyField(
        "items",
        "items",
        12,
        "Only if many texts are sent: one object for each, in the order sent.",
        once=True,
    ),
    ReplyField(
        "model",
        "text",
        13,
        "The model that answers: its name, `@`, and twelve digits that change with its weights, "
        "tokenizer or normaliser.",
        always=True,
        once=True,
    ),
    ReplyField("timing", "timing", 14, "Where the time goes.", always=True, once=True),
    ReplyField("id", "text", 18, "Only if an id is sent with the text: that id."),
    ReplyField(
        "thresholds",
        "thresholds",
        19,
        "Only if thresholds are asked for by name: their `name`, their `version`, and the numbers.",
        once=True,
    ),
    ReplyField(
        "versions",
        "versions",
        20,
        "What made the reply: `service`, its version; `checkpoint`, twelve digits over weights and "
        "tokenizer; `normaliser`, its version.",
        always=True,
        once=True,
    ),
)
ITEM_FIELDS: Final = tuple(field for field in FIELDS if not field.once)
COLUMNS: Final[dict[str, str]] = {field.name: field.column for field in FIELDS if field.column}


def fields_table() -> str:
    """Return the fields of a reply as a Markdown table."""
    rows = ["| field | kind | meaning |", "| --- | --- | --- |"]
    rows += [f"| `{field.name}` | {field.kind} | {field.description} |" for field in FIELDS]
    return "\n".join(rows) + "\n"


class _Body(BaseModel):
    """The request as sent; :func:`_text_field` checks which of the four text fields it has."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: Any = None
    text: Any = None
    prompts: Any = None
    texts: Any = None
    explain: bool | Explanation = False
    robust: bool | None = None
    thresholds: dict[Flag, Threshold] | None = None
    id: Any = None
    ids: Any = None


@dataclass(frozen=True)
class WordInfluence:
    """How much of the scores one word carries, from -1 to 1 for each label."""

    word: str  # without the punctuation around it
    start: int  # code points into the text as sent
    end: int
    scores: Mapping[Label, float]

    @property
    def toxic(self) -> float:
        """What the word carries of ``toxic``."""
        return sum(self.scores[label] for label in LABELS_OF["toxic"])

    def to_dict(self) -> dict[str, Any]:
        """Return the object that replies hold."""
        scores: dict[str, float] = {label: self.scores[label] for label in LABELS}
        place = {"word": self.word, "start": self.start, "end": self.end}
        return {**place, **scores, "toxic": self.toxic}


@dataclass(frozen=True)
class Prediction:
    """What the model says about one text."""

    scores: Sequence[float]  # probabilities in the order of LABELS, summing to 1
    windows: int  # how many 512-token windows the text was read in
    window: tuple[int, int] | None  # if several: code points of the one that was scored
    words: Sequence[WordInfluence] | None  # only if ``explain`` is set
    read_as: ReadAs | None = None  # how the reading differs from the text as sent, if it does
    warnings: tuple[WarningCode, ...] = ()  # why the scores may mean nothing
    language: tuple[str, float] | None = None  # ISO 639 code, probability; only if it was asked


@dataclass(frozen=True)
class TextScore:
    """The scores of one text, or its ``error``.

    Attributes have the names of the reply's fields, which docs/contract.md explains. Scores are
    probabilities from 0 to 1, and ``window`` is in code points. If the text has no scores,
    ``error`` is set, ``scores`` is empty, and every attribute except ``text`` and ``id`` is
    ``None``.
    """

    text: str  # as sent, with U+FFFD for each lone surrogate; "" if it is not a string
    hate: float | None = None
    abusing: float | None = None
    neutral: float | None = None
    spam: float | None = None
    toxic: float | None = None
    label: Label | None = None
    windows: int | None = None
    window: tuple[int, int] | None = None
    flagged: tuple[Flag, ...] | None = None
    words: tuple[WordInfluence, ...] | None = None
    warnings: tuple[WarningCode, ...] | None = None  # if there are any
    read_as: ReadAs | None = None
    error: ServiceError | None = None
    id: str | None = None  # if one was sent with the text

    @classmethod
    def of(
        cls,
        text: str,
        outcome: Prediction | ServiceError,
        thresholds: Mapping[str, float] | None,
        identity: str | None = None,
    ) -> TextScore:
        """Combine a text and its id with the model's prediction, or with its error."""
        if isinstance(outcome, ServiceError):
            return cls(text, error=outcome, id=identity)
        hate, abusing, neutral, spam = outcome.scores
        toxic = _toxic(hate, abusing)
        flagged: tuple[Flag, ...] | None = None
        if thresholds is not None:
            flagged = tuple(
                flag
                for flag, score in zip(FLAGS, (*outcome.scores, toxic), strict=True)
                if _reaches(score, thresholds.get(flag, math.inf))
            )
        return cls(
            text,
            hate=hate,
            abusing=abusing,
            neutral=neutral,
            spam=spam,
            toxic=toxic,
            label=LABELS[outcome.scores.index(max(outcome.scores))],
            windows=outcome.windows,
            window=outcome.window,
            flagged=flagged,
            words=None if outcome.words is None else tuple(outcome.words),
            warnings=outcome.warnings or None,
            read_as=outcome.read_as,
            id=identity,
        )

    @property
    def scores(self) -> dict[Label, float]:
        """The four probabilities by label, in the order of ``LABELS``; empty if there are none."""
        if self.error is not None:
            return {}
        return {label: getattr(self, label) for label in LABELS}

    def columns(self) -> dict[str, Any]:
        """Return the values for a table's columns; ``None`` for a missing value.

        Several ``warnings`` are joined by commas.
        """
        values = {name: _plain(getattr(self, name)) for name in COLUMNS}
        if self.warnings is not None:
            values["warnings"] = ",".join(self.warnings)
        return values

    def to_dict(self) -> dict[str, Any]:
        """Return the object that replies hold, without the fields that have no value."""
        values = {field.name: _plain(getattr(self, field.name)) for field in ITEM_FIELDS}
        return {name: value for name, value in values.items() if value is not None}


def _plain(value: Any) -> Any:
    """Return a field's value as JSON represents it."""
    if isinstance(value, ServiceError):
        return str(value)
    if isinstance(value, tuple):
        return [each.to_dict() if isinstance(each, WordInfluence) else each for each in value]
    return value


@dataclass(frozen=True)
class ScoreRequest:
    """A request that holds at least one text to score."""

    name: str  # the field that held the text or texts
    texts: Sequence[str]  # as echoed: lone surrogates already replaced, "" if it was not a string
    faults: Mapping[int, ServiceError]  # positions that can't be scored, and why
    many: bool
    explain: Explanation | None
    robust: bool
    thresholds: Mapping[str, float] | None
    wanted: str | None = None  # the name of the thresholds to use instead
    named: NamedThresholds | None = None  # those, once they are known
    ids: Sequence[str | None] | None = None  # one for each text

    def resolve(self, thresholds: Mapping[str, NamedThresholds]) -> ScoreRequest:
        """Replace the name of thresholds by those that the checkpoint or the operator has.

        Raises :class:`ValidationError` if there are none by that name.
        """
        if self.wanted is None:
            return self
        if self.wanted not in {*THRESHOLD_NAMES, *thresholds}:
            raise _unknown_name([*THRESHOLD_NAMES, *(thresholds.keys() - {*THRESHOLD_NAMES})])
        if self.wanted not in thresholds:
            raise ValidationError(
                f"this model recommends none called {self.wanted}; send numbers",
                field="thresholds",
            )
        named = thresholds[self.wanted]
        return dataclasses.replace(self, thresholds=named.numbers, wanted=None, named=named)


@dataclass(frozen=True)
class Timing:
    """Where a request's time goes, in milliseconds."""

    queue_ms: float  # until the device starts on the first text
    compute_ms: float  # from then until the last result
    tokens: int = 0  # that the device read; for the log and the metrics, replies don't have it

    def to_dict(self) -> dict[str, float]:
        """Return the object that replies hold."""
        return {"queue_ms": round(self.queue_ms, 3), "compute_ms": round(self.compute_ms, 3)}


@dataclass(frozen=True)
class Versions:
    """What made a reply."""

    service: str
    checkpoint: str  # twelve digits over weights and tokenizer
    normaliser: str


@dataclass(frozen=True)
class Reply:
    """What a caller gets back."""

    items: Sequence[
        TextScore
    ]  # in the order of the request's texts; one for a request with one text
    many: bool
    model: str
    timing: Timing
    versions: Versions
    thresholds: NamedThresholds | None = None  # only if they were asked for by name

    def to_dict(self) -> dict[str, Any]:
        """Return the reply as ``json.dumps`` takes it."""
        once: dict[str, Any] = {"model": self.model, "timing": self.timing.to_dict()}
        if self.thresholds is not None:
            once["thresholds"] = self.thresholds.to_dict()
        once["versions"] = dataclasses.asdict(self.versions)
        if self.many:
            return {"items": [item.to_dict() for item in self.items], **once}
        (item,) = self.items
        return {**item.to_dict(), **once}


def parse_request(body: object, settings: EngineSettings) -> ScoreRequest:
    """Read the contract's ``input`` object.

    Raises :class:`ValidationError` or :class:`TooLargeError` for an invalid request, and for an
    invalid text if it is the only one.
    """
    if not isinstance(body, dict):
        raise ValidationError("must be an object with prompt or prompts", field="input")
    _require_known_keys(body)
    wanted = _threshold_name(body, settings.thresholds_file is not None)
    if wanted:
        body = {key: value for key, value in body.items() if key != "thresholds"}
    try:
        fields = _Body.model_validate(body)
    except pydantic.ValidationError as exc:
        raise _explain(exc) from None

    name = _text_field(body)
    value = getattr(fields, name)
    many = name in ("prompts", "texts")
    values = value if many else [value]
    if many:
        if not isinstance(value, list):
            raise ValidationError("must be a list of strings", field=name)
        if not value:
            raise ValidationError("must hold at least one text", field=name)
        if len(value) > settings.max_texts_per_request:
            raise TooLargeError(
                f"holds {len(value)} texts, the limit is {settings.max_texts_per_request}",
                field=name,
            )
    faults = _find_faults(values, settings)
    if faults and not many:
        raise faults[0].at(name)
    chars = sum(len(text) for text in values if isinstance(text, str))
    if chars > settings.max_request_chars:
        raise TooLargeError(
            f"{chars} characters in all, the limit is {settings.max_request_chars}", field=name
        )
    # Only now, because it takes long for millions of characters.
    texts = [readable(text) if isinstance(text, str) else "" for text in values]
    thresholds: dict[str, float] | None = None
    if fields.thresholds is not None:
        thresholds = {str(flag): least for flag, least in fields.thresholds.items()}
    return ScoreRequest(
        name,
        texts,
        faults,
        many,
        _explanation(fields.explain),
        settings.robust if fields.robust is None else fields.robust,
        thresholds,
        wanted,
        ids=_ids(fields, many, len(texts)),
    )


def read_values(
    values: Sequence[object], settings: EngineSettings
) -> tuple[Sequence[str], Mapping[int, ServiceError]]:
    """Return the texts of a list or a file, and the errors of those that can't be scored, by index.

    The limits on one text apply; those on a request do not.
    """
    if not values:
        return [], {}
    unlimited = settings.model_copy(
        update={"max_texts_per_request": len(values), "max_request_chars": 2**63}
    )
    request = parse_request({"texts": list(values)}, unlimited)
    return request.texts, request.faults


def _explanation(value: bool | Explanation) -> Explanation | None:
    if isinstance(value, bool):
        return "shapley" if value else None
    return value


def _require_known_keys(body: Mapping[object, object]) -> None:
    """Raise :class:`ValidationError` for the first unknown key.

    pydantic would collect an error for each: a body of a million keys would take seconds and
    gigabytes.
    """
    for key in body:
        if key not in _Body.model_fields:
            name = readable(str(key)[: SHOWN_KEY_CHARS + 1])
            shown = name if len(name) <= SHOWN_KEY_CHARS else f"{name[:SHOWN_KEY_CHARS]}…"
            raise ValidationError("is not a known field", field=f"{shown!r}")
    thresholds = body.get("thresholds")
    if isinstance(thresholds, dict) and not thresholds.keys() <= {*FLAGS, "name"}:
        raise ValidationError(f"may be set for {', '.join(FLAGS)}", field="thresholds")


def _threshold_name(body: Mapping[object, object], more: bool) -> str | None:
    """Return the name of thresholds, if the request asks for them by name.

    A name is a string, or ``name`` in an object: in the proto ``thresholds`` is always an object.
    With ``more`` there are names beside those that a model recommends.
    """
    value = body.get("thresholds")
    if isinstance(value, dict) and "name" in value:
        if len(value) > 1:
            raise ValidationError(
                "ask for recommended ones or give numbers, not both", field="thresholds"
            )
        value = value["name"]
    elif not isinstance(value, str):
        return None
    if value not in THRESHOLD_NAMES and not (more and isinstance(value, str)):
        raise _unknown_name(THRESHOLD_NAMES)
    return str(value)


def _unknown_name(names: Sequence[str]) -> ValidationError:
    *most, last = names
    return ValidationError(f"names are {', '.join(most)} and {last}", field="thresholds")


def _ids(fields: _Body, many: bool, count: int) -> Sequence[str | None] | None:
    """Return the id of each text, if the request has any. An empty one is none."""
    given, other = ("ids", "id") if many else ("id", "ids")
    if getattr(fields, other) is not None:
        raise ValidationError(f"goes with {'prompt' if many else 'prompts'}", field=other)
    value = getattr(fields, given)
    if value is None:
        return None
    values = value if many else [value]
    if not isinstance(values, list) or len(values) != count:
        raise ValidationError("must be a list with an id for each text", field=given)
    for index, each in enumerate(values):
        place = f"ids[{index}]" if many else "id"
        if not isinstance(each, str) and each is not None:
            raise ValidationError("must be a string", field=place)
        if each and (len(each) > MAX_ID_CHARS or not each.isprintable()):
            raise ValidationError(
                f"must be at most {MAX_ID_CHARS} printable characters", field=place
            )
    return [each or None for each in values]


def _text_field(body: Mapping[object, object]) -> str:
    given = [name for name in ("prompt", "text", "prompts", "texts") if name in body]
    if len(given) > 1:
        raise ValidationError("give only one of them", field=f"{', '.join(given)}")
    if not given:
        raise ValidationError(
            "is missing; give prompt, a string, or prompts, a list", field="prompt"
        )
    return given[0]


def _find_faults(values: Sequence[object], settings: EngineSettings) -> dict[int, ServiceError]:
    """Return what is wrong with the texts of a request, by their index."""
    faults: dict[int, ServiceError] = {}
    for index, value in enumerate(values):
        if value is None:
            faults[index] = ValidationError("must be a string, not null")
        elif not isinstance(value, str):
            faults[index] = ValidationError("must be a string")
        elif not value:
            faults[index] = ValidationError("must not be empty")
        elif len(value) > settings.max_text_chars:
            faults[index] = TooLargeError(
                f"has {len(value)} characters, the limit is {settings.max_text_chars}"
            )
    return faults


def readable(text: str) -> str:
    """Replace lone surrogates, which UTF-8 cannot hold, by U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        # The codec of UTF-16 does both, and takes five times as long.
        return _SURROGATE.sub("\ufffd", _SURROGATE_PAIR.sub(_join_pair, text))
    return text


def _join_pair(pair: re.Match[str]) -> str:
    return pair[0].encode("utf-16", "surrogatepass").decode("utf-16")


def _explain(exc: pydantic.ValidationError) -> ValidationError:
    """Turn pydantic's first error into one that does not quote the value."""
    error = exc.errors(include_url=False, include_input=False)[0]
    first, *rest = (str(part) for part in error["loc"])
    if first == "explain":
        names = " or ".join(EXPLANATIONS)
        return ValidationError(f"must be true, false, {names}", field="explain")
    if first == "robust":
        return ValidationError("must be true, false or null", field="robust")
    if rest:
        return ValidationError("must be a number from 0 to 1", field=f"thresholds.{rest[0]}")
    names = " or ".join(THRESHOLD_NAMES)
    return ValidationError(f"must be an object of numbers, or {names}", field="thresholds")


def build_reply(
    request: ScoreRequest,
    outcomes: Sequence[Prediction | ServiceError],
    timing: Timing,
    model: str,
    versions: Versions,
) -> Reply:
    """Return the reply to a request.

    ``outcomes`` are in the order of ``request.texts``. Raises the error of the text if the request
    holds only one.
    """
    places = [
        f"{request.name}[{i}]" if request.many else request.name for i in range(len(outcomes))
    ]
    located = [
        outcome.at(place) if isinstance(outcome, ServiceError) else outcome
        for outcome, place in zip(outcomes, places, strict=True)
    ]
    if not request.many and isinstance(located[0], ServiceError):
        raise located[0]
    ids = request.ids or [None] * len(located)
    items = [
        TextScore.of(text, outcome, request.thresholds, identity)
        for text, outcome, identity in zip(request.texts, located, ids, strict=True)
    ]
    return Reply(items, request.many, model, timing, versions, request.named)


def _toxic(hate: float, abusing: float) -> float:
    """Return the sum in float32, like the scores; rounding could otherwise take it above 1."""
    return min(1.0, c_float(hate + abusing).value)


def _reaches(score: float, threshold: float) -> bool:
    """Compare in float32, the precision of scores and of the proto's fields.

    A float32 sent as the shortest decimal for it may come back as a slightly larger double.
    """
    return c_float(score).value >= c_float(threshold).value
