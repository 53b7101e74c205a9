"""Runpod's own clients in Python, JavaScript and Go, with nothing but another address."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import requests
import runpod
from runpod import AsyncioEndpoint, AsyncioJob, http_client

from hatespeech.bulk.engines.base import Chunk
from hatespeech.bulk.engines.runpod_client import Endpoint, Pace
from hatespeech.bulk.engines.runpod_engine import RunpodEngine
from hatespeech.bulk.engines.runpod_jobs import EndpointJobs, Limits
from hatespeech.retry import Backoff
from hatespeech.settings import EngineSettings
from tests.paths import ROOT
from tests.support.http_client import TOKEN, HttpClient
from tests.support.local_server import local_server
from tests.support.other_clients import run_node
from tests.support.processes.worker import clean_environment

CLIENT: Final = ROOT / "examples" / "runpod_client.py"
NPM: Final = "runpod-sdk@1.1.2"
POLICY: Final = {"executionTimeout": 600_000, "ttl": 3_600_000, "lowPriority": True}
FINAL: Final = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


@pytest.fixture(scope="module")
def server(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    with local_server(tmp_path_factory.mktemp("clients"), small_checkpoint) as server:
        yield server.ready()


@pytest.fixture
def base(server: HttpClient, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address at which the Python clients look for Runpod."""
    base = f"{server.url}/v2"
    monkeypatch.setattr(runpod, "endpoint_url_base", base)
    return base


def test_every_call_of_the_python_client_is_answered(base: str) -> None:
    endpoint = runpod.Endpoint("any-id", api_key=TOKEN)
    job = endpoint.run({"input": {"prompt": "good morning"}, "policy": POLICY})
    assert list(job.stream()) == []  # it ends when the job has
    assert job.output()["text"] == "good morning"
    assert endpoint.purge_queue() == {"removed": 0, "status": "completed"}


def test_every_call_of_the_python_client_for_asyncio_is_answered(base: str) -> None:
    async def main() -> None:
        async with http_client.AsyncClientSession() as session:
            endpoint = AsyncioEndpoint("any-id", session, api_key=TOKEN)
            job: AsyncioJob = await endpoint.run({"prompt": "good morning"})
            assert [chunk async for chunk in job.stream()] == []
            assert await job.status() == "COMPLETED"
            assert (await job.output(timeout=60))["text"] == "good morning"
            assert (await job.cancel())["status"] == "COMPLETED"
            assert await endpoint.purge_queue() == {"removed": 0, "status": "completed"}
            assert (await endpoint.health())["jobs"]["completed"] >= 1

    asyncio.run(main())


def test_the_runpod_engine_scores_with_a_server_of_this_project(server: HttpClient) -> None:
    pace = Pace(first_poll=0.02, longest_poll=0.05, retry=Backoff(first=0.02, longest=0.05))
    endpoint = Endpoint(f"{server.url}/v2", "any-id", TOKEN, pace)
    jobs = EndpointJobs(endpoint, Limits(job=600, queue=1800), robust=False)
    engine = RunpodEngine(endpoint, jobs, EngineSettings(), in_flight=2, job_texts=2)
    with contextlib.closing(engine):
        (chunk,) = engine.score([Chunk(0, ["good", "morning", ""])], lambda _rows: None)
    errors = [None if row.error is None else row.error.code for row in chunk.rows]
    assert errors == [None, None, "validation"]


@pytest.mark.slow
def test_the_example_sends_each_line_of_a_file_as_one_text(
    server: HttpClient, tmp_path: Path
) -> None:
    lines = ["one\u2028line", "another\x0cline\x85\r", "", "  ", "the last\rline"]
    file = tmp_path / "lines.txt"
    file.write_bytes(("\ufeff" + "\n".join(lines) + "\n").encode())
    environment = {"RUNPOD_API_KEY": TOKEN, "RUNPOD_ENDPOINT_BASE_URL": f"{server.url}/v2"}
    ran = subprocess.run(
        [sys.executable, CLIENT, "batch", "--endpoint-id", "any-id", str(file)],
        env=clean_environment(tmp_path, None) | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    assert "job 1 of 1: 3 texts scored" in ran.stderr
    _, *rows = ran.stdout.splitlines()
    assert [row.rpartition("  ")[2] for row in rows] == [
        "one line",
        "another line",
        "the last line",
    ]


JAVASCRIPT: Final = """
const {default: sdk} = await import(process.env.NODE_PATH + "/runpod-sdk/dist/src/index.js");
console.log = () => {};  // it prints each status
const endpoint = sdk(given.token, {baseUrl: given.base}).endpoint("any-id");
const request = {input: {prompt: "good morning"}, policy: given.policy};
const found = {};
found.runSync = await endpoint.runSync(request);
const {id} = found.run = await endpoint.run(request, 60000);
found.statusSync = await endpoint.statusSync(id);
found.status = await endpoint.status(id, 60000);
found.stream = [];
for await (const part of endpoint.stream(id)) found.stream.push(part);
found.cancel = await endpoint.cancel(id, 60000);
found.health = await endpoint.health(60000);
found.purge = await endpoint.purgeQueue(60000);
process.stdout.write(JSON.stringify(found));
"""


@pytest.mark.slow
def test_every_call_of_the_javascript_client_is_answered(server: HttpClient) -> None:
    found = run_node(NPM, JAVASCRIPT, base=f"{server.url}/v2", token=TOKEN, policy=POLICY)
    assert found["runSync"]["succeeded"]
    assert found["runSync"]["output"]["text"] == "good morning"
    assert found["run"]["status"] == "IN_QUEUE"
    for call in ("statusSync", "status"):
        assert found[call]["completed"], call
        assert found[call]["output"]["text"] == "good morning"
    assert found["stream"] == []
    assert found["cancel"]["status"] == "COMPLETED"
    assert found["health"]["jobs"]["completed"] >= 2
    assert found["purge"] == {"removed": 0, "status": "completed"}


class GoClient:
    """Sends what Runpod's Go client sends (github.com/runpod/go-sdk, pkg/sdk/endpoint).

    It asks for everything by POST except for the health, without a body where it has none, with a
    JSON content type all the same, and takes any status but 200 for an error.
    """

    def __init__(self, server: HttpClient) -> None:
        self._base = f"{server.url}/v2/any-id"

    def call(self, path: str, body: Any = None, *, method: str = "POST") -> Any:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {TOKEN}"}
        reply = requests.request(
            method, f"{self._base}/{path}", headers=headers, json=body, timeout=92
        )
        assert reply.status_code == 200, reply.text
        return reply.json()


def test_every_call_of_the_go_client_is_answered(server: HttpClient) -> None:
    client = GoClient(server)
    policy = {name: POLICY[name] for name in ("ttl", "executionTimeout")}
    body = {"input": {"prompt": "good morning"}, "policy": policy}
    assert client.call("runsync?wait=90000", body)["output"]["text"] == "good morning"
    job_id = client.call("run", body)["id"]
    assert client.call(f"status-sync/{job_id}?wait=90000")["status"] == "COMPLETED"
    assert client.call(f"status/{job_id}")["status"] == "COMPLETED"
    assert client.call(f"stream/{job_id}?wait=90000") == {"status": "COMPLETED", "stream": []}
    assert client.call(f"cancel/{job_id}")["status"] == "COMPLETED"
    assert client.call("purge-queue") == {"removed": 0, "status": "completed"}
    health = client.call("health", method="GET")
    assert all(isinstance(count, int) for count in [*health["jobs"].values()])
    workers = {"idle": 1, "initializing": 0, "ready": 1, "running": 0, "throttled": 0}
    assert health["workers"] == {**workers, "unhealthy": 0}
