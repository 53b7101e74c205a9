"""What every store of jobs promises, asked of both: the SQLite file, and a real PostgreSQL."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Final

import pytest

from hatespeech.errors import OverloadedError, ValidationError
from hatespeech.serving.jobs.postgres.postgres_store import PostgresStore
from hatespeech.serving.jobs.sqlite.sqlite_store import SqliteStore
from hatespeech.serving.jobs.store import Delivery, JobResult, JobStatus, Lease, Store, StoredJob
from tests.serving.jobs.stores import OWNER, Ears, new_job, until
from tests.support.services.postgres import Postgres, postgres

OpenStore = Callable[[], AbstractAsyncContextManager[Store]]

TTL: Final = 600.0
_names = (f"promises{number}" for number in itertools.count())


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with postgres() as server:
        yield server


@pytest.fixture(
    params=[pytest.param("sqlite"), pytest.param("postgres", marks=pytest.mark.slow)],
)
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens the same empty store each time."""
    url = ""
    if request.param == "postgres":
        database: Postgres = request.getfixturevalue("database")
        url = database.create(next(_names))

    @asynccontextmanager
    async def opened() -> AsyncIterator[Store]:
        store: Store = (
            PostgresStore(url, TTL) if url else SqliteStore(tmp_path / "jobs.sqlite3", TTL)
        )
        await store.start(Ears())
        if isinstance(store, PostgresStore):
            await until(lambda: store._link._pool is not None, "the link")
        try:
            yield store
        finally:
            await store.close()

    return opened


def run(open_store: OpenStore, scene: Callable[[Store], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(60), open_store() as store:
            await scene(store)

    asyncio.run(main())


def test_a_job_is_taken_once_answered_once_and_told_to_its_owner(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        assert await store.add(new_job("a"), 10) == "a"
        ((lease, text),) = await store.take(5, idle=True)
        assert (lease, text) == (Lease("a", 1, OWNER), '{"prompt": "hello"}')
        assert await store.take(5, idle=True) == []
        await store.finish(lease, JobResult("COMPLETED", output='{"x": "\\u0000 ü 👋"}'))
        await store.finish(lease, JobResult("FAILED", error="internal: no"))
        await store.put_back(lease, blameless=True)
        await store.cancel("a")
        job = await store.get("a", OWNER)
        assert job is not None
        assert (job.status, job.output, job.error) == ("COMPLETED", '{"x": "\\u0000 ü 👋"}', None)
        assert job.started is not None
        assert job.finished is not None
        assert job.created <= job.started <= job.finished
        assert await store.get("a", b"another") is None
        assert await store.take(5, idle=True) == []
        assert await store.count() == {"COMPLETED": 1}

    run(open_store, scene)


@pytest.mark.parametrize("job_id", ["a\0", "a' OR '1'='1", "%s", "a\ufffd", "x" * 100_000, ""])
def test_an_id_that_no_one_gave_out_is_found_by_no_one(open_store: OpenStore, job_id: str) -> None:
    async def scene(store: Store) -> None:
        await store.add(new_job("a"), 10)
        assert await store.get(job_id, OWNER) is None
        assert (await store.count()) == {"IN_QUEUE": 1}

    run(open_store, scene)


def test_an_error_that_quotes_a_strange_key_is_kept(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        await store.add(new_job("a", input=None, error="validation: 'a\0b'"), 10)
        job = await store.get("a", OWNER)
        assert job is not None
        assert job.status == "FAILED"
        assert str(job.error).startswith("validation: 'a")
        assert await store.take(1, idle=True) == []

    run(open_store, scene)


def test_jobs_are_taken_in_their_order_and_keep_their_place(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        for name in "abcde":
            await store.add(new_job(name), 10)
        first = await store.take(3, idle=True)
        assert [lease.id for lease, _ in first] == ["a", "b", "c"]
        await store.put_back(first[1][0], blameless=True)
        taken = await store.take(2, idle=False)
        assert [lease for lease, _ in taken] == [Lease("b", 1, OWNER), Lease("d", 1, OWNER)]

    run(open_store, scene)


async def take_ids(store: Store, count: int) -> list[str]:
    return [lease.id for lease, _ in await store.take(count, idle=False)]


async def add_jobs(store: Store, *names: str) -> None:
    """Add jobs of owners that their first letters name."""
    for name in names:
        await store.add(new_job(name, owner=name[:1].encode()), 99)


def test_the_next_place_goes_to_the_owner_with_the_fewest_jobs_running(
    open_store: OpenStore,
) -> None:
    async def scene(store: Store) -> None:
        await add_jobs(store, "a1", "a2", "a3", "a4", "a5", "b1", "b2")
        assert await take_ids(store, 1) == ["a1"]
        assert await take_ids(store, 4) == ["b1", "a2", "b2", "a3"]
        await add_jobs(store, "b3", "c1", "c2")
        assert await take_ids(store, 2) == ["c1", "c2"]
        await store.finish(Lease("b1", 1, b"b"), JobResult("COMPLETED", output="{}"))
        await store.put_back(Lease("b2", 1, b"b"), blameless=True)
        assert await take_ids(store, 2) == ["b2", "b3"]
        assert await take_ids(store, 9) == ["a4", "a5"]

    run(open_store, scene)


def test_of_owners_with_as_few_jobs_running_each_has_a_turn(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        await add_jobs(store, "a1", "a2", "a3", "b1", "b2", "b3", "c1")
        order: list[str] = []
        for _ in range(7):
            ((lease, _),) = await store.take(1, idle=True)
            order.append(lease.id)
            await store.finish(lease, JobResult("COMPLETED", output="{}"))
        assert order == ["a1", "b1", "c1", "a2", "b2", "a3", "b3"]

    run(open_store, scene)


def test_an_owner_whose_jobs_waited_too_long_has_no_turn(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        for number in range(3):
            await store.add(new_job(f"late{number}", owner=b"a", ttl=0.001), 99)
        await add_jobs(store, "b1")
        await asyncio.sleep(0.01)  # the deadlines have passed, however slow this is
        assert await take_ids(store, 1) == ["b1"]

    run(open_store, scene)


def test_a_job_that_does_not_fit_keeps_its_turn(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        await add_jobs(store, "a1")
        assert await take_ids(store, 1) == ["a1"]
        await add_jobs(store, "a2", "a3")
        await store.add(new_job("large", owner=b"b", input="x" * 2000), 99)
        assert await store.take(9, idle=False, size=1000) == []
        taken = await store.take(9, idle=False, size=2030)
        assert [lease.id for lease, _ in taken] == ["large", "a2"]

    run(open_store, scene)


def test_jobs_are_taken_as_far_as_their_inputs_fit_and_in_their_order(
    open_store: OpenStore,
) -> None:
    async def scene(store: Store) -> None:
        for name, size in (("a", 400), ("b", 500), ("c", 300), ("d", 10)):
            await store.add(new_job(name, input="x" * size), 10)
        first = await store.take(9, idle=True, size=1000)
        assert [(lease.id, lease.size) for lease, _ in first] == [("a", 400), ("b", 500)]
        assert await store.take(9, idle=False, size=100) == []  # the small one keeps its place
        taken = await store.take(9, idle=False, size=310)
        assert [lease.id for lease, _ in taken] == ["c", "d"]
        await store.add(new_job("e", input="x" * 2000), 10)
        assert await store.take(9, idle=False, size=1000) == []
        assert [lease.id for lease, _ in await store.take(9, idle=True, size=-1)] == ["e"]

    run(open_store, scene)


def test_suspects_run_alone_the_least_tried_first_until_one_is_given_up(
    open_store: OpenStore,
) -> None:
    async def scene(store: Store) -> None:
        for name in "abc":
            await store.add(new_job(name), 10)
        leases = [lease for lease, _ in await store.take(2, idle=True)]
        for lease in leases:
            await store.put_back(lease, blameless=False)
        assert await store.take(9, idle=False) == []  # a suspect waits for an idle server
        assert [lease for lease, _ in await store.take(9, idle=True)] == [Lease("a", 2, OWNER)]
        await store.put_back(Lease("a", 2, OWNER), blameless=False)
        assert [lease for lease, _ in await store.take(9, idle=True)] == [Lease("b", 2, OWNER)]
        await store.finish(Lease("b", 2, OWNER), JobResult("COMPLETED", output="{}"))
        assert [lease for lease, _ in await store.take(9, idle=True)] == [Lease("a", 3, OWNER)]
        await store.finish(Lease("a", 3, OWNER), JobResult("COMPLETED", output="{}"))
        assert [lease.id for lease, _ in await store.take(9, idle=False)] == ["c"]

    run(open_store, scene)


def test_a_lease_that_has_ended_counts_no_more(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        await store.add(new_job("a"), 10)
        ((old, _),) = await store.take(1, idle=True)
        await store.put_back(old, blameless=False)
        ((new, _),) = await store.take(1, idle=True)
        assert new != old
        await store.finish(old, JobResult("COMPLETED", output='"late"'))
        await store.put_back(old, blameless=True)
        await store.finish(new, JobResult("COMPLETED", output='"in time"'))
        job = await store.get("a", OWNER)
        assert job is not None
        assert job.output == '"in time"'

    run(open_store, scene)


def test_a_cancelled_job_is_not_taken_and_keeps_no_text(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        for name in "ab":
            await store.add(new_job(name), 10)
        ((lease, _),) = await store.take(1, idle=True)
        for name in "ab":
            await store.cancel(name)
            await store.cancel(name)
        await store.finish(lease, JobResult("COMPLETED", output="{}"))
        for name in "ab":
            job = await store.get(name, OWNER)
            assert job is not None
            assert (job.status, job.output) == ("CANCELLED", None)
        assert await store.take(5, idle=True) == []

    run(open_store, scene)


def test_a_retry_finds_its_job_and_another_body_is_refused(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        keys = {"retry_key": b"key", "retry_body": b"body"}
        ids = await asyncio.gather(*(store.add(new_job(f"job-{i}", **keys), 10) for i in range(8)))
        assert len(set(ids)) == 1
        assert await store.count() == {"IN_QUEUE": 1}
        with pytest.raises(ValidationError):
            await store.add(new_job("x", retry_key=b"key", retry_body=b"other"), 10)
        assert await store.add(new_job("y", **{**keys, "owner": b"another"}), 10) == "y"
        # A retry is answered when the queue is full, too.
        assert await store.add(new_job("z", **keys), 1) == ids[0]

    run(open_store, scene)


def test_a_job_that_waits_longer_than_its_ttl_times_out_and_is_not_taken(
    open_store: OpenStore,
) -> None:
    async def scene(store: Store) -> None:
        await store.add(new_job("late", ttl=0.001), 10)
        await store.add(new_job("patient", ttl=600.0), 10)
        await asyncio.sleep(0.01)  # the deadline of the first has passed, however slow this is
        ((lease, _),) = await store.take(5, idle=True)
        assert lease.id == "patient"
        assert lease.seconds is not None
        assert 0 < lease.seconds <= 600
        assert list(await store.expire()) == ["late"]
        job = await found(store, "late")
        assert (job.status, job.output) == ("TIMED_OUT", None)
        assert job.error == "unfinished: the job waited longer than its policy's ttl allows"
        assert job.finished is not None
        assert list(await store.expire()) == []

    run(open_store, scene)


async def found(store: Store, job_id: str) -> StoredJob:
    job = await store.get(job_id, OWNER)
    assert job is not None
    return job


def test_a_lease_says_for_how_long_its_job_may_run(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        await store.add(new_job("free"), 10)
        await store.add(new_job("limited", run_limit=2.5), 10)
        await store.add(new_job("both", run_limit=900.0, ttl=60.0), 10)
        free, limited, both = [lease.seconds for lease, _ in await store.take(5, idle=True)]
        assert (free, limited) == (None, 2.5)
        assert both is not None
        assert 0 < both <= 60

    run(open_store, scene)


def test_a_purge_cancels_what_waits_of_one_owner_alone(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        await store.add(new_job("runs"), 5000)
        await store.take(1, idle=True)
        # More than one step of either store.
        mine = {f"mine-{number}" for number in range(600)}
        await asyncio.gather(*(store.add(new_job(name), 5000) for name in mine))
        await store.add(new_job("theirs", owner=b"another"), 5000)
        assert set(await store.purge(OWNER)) == mine
        assert list(await store.purge(OWNER)) == []
        assert (await found(store, "mine-0")).status == "CANCELLED"
        assert (await store.count()) == {"IN_PROGRESS": 1, "IN_QUEUE": 1, "CANCELLED": 600}

    run(open_store, scene)


@pytest.mark.parametrize("status", ["FAILED", "TIMED_OUT"])
def test_a_job_that_failed_with_its_input_kept_is_queued_anew(
    open_store: OpenStore, status: JobStatus
) -> None:
    async def scene(store: Store) -> None:
        await store.add(new_job("a", ttl=600.0, run_limit=2.5), 10)
        ((lease, text),) = await store.take(1, idle=True)
        assert not await store.retry("a", OWNER, 10)  # it runs
        await store.finish(lease, JobResult(status, error="internal: no", keep_input=True))
        assert not await store.retry("a", b"another", 10)
        assert not await store.retry("a\0", OWNER, 10)
        await store.add(new_job("b"), 10)
        with pytest.raises(OverloadedError, match="1 jobs"):
            await store.retry("a", OWNER, 1)
        assert await store.retry("a", OWNER, 10)
        job = await found(store, "a")
        assert (job.status, job.error, job.started, job.finished) == ("IN_QUEUE", None, None, None)
        assert not await store.retry("a", OWNER, 10)
        (again, text_again), _ = await store.take(2, idle=True)
        assert (again, text_again) == (Lease("a", 1, OWNER), text)
        assert again.seconds == 2.5
        await store.finish(again, JobResult("COMPLETED", output="{}"))
        assert not await store.retry("a", OWNER, 10)

    run(open_store, scene)


def test_a_job_whose_input_is_gone_is_not_queued_anew(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        await store.add(new_job("refused", input=None, error="validation: no"), 10)
        await store.add(new_job("blamed"), 10)
        ((lease, _),) = await store.take(1, idle=True)
        await store.finish(lease, JobResult("FAILED", error="too_large: text: no"))
        assert not await store.retry("refused", OWNER, 10)
        assert not await store.retry("blamed", OWNER, 10)

    run(open_store, scene)


def test_a_webhook_is_due_once_its_job_has_ended_and_until_it_is_delivered(
    open_store: OpenStore,
) -> None:
    async def scene(store: Store) -> None:
        await store.add(new_job("plain"), 10)
        await store.add(new_job("told", webhook="https://a.example/x"), 10)
        await store.add(new_job("refused", input=None, error="e: no", webhook="https://b"), 10)
        (refused,) = await store.take_deliveries(OWNER, 5, 600)
        assert refused == Delivery(refused.job, OWNER, "https://b", 1)
        assert refused.job.id == "refused"
        assert refused.job == await store.get("refused", OWNER)
        assert list(await store.take_deliveries(OWNER, 5, 600)) == []  # it is on its way
        await store.end_delivery(refused, None)
        for lease, _ in await store.take(5, idle=True):
            await store.finish(lease, JobResult("FAILED", error="internal: no", keep_input=True))
        (first,) = await store.take_deliveries(OWNER, 5, 600)
        await store.end_delivery(first, 0)
        (second,) = await store.take_deliveries(OWNER, 5, 600)
        assert (second.job.id, second.tries) == ("told", 2)
        await store.end_delivery(first, None)  # too late: it counts no more
        await store.end_delivery(second, 600)
        assert list(await store.take_deliveries(OWNER, 5, 600)) == []
        # A job that runs again is told of again.
        assert await store.retry("told", OWNER, 10)
        assert list(await store.take_deliveries(OWNER, 5, 600)) == []
        await store.cancel("told")
        (again,) = await store.take_deliveries(OWNER, 5, 600)
        assert (again.job.status, again.tries) == ("CANCELLED", 1)

    run(open_store, scene)


def test_each_owners_webhooks_are_counted_and_taken_apart(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        assert await store.count_due(3) == {}
        for owner, jobs in ((b"\0many", 5), (OWNER, 2), (b"\xff", 1)):
            for number in range(jobs):
                ended = new_job(
                    f"{owner!r}{number}", input=None, error="e: no", webhook="https://b"
                )
                await store.add(dataclasses.replace(ended, owner=owner), 99)
        await store.add(new_job("waits", owner=b"another", webhook="https://b"), 99)
        await store.add(new_job("plain", owner=b"a third", input=None, error="e: no"), 99)
        assert await store.count_due(3) == {b"\0many": 3, OWNER: 2, b"\xff": 1}
        told, again = await store.take_deliveries(OWNER, 5, 600)
        assert {told.owner, again.owner} == {OWNER}
        assert {told.job.id, again.job.id} == {f"{OWNER!r}0", f"{OWNER!r}1"}
        assert await store.count_due(9) == {b"\0many": 5, b"\xff": 1}
        await store.end_delivery(told, None)
        await store.end_delivery(again, 0)
        assert await store.count_due(9) == {b"\0many": 5, OWNER: 1, b"\xff": 1}

    run(open_store, scene)


def test_what_waited_longest_is_delivered_first_and_what_was_never_sent_before_all(
    open_store: OpenStore,
) -> None:
    async def scene(store: Store) -> None:
        for name in "abc":
            await store.add(new_job(name, input=None, error="e: no", webhook="https://b"), 9)
        tried = {each.job.id: each for each in await store.take_deliveries(OWNER, 2, 600)}
        (fresh,) = {"a", "b", "c"} - tried.keys()
        first, second = tried
        await store.end_delivery(tried[second], 0.001)
        await asyncio.sleep(0.01)
        await store.end_delivery(tried[first], 0)
        order = [(await store.take_deliveries(OWNER, 1, 600))[0].job.id for _ in "abc"]
        assert order == [fresh, second, first]

    run(open_store, scene)


def test_what_a_server_that_died_wanted_to_deliver_is_due_later(open_store: OpenStore) -> None:
    async def first(store: Store) -> None:
        await store.add(new_job("a", input=None, error="e: no", webhook="https://b"), 10)
        assert len(await store.take_deliveries(OWNER, 5, 0.001)) == 1

    async def second(store: Store) -> None:
        await asyncio.sleep(0.01)  # longer than the claim
        (delivery,) = await store.take_deliveries(OWNER, 5, 600)
        assert delivery.tries == 2

    run(open_store, first)
    run(open_store, second)


def test_several_servers_never_deliver_the_same_at_once(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        for number in range(20):
            name = f"job-{number}"
            await store.add(new_job(name, input=None, error="e: no", webhook="https://b"), 99)
        taken = await asyncio.gather(*(store.take_deliveries(OWNER, 5, 600) for _ in range(6)))
        ids = [delivery.job.id for some in taken for delivery in some]
        assert len(ids) == len(set(ids)) == 20

    run(open_store, scene)


def test_jobs_are_counted_of_all_or_of_one_owner(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        for name in "abc":
            await store.add(new_job(name), 10)
        await store.add(new_job("theirs", owner=b"another"), 10)
        await store.cancel("c")
        assert await store.count() == {"IN_QUEUE": 3, "CANCELLED": 1}
        assert await store.count(OWNER) == {"IN_QUEUE": 2, "CANCELLED": 1}
        assert await store.count(b"another") == {"IN_QUEUE": 1}
        assert await store.count(b"nobody") == {}

    run(open_store, scene)


def test_a_full_queue_refuses_jobs_that_wait(open_store: OpenStore) -> None:
    async def scene(store: Store) -> None:
        for name in "ab":
            await store.add(new_job(name), 2)
        with pytest.raises(OverloadedError, match="2 jobs"):
            await store.add(new_job("c"), 2)
        await store.take(1, idle=True)
        await store.add(new_job("d"), 2)

    run(open_store, scene)


def test_an_owner_whose_jobs_wait_leaves_as_much_room_for_others(open_store: OpenStore) -> None:
    async def add(store: Store, owner: bytes, jobs: int) -> None:
        """Add so many, which are all that there is room for."""
        for number in range(jobs):
            await store.add(new_job(f"{owner!r}{number}", owner=owner), 10, shared=True)
        with pytest.raises(OverloadedError, match=f"{jobs} jobs of this token"):
            await store.add(new_job("refused", owner=owner), 10, shared=True)

    async def scene(store: Store) -> None:
        await store.add(new_job("fails", owner=b"a"), 10, shared=True)
        ((lease, _),) = await store.take(1, idle=True)
        await store.finish(lease, JobResult("FAILED", error="internal: no", keep_input=True))
        await add(store, b"a", 5)
        with pytest.raises(OverloadedError, match="5 jobs of this token"):
            await store.retry("fails", b"a", 10, shared=True)
        await add(store, b"b", 2)
        await add(store, b"c", 1)
        await add(store, b"d", 1)
        await store.add(new_job("first", owner=b"e"), 10, shared=True)
        with pytest.raises(OverloadedError, match="10 jobs are already waiting"):
            await store.add(new_job("refused", owner=b"f"), 10, shared=True)
        assert await store.count() == {"IN_QUEUE": 10, "FAILED": 1}
        for number in range(3):  # a place that is free again is for the others first
            await store.cancel(f"{b'a'!r}{number}")
        with pytest.raises(OverloadedError, match="2 jobs of this token"):
            await store.retry("fails", b"a", 10, shared=True)
        assert await store.retry("fails", b"a", 10)  # of all, if it shares the room with none

    run(open_store, scene)


def test_what_is_stored_outlives_its_server_with_the_salt(open_store: OpenStore) -> None:
    salts: list[bytes] = []

    async def first(store: Store) -> None:
        salts.append(store.salt)
        await store.add(new_job("a"), 10)

    async def second(store: Store) -> None:
        salts.append(store.salt)
        assert [lease.id for lease, _ in await store.take(5, idle=True)] == ["a"]

    run(open_store, first)
    run(open_store, second)
    assert salts[0] == salts[1]
    assert len(salts[0]) == 32
