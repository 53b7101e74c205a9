"""The file of jobs over time: crashes, a full disk, a file that is deleted, clocks that jump."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import shutil
import sqlite3
import stat
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from hatespeech.serving.jobs.sqlite import sqlite_store
from hatespeech.serving.jobs.sqlite.reserve import Reserve
from hatespeech.serving.jobs.sqlite.sqlite_store import SqliteStore
from hatespeech.serving.jobs.store import GIVEN_UP, JobResult, StoredJob, StoreError
from tests.serving.jobs.stores import OWNER, new_job
from tests.support.bad_inputs import MARKER
from tests.support.faulty_device import Switches, faulty_device
from tests.support.http_client import BEARER
from tests.support.local_server import local_server, refusal
from tests.support.processes.server import server_environment
from tests.support.processes.worker import wait_until
from tests.support.small_disk import small_disk

TTL = 600.0
DISK_BYTES = 6_000_000


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.sqlite3"


def run(path: Path, scene: Callable[[SqliteStore], Awaitable[None]], ttl: float = TTL) -> None:
    async def main() -> None:
        store = SqliteStore(path, ttl)
        try:
            async with asyncio.timeout(60):
                await scene(store)
        finally:
            await store.close()

    asyncio.run(main())


def execute(path: Path, statement: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as connection, connection:
        return connection.execute(statement).fetchall()


async def found(store: SqliteStore, job_id: str) -> StoredJob:
    job = await store.get(job_id, OWNER)
    assert job is not None
    return job


def test_many_who_ask_for_jobs_do_not_have_all_outputs_in_memory_together(path: Path) -> None:
    async def scene(store: SqliteStore) -> None:
        running = most = 0
        real = store._database.run

        async def counted(*arguments: Any, **named: Any) -> Any:
            nonlocal running, most
            running += 1
            most = max(most, running)
            try:
                return await real(*arguments, **named)
            finally:
                running -= 1

        with patch.object(store._database, "run", counted):
            await asyncio.gather(*(store.get("none", OWNER) for _ in range(100)))
        assert most == sqlite_store.READ_AT_ONCE

    run(path, scene)


# Crashes.


def test_three_crashes_give_up_no_job_that_was_not_running_in_all_of_them(path: Path) -> None:
    async def first(store: SqliteStore) -> None:
        for name in "abcde":
            await store.add(new_job(name), 10)
        assert len(await store.take(4, idle=True)) == 4

    async def crash(store: SqliteStore) -> None:
        ((lease, _),) = await store.take(4, idle=True)
        ran.append(lease.id)
        assert await store.take(4, idle=False) == []

    async def last(store: SqliteStore) -> None:
        assert await store.count() == {"IN_QUEUE": 5}
        for _ in range(4):
            ((lease, _),) = await store.take(4, idle=True)
            await store.finish(lease, JobResult("COMPLETED", output="{}"))
        ((lease, _),) = await store.take(4, idle=True)
        assert (lease.id, lease.attempt) == ("e", 1)

    ran: list[str] = []
    run(path, first)
    for _ in range(3):
        run(path, crash)
    assert len(set(ran)) == 3
    run(path, last)


def test_the_job_that_crashes_the_server_each_time_is_given_up(path: Path) -> None:
    async def crash(store: SqliteStore) -> None:
        await store.take(4, idle=True)

    async def last(store: SqliteStore) -> None:
        job = await found(store, "a")
        assert (job.status, job.error) == ("FAILED", GIVEN_UP)
        assert await store.take(4, idle=True) == []

    async def first(store: SqliteStore) -> None:
        await store.add(new_job("a"), 10)

    run(path, first)
    for _ in range(3):
        run(path, crash)
    run(path, last)
    assert execute(path, "SELECT input FROM jobs") == [(None,)]


# Turns.


def test_taking_a_job_is_no_more_work_however_many_wait_of_one_owner(path: Path) -> None:
    async def steps_of_a_take(store: SqliteStore) -> int:
        steps = itertools.count()
        database = store._database
        await database.run(lambda file: file.set_progress_handler(lambda: next(steps) < 0, 1))
        ((lease, _),) = await store.take(1, idle=True)
        await database.run(lambda file: file.set_progress_handler(None, 1))
        await store.put_back(lease, blameless=True)
        return next(steps)

    async def scene(store: SqliteStore) -> None:
        await store.add(new_job("another", owner=b"another"), 9999)
        await store.add(new_job("first"), 9999)
        few = await steps_of_a_take(store)
        await asyncio.gather(*(store.add(new_job(f"{number}"), 9999) for number in range(2000)))
        assert await steps_of_a_take(store) < 2 * few

    run(path, scene)


# Clocks.


def test_a_clock_that_jumps_expires_nothing_early_and_keeps_nothing_longer(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def jump(store: SqliteStore) -> None:
        await store.add(new_job("a"), 10)
        ((lease, _),) = await store.take(1, idle=True)
        monkeypatch.setattr(time, "time", lambda: now + 1e8)
        await store.finish(lease, JobResult("COMPLETED", output="{}"))
        await store.expire()
        monkeypatch.setattr(time, "time", lambda: now - 1e8)
        await store.expire()
        job = await found(store, "a")
        assert job.started is not None
        assert job.finished is not None
        assert job.created <= job.started <= job.finished < now + 1000

    async def ahead(store: SqliteStore) -> None:
        await store.add(new_job("b", input=None, error="validation: no"), 10)

    async def back(store: SqliteStore) -> None:
        assert (await found(store, "b")).created < now + 1000

    now = time.time()
    run(path, jump)
    monkeypatch.setattr(time, "time", lambda: now + 1e8)  # a start with a wrong clock
    run(path, ahead)
    monkeypatch.setattr(time, "time", lambda: now)
    run(path, back)


# Deleting what has expired.


def test_a_status_is_answered_while_many_jobs_are_deleted(path: Path) -> None:
    async def scene(store: SqliteStore) -> None:
        for i in range(50):
            await store.add(new_job(f"{i}", input=None, error="validation: no"), 1000)
        await store.add(new_job("waits"), 1000)
        await asyncio.sleep(0.01)
        deleting = asyncio.create_task(store.expire())
        await asyncio.sleep(0)
        assert (await found(store, "waits")).status == "IN_QUEUE"
        assert (await store.count())["FAILED"] > 10
        await deleting
        assert await store.count() == {"IN_QUEUE": 1}

    with patch.object(sqlite_store, "EXPIRED_AT_ONCE", 1):
        run(path, scene, ttl=0.001)


def test_a_retry_of_an_expired_job_is_a_new_job(path: Path) -> None:
    async def scene(store: SqliteStore) -> None:
        keys = {"retry_key": b"key", "retry_body": b"body"}
        failed = new_job("a", input=None, error="validation: no", **keys)
        assert await store.add(failed, 10) == "a"
        await asyncio.sleep(0.01)
        assert await store.add(new_job("b", **keys), 10) == "b"

    run(path, scene, ttl=0.001)


def test_nothing_stays_of_a_result_that_a_late_retry_replaces(path: Path) -> None:
    async def scene(store: SqliteStore) -> None:
        keys = {"retry_key": b"key", "retry_body": b"body"}
        await store.add(new_job("a", **keys), 10)
        ((lease, _),) = await store.take(1, idle=True)
        await store.finish(lease, JobResult("COMPLETED", output=f'"{MARKER}"'))
        await asyncio.sleep(0.01)
        assert await store.add(new_job("b", **keys), 10) == "b"
        files = path.parent.glob(f"{path.name}*")
        assert MARKER.encode() not in b"".join(file.read_bytes() for file in files)

    run(path, scene, ttl=0.001)


# A file that someone deletes.


@pytest.mark.parametrize("pattern", ["jobs.sqlite3", "jobs.sqlite3-wal", "jobs.sqlite3*"])
def test_a_file_that_is_deleted_is_restored_with_its_jobs(
    path: Path, pattern: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(store: SqliteStore) -> None:
        await store.add(new_job("before"), 10)
        for file in path.parent.glob(pattern):
            file.unlink()
        assert (await found(store, "before")).status == "IN_QUEUE"
        for name in ("after", "later"):
            await store.add(new_job(name), 10)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        # As after kill -9: what the next process would find.
        copy = path.parent / "copy"
        copy.mkdir()
        for file in path.parent.glob("jobs.sqlite3*"):
            shutil.copy(file, copy)
        ids = execute(copy / "jobs.sqlite3", "SELECT id FROM jobs ORDER BY rowid")
        assert ids == [("before",), ("after",), ("later",)]

    run(path, scene)
    assert caplog.text.count("the file was deleted while it was used, and is restored") == 1


def test_another_file_in_its_place_is_left_alone_and_jobs_are_refused(path: Path) -> None:
    async def scene(store: SqliteStore) -> None:
        await store.add(new_job("before"), 10)
        path.unlink()
        path.write_text("Dear diary")
        for _ in range(2):
            with pytest.raises(StoreError, match="another file is in its place"):
                await store.add(new_job("after"), 10)
        assert (await found(store, "before")).status == "IN_QUEUE"
        assert store.trouble is not None
        assert path.read_text() == "Dear diary"
        path.unlink()
        await store.add(new_job("after"), 10)
        assert store.trouble is None

    run(path, scene)
    assert execute(path, "SELECT id FROM jobs ORDER BY rowid") == [("before",), ("after",)]


# A full disk.


async def add_all(store: SqliteStore) -> None:
    for number in range(1000):
        await store.add(new_job(f"{number}", input=f"{number} secret " * 8000), 1000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", DISK_BYTES) as folder:
        yield folder


@pytest.mark.slow
def test_a_disk_that_the_file_filled_heals_once_jobs_expire(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(store: SqliteStore) -> None:
        await store.add(new_job("first"), 1000)
        ((lease, _),) = await store.take(1, idle=True)
        with pytest.raises(StoreError, match="full; new jobs are refused until there is room"):
            await add_all(store)
        stored = (await store.count())["IN_QUEUE"]
        assert stored > 5
        # Whoever else writes there takes the rest, so that only the reserve is left.
        fill(disk / "other")
        with pytest.raises(StoreError):
            await store.take(1, idle=False)
        assert (await found(store, "first")).status == "IN_PROGRESS"
        for number in range(stored):
            await store.cancel(f"{number}")
        await asyncio.sleep(0.01)
        await store.expire()
        assert b"secret" not in b"".join(file.read_bytes() for file in disk.glob("jobs*"))
        assert (disk / "jobs.sqlite3").stat().st_size < DISK_BYTES / 4
        await store.add(new_job("again"), 1000)
        await store.finish(lease, JobResult("COMPLETED", output="{}"))
        assert store.trouble is None

    run(disk / "jobs.sqlite3", scene, ttl=0.001)
    assert caplog.text.count("new jobs are refused until there is room") == 1
    assert caplog.text.count("there is room again") == 1
    assert "secret" not in caplog.text


@pytest.mark.slow
def test_a_disk_that_is_full_at_the_start_refuses_jobs_and_says_so(
    disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene(store: SqliteStore) -> None:
        with pytest.raises(StoreError, match="until there is room"):
            await store.add(new_job("a"), 10)
        assert await store.count() == {}
        (disk / "other").unlink()
        await store.add(new_job("a"), 10)

    async def before(store: SqliteStore) -> None:
        assert await store.count() == {}

    path = disk / "jobs.sqlite3"
    run(path, before)
    fill(disk / "other")
    run(path, scene)
    assert caplog.text.count("new jobs are refused until there is room") == 1


def fill(file: Path) -> None:
    with file.open("wb", buffering=0) as out, contextlib.suppress(OSError):
        while True:
            out.write(bytes(4096))


def test_a_reserve_is_taken_once_and_given_back(tmp_path: Path) -> None:
    file = tmp_path / "reserve"
    reserve = Reserve(file)
    assert reserve.take()
    size = file.stat().st_size
    assert size > 1_000_000
    before = file.stat().st_mtime_ns
    assert reserve.take()
    assert file.stat().st_mtime_ns == before
    assert reserve.has_as_much_again()
    assert file.stat().st_size == size
    reserve.release()
    assert file.stat().st_size == 0
    assert reserve.take()
    assert file.stat().st_size == size


def test_a_file_of_an_older_release_keeps_its_jobs_and_gives_room_back(path: Path) -> None:
    lacks = [f"ALTER TABLE jobs DROP COLUMN {name};" for name in sqlite_store._ADDED]
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            f"""
            PRAGMA journal_mode = WAL;
            {sqlite_store._SCHEMA.replace("DROP INDEX", "-- DROP INDEX")}
            {" ".join(lacks)}
            DROP INDEX jobs_in_turn; DROP INDEX jobs_by_end;
            CREATE INDEX jobs_by_status ON jobs (status, created);
            PRAGMA user_version = 1;
            INSERT INTO meta (salt) VALUES (x'00');
            INSERT INTO jobs (id, owner, status, input, created)
                VALUES ('old', CAST('somebody' AS BLOB), 'IN_QUEUE', '{{}}', 1);
            """
        )

    async def scene(store: SqliteStore) -> None:
        assert store.salt == b"\0"
        await store.add(new_job("new", ttl=600.0, run_limit=2.5, webhook="https://a"), 10)
        old, new = [lease for lease, _ in await store.take(2, idle=True)]
        assert ((old.id, old.seconds), (new.id, new.seconds)) == (("old", None), ("new", 2.5))
        await store.finish(new, JobResult("COMPLETED", output="{}"))
        assert len(await store.take_deliveries(OWNER, 9, 600)) == 1

    run(path, scene)
    assert execute(path, "PRAGMA auto_vacuum") == [(2,)]
    names = {name for (name,) in execute(path, "SELECT name FROM sqlite_schema")}
    assert "jobs_in_turn" in names
    assert "jobs_by_status" not in names


def test_logs_of_the_file_hold_no_text(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def scene(store: SqliteStore) -> None:
        def fault(connection: sqlite3.Connection) -> None:
            connection.execute("INSERT INTO jobs (id) VALUES ('secret')")

        with pytest.raises(StoreError, match=r"NOT NULL constraint failed: jobs\.owner"):
            await store._database.run(fault)
        await store.add(new_job("a"), 10)

    with caplog.at_level(logging.DEBUG):
        run(path, scene)
    assert "JOBS_DB: NOT NULL constraint failed: jobs.owner" in caplog.text
    assert "secret" not in caplog.text


# What is stored.


def test_texts_are_stored_as_they_are_and_only_once(tmp_path: Path, small_checkpoint: Path) -> None:
    text = f"{MARKER} 🤬 ünïcode \ud800"  # its last half of a character is read as U+FFFD
    switches = Switches(tmp_path)
    with faulty_device(switches), local_server(tmp_path, small_checkpoint) as server:
        server.ready()
        assert server.get("/health").json()["jobs"] == "ready"
        switches.hold()
        waits = server.run({"prompt": "keeps the device busy"})
        wait_until(lambda: switches.held, "the device", watch=server.require_running)
        job_id = server.run({"prompt": text}, headers={**BEARER, "Idempotency-Key": "key"})
        stored = b"".join(file.read_bytes() for file in tmp_path.glob("jobs.sqlite3*"))
        assert f"{MARKER} 🤬 ünïcode \ufffd".encode() in stored
        assert b"\\ud83e" not in stored
        switches.release()
        server.finished(waits)
        assert server.finished(job_id)["output"]["text"] == text.replace("\ud800", "\ufffd")
        again = server.run({"prompt": text}, headers={**BEARER, "Idempotency-Key": "key"})
        assert again == job_id
    rows = execute(tmp_path / "jobs.sqlite3", "SELECT input, output LIKE '%🤬%' FROM jobs")
    assert rows == [(None, 0), (None, 1)]


@pytest.mark.parametrize(
    ("module", "settings", "extra"),
    [
        ("psycopg", {"JOBS_DB": "postgresql://u:secret@h/d"}, "postgres"),
        ("redis", {"RATE_LIMIT_STORAGE": "redis://:secret@h/0"}, "redis"),
    ],
)
def test_without_its_extra_a_setting_is_refused_by_the_extras_name(
    tmp_path: Path, small_checkpoint: Path, module: str, settings: dict[str, str], extra: str
) -> None:
    ours = [name for name in sys.modules if name.startswith("hatespeech.serving.jobs.postgres")]
    with patch.dict(sys.modules, {module: None}):
        for name in ours:
            del sys.modules[name]
        line = refusal(server_environment(tmp_path, small_checkpoint, settings))
    assert line.startswith(f"error: {next(iter(settings))}")
    assert f"pip install -r requirements-{extra}.txt" in line
    assert "secret" not in line
