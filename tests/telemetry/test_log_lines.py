"""The log of a worker and of a server that run, line by line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import StartWorker
from tests.support.bad_inputs import MARKER
from tests.support.http_client import HttpClient
from tests.support.local_server import local_server
from tests.support.processes.worker import APP, wait_until
from tests.support.stand_ins.runpod.endpoint import RunpodEndpoint


def read(output: str) -> list[dict[str, Any]]:
    """Return the lines of a log, each of which must be JSON, in UTC."""
    lines = [json.loads(line) for line in output.splitlines()]
    assert all(line["time"].endswith("Z") for line in lines)
    return lines


def check_start(lines: list[dict[str, Any]]) -> None:
    """Check that one line says what is served, and on what."""
    (start,) = (line for line in lines if line["message"].startswith("serving "))
    assert start["model"].startswith("small-random@")
    assert (start["device"], start["dtype"]) == ("cpu", "float32")
    assert start["memory_bytes"] > 1_000_000
    assert start["load_seconds"] >= 0
    assert start["checkpoint"]
    assert start["message"].endswith(" s")


def test_a_queue_worker_writes_one_line_of_json_for_each_job(start_worker: StartWorker) -> None:
    with RunpodEndpoint() as endpoint:
        settings = {**endpoint.environment(), "LOG_FORMAT": "json", "LOG_LEVEL": "INFO"}
        worker = start_worker([APP], settings)
        good, mixed, bad = endpoint.submit(
            {"prompt": MARKER}, {"prompts": [MARKER, ""]}, {"prompt": ""}
        )
        wait_until(
            lambda: endpoint.all_answered([good, mixed, bad]),
            "three answers",
            watch=worker.require_running,
        )
        worker.terminate()
        endpoint.drain()
        assert worker.wait() == 0
    assert worker.stdout == ""
    assert MARKER not in worker.stderr
    lines = read(worker.stderr)
    check_start(lines)
    assert any("Starting Serverless Worker" in line["message"] for line in lines)
    assert any(line["logger"] == "hatespeech.worker.sdk_log" for line in lines)
    jobs = {
        job_id: [line for line in lines if line.get("requestId") == job_id]
        for job_id in (good, mixed, bad)
    }
    ((ok,), (half,), (failed,)) = jobs.values()
    for job_id in (good, mixed, bad):
        assert sum(job_id in line["message"] for line in lines) == 1, "the SDK says no more of it"
    assert (ok["outcome"], ok["texts"], ok["error_type"]) == ("finished", 1, None)
    assert ok["tokens"] > 0
    assert sum(ok["labels"].values()) == 1
    assert ok.keys() >= {"queue_ms", "compute_ms", "milliseconds"}
    assert (half["outcome"], half["texts"], half["failed"]) == ("finished", 2, {"validation": 1})
    assert (failed["outcome"], failed["error_type"]) == ("failed", "validation")
    (counters,) = (line for line in lines if line["message"].startswith("counters of "))
    assert counters["outcomes"] == {"finished": 2, "failed": 1}


@pytest.fixture(scope="module")
def served(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[list[dict[str, Any]], str]:
    """The log of a server that answered a little, and the id of its job."""
    folder = tmp_path_factory.mktemp("log")
    with local_server(folder, small_checkpoint, {"LOG_FORMAT": "json"}) as server:
        client: HttpClient = server.ready()
        client.post("/score", json={"texts": [MARKER, "", "good"], "thresholds": {"neutral": 0}})
        client.post("/v1/moderations", json={"input": [MARKER, MARKER]})
        client.get(f"/score?text={MARKER}", headers={})
        client.get(f"/{MARKER}")
        client.get("/metrics")
        job_id: str = client.post("/runsync", json={"input": {"prompt": MARKER}}).json()["id"]
    assert MARKER not in server.stderr
    return read(server.stderr), job_id


def test_a_request_is_one_line_of_json(served: tuple[list[dict[str, Any]], str]) -> None:
    lines, job_id = served
    check_start(lines)
    assert any(line["logger"] == "uvicorn.error" for line in lines)
    score, moderation, unauthorized, nowhere, run = (
        line for line in lines if line["message"].startswith("request ")
    )
    assert (score["route"], score["protocol"], score["status"]) == ("/score", "http", 200)
    assert (score["texts"], score["failed"]) == (3, {"validation": 1})
    assert score["flagged"] == {"neutral": 2}
    assert (moderation["protocol"], moderation["texts"]) == ("openai", 2)
    assert (unauthorized["route"], unauthorized["status"]) == ("/score", 401)
    assert (nowhere["route"], nowhere["error_type"]) == ("unmatched", "not_found")
    assert (run["route"], run["job_id"]) == ("/runsync", job_id)
    (job,) = (line for line in lines if line["message"].startswith("job "))
    assert (job["job_id"], job["outcome"], job["texts"]) == (job_id, "finished", 1)


def test_the_last_counters_are_written_at_the_stop(
    served: tuple[list[dict[str, Any]], str],
) -> None:
    lines, _ = served
    (counters,) = (line for line in lines if line["message"].startswith("counters of "))
    assert counters["outcomes"] == {"200": 3, "401": 1, "404": 1, "finished": 1}
    assert counters["texts"] == 6
