"""Who is next: turns among requests, and room for them all."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

Request = TypeVar("Request")
Item = TypeVar("Item")


class FairQueue(Generic[Request, Item]):
    """A queue of queues, one for each request; ``take`` gives each its turn. Not thread-safe."""

    def __init__(self) -> None:
        self._lanes: OrderedDict[Request, deque[Item]] = OrderedDict()

    def __bool__(self) -> bool:
        return bool(self._lanes)

    def put(self, request: Request, items: Sequence[Item]) -> None:
        """Queue ``items`` behind what the request has waiting already."""
        if items:
            self._lanes.setdefault(request, deque()).extend(items)

    def peek(self) -> Item:
        """Return what ``take`` would."""
        return next(iter(self._lanes.values()))[0]

    def take(self) -> Item:
        """Remove and return the next item, and send its request to the back."""
        request, lane = next(iter(self._lanes.items()))
        item = lane.popleft()
        if lane:
            self._lanes.move_to_end(request)
        else:
            del self._lanes[request]
        return item

    def drop(self, request: Request) -> None:
        """Forget what a request has waiting."""
        self._lanes.pop(request, None)


@dataclass(eq=False)
class _Waiter:
    """A caller that waits for room."""

    texts: int
    turn: asyncio.Future[None]
    overtaken: int = 0  # texts let in ahead of it while it was the first in line


class Room:
    """Room for so many texts: first come, first served among callers of one event loop."""

    def __init__(self, texts: int) -> None:
        self._texts = self._free = texts
        self._waiters: deque[_Waiter] = deque()

    @property
    def taken(self) -> int:
        """How much is in use."""
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
                self.give(texts)  # the room came just as the caller left
            else:
                self.give(0)  # whoever stood behind may fit now
            raise

    def take_at_once(self, texts: int) -> bool:
        """Take room though others wait for more than there is; return whether that may be.

        Were all room kept for those who wait, a queue of large jobs would shut out everybody who
        can't; were none, a steady stream of small requests would never let room for a thousand
        texts come together. So as many texts as the queue holds may go ahead: whoever is first in
        line has its turn after two queues' worth of texts at the latest, rather than one.
        """
        if texts > self._free:
            return False
        if self._waiters:
            first = self._waiters[0]
            if first.overtaken + texts > self._texts:
                return False
            first.overtaken += texts
        self._free -= texts
        return True

    def give(self, texts: int) -> None:
        """Give room back, and let in whoever fits now, in the order they came."""
        self._free += texts
        # A caller that has been cancelled, but did not run yet, still stands in line.
        self._waiters = deque(waiter for waiter in self._waiters if not waiter.turn.cancelled())
        while self._waiters and self._waiters[0].texts <= self._free:
            first = self._waiters.popleft()
            self._free -= first.texts
            first.turn.set_result(None)
