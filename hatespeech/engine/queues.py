"""Whose turn it is: callers and their requests take turns, and waiting texts are limited."""

from __future__ import annotations

import asyncio
from bisect import insort_left
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Request = TypeVar("Request", bound=Hashable)
Item = TypeVar("Item")


class _Turns(Generic[Key]):
    """Who comes next: every second turn goes to a newcomer, which has had none yet."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Key, None] = OrderedDict()
        self._newcomers: OrderedDict[Key, None] = OrderedDict()
        self._known: set[Key] = set()  # had a turn, and may wait again
        self._newcomer_next = True

    def __bool__(self) -> bool:
        return bool(self._waiting or self._newcomers)

    @property
    def forgotten(self) -> bool:
        """Whether all that came have left."""
        return not (self._waiting or self._newcomers or self._known)

    def wait(self, key: Key) -> None:
        """Line up; a key that waits already keeps its place."""
        (self._waiting if key in self._known else self._newcomers)[key] = None

    def next(self) -> Key:
        """Return the key that has its turn."""
        newcomer = self._newcomers and (self._newcomer_next or not self._waiting)
        return next(iter(self._newcomers if newcomer else self._waiting))

    def pass_on(self, key: Key, *, again: bool) -> None:
        """Note that a key had its turn; ``again`` puts it at the back."""
        self._newcomer_next = key in self._known
        self.stop_waiting(key)
        self._known.add(key)
        if again:
            self._waiting[key] = None

    def leave(self, key: Key) -> None:
        """Forget a key."""
        self.stop_waiting(key)
        self._known.discard(key)

    def stop_waiting(self, key: Key) -> None:
        """Leave the line; a key that had a turn stays known."""
        self._waiting.pop(key, None)
        self._newcomers.pop(key, None)


class FairQueue(Generic[Request, Item]):
    """A queue for each request. Callers take turns, and so do each caller's requests.

    ``caller_of`` names the caller of a request; a request without one is its own caller.
    ``size_of`` says how much work an item is. A request's smallest item comes first, and of equals
    the one that came first: a batch of items of similar size takes less. Not thread-safe.

    Every second turn goes to a caller that has had none yet, and the same holds among a caller's
    requests. So a request of one text, however many others there are, waits for about two items of
    other callers, and a stream of such requests gets at most half of the turns while others wait.
    A caller with a thousand requests gets as many turns as a caller with one.
    """

    def __init__(
        self,
        caller_of: Callable[[Request], Hashable | None] = lambda _: None,
        size_of: Callable[[Item], int] = lambda _: 1,
    ) -> None:
        self.size = 0  # of all items that wait
        self._caller_of = caller_of
        self._size_of = size_of
        self._callers: _Turns[Hashable] = _Turns()
        self._requests: dict[Hashable, _Turns[Request]] = {}  # by caller
        self._items: dict[Request, list[Item]] = {}  # the next one last

    def __bool__(self) -> bool:
        return bool(self._callers)

    def put(self, request: Request, items: Sequence[Item]) -> None:
        """Queue ``items`` behind the items that the request already has waiting."""
        if items:
            caller = self._caller(request)
            self._callers.wait(caller)
            self._requests.setdefault(caller, _Turns()).wait(request)
            waiting = self._items.setdefault(request, [])
            for item in items:
                insort_left(waiting, item, key=self._rank)
            self.size += sum(map(self._size_of, items))

    def peek(self) -> Item:
        """Return the item that ``take`` would return."""
        return self._items[self._requests[self._callers.next()].next()][-1]

    def take(self) -> Item:
        """Remove and return the next item, and move its request and caller to the back."""
        caller = self._callers.next()
        requests = self._requests[caller]
        request = requests.next()
        items = self._items[request]
        item = items.pop()
        self.size -= self._size_of(item)
        if not items:
            del self._items[request]
        requests.pass_on(request, again=bool(items))
        self._callers.pass_on(caller, again=bool(requests))
        return item

    def drop(self, request: Request) -> None:
        """Remove all items of a request that ends."""
        caller = self._caller(request)
        requests = self._requests.get(caller)
        if requests is None:
            return
        self.size -= sum(map(self._size_of, self._items.pop(request, ())))
        requests.leave(request)
        if requests.forgotten:
            del self._requests[caller]
            self._callers.leave(caller)
        elif not requests:
            self._callers.stop_waiting(caller)

    def _rank(self, item: Item) -> int:
        return -self._size_of(item)

    def _caller(self, request: Request) -> Hashable:
        caller = self._caller_of(request)
        return request if caller is None else caller


@dataclass(eq=False)
class _Waiter:
    """A caller that waits for room."""

    texts: int
    caller: Hashable | None
    turn: asyncio.Future[None]
    overtaken: int = 0  # texts that overtook it while it was the first in line


class Room:
    """Room for a number of texts, for callers of one event loop.

    Of callers that wait, the one that has the least room is next; of several, the first that came.
    """

    def __init__(self, texts: int) -> None:
        self._texts = self._free = texts
        self._waiters: list[_Waiter] = []  # in the order they came
        self._held: Counter[Hashable] = Counter()  # by the callers that have a name

    @property
    def taken(self) -> int:
        """How many texts have room now."""
        return self._texts - self._free

    async def take(self, texts: int, caller: Hashable | None = None) -> None:
        """Take room, once it is this caller's turn and there is enough.

        A caller with a name gives the room back under the same name.
        """
        if not self._waiters and texts <= self._free:
            self._hold(texts, caller)
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiters.append(_Waiter(texts, caller, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(texts, caller)  # the room came just when the caller was cancelled
            else:
                self.give(0)  # the next in line may fit now
            raise

    def take_at_once(self, texts: int, caller: Hashable | None = None) -> bool:
        """Take room now, even if earlier callers still wait; return whether there was room.

        A caller with a name that has room already gets more only if it leaves as much for others as
        it has then. So one of them alone fills half of the room, and two fill two thirds. It gives
        the room back under the same name.

        Reserving all free room for the callers that wait would let large jobs block every caller
        that cannot wait; reserving none would let a steady stream of small requests starve a
        request for a thousand texts. So at most one queue's worth of texts may overtake the first
        in line: it has its turn after two queues' worth of texts at the latest, instead of one.
        """
        if texts > self._free:
            return False
        if caller is not None:
            held = self._held.get(caller, 0)
            if held and held + texts > self._free - texts:
                return False
        if self._waiters:
            first = self._first()
            if first.overtaken + texts > self._texts:
                return False
            first.overtaken += texts
        self._hold(texts, caller)
        return True

    def give(self, texts: int, caller: Hashable | None = None) -> None:
        """Give room back, and let in the waiting callers that fit now, each in its turn."""
        self._free += texts
        if caller is not None:
            self._held[caller] -= texts
            if not self._held[caller]:
                del self._held[caller]
        # A cancelled caller that has not run yet is still in line.
        self._waiters = [waiter for waiter in self._waiters if not waiter.turn.cancelled()]
        while self._waiters and (first := self._first()).texts <= self._free:
            self._waiters.remove(first)
            self._hold(first.texts, first.caller)
            first.turn.set_result(None)

    def _first(self) -> _Waiter:
        """Return who has the next turn of those that wait."""
        return min(self._waiters, key=lambda waiter: self._held.get(waiter.caller, 0))

    def _hold(self, texts: int, caller: Hashable | None) -> None:
        self._free -= texts
        if caller is not None:
            self._held[caller] += texts
