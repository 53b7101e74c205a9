"""Payments that were taken, and their replies for minutes.

A buyer who loses a reply sends the same payment again and gets it.

Without them, a buyer whose connection breaks while the payment settles has paid for nothing.
Signatures and nonces are public once they are on a chain, so a reply goes to the same request from
the same address only.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from starlette.types import Message, Send

MOST_BYTES: Final = 64 * 1024 * 1024  # of all replies
MOST_BYTES_OF_ONE: Final = 8 * 1024 * 1024
OVERHEAD_BYTES: Final = 2048  # of one, beside its body
MOST_SPENT: Final = 100_000


@dataclass
class PaidReply:
    """A reply as it was sent, and the digest of the request that it answers."""

    digest: bytes
    status: int
    headers: Sequence[tuple[bytes, bytes]]
    parts: list[bytes] = field(default_factory=list)
    until: float = 0.0

    @property
    def size(self) -> int:
        """How many bytes of memory it takes, nearly."""
        return OVERHEAD_BYTES + sum(map(len, self.parts))

    async def send(self, send: Send) -> None:
        """Send it once more."""
        headers = list(self.headers)
        start: Message = {"type": "http.response.start", "status": self.status, "headers": headers}
        await send(start)
        await send({"type": "http.response.body", "body": b"".join(self.parts)})


class PaidReplies:
    """Holds paid replies by their payments' keys, the oldest first."""

    def __init__(self, seconds: int) -> None:
        self._seconds = seconds
        self._replies: OrderedDict[str, PaidReply] = OrderedDict()
        self._bytes = 0

    def find(self, key: str) -> PaidReply | None:
        """Return the reply that a payment bought, if it is still here."""
        self._drop_old()
        return self._replies.get(key)

    def keep(self, key: str, reply: PaidReply) -> None:
        """Keep a reply, if there is room for it."""
        if self._seconds == 0 or reply.size > MOST_BYTES_OF_ONE or key in self._replies:
            return
        reply.until = time.monotonic() + self._seconds
        self._replies[key] = reply
        self._bytes += reply.size
        self._drop_old()

    def _drop_old(self) -> None:
        now = time.monotonic()
        while self._replies:
            key, oldest = next(iter(self._replies.items()))
            if oldest.until > now and self._bytes <= MOST_BYTES:
                return
            del self._replies[key]
            self._bytes -= oldest.size


class SpentPayments:
    """The keys of the last payments that were taken, or may have been."""

    def __init__(self) -> None:
        self._keys: OrderedDict[bytes, None] = OrderedDict()

    def __contains__(self, key: str) -> bool:
        return _short(key) in self._keys

    def add(self, key: str | None) -> None:
        """Remember a payment that buys once."""
        if key is not None:
            self._keys[_short(key)] = None
            if len(self._keys) > MOST_SPENT:
                self._keys.popitem(last=False)


def _short(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()[:16]
