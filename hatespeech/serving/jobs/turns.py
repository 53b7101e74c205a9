"""Whose turn it is among the owners of jobs."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping


class Turns:
    """Gives places to owners. The fewer an owner has taken, the sooner comes its turn."""

    def __init__(self) -> None:
        self._turns = itertools.count(1)
        self._last: dict[bytes, int] = {}  # turn of each owner

    def next(self, owners: Iterable[bytes], taken: Mapping[bytes, int]) -> bytes:
        """Return who has the next turn: of owners with as few, the one who waits longest for it."""
        owner = min(owners, key=lambda owner: (taken.get(owner, 0), self._last.get(owner, 0)))
        self._last[owner] = next(self._turns)
        return owner

    def share(
        self,
        waiting: Mapping[bytes, int],
        running: Mapping[bytes, int],
        places: int,
        most: int | None = None,
    ) -> list[bytes]:
        """Return whose each of these free places is, in the order of their turns.

        ``waiting`` says how many of each owner could run. None gets more than that, nor more than
        ``most`` with those that run.
        """
        shared: list[bytes] = []
        left, taken = Counter(waiting), Counter(running)
        while len(shared) < places:
            able = [
                owner
                for owner, count in left.items()
                if count and (most is None or taken[owner] < most)
            ]
            if not able:
                break
            owner = self.next(able, taken)
            left[owner] -= 1
            taken[owner] += 1
            shared.append(owner)
        return shared
