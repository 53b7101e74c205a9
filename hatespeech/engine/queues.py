"""Whose turn it is: requests take turns, and the number of waiting texts is limited."""

from __future__ import annotations

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Request = TypeVar("Request")
Item = TypeVar("Item")


class FairQueue(Generic[Request, Item]):
    """A queue for each request; ``take`` gives each request its turn. Not thread-safe.

    Every second turn goes to a request that has had none yet. So a request of one text, however
    many others there are, waits for about two items, and a stream of such requests gets at most
    half of the turns while others wait.
    """

    def __init__(self) -> None:
        self._lanes: OrderedDict[Request, deque[Item]] = OrderedDict()
        self._newcomers: OrderedDict[Request, deque[Item]] = OrderedDict()
        self._known: set[Request] = set()  # had a turn, and may have items again
        self._newcomer_next = True

    def __bool__(self) -> bool:
        return bool(self._lanes or self._newcomers)

    def put(self, request: Request, items: Sequence[Item]) -> None:
        """Queue ``items`` behind the items that the request already has waiting."""
        if items:
            lanes = self._lanes if request in self._known else self._newcomers
            lanes.setdefault(request, deque()).extend(items)

    def peek(self) -> Item:
        """Return the item that ``take`` would return."""
        return next(iter(self._next().values()))[0]

    def take(self) -> Item:
        """Remove and return the next item, and move its request to the back."""
        request, lane = self._next().popitem(last=False)
        self._newcomer_next = request in self._known
        self._known.add(request)
        item = lane.popleft()
        if lane:
            self._lanes[request] = lane
        return item

    def drop(self, request: Request) -> None:
        """Remove all items of a request that ends."""
        self._lanes.pop(request, None)
        self._newcomers.pop(request, None)
        self._known.discard(request)

    def _next(self) -> OrderedDict[Request, deque[Item]]:
        """Return the lanes of which the first has its turn."""
        if self._newcomers and (self._newcomer_next or not self._lanes):
            return self._newcomers
        return self._lanes


@dataclass(eq=False)
class _Waiter:
    """A caller that waits for room."""

    texts: int
    turn: asyncio.Future[None]
    overtaken: int = 0  # texts that overtook it while it was the first in line


class Room:
    """Room for a number of texts: first come, first served among callers of one event loop."""

    def __init__(self, texts: int) -> None:
        self._texts = self._free = texts
        self._waiters: deque[_Waiter] = deque()
        self._held: Counter[str] = Counter()  # by the callers that have a name

    @property
    def taken(self) -> int:
        """How many texts have room now."""
        return self._texts - self._free

    async def take(self, texts: int) -> None:
        """Take room, once it is this caller's turn and there is enough."""
        if not self._waiters and texts <= self._free:
            self._free -= texts
            return
        turn = asyncio.get_running_loop().create_future()
        self._waiters.append(_Waiter(texts, turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.give(texts)  # the room came just when the caller was cancelled
            else:
                self.give(0)  # the next in line may fit now
            raise

    def take_at_once(self, texts: int, caller: str | None = None) -> bool:
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
            first = self._waiters[0]
            if first.overtaken + texts > self._texts:
                return False
            first.overtaken += texts
        self._free -= texts
        if caller is not None:
            self._held[caller] += texts
        return True

    def give(self, texts: int, caller: str | None = None) -> None:
        """Give room back, and let in the waiting callers that fit now, in order."""
        self._free += texts
        if caller is not None:
            self._held[caller] -= texts
            if not self._held[caller]:
                del self._held[caller]
        # A cancelled caller that has not run yet is still in line.
        self._waiters = deque(waiter for waiter in self._waiters if not waiter.turn.cancelled())
        while self._waiters and self._waiters[0].texts <= self._free:
            first = self._waiters.popleft()
            self._free -= first.texts
            first.turn.set_result(None)
