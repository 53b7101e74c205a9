"""Jobs in a real PostgreSQL that several servers share: deaths, outages, cuts, a full disk."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest

from hatespeech.errors import SettingsError
from hatespeech.serving.jobs.opening import open_store
from hatespeech.serving.jobs.postgres import link, postgres_store, schema
from hatespeech.serving.jobs.postgres.postgres_store import PostgresStore
from hatespeech.serving.jobs.store import JobResult, NewJob, StoreError
from hatespeech.serving.settings import ServerSettings
from tests.serving.jobs.stores import OWNER, Ears, new_job, until
from tests.support.fleet import Fleet, fleet, storm
from tests.support.ports import free_port
from tests.support.processes.server import HttpServer
from tests.support.processes.worker import wait_until
from tests.support.services.pgbouncer import pgbouncer
from tests.support.services.postgres import PASSWORD, USER, Postgres, postgres
from tests.support.small_disk import mount, small_disk
from tests.support.tcp_proxy import TcpProxy

pytestmark = pytest.mark.slow

TTL: Final = 600.0
_names = (f"jobs{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture
def name(database: Postgres) -> str:
    name = next(_names)
    database.create(name)
    return name


@asynccontextmanager
async def server(
    url: str, ears: Ears | None = None, ttl: float = TTL
) -> AsyncIterator[PostgresStore]:
    """What one server does to the jobs."""
    store = PostgresStore(url, ttl)
    await store.start(ears or Ears())
    await up(store)
    try:
        yield store
    finally:
        await store.close()


async def up(store: PostgresStore) -> None:
    await until(lambda: store._link._pool is not None, "the link")


def die(store: PostgresStore) -> None:
    """Have a server do nothing any more, as after kill -9."""
    for task in store._tasks:
        task.cancel()


def run(scene: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(120):
            await scene()

    asyncio.run(main())


@pytest.fixture
def quick() -> Iterator[None]:
    """Leases that are short, and servers that look often."""
    with (
        patch.object(postgres_store, "LEASE_SECONDS", 3.0),
        patch.object(postgres_store, "LOOK_SECONDS", 0.1),
        patch.object(link, "AGAIN_SECONDS", 0.05),
    ):
        yield


# Servers that die, and clocks that differ.


def test_the_jobs_of_a_dead_server_go_to_another_and_its_late_reply_is_not_taken(
    database: Postgres, name: str, quick: None
) -> None:
    async def scene() -> None:
        url = database.url(name)
        async with server(url) as dead, server(url) as alive:
            await dead.add(new_job("a"), 10)
            ((old, _),) = await dead.take(1, idle=True)
            die(dead)
            ((new, _),) = await taken(alive)
            assert (new.id, new.attempt) == ("a", 2)
            await dead.finish(old, JobResult("COMPLETED", output='"late"'))
            job = await alive.get("a", OWNER)
            assert job is not None
            assert job.status == "IN_PROGRESS"
            await alive.finish(new, JobResult("COMPLETED", output='"in time"'))
            job = await alive.get("a", OWNER)
            assert job is not None
            assert job.output == '"in time"'

    run(scene)


async def taken(store: PostgresStore) -> list[Any]:
    """Wait for jobs to take."""
    while True:
        leases = await store.take(9, idle=True)
        if leases:
            return leases
        await asyncio.sleep(0.05)


def test_a_job_that_three_servers_died_with_is_given_up(
    database: Postgres, name: str, quick: None
) -> None:
    async def scene() -> None:
        url = database.url(name)
        ears = Ears()
        async with server(url, ears) as alive:
            await alive.add(new_job("a"), 10)
            for _ in range(3):
                async with server(url) as victim:
                    await taken(victim)
                    die(victim)
            await until(lambda: "a" in ears.ended, "the job to be given up")
            job = await alive.get("a", OWNER)
            assert job is not None
            assert job.status == "FAILED"
            assert str(job.error).startswith("internal: the service died 3 times")
            assert await alive.take(9, idle=True) == []

    run(scene)
    assert database.execute(name, "SELECT input FROM hatespeech_jobs") == [(None,)]


def test_a_living_server_keeps_its_job_past_the_lease(
    database: Postgres, name: str, quick: None
) -> None:
    async def scene() -> None:
        url = database.url(name)
        ears = Ears()
        async with server(url, ears) as first, server(url) as second:
            await first.add(new_job("a"), 10)
            ((lease, _),) = await first.take(1, idle=True)
            (before,) = database.execute(name, "SELECT lease FROM hatespeech_jobs")[0]
            while database.execute(name, "SELECT now() < %s", (before,))[0][0]:
                assert await second.take(9, idle=True) == []
            assert await second.take(9, idle=True) == []
            assert ears.ended == []
            await first.finish(lease, JobResult("COMPLETED", output="{}"))

    run(scene)


def test_the_clocks_of_servers_do_not_matter(
    database: Postgres, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        async with server(database.url(name)) as store:
            monkeypatch.setattr(time, "time", lambda: 0.0)
            await store.add(new_job("a"), 10)
            ((lease, _),) = await store.take(1, idle=True)
            await store.finish(lease, JobResult("COMPLETED", output="{}"))
            await store.expire()
            job = await store.get("a", OWNER)
        assert job is not None
        (now,) = database.execute(name, "SELECT extract(epoch FROM now())::float8")[0]
        for moment in (job.created, job.started, job.finished):
            assert moment is not None
            assert abs(moment - now) < 600

    run(scene)


# Turns.


def test_taking_jobs_reads_no_more_rows_however_many_wait_of_one_owner(
    database: Postgres, name: str
) -> None:
    def rows_read(plan: dict[str, Any]) -> float:
        removed = plan.get("Rows Removed by Filter", 0)
        here: float = (plan["Actual Rows"] + removed) * plan["Actual Loops"]
        return here + sum(map(rows_read, plan.get("Plans", [])))

    def rows_of_a_take() -> float:
        parameters = {"most": 2, "turns": [b"a", b"b"], "idle": True, "size": 1e9}
        rows = 0.0
        for statement in (postgres_store._COUNT_WAITING, postgres_store._TAKE):
            ((explained,),) = database.execute(
                name,
                f"EXPLAIN (ANALYZE, FORMAT JSON) {statement}",
                {**parameters, "server": "", "lease": 60},
            )
            rows += rows_read(explained[0]["Plan"])
        return rows

    def add(owner: bytes, jobs: int) -> None:
        database.execute(
            name,
            "INSERT INTO hatespeech_jobs (id, owner, status, input)"
            " SELECT gen_random_uuid(), %s, 'IN_QUEUE', '{}' FROM generate_series(1, %s)",
            (owner, jobs),
        )

    PostgresStore(database.url(name), TTL)
    add(b"a", 20)
    add(b"b", 20)
    few = rows_of_a_take()
    add(b"a", 3000)
    assert rows_of_a_take() < 2 * few
    database.execute(name, "ANALYZE hatespeech_jobs")
    assert rows_of_a_take() < 2 * few


def test_an_idle_server_takes_the_next_jobs_where_another_was_faster(
    database: Postgres, name: str
) -> None:
    async def scene() -> None:
        url = database.url(name)
        async with server(url) as first, server(url) as second:
            for owner in (b"a", b"b"):
                await first.add(new_job(owner.decode(), owner=owner), 10)
            fetch = first._link.fetch

            async def late(statement: str, *args: Any, **options: Any) -> list[tuple[Any, ...]]:
                if statement == postgres_store._TAKE and not faster:
                    faster.extend(await second.take(1, idle=True))
                return await fetch(statement, *args, **options)

            faster: list[Any] = []
            with patch.object(first._link, "fetch", late):
                taken = await first.take(1, idle=True)
            assert [lease.id for lease, _ in faster + taken] == ["a", "b"]

    run(scene)


# What servers tell each other.


@pytest.mark.parametrize("notices", [True, False], ids=["by_notice", "by_looking"])
def test_a_caller_learns_of_an_answer_that_another_server_gave(
    database: Postgres, name: str, notices: bool
) -> None:
    async def scene() -> None:
        url = database.url(name)
        ears = Ears()
        ears.waited = ["a"]
        with (
            patch.object(postgres_store, "LOOK_SECONDS", 600.0 if notices else 0.1),
            patch.object(postgres_store, "CHANNEL", "hatespeech_jobs" if notices else "nowhere"),
        ):
            async with server(url, ears) as first, server(url) as second:
                arrivals = ears.arrivals
                await second.add(new_job("a"), 10)
                await until(lambda: ears.arrivals > arrivals, "the job to be told")
                ((lease, _),) = await second.take(1, idle=True)
                assert ears.ended == []
                await second.finish(lease, JobResult("COMPLETED", output="{}"))
                await until(lambda: "a" in ears.ended, "the answer to be told")
                job = await first.get("a", OWNER)
                assert job is not None
                assert job.status == "COMPLETED"

    run(scene)


def test_a_job_cancelled_by_one_server_is_stopped_on_another(database: Postgres, name: str) -> None:
    async def scene() -> None:
        url = database.url(name)
        ears = Ears()
        async with server(url) as first, server(url, ears) as second:
            await first.add(new_job("a"), 10)
            ((lease, _),) = await second.take(1, idle=True)
            await first.cancel("a")
            await until(lambda: "a" in ears.ended, "the cancelling to be told")
            await second.finish(lease, JobResult("COMPLETED", output="{}"))
            job = await first.get("a", OWNER)
            assert job is not None
            assert job.status == "CANCELLED"

    run(scene)


@pytest.mark.parametrize(
    "notice", ["", "{", "[]", "null", '{"from": 1}', '{"from": [], "wait": 1, "ended": 7}']
)
def test_a_notice_that_is_none_of_ours_is_passed_over(
    database: Postgres, name: str, notice: str
) -> None:
    async def scene() -> None:
        ears = Ears()
        async with server(database.url(name), ears) as store:
            for payload in (notice, '{"from": "x", "wait": false, "ended": ["a"]}'):
                database.execute(name, "SELECT pg_notify('hatespeech_jobs', %s)", (payload,))
            await until(lambda: ears.ended == ["a"], "the next notice")
            assert store.trouble is None

    run(scene)


# Outages.


def test_an_outage_is_told_at_once_and_ends_by_itself(
    database: Postgres, name: str, quick: None, caplog: pytest.LogCaptureFixture
) -> None:
    async def scene() -> None:
        async with server(database.url(name), ears) as store:
            await store.add(new_job("a"), 10)
            ((lease, _),) = await store.take(1, idle=True)
            database.stop("immediate")
            try:
                for _ in range(3):
                    with pytest.raises(StoreError):
                        await store.add(new_job("b"), 10)
                assert store.trouble is not None
                await asyncio.sleep(postgres_store.LEASE_SECONDS)
            finally:
                database.start()
            await up(store)
            assert store.trouble is None
            looks = ears.arrivals
            await until(lambda: ears.arrivals > looks + 2, "two more looks")
            await store.finish(
                lease, JobResult("COMPLETED", output="{}")
            )  # the lease is still held
            await store.add(new_job("b"), 10)
            assert await store.count() == {"COMPLETED": 1, "IN_QUEUE": 1}

    ears = Ears()
    with caplog.at_level(logging.DEBUG):
        run(scene)
    assert "jobs are refused until this is over" in caplog.text
    assert "the database is reached again" in caplog.text
    require_no_password(caplog.text)


def test_after_an_outage_the_leases_of_others_that_live_are_not_ended(
    database: Postgres, name: str, quick: None
) -> None:
    async def scene() -> None:
        url = database.url(name)
        ears = Ears()
        async with server(url) as slow, server(url, ears) as fast:
            await slow.add(new_job("a"), 10)
            ((lease, _),) = await slow.take(1, idle=True)
            die(slow)  # it has not reached the database again
            # As after an outage that was longer than a lease.
            database.execute(name, "UPDATE hatespeech_jobs SET lease = now() - interval '1 hour'")
            looks = ears.arrivals
            await until(lambda: ears.arrivals > looks + 2, "two more looks")
            assert await fast.take(1, idle=True) == []
            await slow.finish(lease, JobResult("COMPLETED", output="{}"))
            job = await fast.get("a", OWNER)
            assert job is not None
            assert job.status == "COMPLETED"

    with patch.object(postgres_store, "LEASE_SECONDS", 600.0):
        run(scene)


def require_no_password(text: str) -> None:
    for piece in (*PASSWORD.split("/"), "a-password", "%2F", USER + ":"):
        assert piece not in text


def test_a_network_that_swallows_everything_holds_no_caller_up(
    database: Postgres, name: str, quick: None
) -> None:
    async def scene() -> None:
        with TcpProxy(database.port) as proxy:
            async with server(database.url(name, proxy.port)) as store:
                await store.add(new_job("a"), 10)
                proxy.swallow()
                with patch.object(link, "STATEMENT_SECONDS", 0.3), pytest.raises(StoreError):
                    await store.count()
                # From now on nobody waits for the network.
                with pytest.raises(StoreError):
                    await asyncio.wait_for(store.count(), 0.05)
                proxy.heal()
                await up(store)
                assert await store.count() == {"IN_QUEUE": 1}

    run(scene)


def test_jobs_whose_taking_was_cut_off_go_back_without_blame(
    database: Postgres, name: str, quick: None
) -> None:
    async def scene() -> None:
        with (
            TcpProxy(database.port) as proxy,
            patch.object(postgres_store, "LEASE_SECONDS", 600.0),
        ):
            async with server(database.url(name, proxy.port)) as store:
                # Not by the store, whose notice would use the connection that the taking needs.
                database.execute(
                    name,
                    "INSERT INTO hatespeech_jobs (id, owner, status, input)"
                    " VALUES ('a', %s, 'IN_QUEUE', '{}')",
                    (OWNER,),
                )
                fetch = store._link.fetch

                async def cut_off(statement: str, *args: Any, **options: Any) -> list[Any]:
                    if statement == postgres_store._TAKE:
                        proxy.swallow_replies()
                    return await fetch(statement, *args, **options)

                with (
                    patch.object(link, "STATEMENT_SECONDS", 1.0),
                    patch.object(store._link, "fetch", cut_off),
                    pytest.raises(StoreError),
                ):
                    await store.take(1, idle=True)
                assert database.execute(name, "SELECT status FROM hatespeech_jobs") == [
                    ("IN_PROGRESS",)
                ]
                proxy.heal()
                await up(store)
                ((lease, _),) = await taken(store)
                assert lease.attempt == 1

    run(scene)


def test_a_database_that_is_away_at_the_start_is_reached_later(
    database: Postgres, name: str, quick: None
) -> None:
    async def scene() -> None:
        store = PostgresStore(database.url(name, port), TTL)
        assert str(store.trouble).startswith("PostgreSQL can't be reached: Connection refused")
        with pytest.raises(StoreError):
            _ = store.salt
        await store.start(Ears())
        with pytest.raises(StoreError):
            await store.add(new_job("a"), 10)
        with TcpProxy(database.port, port):
            await up(store)
            assert len(store.salt) == 32
            await store.add(new_job("a"), 10)
            await store.close()

    port = free_port()
    run(scene)


def test_connections_are_bounded_however_many_jobs_come(
    database: Postgres, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        most = 0
        done = threading.Event()
        monkeypatch.setattr(link, "BUSY_SECONDS", 60.0)  # on a busy machine

        def watch() -> None:
            nonlocal most
            while not done.is_set():
                ((connections,),) = database.execute(
                    "postgres", "SELECT count(*) FROM pg_stat_activity WHERE datname = %s", (name,)
                )
                most = max(most, connections)

        async with server(database.url(name)) as store:
            watcher = asyncio.create_task(asyncio.to_thread(watch))
            try:
                await asyncio.gather(*(store.add(new_job(f"{i}"), 1000) for i in range(200)))
            finally:
                done.set()
                await watcher
            assert await store.count() == {"IN_QUEUE": 200}
        assert 1 < most <= link.CONNECTIONS + 1

    run(scene)


def test_leases_are_renewed_while_every_connection_is_busy(
    database: Postgres, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scene() -> None:
        ears = Ears()
        async with server(database.url(name), ears) as store:
            await store.add(new_job("a"), 10)
            await store.take(1, idle=True)
            (before,) = database.execute(name, "SELECT lease FROM hatespeech_jobs")[0]
            monkeypatch.setattr(link, "BUSY_SECONDS", 60.0)  # on a busy machine
            free = link.CONNECTIONS - 1
            slow = [
                asyncio.create_task(store._link.fetch("SELECT pg_sleep(600)", size=10**8))
                for _ in range(free)
            ]
            await until(lambda: len(store._link._busy) == free, "the connections to be busy")
            with (
                patch.object(link, "BUSY_SECONDS", 0.1),
                pytest.raises(StoreError, match="every connection to the database is busy"),
            ):
                await store.count()
            await store._look(ears)
            assert database.execute(name, "SELECT lease FROM hatespeech_jobs")[0][0] > before
            for connection in list(store._link._busy):
                link.cut(connection)
            await asyncio.gather(*slow, return_exceptions=True)

    run(scene)


def test_behind_pgbouncer_in_transaction_mode_servers_find_each_others_answers(
    database: Postgres, name: str, quick: None
) -> None:
    async def scene(port: int) -> None:
        url = database.url(name, port)
        ears = Ears()
        ears.waited = ["49"]
        async with server(url, ears) as first, server(url) as second:
            for _ in range(2):  # more than psycopg's threshold of prepared statements
                await asyncio.gather(*(first.add(new_job(f"{i}"), 1000) for i in range(50)))
                for lease, _ in await second.take(50, idle=True):
                    await second.finish(lease, JobResult("COMPLETED", output="{}"))
                await until(lambda: ears.ended.count("49") > 0, "the answer to be found")
                database.execute(name, "DELETE FROM hatespeech_jobs")
                ears.ended.clear()
            assert first.trouble is None

    with pgbouncer(database) as port:
        run(lambda: scene(port))


# A full disk: a small one of the test's own, with a tablespace on it.


async def add_all(store: PostgresStore, jobs: Iterable[NewJob]) -> None:
    for job in jobs:
        await store.add(job, 1000)


@pytest.fixture
def disk(database: Postgres) -> Iterator[Path]:
    with small_disk(database.folder / "disk", 16_000_000, database.user_id) as folder:
        yield folder


def test_a_full_disk_refuses_jobs_keeps_answers_and_heals(
    database: Postgres,
    disk: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def scene() -> None:
        noise = "".join(chr(33 + i * i % 7919 % 90) for i in range(100_000))  # hardly compressible
        async with server(database.url("small")) as store:
            await store.add(new_job("first"), 1000)
            ((lease, _),) = await store.take(1, idle=True)
            jobs = (new_job(f"{i}", input=noise[i:] + noise) for i in itertools.count())
            assert (store.trouble, store.full) == (None, False)
            with pytest.raises(StoreError, match="53100"):
                await add_all(store, jobs)
            assert (store.trouble, store.full) == ("its disk is full", True)
            stored = (await store.count())["IN_QUEUE"]
            assert stored > 5
            with pytest.raises(StoreError, match="53100"):
                await store.finish(lease, JobResult("COMPLETED", output=noise))
            # Nothing is lost, and nothing else stops.
            job = await store.get("first", OWNER)
            assert job is not None
            assert job.status == "IN_PROGRESS"
            mount(disk, "remount,size=32m")
            await store.finish(lease, JobResult("COMPLETED", output=noise))
            await store.add(new_job("again"), 1000)
            assert await store.count() == {"COMPLETED": 1, "IN_QUEUE": stored + 1}
            monkeypatch.setattr(link, "FULL_SECONDS", 0.0)  # as if they had passed
            assert (store.trouble, store.full) == (None, False)

    database.execute("postgres", f"CREATE TABLESPACE small LOCATION '{disk}'")
    database.create("small", "TABLESPACE small")
    try:
        # Writes what the new database has in memory while there is room for it.
        database.execute("postgres", "CHECKPOINT")
        with caplog.at_level(logging.DEBUG):
            run(scene)
        assert "JOBS_DB: PostgreSQL says 53100: could not extend file" in caplog.text
        assert "hello" not in caplog.text
    finally:
        mount(disk, "remount,size=64m")
        database.execute("postgres", "DROP DATABASE small WITH (FORCE)")
        database.execute("postgres", "DROP TABLESPACE small")


# The tables.


def test_servers_that_start_together_make_the_tables_once(database: Postgres, name: str) -> None:
    stores: list[PostgresStore] = []
    threads = [
        threading.Thread(target=lambda: stores.append(PostgresStore(database.url(name), TTL)))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(stores) == 6
    assert len({store.salt for store in stores}) == 1
    (version,) = database.execute(name, "SELECT version FROM hatespeech_meta")
    assert version == (len(schema.MIGRATIONS),)


def test_tables_of_an_older_release_become_todays_and_keep_their_jobs(
    database: Postgres, name: str
) -> None:
    async def before() -> None:
        async with server(database.url(name)) as store:
            await store.add(new_job("a"), 10)

    async def after() -> None:
        async with server(database.url(name)) as store:
            assert [lease.id for lease, _ in await store.take(5, idle=True)] == ["a"]

    run(before)
    step = "ALTER TABLE hatespeech_jobs ADD COLUMN colour text; CREATE TABLE more (x integer)"
    with patch.object(schema, "MIGRATIONS", (*schema.MIGRATIONS, step)):
        run(after)
    assert database.execute(name, "SELECT colour FROM hatespeech_jobs") == [(None,)]
    with pytest.raises(SettingsError, match="its tables are of a newer release"):
        PostgresStore(database.url(name), TTL)


def test_a_step_that_fails_leaves_the_tables_as_they_were(database: Postgres, name: str) -> None:
    PostgresStore(database.url(name), TTL)
    step = "CREATE TABLE more (x integer); SELECT 1 / 0"
    with (
        patch.object(schema, "MIGRATIONS", (*schema.MIGRATIONS, step)),
        pytest.raises(SettingsError, match="22012"),
    ):
        PostgresStore(database.url(name), TTL)
    assert database.execute(name, "SELECT to_regclass('more')::text") == [(None,)]
    PostgresStore(database.url(name), TTL)


# What an operator gets wrong.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://u:se/cret@127.0.0.1/x", "is not a URL that libpq reads"),
        ("postgresql://u:secret@127.0.0.1/x?sslmoode=require", "is not a URL that libpq reads"),
        ("postgres://u:secret@127.0.0.1:PORT/NAME", "password authentication failed"),
        ("postgresql://USER:RIGHT@127.0.0.1:PORT/secret", "does not exist"),
        ("postgresql://USER:RIGHT@127.0.0.1:PORT/latin", "encoding is LATIN1, and must be UTF8"),
        ("postgresql://reader:secret@127.0.0.1:PORT/NAME", "permission denied for schema public"),
    ],
)
def test_a_wrong_url_is_one_line_that_names_the_setting_and_no_secret(
    database: Postgres, name: str, url: str, said: str
) -> None:
    with contextlib.suppress(Exception):  # the first of these tests makes them
        database.create("latin", "ENCODING LATIN1 TEMPLATE template0")
        database.execute("postgres", "CREATE ROLE reader LOGIN PASSWORD 'secret'")
    right = database.url(name).partition("@")[0].rpartition(":")[2]
    for word, value in {"PORT": database.port, "NAME": name, "USER": USER, "RIGHT": right}.items():
        url = url.replace(word, str(value))
    settings = ServerSettings.from_environment({"JOBS_DB": url})
    with pytest.raises(SettingsError) as caught:
        open_store(settings)
    line = str(caught.value)
    assert line.startswith("JOBS_DB=postgresql://… ")
    assert said in line
    assert "\n" not in line
    shown = line + repr(settings.jobs_db)
    for secret in ("secret", "cret@", PASSWORD, right):
        assert secret not in shown


def test_a_name_that_leads_nowhere_tells_no_piece_of_a_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    # The password holds an @, so what follows it is taken for the host.
    store = PostgresStore("postgresql://u:pa@ss.invalid@nowhere.invalid/x", TTL)
    assert str(store.trouble).startswith("PostgreSQL can't be reached")
    assert "ss.invalid" not in caplog.text + str(store.trouble)


# All of it at once: three servers as processes, each behind a network of its own.


def test_a_storm_over_three_servers_loses_no_job_and_answers_none_twice(
    database: Postgres, tmp_path: Path
) -> None:
    def blows(servers: Fleet) -> None:
        for blow, i in (("kill", 0), ("restart", 0), ("refuse", 1), ("swallow", 2), ("kill", 1)):
            servers.strike(blow, i)

    with fleet(database, tmp_path, "storm") as servers:
        seen = storm(servers, database, "storm", 200, blows, seed=1)
        assert sum(seen.answers.values()) == 200
        for server in servers.servers:
            require_no_password(server.stderr)
            assert "Traceback" not in server.stderr


def test_out_of_reach_jobs_are_refused_scores_go_on_and_it_ends_by_itself(
    database: Postgres, tmp_path: Path
) -> None:
    with fleet(database, tmp_path, "reach") as servers:
        server = servers.servers[0]
        job_id = server.run({"prompt": "hello"})
        server.finished(job_id)
        servers.proxies[0].refuse()
        wait_until(lambda: health(server)["jobs"] == "unavailable", "the outage to be noticed")
        for method, path, body in (
            ("POST", "/run", {"input": {"prompt": "hello"}}),
            ("POST", "/runsync", {"input": {"prompt": "hello"}}),
            ("GET", f"/status/{job_id}", None),
            ("POST", f"/cancel/{job_id}", None),
            ("GET", "/v2/any/health", None),
        ):
            reply = server.request(method, path, json=body)
            assert (reply.status_code, reply.json()["error_type"]) == (503, "unhealthy"), path
            assert int(reply.headers["Retry-After"]) >= 1
        assert server.post("/score", json={"text": "hello"}).status_code == 200
        assert server.get("/metrics").status_code == 200
        assert server.get("/ping").status_code == 200
        # The other servers know nothing of it.
        assert servers.servers[1].status(job_id)["status"] == "COMPLETED"
        servers.proxies[0].heal()
        wait_until(lambda: health(server)["jobs"] == "ready", "the end of the outage")
        assert server.finished(server.run({"prompt": "hello"}))["status"] == "COMPLETED"
        server.terminate()
        assert server.wait() == 0


def health(server: HttpServer) -> dict[str, Any]:
    body: dict[str, Any] = server.get("/health").json()
    return body
