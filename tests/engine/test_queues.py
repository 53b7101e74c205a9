"""Whose turn it is."""

from __future__ import annotations

import asyncio

from hatespeech.engine.queues import FairQueue, Room


def taken(queue: FairQueue[str, str], count: int) -> str:
    """Take so many items, and check that each is the one that was announced."""
    items = []
    for _ in range(count):
        announced = queue.peek()
        items.append(queue.take())
        assert items[-1] == announced
    return " ".join(items)


def queue_of(requests: dict[str, int]) -> FairQueue[str, str]:
    queue: FairQueue[str, str] = FairQueue()
    for request, items in requests.items():
        queue.put(request, [f"{request}{index}" for index in range(items)])
    return queue


def test_requests_take_turns() -> None:
    queue = queue_of({"a": 3, "b": 3, "c": 1})
    assert taken(queue, 7) == "a0 a1 b0 a2 c0 b1 b2"
    assert not queue


def test_a_new_request_has_the_next_turn_but_one_however_many_wait() -> None:
    queue = queue_of({f"r{index}-": 5 for index in range(200)})
    taken(queue, 500)
    queue.put("lone", ["lone"])
    assert "lone" in taken(queue, 2).split()


def test_a_stream_of_new_requests_leaves_the_others_half_of_the_turns() -> None:
    queue = queue_of({"many": 50})
    taken(queue, 1)
    items = []
    for index in range(40):
        queue.put(f"new{index}", ["new"])
        queue.put(f"newer{index}", ["new"])
        items.append(taken(queue, 1))
    assert sum(item == "new" for item in items) == 20


def test_a_request_that_had_nothing_waiting_for_a_while_is_not_new() -> None:
    queue = queue_of({"a": 1, "b": 40})
    taken(queue, 2)
    for _ in range(10):
        queue.put("a", ["again"])  # as a request whose texts are read one by one
        queue.put("lone", ["lone"])
        assert "lone" in taken(queue, 2).split()
        queue.drop("lone")


def test_the_size_is_that_of_the_items_that_wait() -> None:
    queue: FairQueue[str, str] = FairQueue(size_of=len)
    queue.put("a", ["one", "three", "seven"])
    queue.put("b", ["two"])
    assert queue.size == 16
    queue.take()
    assert queue.size == 13
    queue.drop("b")
    queue.drop("never came")
    assert queue.size == 10
    queue.drop("a")
    assert queue.size == 0


def test_the_smallest_item_of_a_request_comes_first_and_of_equals_the_first() -> None:
    queue: FairQueue[str, str] = FairQueue(size_of=len)
    queue.put("a", ["seven", "one", "three"])
    queue.put("a", ["two", "fifty"])
    assert taken(queue, 5) == "one two seven three fifty"


def test_a_request_that_ends_is_forgotten() -> None:
    queue = queue_of({"a": 2, "b": 2})
    taken(queue, 1)
    queue.drop("a")
    queue.drop("b")
    assert not queue
    assert not queue._callers._known
    assert not queue._requests
    assert not queue._items


def test_callers_take_turns_however_many_requests_they_have() -> None:
    queue: FairQueue[str, str] = FairQueue(lambda request: request[0])
    for request in ("a1", "a2", "a3", "b1"):
        queue.put(request, [f"{request}-{index}" for index in range(3)])
    assert taken(queue, 8) == "a1-0 a1-1 b1-0 a2-0 b1-1 a1-2 b1-2 a3-0"


def test_the_requests_of_one_caller_take_turns_among_themselves() -> None:
    queue: FairQueue[str, str] = FairQueue(lambda _request: "the same caller")
    for request, items in {"a": 3, "b": 3, "c": 1}.items():
        queue.put(request, [f"{request}{index}" for index in range(items)])
    assert taken(queue, 7) == "a0 a1 b0 a2 c0 b1 b2"
    for request in "abc":
        queue.drop(request)
    assert not queue._requests
    assert not queue._callers._known


def test_a_caller_whose_waiting_request_ends_has_no_turn() -> None:
    queue: FairQueue[str, str] = FairQueue(lambda request: request[0])
    queue.put("a1", ["a1-0"])
    queue.put("a2", ["a2-0"])
    queue.put("b1", ["b1-0"])
    assert taken(queue, 1) == "a1-0"
    queue.drop("a2")  # a1 had its turn and may have items again
    assert taken(queue, 1) == "b1-0"
    assert not queue
    queue.put("a1", ["a1-1"])
    assert taken(queue, 1) == "a1-1"


def test_a_caller_with_a_name_leaves_as_much_room_as_it_has() -> None:
    room = Room(100)
    assert room.take_at_once(40, "first")
    assert not room.take_at_once(40, "first"), "it would leave 20"
    assert room.take_at_once(10, "first")
    assert not room.take_at_once(1, "first")
    assert room.take_at_once(50, "second"), "who has nothing yet gets what is free"
    room.give(50, "second")
    assert room.take_at_once(25)
    room.give(25)
    room.give(40, "first")
    room.give(10, "first")
    assert room.taken == 0
    assert room.take_at_once(100, "first"), "what it gave back does not count"


def test_of_callers_that_wait_for_room_the_one_with_the_least_is_next() -> None:
    async def scene() -> list[str]:
        room = Room(100)
        order: list[str] = []

        async def use(caller: str, texts: int) -> None:
            await room.take(texts, caller)
            order.append(caller)
            await asyncio.sleep(0)
            room.give(texts, caller)

        await room.take(100, "a")
        many = [asyncio.create_task(use("a", 60)) for _ in range(3)]
        await asyncio.sleep(0)
        few = [asyncio.create_task(use("b", 60)) for _ in range(2)]
        await asyncio.sleep(0)
        room.give(20, "a")
        room.give(40, "a")
        assert room.taken == 100, "the first of b, which came after all of a"
        await asyncio.sleep(0)
        assert order == ["b"]
        room.give(40, "a")
        await asyncio.gather(*many, *few)
        assert room.taken == 0
        return order

    order = asyncio.run(scene())
    assert sorted(order) == ["a", "a", "a", "b", "b"]


def test_a_caller_that_gives_up_waiting_leaves_its_room_to_the_next() -> None:
    async def scene() -> None:
        room = Room(10)
        await room.take(10, "a")
        first, second = (asyncio.create_task(room.take(10, "b")) for _ in range(2))
        await asyncio.sleep(0)
        room.give(10, "a")
        first.cancel()  # just when the room has come
        await second
        assert room.taken == 10
        room.give(10, "b")
        assert room.take_at_once(10, "b")

    asyncio.run(scene())
