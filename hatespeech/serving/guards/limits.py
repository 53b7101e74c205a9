"""How often a caller may call, how large a body may be, and how slowly it may arrive."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Final

from limits import parse_many
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hatespeech.errors import TooLargeError, ValidationError
from hatespeech.serving.guards.auth import Caller
from hatespeech.serving.guards.rate_counts import RateCounts
from hatespeech.serving.http_errors import RateLimitedError, error_response

# A body may be slow (from a telephone, or a large upload) but must make progress: it has this many
# seconds, and one more for each BODY_BYTES_PER_SECOND bytes that have arrived.
BODY_GRACE_SECONDS: Final = 20.0
BODY_BYTES_PER_SECOND: Final = 8 * 1024


class CallerRates:
    """Counts what each caller asks for, over every protocol together."""

    def __init__(self, limit: str, counts: RateCounts) -> None:
        self._limits = [] if limit == "off" else parse_many(limit)
        self._counts = counts

    async def count(self, caller: Caller) -> None:
        """Count one request; raise :class:`RateLimitedError` if it is one too many."""
        for limit in self._limits:
            reset = await self._counts.hit(limit, caller.name)
            if reset is not None:
                wait = max(1, math.ceil(reset - time.time()))
                raise RateLimitedError(f"the limit is {limit}; wait", wait)


class RateLimiter:
    """Counts the requests of each caller that :class:`TokenGuard` passed on."""

    def __init__(self, app: ASGIApp, rates: CallerRates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 429 to a caller that sends too many requests; pass all others on."""
        caller: Caller | None = scope.get("state", {}).get("caller")
        if caller is not None:
            try:
                await self._rates.count(caller)
            except RateLimitedError as error:
                await error_response(scope, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimiter:
    """Limits a body's size and its time while it is read.

    A body that is declared too large is refused at once. If one turns out to be too large or too
    slow, the route's ``receive`` raises :class:`TooLargeError` or :class:`ValidationError`.
    """

    def __init__(self, app: ASGIApp, default: int, by_path: Mapping[str, int]) -> None:
        self._app = app
        self._default = default
        self._by_path = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 to a body that is declared too large; pass all others on."""
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
                # Not wait_for, which may lose a cancellation in Python 3.11.
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
