"""How often a caller may ask, how much a body may hold, how slowly it may come."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Final

from limits import parse_many
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hatespeech.errors import TooLargeError, ValidationError
from hatespeech.serving.guards.auth import Caller
from hatespeech.serving.http_errors import RateLimitedError, error_response

# A body may be slow (a telephone, an upload) but has to make progress: this many seconds, and one
# more for each so many bytes that have come.
BODY_GRACE_SECONDS: Final = 20.0
BODY_BYTES_PER_SECOND: Final = 8 * 1024


class RateLimiter:
    """Counts requests of callers that :class:`TokenGuard` let through."""

    def __init__(self, app: ASGIApp, limit: str) -> None:
        self._app = app
        self._limits = [] if limit == "off" else parse_many(limit)
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 429 to a caller that sends too many requests; pass all others on."""
        caller: Caller | None = scope.get("state", {}).get("caller")
        if caller is not None:
            for limit in self._limits:
                if not self._limiter.hit(limit, caller.name):
                    reset = self._limiter.get_window_stats(limit, caller.name).reset_time
                    wait = max(1, math.ceil(reset - time.time()))
                    error = RateLimitedError(f"more than {limit}; wait", wait)
                    await error_response(scope, error)(scope, receive, send)
                    return
        await self._app(scope, receive, send)


class BodyLimiter:
    """Bounds a body's size and the time it takes, while it is read.

    What is declared too large is refused at once; what turns out to be so, or too slow, makes the
    route's ``receive`` raise :class:`TooLargeError` or :class:`ValidationError`.
    """

    def __init__(self, app: ASGIApp, default: int, by_path: Mapping[str, int]) -> None:
        self._app = app
        self._default = default
        self._by_path = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 to a body declared too large; pass others on, and count as they are read."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._by_path.get(scope["path"], self._default)
        too_large = TooLargeError(f"is larger than {limit} bytes", field="body")
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit:
            await error_response(scope, too_large)(scope, receive, send)
            return
        started = time.monotonic()
        received = 0
        complete = False

        async def receive_limited() -> Message:
            nonlocal received, complete
            if complete:
                return await receive()
            allowed = BODY_GRACE_SECONDS + received / BODY_BYTES_PER_SECOND
            try:
                # Not wait_for: in Python 3.11 it may lose a cancellation.
                async with asyncio.timeout(started + allowed - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise ValidationError("comes too slowly", field="body") from None
            received += len(message.get("body", b""))
            complete = not message.get("more_body", False)
            if received > limit:
                raise too_large
            return message

        await self._app(scope, receive_limited, send)
