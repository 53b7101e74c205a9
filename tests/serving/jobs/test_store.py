"""The file of jobs: what is kept in it, who may read it, and what happens when it is full."""

from __future__ import annotations

import os
import resource
import signal
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.bad_inputs import BAD_INPUTS, MARKER
from tests.support.faulty_device import Switches, faulty_device
from tests.support.http_client import BEARER, HttpClient
from tests.support.local_server import local_server, refusal
from tests.support.processes.server import http_server, server_environment
from tests.support.processes.worker import wait_until

# What the contract refuses unread by the model; the rest takes its tokenizer.
UNREAD = [
    case
    for case in BAD_INPUTS
    if case.name not in ("too_many_words_to_explain", "spaces", "zero_width")
]


@pytest.fixture(scope="module")
def busy_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("busy")


@pytest.fixture(scope="module")
def busy(small_checkpoint: Path, busy_folder: Path) -> Iterator[HttpClient]:
    """A server that has one job at a time, which does not end."""
    switches = Switches(busy_folder)
    with (
        faulty_device(switches),
        local_server(busy_folder, small_checkpoint, {"MAX_CONCURRENCY": "1"}) as server,
    ):
        server.ready()
        switches.hold()
        server.run({"prompt": "keeps the device busy"})
        wait_until(lambda: switches.held, "the device", watch=server.require_running)
        yield server
        switches.release()


def files_of(folder: Path) -> list[Path]:
    """Return the file of jobs and those that SQLite keeps beside it."""
    return sorted(folder.glob("jobs.sqlite3*"))


def content(folder: Path) -> bytes:
    return b"".join(file.read_bytes() for file in files_of(folder))


# Inputs that the contract refuses.


@pytest.mark.parametrize("case", UNREAD, ids=lambda case: case.name)
def test_a_refused_input_fails_at_once_and_is_not_kept(
    busy: HttpClient, busy_folder: Path, case: Any
) -> None:
    reply = busy.status(busy.run(case.input))
    assert (reply["status"], reply["error"]) == ("FAILED", case.error)
    assert reply.keys() == {"id", "status", "error", "delayTime", "executionTime"}
    stored = content(busy_folder)
    assert reply["id"].encode() in stored
    assert MARKER.encode() not in stored
    # Nor does it take a place among those that wait.
    assert busy.get("/v2/any/health").json()["jobs"]["inQueue"] == 0


def test_a_retry_of_a_refused_input_is_the_same_job(busy: HttpClient, busy_folder: Path) -> None:
    key = {**BEARER, "Idempotency-Key": "refused"}
    first = busy.run({"promt": MARKER}, headers=key)
    assert busy.run({"promt": MARKER}, headers=key) == first
    assert busy.run({"promt": MARKER}) != first
    for other in ({"promt": "other"}, {"prompt": "good morning"}):
        reply = busy.post("/run", json={"input": other}, headers=key)
        assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")
        assert "Idempotency-Key" in reply.json()["error"]
    assert busy.status(first)["error"] == "validation: 'promt': is not a known field"
    assert MARKER.encode() not in content(busy_folder)


@pytest.mark.parametrize("key", [None, "junk"])
@pytest.mark.parametrize("name", ["whole", "prompts", "prompt", "unknown"])
def test_a_large_refused_input_does_not_grow_the_file(
    busy: HttpClient, busy_folder: Path, name: str, key: str | None
) -> None:
    junk: list[Any] = [[]] * 120_000  # as many values and brackets as a body may hold
    size = len(content(busy_folder))
    headers = BEARER if key is None else {**BEARER, "Idempotency-Key": f"{key}-{name}"}
    job_id = busy.run(junk if name == "whole" else {name: junk}, headers=headers)
    assert busy.status(job_id)["status"] == "FAILED"
    assert len(content(busy_folder)) - size < 100_000


# Who may read it.


@pytest.mark.parametrize(
    "foreign", [b"hi\n", b"Dear diary, this is no database at all.\n" * 200], ids=["short", "long"]
)
def test_a_foreign_file_is_refused_and_left_as_it_was(
    tmp_path: Path, small_checkpoint: Path, foreign: bytes
) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(foreign)
    path.chmod(0o644)
    require_refusal(tmp_path, small_checkpoint, path, "file is not a database")
    assert path.read_bytes() == foreign
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    assert [file.name for file in tmp_path.glob("notes*")] == ["notes.txt"]


def test_what_is_no_file_at_all_is_refused_and_left_as_it_was(
    tmp_path: Path, small_checkpoint: Path
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    path.chmod(0o644)
    require_refusal(tmp_path, small_checkpoint, path, "not a regular file")
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
    require_refusal(tmp_path, small_checkpoint, tmp_path, "directory")


def require_refusal(folder: Path, model_dir: Path, path: Path, reason: str) -> None:
    line = refusal(server_environment(folder, model_dir, {"JOBS_DB": str(path)}))
    assert line.startswith(f"error: JOBS_DB={str(path)!r} cannot be opened: ")
    assert reason in line


@pytest.mark.slow
def test_a_file_that_others_could_read_becomes_this_users_alone(
    tmp_path: Path, small_checkpoint: Path
) -> None:
    with http_server(tmp_path, small_checkpoint) as server:
        kept = server.ready().run({"prompt": "good morning"})
        server.finished(kept)
        os.kill(server.process.pid, signal.SIGKILL)  # so that the log of changes stays behind
        server.process.wait(30)
    (tmp_path / "jobs.sqlite3-shm").touch()  # as a shell of SQLite leaves one
    files = files_of(tmp_path)
    assert [file.name for file in files] == [
        f"jobs.sqlite3{suffix}" for suffix in ("", "-reserve", "-shm", "-wal")
    ]
    assert files[3].stat().st_size > 0
    for file in files:
        file.chmod(0o644)
    with http_server(tmp_path, small_checkpoint) as server:
        assert server.ready().status(kept)["status"] == "COMPLETED"
        for file in files_of(tmp_path):
            assert stat.S_IMODE(file.stat().st_mode) == 0o600, file


# No room on the disk: a limit of this process's files, which SQLite takes for a fault of the disk.


@pytest.mark.slow
def test_a_job_that_cannot_be_stored_is_refused_until_there_is_room(
    tmp_path: Path, small_checkpoint: Path
) -> None:
    with http_server(tmp_path, small_checkpoint) as server:
        kept = server.ready().run({"prompt": "good morning"})
        expected = server.finished(kept)
        size = max(
            file.stat().st_size for file in files_of(tmp_path) if file.suffix != ".sqlite3-reserve"
        )
        assert size > 2 * len(server.stderr)
        pid = server.process.pid
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (size + 4096, hard))
        large = {"prompts": [MARKER * 100] * 100}
        for path in ("/run", "/runsync"):
            require_unhealthy(server.post(path, json={"input": large}))
        assert server.get("/health").json()["jobs"] == "full"
        # Everything else goes on.
        assert server.post("/score", json={"text": "good morning"}).status_code == 200
        assert server.status(kept) == expected
        assert "JOBS_DB: disk I/O error; new jobs are refused until there is room" in server.stderr
        assert MARKER not in server.stderr
        assert "Traceback" not in server.stderr
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))
        assert server.finished(server.run(large))["status"] == "COMPLETED"
        assert server.get("/health").json()["jobs"] == "ready"
        assert server.metrics()["errors_total:unhealthy"] == 2
        server.terminate()
        assert server.wait() == 0
    with closing(sqlite3.connect(tmp_path / "jobs.sqlite3")) as connection:
        assert connection.execute("SELECT count(*) FROM jobs").fetchone() == (2,)


def require_unhealthy(reply: requests.Response) -> None:
    assert (reply.status_code, reply.json()["error_type"]) == (503, "unhealthy")
    assert int(reply.headers["Retry-After"]) >= 1
    assert reply.json()["error"] == "jobs cannot be stored now; try again"
