"""The suite itself: what it holds makes sense, what is wrong is noticed, and it can be recorded."""

from __future__ import annotations

import copy
import math
import re
from typing import Any, Final

import pytest

from tests.conformance import record
from tests.conformance.grpc_front import over_grpc
from tests.conformance.invariants import error_faults, reply_faults
from tests.conformance.suite import (
    CASES,
    Suite,
    differences,
    read_document,
    render,
    report,
)
from tests.support.bad_inputs import BAD_INPUTS


def test_a_case_is_excused_from_grpc_exactly_if_the_proto_has_no_way_to_say_it(
    suite: Suite,
) -> None:
    excused = {case.name for case in suite.cases if "grpc" in case.not_over}
    impossible = {case.name for case in suite.cases if not over_grpc(case.input)}
    assert excused == impossible


def test_the_file_is_as_the_recorder_writes_it(suite: Suite) -> None:
    document = read_document()
    assert CASES.read_text(encoding="utf-8") == render(document)
    names = [case.name for case in suite.cases]
    assert len(set(names)) == len(names)
    for case in suite.cases:
        assert (case.reply is None) != (case.error is None), case.name
        assert case.own_process in (None, "--test_input", "test_input.json"), case.name


def test_what_is_expected_makes_sense(suite: Suite) -> None:
    found = {
        case.name: list(
            reply_faults(case.input, case.reply, suite.settings)
            if case.reply is not None
            else error_faults(case.input, case.error or {})
        )
        for case in suite.cases
    }
    assert not report(found), report(found)


def test_long_texts_are_long_whatever_the_tokeniser(suite: Suite) -> None:
    for name in ("a_long_text_is_read_in_windows", "a_long_text_of_few_words_explained"):
        reply = suite.case(name).reply
        assert reply is not None
        assert reply["windows"] > 1, name


def test_every_known_fault_of_an_input_has_a_case(suite: Suite) -> None:
    def pattern(error: str) -> str:
        error = re.sub(r"\b(prompt|text)(s?)\b(?!s)", r"one\2", error)
        return re.sub(r"\d+|'.*'", "…", error)

    errors = [case.error for case in suite.cases if case.error is not None]
    covered = {pattern(f"{error['code']}: {error['message']}") for error in errors}
    assert {pattern(bad.error) for bad in BAD_INPUTS} <= covered


def change(reply: dict[str, Any], path: str, value: Any) -> None:
    *parents, last = path.split(".")
    for name in parents:
        reply = reply[int(name)] if isinstance(reply, list) else reply[name]
    reply[last] = value


Change = tuple[str, str, Any]
CHANGES: Final[tuple[Change, ...]] = (
    ("everything_at_once", "model", "mini"),
    ("everything_at_once", "timing", {"queue_ms": -1.0, "compute_ms": 1.0}),
    ("everything_at_once", "timing", {"queue_ms": 1.0}),
    ("everything_at_once", "versions", {"service": "1.2.3"}),
    ("everything_at_once", "thresholds", {"name": "ours", "version": "0f0f0f0f", "hate": 0.5}),
    ("recommended_thresholds_by_name", "thresholds.toxic", 0.123),
    ("recommended_thresholds_by_name", "thresholds.version", "2"),
    ("an_id_comes_back", "id", "tweets/2"),
    ("ids_come_back_with_their_texts", "items.1.id", "a"),
    ("ids_come_back_with_their_texts", "items.2.id", ""),
    ("everything_at_once", "items", []),
    ("everything_at_once", "items.0.text", "you are scum 🤬"),
    ("everything_at_once", "items.0.label", "none"),
    ("everything_at_once", "items.0.hate", 0.5),
    ("everything_at_once", "items.0.hate", math.nan),
    ("everything_at_once", "items.0.toxic", 0.5),
    ("everything_at_once", "items.0.flagged", ["spam"]),
    ("everything_at_once", "items.0.windows", 1.0),
    ("everything_at_once", "items.0.window", [0, 1]),
    ("everything_at_once", "items.0.words", []),
    ("everything_at_once", "items.0.words.3.end", 18),
    ("everything_at_once", "items.0.words.3.hate", 2.0),
    ("everything_at_once", "items.1.error", "validation: texts[1]: must not be empty"),
    ("a_long_text_is_read_in_windows", "window", [0, 99_999]),
    ("a_long_text_is_read_in_windows", "windows", 9),
    ("an_item_of_too_many_windows", "items.0.error", "internal: not scored"),
    ("an_item_that_is_empty", "items.1.error", "validation: prompts[0]: must not be empty"),
    ("lone_surrogate_becomes_the_replacement_character", "text", "half \ud83d an emoji"),
)


@pytest.mark.parametrize(("name", "path", "value"), CHANGES, ids=lambda value: str(value)[:40])
def test_a_reply_that_is_wrong_in_one_place_is_noticed(
    suite: Suite, name: str, path: str, value: Any
) -> None:
    case = suite.case(name)
    assert case.reply is not None
    reply: Any = copy.deepcopy(case.reply)
    change(reply, path, value)
    assert list(reply_faults(case.input, reply, suite.settings))
    if path != "model":
        assert list(differences(case.reply, reply, suite.tolerance))


def test_scores_may_differ_by_the_tolerance_and_no_more(suite: Suite) -> None:
    reply = suite.case("prompt").reply
    assert reply is not None
    for by, faults in ((0.9, 0), (-0.9, 0), (1.1, 1), (-1.1, 1)):
        other = {**reply, "hate": reply["hate"] + by * suite.tolerance}
        assert len(list(differences(reply, other, suite.tolerance))) == faults


def test_recording_again_finds_nothing_to_change(suite: Suite) -> None:
    document = read_document()
    assert record.record(document) == []
    assert render(document) == CASES.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "path", "value", "fault"),
    [
        ("empty", "error.message", "prompt: is empty", "the file has"),
        ("empty", "input", {"prompt": "good morning"}, "where the file has an error"),
        ("prompt", "input", {"prompt": ""}, "the file has 'a reply'"),
        ("explain", "reply.text", "you are scum", "reply.text"),
        ("thresholds_reached_and_missed", "input.thresholds", {"hate": 0.0}, ""),
    ],
)
def test_recording_blesses_nothing_that_is_written_by_hand(
    name: str, path: str, value: Any, fault: str
) -> None:
    document = read_document()
    document["cases"] = [case for case in document["cases"] if case["name"] == name]
    change(document["cases"][0], path, value)
    faults = record.record(document)
    if fault:
        assert len(faults) == 1
        assert fault in faults[0]
    else:  # a flag is the model's: recorded anew
        assert faults == []
        assert document["cases"][0]["reply"]["flagged"] == ["hate"]
