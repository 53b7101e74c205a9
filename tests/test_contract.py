"""What the contract accepts, refuses by name, and replies."""

from __future__ import annotations

import dataclasses
import json
import tracemalloc
from ctypes import c_float
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hatespeech.contract import (
    MAX_ID_CHARS,
    Prediction,
    ScoreRequest,
    TextScore,
    Timing,
    Versions,
    WordInfluence,
    build_reply,
    parse_request,
)
from hatespeech.errors import InternalError, ServiceError, TooLargeError, ValidationError
from hatespeech.labels import FLAGS, LABELS
from hatespeech.named_thresholds import NamedThresholds
from hatespeech.settings import EngineSettings
from tests.support.bad_inputs import UntouchedText

SETTINGS = EngineSettings(
    max_texts_per_request=5, max_queue_texts=5, max_text_chars=20, max_request_chars=50
)
SECRET = "marmalade"
VERSIONS = Versions("1.2.3", "0123456789ab", "2")
SCORE = Prediction([0.1, 0.2, 0.3, 0.4], windows=1, window=None, words=None)


def parse(body: object) -> ScoreRequest:
    return parse_request(body, SETTINGS)


@pytest.mark.parametrize("name", ["prompt", "text"])
def test_one_text_under_either_name(name: str) -> None:
    request = parse({name: "good morning"})
    assert (request.texts, request.many, request.name) == (["good morning"], False, name)
    assert (request.explain, request.thresholds) == (None, None)


@pytest.mark.parametrize("name", ["prompts", "texts"])
def test_many_texts_under_either_name(name: str) -> None:
    request = parse({name: ["a", "b"], "explain": True, "thresholds": {"hate": 0, "spam": 1.0}})
    assert (request.texts, request.many, request.explain) == (["a", "b"], True, "shapley")
    assert request.thresholds == {"hate": 0.0, "spam": 1.0}


@pytest.mark.parametrize(
    ("explain", "method"),
    [(True, "shapley"), ("shapley", "shapley"), ("leave_one_out", "leave_one_out"), (False, None)],
)
def test_an_explanation_may_be_asked_for_by_name(explain: object, method: str | None) -> None:
    assert parse({"prompt": "a", "explain": explain}).explain == method


@pytest.mark.parametrize(
    ("body", "error", "names"),
    [
        (None, ValidationError, "input"),
        ([], ValidationError, "input"),
        ("text", ValidationError, "input"),
        ({}, ValidationError, "prompt"),
        ({"prompt": None}, ValidationError, "prompt"),
        ({"prompt": ""}, ValidationError, "prompt"),
        ({"prompt": 7}, ValidationError, "prompt"),
        ({"prompt": [SECRET]}, ValidationError, "prompt"),
        ({"text": {}}, ValidationError, "text"),
        ({"prompt": SECRET, "prompts": [SECRET]}, ValidationError, "prompt, prompts"),
        ({"prompt": SECRET, "text": SECRET}, ValidationError, "prompt, text"),
        ({"prompts": SECRET}, ValidationError, "prompts"),
        ({"prompts": []}, ValidationError, "prompts"),
        ({"prompts": None}, ValidationError, "prompts"),
        ({"prompts": ["a"] * 6}, TooLargeError, "prompts"),
        ({"prompts": [SECRET * 2] * 4}, TooLargeError, "prompts"),
        ({"prompt": SECRET * 3}, TooLargeError, "prompt"),
        ({"prompt": SECRET, "top_k": 4}, ValidationError, "'top_k'"),
        ({"prompt": SECRET, "explain": 1}, ValidationError, "explain"),
        ({"prompt": SECRET, "explain": "true"}, ValidationError, "explain"),
        ({"prompt": SECRET, "thresholds": [0.5]}, ValidationError, "thresholds"),
        ({"prompt": SECRET, "thresholds": {"hat": 0.5}}, ValidationError, "thresholds"),
        ({"prompt": SECRET, "thresholds": {"hate": 1.01}}, ValidationError, "thresholds.hate"),
        ({"prompt": SECRET, "thresholds": {"hate": -0.1}}, ValidationError, "thresholds.hate"),
        ({"prompt": SECRET, "thresholds": {"hate": True}}, ValidationError, "thresholds.hate"),
        ({"prompt": SECRET, "thresholds": {"hate": "0.5"}}, ValidationError, "thresholds.hate"),
        ({"prompt": SECRET, "thresholds": {"hate": None}}, ValidationError, "thresholds.hate"),
        (
            {"prompt": SECRET, "thresholds": {"hate": float("nan")}},
            ValidationError,
            "thresholds.hate",
        ),
    ],
)
def test_bad_input_is_refused_in_one_line_that_names_the_field(
    body: object, error: type[ServiceError], names: str
) -> None:
    with pytest.raises(error) as caught:
        parse(body)
    assert caught.value.line.startswith(f"{names}: ")
    assert "\n" not in str(caught.value)
    assert SECRET not in str(caught.value)


RECOMMENDED = {
    "balanced": NamedThresholds("balanced", "1", {"hate": 0.05, "spam": 0.4}),
    "strict": NamedThresholds("strict", "1", {"hate": 0.2, "spam": 0.3}),
}
OWN = {"ours": NamedThresholds("ours", "2f0e", {"hate": 0.08})}


@pytest.mark.parametrize(
    "form", [lambda name: name, lambda name: {"name": name}], ids=["name", "object"]
)
def test_recommended_thresholds_are_used_by_name(form: Any) -> None:
    flagged = {}
    for name in RECOMMENDED:
        request = parse({"prompt": "hi", "thresholds": form(name)}).resolve(RECOMMENDED)
        flagged[name] = (
            build_reply(request, [SCORE], Timing(0, 0), "m@1", VERSIONS).items[0].flagged
        )
    numbers = {}
    for name, named in RECOMMENDED.items():
        request = parse({"prompt": "hi", "thresholds": dict(named.numbers)})
        numbers[name] = build_reply(request, [SCORE], Timing(0, 0), "m@1", VERSIONS)
    assert flagged == {name: reply.items[0].flagged for name, reply in numbers.items()}
    assert flagged["balanced"] != flagged["strict"]


def test_a_model_without_recommended_thresholds_refuses_their_name() -> None:
    request = parse({"prompt": SECRET, "thresholds": "strict"})
    with pytest.raises(ValidationError, match=r"^validation: thresholds: .* strict; send numbers"):
        request.resolve({})


def test_a_reply_names_the_thresholds_that_were_asked_for_by_name() -> None:
    request = parse({"prompt": "hi", "thresholds": "balanced"}).resolve(RECOMMENDED)
    reply = build_reply(request, [SCORE], Timing(0, 0), "m@1", VERSIONS).to_dict()
    assert reply["thresholds"] == {"name": "balanced", "version": "1", "hate": 0.05, "spam": 0.4}


def test_a_file_of_thresholds_adds_a_name() -> None:
    settings = SETTINGS.model_copy(update={"thresholds_file": Path("ours.json")})
    request = parse_request({"prompt": "hi", "thresholds": "ours"}, settings)
    assert request.resolve(RECOMMENDED | OWN).thresholds == {"hate": 0.08}
    with pytest.raises(ValidationError, match=r"thresholds: names are balanced, strict and ours$"):
        parse_request({"prompt": "hi", "thresholds": SECRET}, settings).resolve(RECOMMENDED | OWN)
    with pytest.raises(ValidationError, match=r"thresholds: names are balanced and strict$"):
        parse({"prompt": "hi", "thresholds": "ours"})


def test_ids_come_back_with_their_texts_also_with_those_that_fail() -> None:
    request = parse({"texts": ["fine", "", "hi"], "ids": ["a/1", "b 2", None]})
    reply = build_reply(
        request, [SCORE, request.faults[1], SCORE], Timing(0, 0), "m@1", VERSIONS
    ).to_dict()
    assert [item.get("id") for item in reply["items"]] == ["a/1", "b 2", None]
    assert "id" not in reply["items"][2]
    one = build_reply(parse({"text": "hi", "id": "x"}), [SCORE], Timing(0, 0), "m@1", VERSIONS)
    assert one.to_dict()["id"] == "x"
    empty = build_reply(parse({"text": "hi", "id": ""}), [SCORE], Timing(0, 0), "m@1", VERSIONS)
    assert "id" not in empty.to_dict()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"text": "hi", "ids": ["a"]}, "ids: goes with prompts"),
        ({"texts": ["hi"], "id": "a"}, "id: goes with prompt"),
        ({"texts": ["hi"], "ids": ["a", "b"]}, "ids: must be a list with an id for each text"),
        ({"texts": ["hi"], "ids": "a"}, "ids: must be a list with an id for each text"),
        ({"text": "hi", "id": 7}, "id: must be a string"),
        ({"texts": ["hi", "ho"], "ids": ["a", [SECRET]]}, "ids[1]: must be a string"),
        ({"text": "hi", "id": SECRET * 20}, "id: must be at most 128 printable characters"),
        ({"text": "hi", "id": f"{SECRET}\n"}, "id: must be at most 128 printable characters"),
        ({"text": "hi", "id": f"{SECRET}\ud800"}, "id: must be at most 128 printable characters"),
    ],
)
def test_a_bad_id_is_refused_without_a_word_of_it(body: Any, message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parse(body)
    assert caught.value.line == message


def test_a_bad_item_fails_alone() -> None:
    request = parse({"texts": ["fine", "", None, 4, SECRET * 3]})
    assert request.texts == ["fine", "", "", "", SECRET * 3]
    results: list[Prediction | ServiceError] = [SCORE, *request.faults.values()]
    reply = build_reply(request, results, Timing(0, 0), "m@1", VERSIONS)
    assert reply.to_dict()["items"][0]["label"] == "spam"
    for index, (code, item) in enumerate(
        zip(["validation"] * 3 + ["too_large"], reply.to_dict()["items"][1:], strict=True), start=1
    ):
        assert item.keys() == {"text", "error"}
        assert item["error"].startswith(f"{code}: texts[{index}]: ")
        assert SECRET not in item["error"]


def test_an_unknown_key_is_shown_shortened_and_on_one_line() -> None:
    with pytest.raises(ValidationError) as caught:
        parse({"prompt": "a", "x\ny" + "z" * 5000 + "\ud83d": 1})
    assert len(str(caught.value)) < 120
    assert "\n" not in str(caught.value)
    str(caught.value).encode()


@pytest.mark.parametrize(
    ("place", "message"),
    [
        (lambda names: names, "'name 0': is not a known field"),
        (lambda names: {"prompt": SECRET, **names}, "'name 0': is not a known field"),
        (
            lambda names: {"prompt": SECRET, "thresholds": names},
            "thresholds: may be set for hate, abusing, neutral, spam, toxic",
        ),
    ],
    ids=["keys", "keys_after_a_known_one", "labels"],
)
def test_of_many_unknown_names_only_the_first_costs_memory(place: Any, message: str) -> None:
    body = place({f"name {i}": 0.5 for i in range(200_000)})
    tracemalloc.start()
    try:
        with pytest.raises(ValidationError) as caught:
            parse(body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert caught.value.line == message
    assert peak < 1_000_000


def test_lone_surrogates_are_read_and_echoed_as_replacement_characters() -> None:
    request = parse({"prompt": "a\ud83d b\udc00"})
    assert request.texts == ["a\ufffd b\ufffd"]
    reply = build_reply(request, [SCORE], Timing(0, 0), "m@1", VERSIONS)
    assert json.dumps(reply.to_dict(), ensure_ascii=False).encode()
    # Two halves that belong together are a character.
    assert parse({"prompt": "\ud83d\ude00"}).texts == ["😀"]


@pytest.mark.parametrize(
    "body",
    [
        {"text": UntouchedText("\ud800" * (SETTINGS.max_text_chars + 1))},
        {"texts": [UntouchedText("\ud800" * SETTINGS.max_text_chars)] * 3},
    ],
    ids=["text", "texts"],
)
def test_what_is_refused_for_its_length_is_not_made_readable_first(body: Any) -> None:
    with pytest.raises(TooLargeError):
        parse(body)


@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists) | st.text())
def test_any_json_value_as_prompt_is_read_or_refused(value: Any) -> None:
    for name in ("prompt", "prompts", "explain", "thresholds"):
        body = {"prompt": "a", name: value} if name in ("explain", "thresholds") else {name: value}
        said = ""
        try:
            texts = parse(body).texts
        except ServiceError as error:
            texts, said = [], str(error)
        assert "\n" not in said
        assert all(text.encode() for text in texts if text)


def test_the_reply_to_one_holds_the_contract_fields() -> None:
    request = parse({"prompt": "hi", "explain": True, "thresholds": {"neutral": 0.3, "spam": 0.41}})
    moved = (0.0, 0.1, -0.1, 0.0)
    words = [WordInfluence("hi", 0, 2, dict(zip(LABELS, moved, strict=True)))]
    score = Prediction([0.1, 0.2, 0.3, 0.4], windows=2, window=(0, 2), words=words)
    reply = build_reply(request, [score], Timing(1.23456, 2), "m@1", VERSIONS)
    assert reply.to_dict() == {
        "text": "hi",
        "hate": 0.1,
        "abusing": 0.2,
        "neutral": 0.3,
        "spam": 0.4,
        "toxic": c_float(0.1 + 0.2).value,
        "label": "spam",
        "windows": 2,
        "window": [0, 2],
        "flagged": ["neutral"],
        "words": [
            {"word": "hi", "start": 0, "end": 2}
            | {"hate": 0.0, "abusing": 0.1, "neutral": -0.1, "spam": 0.0, "toxic": 0.1}
        ],
        "model": "m@1",
        "timing": {"queue_ms": 1.235, "compute_ms": 2},
        "versions": {"service": "1.2.3", "checkpoint": "0123456789ab", "normaliser": "2"},
    }


def test_two_halves_that_reach_no_threshold_of_their_own_are_toxic() -> None:
    thresholds = {"hate": 0.5, "abusing": 0.5, "neutral": 0.5, "spam": 0.5, "toxic": 0.9}
    halves = Prediction([0.45, 0.45, 0.06, 0.04], windows=1, window=None, words=None)
    reply = build_reply(
        parse({"text": "hi", "thresholds": thresholds}), [halves], Timing(0, 0), "m", VERSIONS
    )
    assert reply.items[0].flagged == ("toxic",)
    assert reply.items[0].label == "hate"


def test_toxic_is_at_most_1_and_exact_in_float32() -> None:
    half = c_float(0.5 + 2**-24).value  # two of them sum to 1 + 2**-23
    certain = TextScore.of("hi", Prediction([half, half, 0.0, 0.0], 1, None, None), None)
    assert certain.toxic == 1.0
    tenths = [c_float(share).value for share in (0.1, 0.2, 0.3, 0.4)]
    toxic = TextScore.of("hi", Prediction(tenths, 1, None, None), None).toxic
    assert toxic == c_float(tenths[0] + tenths[1]).value
    assert toxic != tenths[0] + tenths[1]


def test_thresholds_of_a_checkpoint_without_one_for_toxic_never_flag_it() -> None:
    request = parse({"prompt": "hi", "thresholds": "balanced"}).resolve(RECOMMENDED)
    abuse = Prediction([0.5, 0.5, 0.0, 0.0], windows=1, window=None, words=None)
    assert build_reply(request, [abuse], Timing(0, 0), "m", VERSIONS).items[0].flagged == ("hate",)


def test_fields_not_asked_for_are_left_out() -> None:
    reply = build_reply(parse({"prompt": "hi"}), [SCORE], Timing(0, 0), "m@1", VERSIONS)
    once = {"model", "timing", "versions"}
    assert reply.to_dict().keys() == {"text", *FLAGS, "label", "windows", *once}
    flagged = build_reply(
        parse({"prompt": "hi", "thresholds": {}}), [SCORE], Timing(0, 0), "m@1", VERSIONS
    )
    assert flagged.to_dict()["flagged"] == []


def test_the_error_of_a_lone_text_is_raised_with_its_field() -> None:
    with pytest.raises(ValidationError, match=r"^validation: text: holds nothing"):
        build_reply(
            parse({"text": "hi"}), [ValidationError("holds nothing")], Timing(0, 0), "m@1", VERSIONS
        )
    with pytest.raises(InternalError, match=r"^internal: no score$"):
        build_reply(
            parse({"text": "hi"}), [InternalError("no score")], Timing(0, 0), "m@1", VERSIONS
        )


def test_the_largest_reply_stays_within_the_platforms_20_megabytes() -> None:
    settings = EngineSettings()
    # JSON escapes a control character in six bytes, and an explained text stands there twice: once
    # whole, once as words. A word costs at least one reading of at least three tokens.
    texts = settings.max_request_chars * 6 * 2
    names = '{"word":"","start":9999,"end":9999,"hate":,"abusing":,"neutral":,"spam":,"toxic":}'
    word = len(names) + 5 * len("-0.12345678901234567")
    # n words in each of all texts cost about (n + 2)² tokens a text.
    each = (settings.max_request_tokens / settings.max_texts_per_request) ** 0.5
    words = settings.max_texts_per_request * each * word
    identity = MAX_ID_CHARS * 12  # an emoji becomes two escapes
    items = settings.max_texts_per_request * (400 + identity)
    assert texts + words + items < 20_000_000


def test_warnings_are_joined_in_a_tables_column() -> None:
    for warnings in ((), ("unread",), ("unread", "language")):
        score = TextScore.of("", dataclasses.replace(SCORE, warnings=warnings), None)
        assert score.columns()["warnings"] == (",".join(warnings) or None)
        assert score.to_dict().get("warnings", []) == list(warnings)
