"""Every front answers the requests of ``tests/conformance/cases.json`` as that file says."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pytest

from hatespeech.model import checkpoint
from tests.conformance import fronts, record
from tests.conformance.fronts import Front, front_environment
from tests.conformance.grpc_front import grpc_front, over_grpc
from tests.conformance.invariants import error_faults, reply_faults
from tests.conformance.suite import (
    CASES,
    LABELS,
    RECORD,
    Case,
    Suite,
    differences,
    load_suite,
    read_document,
    render,
    shown,
)
from tests.paths import EMBEDDED
from tests.support.bad_inputs import BAD_INPUTS
from tests.support.http_server import TOKEN, HttpServer, http_server

FRONTS: Final = (
    *("local", "sdk_loop", "http_score", "http_runsync", "http_run", "serve_api"),
    *("grpc_to_worker", "grpc_to_server"),
)


@pytest.fixture(scope="module")
def suite() -> Suite:
    suite = load_suite(read_document())
    model = checkpoint.describe(EMBEDDED).model_id
    if suite.model != model:
        pytest.fail(
            f"{CASES.name} was recorded with {suite.model}, the embedded checkpoint is {model}; "
            f"run: {RECORD}"
        )
    return suite


@pytest.fixture(scope="module")
def environment(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return front_environment(tmp_path_factory.mktemp("home"), EMBEDDED, suite)


@pytest.fixture(scope="module")
def local(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Front:
    return fronts.local(tmp_path_factory.mktemp("local"), environment)


@pytest.fixture(scope="module")
def sdk_loop(
    environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    with fronts.sdk_loop(tmp_path_factory.mktemp("sdk"), environment) as front:
        yield front


@pytest.fixture(scope="module")
def server(
    environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpServer]:
    folder = tmp_path_factory.mktemp("server")
    with http_server(folder, EMBEDDED, environment) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def http_score(server: HttpServer, suite: Suite) -> Front:
    return fronts.http_score(server, suite)


@pytest.fixture(scope="module")
def http_runsync(server: HttpServer) -> Front:
    return fronts.http_runsync(server)


@pytest.fixture(scope="module")
def http_run(server: HttpServer) -> Front:
    return fronts.http_run(server)


@pytest.fixture(scope="module")
def dev_server(
    environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with fronts.serve_api(tmp_path_factory.mktemp("api"), environment) as url:
        yield url


@pytest.fixture(scope="module")
def serve_api(dev_server: str) -> Front:
    return fronts.serve_api_front(dev_server)


@pytest.fixture(scope="module")
def grpc_to_worker(dev_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with grpc_front(tmp_path_factory.mktemp("worker"), dev_server, "none") as front:
        yield front


@pytest.fixture(scope="module")
def grpc_to_server(server: HttpServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with grpc_front(tmp_path_factory.mktemp("daemon"), server.url, TOKEN) as front:
        yield front


@pytest.fixture(scope="module", params=FRONTS)
def front(request: pytest.FixtureRequest) -> Front:
    """All fronts, in turn."""
    found: Front = request.getfixturevalue(request.param)
    return found


def failures(front: Front, case: Case, raw: Any, suite: Suite) -> Iterator[str]:
    """Yield what is wrong with what a front answered to a case."""
    try:
        answer = front.translate(raw, case)
    except (AssertionError, LookupError, ValueError) as exc:
        yield f"the front's own rules: {type(exc).__name__} {str(exc)[:300]}"
        return
    if case.error is not None:
        if answer != {"error": case.error}:
            yield f"{shown(answer)}, expected {shown(case.error)}"
        return
    if "reply" not in answer:
        yield f"{shown(answer)}, expected a reply"
        return
    yield from differences(case.reply, answer["reply"], suite.tolerance)
    yield from reply_faults(case.input, answer["reply"], suite.settings)


def report(found: Mapping[str, list[str]]) -> str:
    """Return a line for each case that failed, and what may help."""
    lines = [f"  {name}: {'; '.join(faults)}" for name, faults in found.items() if faults]
    if not lines:
        return ""
    hint = f"(if the change is meant: {RECORD})"
    return "\n".join([f"{len(lines)} of {len(found)} cases fail {hint}:", *lines])


def test_a_front_answers_every_case_as_the_suite_says(front: Front, suite: Suite) -> None:
    cases = [case for case in suite.cases if front.carrier not in case.not_over]
    answers = zip(cases, front.exchange(cases), strict=True)
    found = {case.name: list(failures(front, case, raw, suite)) for case, raw in answers}
    assert not report(found), report(found)


def test_a_case_is_excused_from_grpc_exactly_if_the_proto_has_no_way_to_say_it(
    suite: Suite,
) -> None:
    excused = {case.name for case in suite.cases if "grpc" in case.not_over}
    impossible = {case.name for case in suite.cases if not over_grpc(case.input)}
    assert excused == impossible


def test_a_case_is_excused_from_another_front_only_if_it_fails_there(
    request: pytest.FixtureRequest, suite: Suite
) -> None:
    excused = [(case, name) for case in suite.cases for name in case.not_over.keys() - {"grpc"}]
    assert excused
    for case, name in excused:
        front = request.getfixturevalue(name)
        (raw,) = front.exchange([case])
        assert list(failures(front, case, raw, suite)), f"{case.name} works over {name}"


def replies(front: Front, cases: Sequence[Case]) -> list[dict[str, Any]]:
    """Send cases one after another: beside others in its batch, a text scores 1e-7 differently."""
    groups = [cases] if front.in_turn else [[case] for case in cases]
    answers = [zip(group, front.exchange(group), strict=True) for group in groups]
    return [front.translate(raw, case)["reply"] for group in answers for case, raw in group]


def test_a_score_equal_to_its_threshold_is_flagged(front: Front) -> None:
    """Its own scores, as this very front gave them: no file could hold them for every machine."""
    texts = ["good morning", "you are scum", "thank you", "win a free phone", "so late", "what"]
    scored = replies(front, [Case(text, {"prompt": text}) for text in texts])

    def with_thresholds(factor: float) -> list[Case]:
        return [
            Case(item["text"], {"prompt": item["text"], "thresholds": thresholds})
            for item in scored
            for thresholds in [{label: min(item[label] * factor, 1.0) for label in LABELS}]
        ]

    answers = replies(front, [*with_thresholds(1.0), *with_thresholds(1.00001)])
    flagged = [answer["flagged"] for answer in answers]
    assert flagged == [list(LABELS)] * len(texts) + [[]] * len(texts)


# The suite itself.


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
    ("everything_at_once", "items", []),
    ("everything_at_once", "items.0.text", "you are scum 🤬"),
    ("everything_at_once", "items.0.label", "none"),
    ("everything_at_once", "items.0.hate", 0.5),
    ("everything_at_once", "items.0.hate", math.nan),
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
