"""With ``ON_UNREAD=refuse`` every front makes an error of a text that the model can't read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
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


@pytest.fixture(scope="module")
def environment(suite: Suite, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    found = front_environment(tmp_path_factory.mktemp("home"), EMBEDDED, suite)
    return {**found, "ON_UNREAD": "refuse"}


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
