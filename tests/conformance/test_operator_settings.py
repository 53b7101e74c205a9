"""What the operator sets holds on every front: what is refused, thresholds, the audit log."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from hatespeech.labels import WARNINGS
from tests.conformance import fronts
from tests.conformance.fronts import Front, front_environment
from tests.conformance.grpc_front import grpc_direct
from tests.conformance.suite import Case, Suite
from tests.paths import EMBEDDED
from tests.support.grpc_client import GrpcClient
from tests.support.ports import free_port
from tests.support.processes.server import HttpServer, http_server

pytestmark = pytest.mark.slow

ARABIC: Final = "صباح الخير يا صديقي"
GERMAN: Final = "Heute Morgen bin ich mit dem Fahrrad zur Arbeit gefahren, und es hat geregnet."
UNREAD: Final = "has too many letters that this model does not know"
LANGUAGE: Final = "is in a language that this model was not trained on"
OURS: Final = {
    "name": "ours",
    "version": "2026-1",
    "thresholds": {"neutral": 0.5, "toxic": 0.25},
    "measured": {"toxic": "by anything"},
}


@pytest.fixture(scope="module")
def environment(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    home = tmp_path_factory.mktemp("home")
    found = front_environment(home, EMBEDDED, suite)
    (home / "ours.json").write_text(json.dumps({**OURS, "model": suite.model}))
    return {
        **found,
        "ON_UNREAD": "refuse",
        "THRESHOLDS_FILE": str(home / "ours.json"),
        "AUDIT_LOG": str(home / "audit.jsonl"),
    }


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(
    environment: Mapping[str, str], port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpServer]:
    settings = {**environment, "GRPC": f"127.0.0.1:{port}"}
    with http_server(tmp_path_factory.mktemp("server"), EMBEDDED, settings) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def all_fronts(
    server: HttpServer,
    port: int,
    suite: Suite,
    environment: Mapping[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[list[Front]]:
    with GrpcClient(port) as client:
        yield [
            fronts.local(tmp_path_factory.mktemp("local"), environment),
            fronts.http_score(server, suite),
            fronts.http_runsync(server),
            fronts.http_run(server),
            grpc_direct(client),
        ]


def answers(front: Front, *inputs: Mapping[str, Any]) -> list[dict[str, Any]]:
    cases = [Case(f"refusal-{index}", each) for index, each in enumerate(inputs)]
    found = zip(front.exchange(cases), cases, strict=True)
    return [front.translate(raw, case) for raw, case in found]


def test_a_lone_text_that_cannot_be_read_fails_its_request(all_fronts: list[Front]) -> None:
    for front in all_fronts:
        assert answers(front, {"prompt": ARABIC}, {"prompt": GERMAN}) == [
            {"error": {"code": "unread", "message": f"prompt: {UNREAD}"}},
            {"error": {"code": "unread", "message": f"prompt: {LANGUAGE}"}},
        ], front.carrier


def test_among_many_it_costs_the_others_nothing(all_fronts: list[Front]) -> None:
    for front in all_fronts:
        (answer,) = answers(front, {"prompts": [ARABIC, "good morning", GERMAN]})
        first, second, third = answer["reply"]["items"]
        assert first == {"text": ARABIC, "error": f"unread: prompts[0]: {UNREAD}"}, front.carrier
        assert second["label"] == "neutral"
        assert "warnings" not in second
        assert third == {"text": GERMAN, "error": f"unread: prompts[2]: {LANGUAGE}"}


def test_refused_texts_are_counted_as_errors_and_not_as_warnings(server: HttpServer) -> None:
    before = server.metrics()
    server.post("/score", json={"texts": [ARABIC, "good morning"]})
    after = server.metrics()
    assert after["errors_total:unread"] == before.get("errors_total:unread", 0) + 1
    counted = {name: each for name, each in after.items() if name.startswith("warnings_total:")}
    assert len(counted) == len(WARNINGS)
    assert not any(counted.values())


def test_thresholds_of_a_file_are_asked_for_by_their_name(all_fronts: list[Front]) -> None:
    asked = {"prompts": ["good morning", "you are scum"], "thresholds": {"name": "ours"}}
    wrong = {"prompt": "good morning", "thresholds": {"name": "theirs"}}
    for front in all_fronts:
        (answer, refused) = answers(front, asked, wrong)
        flagged = [item["flagged"] for item in answer["reply"]["items"]]
        assert flagged == [["neutral"], ["toxic"]], front.carrier
        used = {"name": "ours", "version": "2026-1", "neutral": 0.5, "toxic": 0.25}
        assert answer["reply"]["thresholds"] == used, front.carrier
        message = "thresholds: names are balanced, strict and ours"
        assert refused == {"error": {"code": "validation", "message": message}}, front.carrier


def test_every_front_writes_its_decisions_into_the_audit_log(
    all_fronts: list[Front], environment: Mapping[str, str]
) -> None:
    path = Path(environment["AUDIT_LOG"])
    for front in all_fronts:
        before = path.read_text(encoding="utf-8")
        answers(front, {"prompts": ["good morning", ARABIC], "ids": ["one", "two"]})
        added = path.read_text(encoding="utf-8").removeprefix(before).splitlines()
        found = [json.loads(line) for line in added]
        assert [(line["id"], line.get("label")) for line in found] == [
            ("one", "neutral"),
            ("two", None),
        ], front.carrier


def test_thresholds_for_another_model_stop_every_program_at_its_start(
    environment: Mapping[str, str], suite: Suite, tmp_path: Path
) -> None:
    path = tmp_path / "theirs.json"
    path.write_text(json.dumps({**OURS, "model": "other@0123456789ab"}))
    fault = f"THRESHOLDS_FILE={path} was made for other@0123456789ab, but this model is"
    settings = {**environment, "THRESHOLDS_FILE": str(path)}
    code, out, err = next(
        iter(fronts.local(tmp_path, settings).exchange([Case("one", {"prompt": "good morning"})]))
    )
    assert (code, out) == (1, "")
    assert fault in err
    with http_server(tmp_path, EMBEDDED, settings) as server:
        assert server.wait() == 1
        assert fault in server.stderr
