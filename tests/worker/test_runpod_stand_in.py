"""The stand-in of Runpod itself: what it let pass, the tests that use it could not catch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import httpx
import pytest

from tests.support.stand_ins.runpod.endpoint import ENDPOINT_ID, KEY, RunpodEndpoint
from tests.support.stand_ins.runpod.jobs import LOST, RESET
from tests.support.stand_ins.runpod.queue import POD, RESULT_TYPE, WORKER_KEY


@pytest.fixture
def endpoint() -> Iterator[RunpodEndpoint]:
    with RunpodEndpoint() as running:
        running.environment(POD)
        yield running


# For workers.


def ask_as_worker(endpoint: RunpodEndpoint, operation: str, pod: str = POD) -> httpx.Response:
    url = f"{endpoint.url}/worker/{operation}/{pod}?gpu=none&job_in_progress=0"
    return httpx.get(url, headers={"Authorization": WORKER_KEY})


def take_one(endpoint: RunpodEndpoint, pod: str = POD) -> str:
    (job_id,) = endpoint.submit({})
    assert ask_as_worker(endpoint, "job-take", pod).json() == {"id": job_id, "input": {}}
    return job_id


def answer(
    endpoint: RunpodEndpoint, job_id: str, body: bytes = b'{"output": 1}', pod: str = POD
) -> None:
    httpx.post(
        f"{endpoint.url}/worker/job-done/{pod}/{job_id}?gpu=none&isStream=false",
        content=body,
        headers={
            "Authorization": WORKER_KEY,
            "Content-Type": RESULT_TYPE,
            "X-Request-ID": job_id,
        },
    ).raise_for_status()


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b'{"output": "\xff"}', "UnicodeDecodeError in the answer"),
        (b'{"output": NaN}', "ValueError in the answer"),
        (b'{"output": ', "JSONDecodeError in the answer"),
        (b'{"stopPod": true}', "neither output nor error in the answer"),
    ],
    ids=["not_utf_8", "nan", "cut", "nothing"],
)
def test_an_answer_that_cannot_be_read_is_a_problem(
    endpoint: RunpodEndpoint, body: bytes, problem: str
) -> None:
    job_id = take_one(endpoint)
    answer(endpoint, job_id, body)
    assert f"{job_id}: {problem}" in endpoint.problems


def test_an_answer_too_many_is_a_problem(endpoint: RunpodEndpoint) -> None:
    job_id = take_one(endpoint)
    (waiting,) = endpoint.submit({})
    for answered in (job_id, job_id, waiting):
        answer(endpoint, answered)
    assert endpoint.problems == [
        f"{job_id}: answered twice",
        f"{waiting}: answered, but never handed out",
    ]


def test_a_post_of_an_answer_fails_before_or_after_it_is_taken(endpoint: RunpodEndpoint) -> None:
    job_id = take_one(endpoint)
    endpoint.fail("job-done", RESET, LOST)
    with pytest.raises(httpx.TransportError):
        answer(endpoint, job_id)
    assert endpoint.answer(job_id) is None
    with pytest.raises(httpx.TransportError):
        answer(endpoint, job_id)
    assert endpoint.answered == [job_id]
    answer(endpoint, job_id)  # the same again: nobody has told the worker
    assert endpoint.answered == [job_id]
    assert endpoint.problems == []
    answer(endpoint, job_id)
    assert endpoint.problems == [f"{job_id}: answered twice"]


def test_an_answer_is_a_problem_once_the_worker_has_stopped_the_job(
    endpoint: RunpodEndpoint,
) -> None:
    told, stopped = take_one(endpoint), take_one(endpoint)
    endpoint.stop_jobs(told, stopped)
    assert ask_as_worker(endpoint, "job-stop").json() == {"jobsToStop": [told, stopped]}
    answer(endpoint, told)  # it was on its way
    assert not endpoint.stopped(told, stopped)
    endpoint.drain()
    assert ask_as_worker(endpoint, "job-stop").status_code == 204
    assert endpoint.stopped(told, stopped)
    answer(endpoint, stopped)
    assert endpoint.problems == [f"{stopped}: answered after it was stopped"]


def test_a_silent_worker_loses_its_job_to_another() -> None:
    with RunpodEndpoint(silent_seconds=0.1) as endpoint:
        endpoint.environment("silent")
        endpoint.environment("other")
        job_id = take_one(endpoint, "silent")
        taken = ask_as_worker(endpoint, "job-take", "other").json()
        assert taken["id"] == job_id
        answer(endpoint, job_id, pod="other")
        answer(endpoint, job_id, pod="silent")  # only slow, after all
        assert endpoint.problems == []


def test_a_worker_that_the_platform_does_not_know_is_a_problem(endpoint: RunpodEndpoint) -> None:
    httpx.get(f"{endpoint.url}/worker/ping/another")
    assert endpoint.problems == [
        "/worker/ping/another: wrong Authorization",
        "/worker/ping/another: wrong worker",
    ]


# For callers.


def ask(
    endpoint: RunpodEndpoint, method: str, path: str, body: bytes | None = None, key: str = KEY
) -> httpx.Response:
    url = f"{endpoint.base_url}/{ENDPOINT_ID}/{path}"
    return httpx.request(method, url, content=body, headers={"Authorization": f"Bearer {key}"})


def test_jobs_are_cancelled_and_counted() -> None:
    async def late(_job: Mapping[str, Any]) -> dict[str, Any]:
        raise AssertionError("cancelled before it began")

    with RunpodEndpoint(late) as endpoint:
        endpoint.delay_seconds = 60
        job = ask(endpoint, "POST", "run", b'{"input": {"prompt": "a"}}').json()
        assert job["status"] == "IN_QUEUE"
        assert ask(endpoint, "GET", "health").json()["jobs"]["inProgress"] == 1
        cancelled = {"id": job["id"], "status": "CANCELLED"}
        assert ask(endpoint, "POST", f"cancel/{job['id']}").json() == cancelled
        assert ask(endpoint, "GET", f"status/{job['id']}").json()["status"] == "CANCELLED"
        assert ask(endpoint, "GET", "health").json()["jobs"]["inProgress"] == 0


def test_a_request_that_the_platform_refuses_is_refused(endpoint: RunpodEndpoint) -> None:
    assert ask(endpoint, "GET", "health", key="no").status_code == 401
    assert ask(endpoint, "GET", "status/no").status_code == 404
    for body in (b"{}", b"no JSON"):
        assert ask(endpoint, "POST", "runsync", body).status_code == 400
    assert ask(endpoint, "POST", "run", b" " * 10_000_001).status_code == 413


def test_a_job_fails_as_the_sdk_has_it_fail() -> None:
    async def broken(_job: Mapping[str, Any]) -> dict[str, Any]:
        return {"error": "unhealthy: gone", "refresh_worker": True, "rest": 1}

    with RunpodEndpoint(broken) as endpoint:
        reply = ask(endpoint, "POST", "runsync", b'{"input": {}}').json()
    assert reply["status"] == "FAILED"
    assert reply["error"] == "unhealthy: gone"
    assert reply["output"] == {"rest": 1}
