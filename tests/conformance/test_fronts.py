"""Every front answers the requests of ``tests/conformance/cases.json`` as that file says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pytest

from tests.conformance import fronts
from tests.conformance.fronts import Front, front_environment
from tests.conformance.grpc_front import grpc_direct, grpc_front
from tests.conformance.invariants import reply_faults
from tests.conformance.suite import (
    LABELS,
    Case,
    Suite,
    differences,
    report,
    shown,
)
from tests.paths import EMBEDDED
from tests.support.grpc_client import GrpcClient
from tests.support.http_client import TOKEN
from tests.support.ports import free_port
from tests.support.processes.development_api import development_api
from tests.support.processes.server import HttpServer, http_server

pytestmark = pytest.mark.slow

FRONTS: Final = (
    "local",
    "sdk_loop",
    "http_score",
    "http_runsync",
    "http_run",
    "serve_api",
    "grpc_to_worker",
    "grpc_to_server",
    "grpc",
)


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
    environment: Mapping[str, str], grpc_port: int, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpServer]:
    folder = tmp_path_factory.mktemp("server")
    settings = {**environment, "GRPC": f"127.0.0.1:{grpc_port}"}
    with http_server(folder, EMBEDDED, settings) as server:
        yield server.ready()


@pytest.fixture(scope="module")
def grpc_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def grpc(server: HttpServer, grpc_port: int) -> Iterator[Front]:
    with GrpcClient(grpc_port) as client:
        yield grpc_direct(client)


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
    with development_api(tmp_path_factory.mktemp("api"), environment) as api:
        yield api.url


@pytest.fixture(scope="module")
def serve_api(dev_server: str) -> Front:
    return fronts.serve_api_front(dev_server)


@pytest.fixture(scope="module")
def grpc_to_worker(dev_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with grpc_front(tmp_path_factory.mktemp("worker"), dev_server, "none") as front:
        yield front


@pytest.fixture(scope="module")
def grpc_to_server(
    server: HttpServer, suite: Suite, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("daemon")
    with grpc_front(folder, server.url, TOKEN, suite.http_status) as front:
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


def test_a_front_answers_every_case_as_the_suite_says(front: Front, suite: Suite) -> None:
    cases = [case for case in suite.cases if front.carrier not in case.not_over]
    answers = zip(cases, front.exchange(cases), strict=True)
    found = {case.name: list(failures(front, case, raw, suite)) for case, raw in answers}
    assert not report(found), report(found)


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
