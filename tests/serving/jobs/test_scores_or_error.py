"""``Scores-Or-Error``: no reply of ``/runsync`` without scores has a status of 2xx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import pytest
import requests
from google.protobuf import json_format

from hatespeech.serving.jobs.scores_or_error import message_bytes
from tests.conformance.suite import read_document
from tests.support.bad_inputs import BAD_INPUTS, MARKER, BadInput
from tests.support.faulty_device import Switches, faulty_device
from tests.support.http_client import BEARER, HttpClient
from tests.support.local_server import local_server
from tests.support.processes.worker import wait_until
from tests.support.stand_ins.snet_daemon import PROTO, compile_proto, new_message

# By hand, from the contract's table.
STATUSES: Final = {"validation": 422, "too_large": 413, "internal": 500, "unhealthy": 503}
PLENTY: Final = 4_194_304
CULPRIT: Final = f"the device chokes on {MARKER}"


@pytest.fixture(scope="module")
def switches(tmp_path_factory: pytest.TempPathFactory) -> Switches:
    return Switches(tmp_path_factory.mktemp("switches"))


@pytest.fixture(scope="module")
def server(
    switches: Switches, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    folder = tmp_path_factory.mktemp("server")
    with faulty_device(switches, CULPRIT), local_server(folder, small_checkpoint) as server:
        yield server.ready()
        switches.release()


def ask(
    server: HttpClient, job_input: Any, limit: object = PLENTY, query: str = ""
) -> requests.Response:
    headers = {**BEARER, "Scores-Or-Error": str(limit)}
    return server.post(f"/runsync{query}", json={"input": job_input}, headers=headers)


def test_scores_are_answered_as_without_it(server: HttpClient) -> None:
    for job_input in ({"prompt": "good morning"}, {"prompts": ["good morning", "", "you"]}):
        reply = ask(server, job_input)
        plain = server.post("/runsync", json={"input": job_input})
        assert (reply.status_code, plain.status_code) == (200, 200)
        shapes = [without_numbers(each.json()) for each in (reply, plain)]
        assert shapes[0] == shapes[1]


def without_numbers(job: dict[str, Any]) -> Any:
    """Return what does not depend on the moment and the batch."""
    job["id"] = ""
    return json.loads(json.dumps(job), parse_float=lambda _: 0, parse_int=lambda _: 0)


@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: case.name)
def test_a_job_that_fails_has_the_status_of_its_error(server: HttpClient, case: BadInput) -> None:
    reply = ask(server, case.input)
    code, _, line = case.error.partition(": ")
    assert reply.status_code == STATUSES[code]
    body = reply.json()
    assert server.status(body.pop("id"))["status"] == "FAILED"
    assert body == {"error": line, "error_type": code}


def test_a_fault_of_the_service_is_500_with_the_id(server: HttpClient) -> None:
    reply = ask(server, {"prompt": CULPRIT})
    assert (reply.status_code, reply.json()["error_type"]) == (500, "internal")
    assert server.status(reply.json()["id"])["error"] == f"internal: {reply.json()['error']}"
    assert MARKER not in reply.text


def test_a_batch_without_any_scores_has_the_status_of_its_first_error(server: HttpClient) -> None:
    for prompts, status, line in (
        (["", CULPRIT], 422, "prompts[0]: must not be empty"),
        ([" ", ""], 422, "prompts[0]: holds nothing but white space or invisible characters"),
        (["a" * 10_001], 413, "prompts[0]: has 10001 characters, the limit is 10000"),
    ):
        reply = ask(server, {"prompts": prompts})
        assert (reply.status_code, reply.json()["error"]) == (status, line)
        job = server.status(reply.json()["id"])
        assert job["status"] == "COMPLETED"  # as everyone else sees it


def test_an_error_of_a_job_or_a_text_is_counted_once(server: HttpClient) -> None:
    for job_input in ({"prompt": ""}, {"prompts": [""]}):
        before = server.metrics().get("errors_total:validation", 0)
        assert ask(server, job_input).status_code == 422
        assert server.metrics()["errors_total:validation"] == before + 1


def test_a_wait_that_runs_out_is_504_and_the_job_can_be_fetched(
    server: HttpClient, switches: Switches
) -> None:
    switches.hold()
    try:
        reply = ask(server, {"prompt": "good morning"}, query="?wait=1000")
    finally:
        switches.release()
    body = reply.json()
    assert (reply.status_code, body["error_type"]) == (504, "unfinished")
    assert body["error"] == "the job is IN_PROGRESS"
    assert server.finished(body["id"])["status"] == "COMPLETED"


def test_a_job_cancelled_meanwhile_is_504(server: HttpClient, switches: Switches) -> None:
    switches.hold()
    try:
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(ask, server, {"prompt": "good morning"})
            wait_until(lambda: switches.held, "the device", watch=server.require_running)
            (job_id,) = (row for row in running(server))
            server.post(f"/cancel/{job_id}")
            reply = asked.result()
    finally:
        switches.release()
    assert reply.status_code == 504
    assert reply.json() == {
        "error": "the job was cancelled",
        "error_type": "unfinished",
        "id": job_id,
    }


def running(server: HttpClient) -> Iterator[str]:
    """Yield the ids of the jobs that run; only the server itself can tell."""
    yield from server._server.config.app.state.jobs._running  # type: ignore[attr-defined]


def test_a_device_that_breaks_is_503(small_checkpoint: Path, tmp_path: Path) -> None:
    switches = Switches(tmp_path)
    with faulty_device(switches), local_server(tmp_path, small_checkpoint) as server:
        server.ready()
        switches.break_device()
        reply = ask(server, {"prompt": "good morning"})
    assert (reply.status_code, reply.json()["error_type"]) == (503, "unhealthy")
    assert reply.headers["Retry-After"]


@pytest.mark.parametrize("value", ["", "0", "-1", "4 MB", "2147483648", "99999999999", "٤"])
def test_a_bad_value_is_refused_before_any_work(server: HttpClient, value: str) -> None:
    headers = {**BEARER, "Scores-Or-Error": value.encode("utf-8")}
    reply = requests.post(
        f"{server.url}/runsync",
        json={"input": {"prompt": "a"}},
        headers=headers,  # type: ignore[arg-type]
        timeout=60,
    )
    assert (reply.status_code, reply.json()["error"]) == (
        422,
        "Scores-Or-Error: must be a whole number from 1 to 2147483647",
    )


def proto_bytes(job: dict[str, Any]) -> int:
    """Return the size of the message that the daemon makes of a reply."""
    (method,) = compile_proto(PROTO)
    reply = new_message(method, "output")
    json_format.ParseDict(job, reply, ignore_unknown_fields=True)
    return reply.ByteSize()


def test_a_reply_is_refused_exactly_if_its_message_is_larger(server: HttpClient) -> None:
    job_input = {"prompts": ['say "hello"\n' * 40, "you are scum 🤬", ""], "explain": True}
    first = ask(server, job_input)
    job = first.json()
    size = proto_bytes(job)
    assert 3 * size < len(first.content)  # so JSON's size would refuse what fits
    assert ask(server, job_input, limit=size).status_code == 200
    reply = ask(server, job_input, limit=size - 1)
    body = reply.json()
    assert (reply.status_code, body["error_type"]) == (413, "too_large")
    assert body["error"] == f"reply: has {size} bytes, at most {size - 1} are read; send less"
    assert server.status(body["id"])["status"] == "COMPLETED"


def numbers(value: Any) -> Iterator[float]:
    """Yield every float in a JSON value."""
    if isinstance(value, float):
        yield value
    elif isinstance(value, list | dict):
        for each in value.values() if isinstance(value, dict) else value:
            yield from numbers(each)


def test_the_size_of_every_reply_of_the_suite_is_that_of_its_message() -> None:
    replies = [case["reply"] for case in read_document()["cases"] if "reply" in case]
    assert len(replies) > 30
    for output in replies:
        job = {"output": output, "status": "COMPLETED", "id": "sync-0123456789abcdef"}
        zeros = sum(value == 0 for value in numbers(job))
        assert 0 <= message_bytes(job) - proto_bytes(job) <= 10 * zeros  # 1 for lengths
        assert proto_bytes(job) <= len(json.dumps(job, ensure_ascii=False).encode())


def test_an_endpoints_clients_can_send_it_too_and_runpods_statuses_stay(
    server: HttpClient,
) -> None:
    job = {"input": {"prompt": ""}}
    headers = {**BEARER, "Scores-Or-Error": "1000"}
    assert server.post("/v2/any/runsync", json=job, headers=headers).status_code == 422
    assert server.post("/v2/any/runsync", json=job).status_code == 200
    assert server.post("/run", json=job, headers=headers).status_code == 200
