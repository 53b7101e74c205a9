"""Asynchronous jobs over HTTP: accepted once, answered once, told to nobody else."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
import runpod

from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.labels import LABELS
from hatespeech.serving.jobs import runner
from hatespeech.serving.jobs.runner import JobRunner
from hatespeech.serving.jobs.sqlite.sqlite_store import SqliteStore
from hatespeech.serving.jobs.store import NewJob
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import ServerSettings
from tests.support.bad_inputs import BAD_INPUTS, MARKER
from tests.support.checkpoints import SENTENCES
from tests.support.faulty_device import Switches, faulty_device
from tests.support.http_client import BEARER, OTHER_TOKEN, TOKEN, HttpClient, together
from tests.support.local_server import local_server
from tests.support.processes.server import FAULTY_SERVER, HttpServer, http_server
from tests.support.processes.worker import wait_until

OTHER = {"Authorization": f"Bearer {OTHER_TOKEN}"}
NO_JOBS = dict.fromkeys(("completed", "failed", "cancelled", "inProgress", "inQueue", "retried"), 0)


@pytest.fixture(scope="module")
def server(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    with local_server(tmp_path_factory.mktemp("jobs"), small_checkpoint) as server:
        yield server.ready()


class Held(Switches):
    """A server whose device can be held or broken, in a folder that outlives it."""

    def __init__(self, folder: Path, model_dir: Path) -> None:
        super().__init__(folder)
        self._model_dir = model_dir

    def start(self, **environment: str) -> AbstractContextManager[HttpServer]:
        """Start it as a process, which can be told to stop, be killed, or end by itself."""
        command = (*FAULTY_SERVER, "--switches", str(self.folder))
        return http_server(self.folder, self._model_dir, environment, command)

    @contextmanager
    def serve(self, **environment: str) -> Iterator[HttpClient]:
        """Start it in a thread of this process."""
        with (
            faulty_device(self),
            local_server(self.folder, self._model_dir, environment) as server,
        ):
            try:
                yield server
            finally:
                self.release()

    def execute(self, statement: str) -> list[Any]:
        """Look into the file of a server that has ended."""
        with closing(sqlite3.connect(self.folder / "jobs.sqlite3")) as connection, connection:
            return connection.execute(statement).fetchall()

    def wait_held(self, server: HttpClient) -> None:
        wait_until(lambda: self.held, "the device", watch=server.require_running)


@pytest.fixture
def held(small_checkpoint: Path, tmp_path: Path) -> Held:
    return Held(tmp_path, small_checkpoint)


def check_output(output: dict[str, Any], text: str, expected: Prediction) -> None:
    assert output["text"] == text
    scores = [output[label] for label in LABELS]
    assert scores == pytest.approx(expected.scores, abs=1e-5)


def test_a_job_is_accepted_answered_and_kept(
    server: HttpClient, small_classifier: Predictor
) -> None:
    text = f"{SENTENCES[0]} 👋"
    reply = server.finished(server.run({"prompt": text}))
    (expected,) = small_classifier.score([text])
    assert isinstance(expected, Prediction)
    assert reply["status"] == "COMPLETED"
    assert reply.keys() == {"id", "status", "output", "delayTime", "executionTime"}
    check_output(reply["output"], text, expected)
    assert server.status(reply["id"]) == reply
    # Runpod's clients look for the same below /v2/<endpoint id>.
    assert server.get(f"/v2/any/status/{reply['id']}").json() == reply


@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: case.name)
def test_a_job_the_contract_refuses_fails_as_runpods_do(server: HttpClient, case: Any) -> None:
    reply = server.post("/runsync", json={"input": case.input})
    assert reply.status_code == 200
    assert reply.json()["status"] == "FAILED"
    assert reply.json()["error"] == case.error
    assert "output" not in reply.json()


@pytest.mark.parametrize(
    "body",
    [
        {},
        [],
        None,
        "x",
        {"prompt": MARKER},
        {"input": {"prompt": "a"}, "s3Config": {"accessSecret": MARKER}},
        {"input": {"prompt": "a"}, "colour": MARKER},
        {"input": {"prompt": "a"}, "policy": MARKER},
        {"input": {"prompt": "a"}, "policy": {"colour": MARKER}},
        {"input": {"prompt": "a"}, "policy": {"ttl": MARKER}},
        {"input": {"prompt": "a"}, "policy": {"ttl": 0}},
        {"input": {"prompt": "a"}, "policy": {"ttl": True}},
        {"input": {"prompt": "a"}, "policy": {"executionTimeout": 1.5}},
        {"input": {"prompt": "a"}, "policy": {"executionTimeout": 604_800_001}},
        {"input": {"prompt": "a"}, "policy": {"lowPriority": MARKER}},
    ],
)
@pytest.mark.parametrize("path", ["/run", "/runsync"])
def test_what_is_no_job_is_not_accepted(server: HttpClient, path: str, body: Any) -> None:
    reply = server.post(path, json=body, headers=BEARER)
    if body is None:
        reply = server.post(path, data="null", headers={**BEARER, "content-type": JSON})
    assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")
    assert MARKER not in reply.text


@pytest.mark.parametrize(
    "beside",
    [
        {"policy": {"executionTimeout": 600_000, "ttl": 2_400_000, "lowPriority": True}},
        {"policy": {}, "s3Config": None},
        {"policy": {"ttl": None, "executionTimeout": None, "lowPriority": None}},
        {"policy": None},
    ],
)
def test_what_runpods_clients_send_beside_the_input_is_accepted(
    server: HttpClient, beside: dict[str, Any]
) -> None:
    reply = server.post("/runsync", json={"input": {"prompt": "hello"}, **beside})
    assert reply.json()["status"] == "COMPLETED"


def test_a_refusal_names_what_is_not_supported(server: HttpClient) -> None:
    body = {"input": {"prompt": "hello"}, "s3Config": {"bucketName": "b"}}
    assert server.post("/run", json=body).json()["error"].startswith("s3Config: is not supported")


JSON = "application/json"


@pytest.mark.parametrize("wait", ["999", "300001", "-1", "1e4", "", "1000&wait=2000"])
def test_a_wait_out_of_range_is_refused(server: HttpClient, wait: str) -> None:
    reply = server.post(f"/runsync?wait={wait}", json={"input": {"prompt": "a"}})
    assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")


def test_a_job_is_told_to_its_own_token_alone(server: HttpClient) -> None:
    job_id = server.run({"prompt": "hello"})
    server.finished(job_id)
    for path, method in (
        (f"/status/{job_id}", "GET"),
        (f"/status/{job_id}", "POST"),
        (f"/status-sync/{job_id}", "GET"),
        (f"/stream/{job_id}", "GET"),
        (f"/retry/{job_id}", "POST"),
        (f"/cancel/{job_id}", "POST"),
    ):
        reply = server.request(method, path, OTHER)
        assert (reply.status_code, reply.json()["error_type"]) == (404, "not_found")
        unknown = server.request(method, path[:-1] + "x", OTHER)
        assert unknown.json() == reply.json()
    assert len(job_id) == 32
    assert server.status(job_id)["status"] == "COMPLETED"


def test_a_retry_with_the_same_key_and_body_is_the_same_job(server: HttpClient) -> None:
    key = {**BEARER, "Idempotency-Key": "order-66"}
    first = server.run({"prompt": "hello"}, headers=key)
    ids = together(8, lambda _: server.run({"prompt": "hello"}, headers=key))
    assert set(ids) == {first}
    server.finished(first)
    assert server.run({"prompt": "hello"}, headers=key) == first
    other = server.post("/run", json={"input": {"prompt": MARKER}}, headers=key)
    assert (other.status_code, other.json()["error_type"]) == (422, "validation")
    assert "Idempotency-Key" in other.json()["error"]
    limited = {"input": {"prompt": "hello"}, "policy": {"ttl": 60_000}}
    assert server.post("/run", json=limited, headers=key).status_code == 422
    # A key belongs to its token.
    theirs = server.run({"prompt": MARKER}, headers={**OTHER, "Idempotency-Key": "order-66"})
    assert theirs != first
    assert server.run({"prompt": "hello"}) != first
    for bad in ("", "a b", "x" * 256):
        reply = server.post("/run", json={"input": {}}, headers={**BEARER, "Idempotency-Key": bad})
        assert reply.status_code == 422


def test_runpods_own_client_works_unchanged(
    server: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runpod, "endpoint_url_base", f"{server.url}/v2")
    endpoint = runpod.Endpoint("any-id", api_key=TOKEN)
    output = endpoint.run_sync({"input": {"prompt": "good morning"}}, timeout=60)
    assert output["text"] == "good morning"
    job = endpoint.run({"input": {"prompts": ["good", "morning"]}})
    assert [item["text"] for item in job.output(timeout=60)["items"]] == ["good", "morning"]
    assert job.status() == "COMPLETED"
    assert endpoint.run_sync({"input": {"prompt": "a", "colour": 1}}, timeout=60) is None
    assert job.cancel()["status"] == "COMPLETED"
    assert endpoint.health()["jobs"]["completed"] >= 2
    stranger = runpod.Endpoint("any-id", api_key="wrong")
    with pytest.raises(RuntimeError, match="401"):
        stranger.run({"input": {"prompt": "a"}})


# The file.


@pytest.mark.slow
def test_the_file_is_this_users_alone_and_holds_no_token(held: Held) -> None:
    with held.start() as server:
        server.ready()
        held.hold()
        job_id = server.run({"prompt": f"{MARKER} waits"})
        held.wait_held(server)
        files = sorted(held.folder.glob("jobs.sqlite3*"))
        assert [file.name.partition(".")[2] for file in files] == [
            "sqlite3",
            "sqlite3-reserve",
            "sqlite3-wal",
        ]
        for file in files:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file
        held.release()
        server.finished(job_id)
        stored = b"".join(file.read_bytes() for file in files)
        assert MARKER.encode() in stored
        assert TOKEN.encode() not in stored
        with held.start() as second:  # on another port, with the same file
            assert second.wait() == 1
            assert second.stderr.count("\n") == 1
            assert "another process has it open" in second.stderr
        server.terminate()
        assert server.wait() == 0
    assert held.execute("SELECT input, status FROM jobs") == [(None, "COMPLETED")]


def test_a_result_expires_and_nothing_of_it_stays_in_the_file(held: Held) -> None:
    with held.serve(JOB_TTL="1") as server:
        server.ready()
        job_id = server.run({"prompt": f"{MARKER} is forgotten"})
        wait_until(
            lambda: server.get(f"/status/{job_id}").status_code == 404,
            "the result to expire",
            watch=server.require_running,
        )

        def gone() -> bool:
            files = held.folder.glob("jobs.sqlite3*")
            return MARKER.encode() not in b"".join(file.read_bytes() for file in files)

        wait_until(gone, "the text to leave the file", watch=server.require_running)


@pytest.mark.slow
def test_kill_9_among_200_jobs_loses_none_and_changes_no_answer(
    held: Held, small_classifier: Predictor
) -> None:
    texts = [f"{SENTENCES[i % len(SENTENCES)]} number {i}" for i in range(200)]
    ids: list[str] = []
    answers: dict[str, dict[str, Any]] = {}

    def submit(i: int) -> str:
        key = {**BEARER, "Idempotency-Key": f"text-{i}"}
        return running.run({"prompt": texts[i]}, headers=key)

    # A small batch, so that some are answered and some are not.
    limits = {"MAX_CONCURRENCY": "4", "MAX_BATCH_TOKENS": "512"}
    with held.start(**limits) as server:
        running = server.ready()
        ids += together(100, submit)
        for job_id in ids[:40]:
            answers[job_id] = server.finished(job_id)
        held.hold()
        ids += together(100, lambda i: submit(100 + i))
        held.wait_held(server)
        for job_id in ids:
            reply = server.status(job_id)
            if reply["status"] == "COMPLETED":
                answers[job_id] = reply
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(30)
    assert len(set(ids)) == 200
    assert 40 <= len(answers) < 200
    held.replace_device()
    with held.start(**limits) as server:
        running = server.ready()
        replies = [server.finished(job_id) for job_id in ids]
        for job_id, answer in answers.items():
            assert server.status(job_id) == answer
        # What had been answered was not scored again.
        assert server.metrics()["texts_total"] == 200 - len(answers)
        # A client that never saw its reply and tries again gets the job it has.
        assert [submit(0), submit(199)] == [ids[0], ids[199]]
    expected = small_classifier.score(texts)
    for text, reply, score in zip(texts, replies, expected, strict=True):
        assert isinstance(score, Prediction)
        assert reply["status"] == "COMPLETED"
        check_output(reply["output"], text, score)


@pytest.mark.slow
def test_a_job_that_keeps_killing_the_server_is_given_up(held: Held) -> None:
    with held.start() as server:
        server.ready()
        held.hold()
        culprit = server.run({"prompt": "hello"})
        held.wait_held(server)
        os.kill(server.process.pid, signal.SIGKILL)
        server.process.wait(30)
    held.release()
    assert held.execute("SELECT attempts FROM jobs") == [(1,)]
    held.execute("UPDATE jobs SET attempts = 3")  # as after two more such deaths
    with held.start() as server:
        reply = server.ready().status(culprit)
    assert reply["status"] == "FAILED"
    assert reply["error"].startswith("internal: the service died 3 times")


# In this process: what no request from outside can time.


def waiting_job(job_id: str) -> NewJob:
    return NewJob(job_id, b"somebody", '{"prompt": "hello"}')


def in_process(folder: Path, model_dir: Path) -> tuple[SqliteStore, ServedModel, JobRunner]:
    settings = ServerSettings(model_dir=model_dir, device="cpu", dtype="float32")
    store = SqliteStore(folder / "jobs.sqlite3", settings.job_ttl)
    metrics = Metrics(settings)
    engine = ServedModel(settings, metrics.recorder, stop=lambda: None)
    return store, engine, JobRunner(store, engine, metrics, settings)


@pytest.mark.parametrize("end", ["told_to_stop", "device_breaks"])
def test_jobs_that_are_being_taken_at_the_end_are_charged_no_attempt(
    held: Held, small_checkpoint: Path, end: str
) -> None:
    entered, gate = threading.Event(), threading.Event()

    def occupy(_connection: sqlite3.Connection) -> None:
        entered.set()
        assert gate.wait(30)

    async def main() -> None:
        store, engine, jobs = in_process(held.folder, small_checkpoint)
        async with asyncio.timeout(60):
            engine.start()
            await engine.settled.wait()
            assert engine.state == "ready"
            for i in range(5):
                await store.add(waiting_job(f"job-{i}"), 10)
            # A slow disk: jobs are asked for, and have not come when the service ends.
            slow = asyncio.create_task(store._database.run(occupy))
            await asyncio.to_thread(entered.wait, 30)
            jobs.start()
            while store._database._operations.qsize() < 2:  # the jobs, and the sweep
                await asyncio.sleep(0.001)
            if end == "device_breaks":
                engine._break()
                gate.set()
                assert jobs._feeder is not None
                await jobs._feeder
            closing = asyncio.create_task(jobs.close())
            await asyncio.sleep(0)
            gate.set()
            await asyncio.gather(slow, closing)
        engine.close()
        await store.close()

    asyncio.run(main())
    rows = held.execute("SELECT id, status, attempts, started FROM jobs ORDER BY id")
    assert rows == [(f"job-{i}", "IN_QUEUE", 0, None) for i in range(5)]


def test_a_stop_while_the_model_loads_is_not_held_up(held: Held, small_checkpoint: Path) -> None:
    async def main() -> None:
        store, _, jobs = in_process(held.folder, small_checkpoint)  # an engine that never settles
        async with asyncio.timeout(30):
            await store.add(waiting_job("job"), 10)
            jobs.start()
            await asyncio.sleep(0)
            await jobs.close()
        await store.close()

    asyncio.run(main())
    assert held.execute("SELECT status, attempts FROM jobs") == [("IN_QUEUE", 0)]


def test_an_unforeseen_exception_does_not_stop_the_file(held: Held, small_checkpoint: Path) -> None:
    def fault(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM jobs")
        raise LookupError

    async def main() -> None:
        store, _, _ = in_process(held.folder, small_checkpoint)
        async with asyncio.timeout(30):
            await store.add(waiting_job("job"), 10)
            with pytest.raises(LookupError):
                await store._database.run(fault)
            assert await store.count() == {"IN_QUEUE": 1}
        await store.close()

    asyncio.run(main())


# Held, cancelled, full, stopped, broken.


def test_a_full_queue_refuses_jobs_and_texts_at_once(held: Held) -> None:
    limits = {
        "BEARER_TOKEN": TOKEN,  # it has all the room, because there is no other
        "MAX_QUEUE_JOBS": "3",
        "MAX_CONCURRENCY": "1",
        "MAX_QUEUE_TEXTS": "2",
        "MAX_TEXTS_PER_REQUEST": "2",
    }
    with held.serve(**limits) as server:
        server.ready()
        held.hold()
        jobs = [server.run({"prompt": "hello"})]
        held.wait_held(server)
        jobs += [server.run({"prompt": "hello"}) for _ in range(3)]
        for path, body in (
            ("/run", {"input": {"prompt": "hello"}}),
            ("/runsync", {"input": {"prompt": "hello"}}),
            ("/score", {"texts": ["hello", "hello"]}),
        ):
            reply = server.post(path, json=body)
            assert (reply.status_code, reply.json()["error_type"]) == (429, "overloaded")
            assert int(reply.headers["Retry-After"]) >= 1
        held.release()
        assert [server.finished(job)["status"] for job in jobs] == ["COMPLETED"] * 4
        assert server.post("/score", json={"texts": ["hello", "hello"]}).status_code == 200


def test_the_jobs_of_one_token_leave_room_for_those_of_another(held: Held) -> None:
    with held.serve(MAX_QUEUE_JOBS="4", MAX_CONCURRENCY="1") as server:
        server.ready()
        held.hold()
        jobs = [server.run({"prompt": "hello"})]
        held.wait_held(server)
        jobs += [server.run({"prompt": "hello"}) for _ in range(2)]
        reply = server.post("/run", json={"input": {"prompt": "hello"}})
        assert (reply.status_code, reply.json()["error_type"]) == (429, "overloaded")
        assert reply.json()["error"].startswith("2 jobs of this token are already waiting")
        other = {"Authorization": f"Bearer {OTHER_TOKEN}"}
        server.run({"prompt": "hello"}, headers=other)
        held.release()
        assert [server.finished(job)["status"] for job in jobs] == ["COMPLETED"] * 3


def test_jobs_run_together_as_far_as_their_inputs_fit(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "RUNNING_BYTES", 3000)
    with held.serve() as server:
        server.ready()
        held.hold()
        jobs = [server.run({"prompts": ["x" * 100] * 10}) for _ in range(3)]
        jobs.append(server.run({"prompts": ["x" * 100] * 50}))  # more than fit, even alone
        held.wait_held(server)

        def statuses() -> list[str]:
            return [server.status(job)["status"] for job in jobs]

        wait_until(lambda: statuses().count("IN_PROGRESS") == 2, "two to run")
        assert statuses() == ["IN_PROGRESS", "IN_PROGRESS", "IN_QUEUE", "IN_QUEUE"]
        held.release()
        assert [server.finished(job)["status"] for job in jobs] == ["COMPLETED"] * 4


def test_a_job_is_cancelled_waiting_or_running_and_its_text_not_scored(held: Held) -> None:
    with held.serve(MAX_CONCURRENCY="2") as server:
        server.ready()
        held.hold()
        first = server.run({"prompt": "keeps the device busy"})
        held.wait_held(server)
        running, waiting = server.run({"prompt": "a"}), server.run({"prompt": "b"})
        wait_until(lambda: server.status(running)["status"] == "IN_PROGRESS", "the second job")
        assert server.status(waiting)["status"] == "IN_QUEUE"
        for job_id in (waiting, running, waiting):
            reply = server.post(f"/cancel/{job_id}").json()
            assert (reply["id"], reply["status"]) == (job_id, "CANCELLED")
        held.release()
        assert server.finished(first)["status"] == "COMPLETED"
        assert server.post(f"/cancel/{first}").json()["status"] == "COMPLETED"
        assert server.status(running)["status"] == "CANCELLED"
        assert server.metrics()["sequences_total"] == 1


def test_a_job_that_runs_longer_than_its_policy_allows_times_out_and_can_be_retried(
    held: Held,
) -> None:
    with held.serve() as server:
        server.ready()
        held.hold()
        body = {"input": {"prompt": "hello"}, "policy": {"executionTimeout": 1}}
        job_id = server.post("/run", json=body).json()["id"]
        reply = server.get(f"/status-sync/{job_id}").json()
        assert reply["status"] == "TIMED_OUT"
        assert reply["error"] == "unfinished: the job ran longer than its policy allows"
        assert reply.keys() == {"id", "status", "error", "delayTime", "executionTime"}
        paid = server.post("/runsync", json=body, headers={**BEARER, "Scores-Or-Error": "9999"})
        assert (paid.status_code, paid.json()["error_type"]) == (504, "unfinished")
        held.release()
        assert server.metrics()["errors_total:unfinished"] == 2
        # The device is free, but a millisecond may still be too short.
        retried = server.post(f"/retry/{job_id}").json()
        assert retried == {"id": job_id, "status": "IN_QUEUE"} or "error" not in retried
        assert server.finished(job_id)["status"] in ("COMPLETED", "TIMED_OUT")
        other = server.run({"prompt": "hello"})
        server.finished(other)
        refused = server.post(f"/retry/{other}")
        assert (refused.status_code, refused.json()["error_type"]) == (422, "validation")


def test_a_job_that_waits_longer_than_its_ttl_is_told_to_who_waits(
    held: Held, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "SWEEP_SECONDS", 0.05)
    with held.serve(MAX_CONCURRENCY="1") as server:
        server.ready()
        held.hold()
        first = server.run({"prompt": "keeps the device busy"})
        held.wait_held(server)
        body = {"input": {"prompt": "hello"}, "policy": {"ttl": 100}}
        reply = server.post("/runsync", json=body).json()
        assert reply["status"] == "TIMED_OUT"
        assert "ttl" in reply["error"]
        held.release()
        assert server.finished(first)["status"] == "COMPLETED"
        assert server.post(f"/retry/{reply['id']}").json()["status"] in ("IN_QUEUE", "COMPLETED")
        assert server.finished(reply["id"])["status"] in ("COMPLETED", "TIMED_OUT")


def test_all_who_wait_for_a_job_are_told_even_after_one_has_given_up(held: Held) -> None:
    with held.serve() as server:
        server.ready()
        held.hold()
        job_id = server.run({"prompt": "hello"})
        held.wait_held(server)
        with ThreadPoolExecutor(3) as pool:
            patient = [
                pool.submit(server.request, method, f"/status-sync/{job_id}?wait=60000")
                for method in ("GET", "POST")
            ]
            hasty = server.get(f"/status-sync/{job_id}?wait=1000").json()
            assert hasty["status"] == "IN_PROGRESS"
            assert server.get(f"/stream/{job_id}?wait=1000").json() == {
                "status": "IN_PROGRESS",
                "stream": [],
            }
            assert not any(reply.done() for reply in patient)
            held.release()
            for reply in patient:
                assert reply.result().json()["status"] == "COMPLETED"
                assert reply.result().elapsed.total_seconds() < 55  # told, not timed out


def test_a_purge_takes_the_callers_waiting_jobs_alone(held: Held) -> None:
    with held.serve(MAX_CONCURRENCY="1") as server:
        server.ready()
        held.hold()
        running = server.run({"prompt": "keeps the device busy"})
        held.wait_held(server)
        mine = [server.run({"prompt": "hello"}) for _ in range(3)]
        theirs = server.run({"prompt": "hello"}, headers=OTHER)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(server.get, f"/status-sync/{mine[0]}")
            assert server.post("/purge-queue").json() == {"removed": 3, "status": "completed"}
            assert waiting.result().json()["status"] == "CANCELLED"
        assert server.post("/purge-queue").json() == {"removed": 0, "status": "completed"}
        held.release()
        assert [server.status(job_id)["status"] for job_id in mine] == ["CANCELLED"] * 3
        assert server.finished(running)["status"] == "COMPLETED"
        wait_until(
            lambda: server.get(f"/status/{theirs}", headers=OTHER).json()["status"] == "COMPLETED",
            "the other caller's job",
        )


def test_without_tokens_nobody_purges_the_jobs_of_all(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    environment = {"BEARER_TOKEN": "", "ALLOW_ANONYMOUS": "1"}
    with local_server(tmp_path, small_checkpoint, environment) as server:
        reply = server.post("/purge-queue", headers={})
        assert (reply.status_code, reply.json()["error_type"]) == (401, "unauthorized")


def test_an_endpoints_health_tells_a_token_of_its_own_jobs_alone(held: Held) -> None:
    with held.serve(MAX_CONCURRENCY="1") as server:
        server.ready()
        held.hold()
        server.run({"prompt": "keeps the device busy"})
        held.wait_held(server)
        server.run({"prompt": "hello"})
        server.run({"colour": "blue"})
        mine = server.get("/v2/any/health").json()
        assert mine["jobs"] == {**NO_JOBS, "inProgress": 1, "inQueue": 1, "failed": 1}
        assert (mine["workers"]["running"], mine["workers"]["idle"]) == (1, 0)
        theirs = server.get("/v2/any/health", headers=OTHER).json()
        assert theirs["jobs"] == NO_JOBS
        assert (theirs["workers"]["running"], theirs["workers"]["idle"]) == (0, 1)


def test_a_client_that_hangs_up_is_not_worked_for(held: Held) -> None:
    with held.serve() as server:
        server.ready()
        held.hold()
        first = server.run({"prompt": "keeps the device busy"})
        held.wait_held(server)
        for path, body in (
            ("/score", {"texts": ["a"] * 50}),
            ("/runsync", {"input": {"prompts": ["a"] * 50}}),
        ):
            with pytest.raises(requests.Timeout):
                requests.post(server.url + path, json=body, headers=BEARER, timeout=1)

        def forgotten() -> bool:
            samples = server.metrics()
            return (
                samples.get("requests_total:499:POST:http:/score") == 1
                and samples.get("requests_total:499:POST:http:/runsync") == 1
                and samples["queue_texts"] == 1
            )

        # Labels come in the order they are exposed in.
        wait_until(forgotten, "both to be dropped", watch=server.require_running)
        held.release()
        server.finished(first)
        assert server.metrics()["sequences_total"] == 1


def test_a_wait_that_is_over_tells_where_the_job_stands(held: Held) -> None:
    with held.serve() as server:
        server.ready()
        held.hold()
        reply = server.post("/runsync?wait=1000", json={"input": {"prompt": "hello"}}).json()
        assert reply.keys() == {"id", "status"}
        assert reply["status"] in ("IN_QUEUE", "IN_PROGRESS")
        held.release()
        assert server.finished(reply["id"])["output"]["text"] == "hello"


@pytest.mark.slow
def test_told_to_stop_it_answers_what_runs_and_keeps_what_waits(held: Held) -> None:
    with held.start(MAX_CONCURRENCY="1") as server:
        server.ready()
        held.hold()
        running = server.run({"prompt": "runs"})
        held.wait_held(server)
        waiting = [server.run({"prompt": f"waits {i}"}) for i in range(5)]

        def ask(i: int) -> requests.Response:
            if i:
                return server.post("/runsync", json={"input": {"prompt": "waits, too"}})
            return server.post("/score", json={"text": "in flight"})

        def stop(_: int) -> None:
            wait_until(lambda: server.metrics()["queue_texts"] == 2, "the request to wait")
            wait_until(lambda: server.metrics()["queue_jobs"] == 7, "the other one to wait")
            server.terminate()
            wait_until(lambda: "Shutting down" in server.stderr, "the server to stop")
            held.release()

        score, sync, _ = together(3, lambda i: (ask, ask, stop)[i](i))
        assert score.status_code == 200
        assert score.json()["text"] == "in flight"
        assert sync.json()["status"] == "IN_QUEUE"
        assert server.wait() == 0
    statuses = dict(held.execute("SELECT id, status FROM jobs"))
    assert statuses[running] == "COMPLETED"
    assert all(statuses[job_id] == "IN_QUEUE" for job_id in [*waiting, sync.json()["id"]])
    with held.start() as server:
        server.ready()
        for job_id in [running, *waiting, sync.json()["id"]]:
            assert server.finished(job_id)["status"] == "COMPLETED"
        assert server.metrics()["texts_total"] == 6


@pytest.mark.slow
def test_a_broken_device_is_told_to_all_and_ends_the_server(held: Held) -> None:
    with held.start(MAX_CONCURRENCY="1") as server:
        server.ready()
        held.hold()
        running = server.run({"prompt": "runs"})
        held.wait_held(server)
        waiting = server.run({"prompt": "waits"})

        def ask(i: int) -> requests.Response:
            if i:
                return server.post("/runsync", json={"input": {"prompt": "hello"}})
            return server.post("/score", json={"text": "hello"})

        def break_it(_: int) -> tuple[int, int, int]:
            wait_until(lambda: server.metrics()["queue_texts"] == 2, "the request to wait")
            wait_until(lambda: server.metrics()["queue_jobs"] == 3, "the other one to wait")
            held.break_device()
            held.release()
            server.wait_ping(503)
            new = server.post("/score", json={"text": "hello"})
            health = server.get("/health", headers={})
            assert health.json()["status"] == "broken"
            return new.status_code, health.status_code, int(new.headers["Retry-After"])

        score, sync, after = together(3, lambda i: (ask, ask, break_it)[i](i))
        for reply in (score, sync):
            assert (reply.status_code, reply.json()["error_type"]) == (503, "unhealthy")
        assert after[:2] == (503, 503)
        assert after[2] >= 1
        assert server.wait() == 1
        assert "Traceback" not in server.stderr
    held.replace_device()
    with held.start() as server:  # the process that replaces it
        server.ready()
        assert [server.finished(job)["status"] for job in (running, waiting)] == ["COMPLETED"] * 2


def test_while_loading_it_answers_but_does_not_score(held: Held) -> None:
    held.hold()  # the loader's own first text
    with held.serve() as server:
        server.wait_ping(204)
        held.wait_held(server)
        assert server.get("/health", headers={}).json() == {
            "status": "loading",
            "model": None,
            "dtype": None,
            "embedded": False,
            "jobs": "ready",
        }
        assert server.get("/").json()["model"] is None
        for path, body in (
            ("/score", {"text": "hello"}),
            ("/run", {"input": {"prompt": "hello"}}),
            ("/runsync", {"input": {"prompt": "hello"}}),
        ):
            reply = server.post(path, json=body)
            assert (reply.status_code, reply.json()["error_type"]) == (503, "unhealthy")
            assert int(reply.headers["Retry-After"]) >= 1
        assert server.get("/status/none").status_code == 404
        assert server.metrics()["ready"] == 0
        held.release()
        server.ready()
        assert server.get("/").json()["model"].startswith("small-random@")
