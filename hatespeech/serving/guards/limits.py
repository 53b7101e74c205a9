"""How often a caller may call, how large heads and bodies may be, and how slow a body."""

from __future__ import annotations

import asyncio
import math
import re
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from limits import parse_many
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hatespeech.errors import OverloadedError, ServiceError, TooLargeError, ValidationError
from hatespeech.labels import Explanation
from hatespeech.serving.guards.auth import Caller, known_caller
from hatespeech.serving.guards.rate_counts import RateCounts
from hatespeech.serving.http_errors import RateLimitedError, error_response
from hatespeech.serving.route_path import route_path
from hatespeech.serving.settings import ServerSettings
from hatespeech.settings import EngineSettings

# A request whose texts are read so often for `explain` counts as one more.
READINGS_OF_A_REQUEST: Final = 1024
HEAD_BYTES: Final = 16 * 1024
# A body may be slow (from a telephone, or a large upload) but must make progress: it has this many
# seconds, and one more for each BODY_BYTES_PER_SECOND bytes that arrive, but never more ahead. So a
# body that came fast cannot be silent for hours later.
BODY_GRACE_SECONDS: Final = 20.0
BODY_BYTES_PER_SECOND: Final = 8 * 1024
# So many bytes of each body do not count towards the limit on all bodies, so that small requests
# are served while someone sends large ones.
UNCOUNTED_BYTES: Final = 64 * 1024
# All who send a body before they have shown a token or paid are one caller: addresses are cheap.
STRANGERS: Final = ""


# What costs nothing: asking how the service or a job is. A caller that asks too often is answered,
# too, because a monitor that is refused sees an outage, and a poll of a job does no work.
UNCOUNTED_PATHS: Final = re.compile(r"(/v2/[^/]+)?/(metrics|ping|health|status(-sync)?(/.*)?)")


class CallerRates:
    """Counts what each caller asks for, over every protocol together: requests, or texts."""

    def __init__(self, settings: ServerSettings, counts: RateCounts) -> None:
        limit = settings.rate_limit
        self._settings = settings
        self._limits = [] if limit == "off" else parse_many(limit)
        self._policy = ", ".join(f"{each.amount};w={each.get_expiry()}" for each in self._limits)
        self._counts_texts = settings.rate_limit_counts == "texts"
        self._counts = counts

    async def count(self, caller: Caller, cost: int = 1) -> None:
        """Count requests or texts; raise :class:`RateLimitedError` if they are too many.

        One request costs the whole limit at most, or it would never be answered.
        """
        for limit in self._limits:
            within = min(cost, limit.amount - 1) if cost > 1 else cost
            reset = await self._counts.hit(limit, caller.name, within) if within else None
            if reset is not None:
                raise RateLimitedError(f"the limit is {limit}; wait", seconds_until(reset))

    async def charge(self, caller: Caller, body: object) -> None:
        """Count what a request, counted already, costs beside: its further texts, if texts are
        counted, and readings that ``explain`` needs.

        ``body`` is the contract's input, as sent. A request that needs no more readings than
        :data:`READINGS_OF_A_REQUEST` costs nothing more for them. Raises :class:`RateLimitedError`.
        """
        readings = count_body_readings(body, self._settings)
        await self.charge_texts(
            caller, count_body_texts(body), more=readings // READINGS_OF_A_REQUEST
        )

    async def charge_texts(
        self, caller: Caller, texts: int, requests: int = 1, more: int = 0
    ) -> None:
        """Count what texts cost beside the requests that brought them, which are counted already.

        ``more`` is counted in any case. Raises :class:`RateLimitedError`.
        """
        if self._counts_texts:
            more += max(0, texts - requests)
        if more:
            await self.count(caller, more)

    async def headers(self, caller: Caller) -> dict[str, str]:
        """Return what tells a caller how much it has left, by the limit that it will reach first.

        The fields are those of draft-ietf-httpapi-ratelimit-headers-06: of all drafts the one that
        clients and proxies know. Later ones put the same into fields of other forms.
        """
        if not self._limits:
            return {}
        found = [(limit, await self._counts.stats(limit, caller.name)) for limit in self._limits]
        limit, stats = min(found, key=lambda each: each[1].remaining)
        return {
            "RateLimit-Limit": str(limit.amount),
            "RateLimit-Remaining": str(max(0, stats.remaining)),
            "RateLimit-Reset": str(seconds_until(stats.reset_time)),
            "RateLimit-Policy": self._policy,
        }


def seconds_until(time_of_epoch: float) -> int:
    """Return the whole seconds, at least one, until a time in seconds since the epoch."""
    return max(1, math.ceil(time_of_epoch - time.time()))


def count_body_texts(body: object) -> int:
    """Return how many texts a request brings, sound or not."""
    if not isinstance(body, dict):
        return 0
    many = [body.get("texts"), body.get("prompts")]
    return max((len(texts) for texts in many if isinstance(texts, list)), default=1)


def count_body_readings(body: object, settings: EngineSettings) -> int:
    """Return how often the texts of a request are read if it wants them explained, else 0.

    What is over a limit is refused, and so not looked at: it may have any size.
    """
    if not isinstance(body, dict):
        return 0
    wanted = body.get("explain")
    method: Explanation = "leave_one_out" if wanted == "leave_one_out" else "shapley"
    if not wanted:
        return 0
    from hatespeech.engine.explanation import count_readings  # it needs NumPy, this module doesn't

    given = [body.get("text"), body.get("prompt")]
    for name in ("texts", "prompts"):
        many = body.get(name)
        given += many if isinstance(many, list) else []
    texts = [text for text in given if isinstance(text, str)]
    chars = sum(map(len, texts))
    if chars > settings.max_request_chars or len(texts) > settings.max_texts_per_request:
        return 0
    fitting = (text for text in texts if len(text) <= settings.max_text_chars)
    return sum(count_readings(text, method) for text in fitting)


class RateLimiter:
    """Counts the requests of each caller that :class:`TokenGuard` passed on."""

    def __init__(self, app: ASGIApp, rates: CallerRates) -> None:
        self._app = app
        self._rates = rates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 429 to a caller that sends too many requests; pass all others on.

        Each reply to a request that counts says how many are left.
        """
        caller: Caller | None = scope.get("state", {}).get("caller")
        if caller is None or UNCOUNTED_PATHS.fullmatch(route_path(scope)):
            await self._app(scope, receive, send)
            return

        async def send_with_rates(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(await self._rates.headers(caller))
            await send(message)

        try:
            await self._rates.count(caller)
        except RateLimitedError as error:
            await error_response(scope, error)(scope, receive, send_with_rates)
            return
        await self._app(scope, receive, send_with_rates)


class HeadGuard:
    """Refuses heads that are too large, and those that say in two ways where the body ends.

    The connection's own limit holds only for a head that comes in several pieces. A proxy in front
    may believe the other one of the two lengths, and take a part of a body for a request.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer such a head with an error and close the connection; pass all others on."""
        error: ServiceError | None = None
        if scope["type"] == "http":
            headers = Headers(scope=scope)
            if head_bytes(scope) > HEAD_BYTES:
                error = TooLargeError(f"is larger than {HEAD_BYTES} bytes", field="head")
            elif "transfer-encoding" in headers and "content-length" in headers:
                error = ValidationError(
                    "has both Transfer-Encoding and Content-Length", field="head"
                )
        if error is None:
            await self._app(scope, receive, send)
        else:
            await error_response(scope, error, {"Connection": "close"})(scope, receive, send)


def head_bytes(scope: Scope) -> int:
    """Return the size of a request's line and headers, nearly."""
    line = len(scope["method"]) + len(scope["raw_path"]) + len(scope["query_string"])
    return line + sum(len(name) + len(value) + 4 for name, value in scope["headers"])


class ByteBudget:
    """Bytes that all things of a kind may have together; one caller may have half of them."""

    def __init__(self, total: int, largest: int, what: str = "large bodies") -> None:
        """``largest`` is the limit of one of them, which must fit."""
        self._what = what
        self._free = max(total, largest)
        self._most_of_one = max(total // 2, largest)
        self._held: Counter[str] = Counter()

    def take(self, caller: str, size: int) -> None:
        """Take so many bytes more; raise :class:`OverloadedError` if they are not free."""
        if size > self._free or self._held[caller] + size > self._most_of_one:
            raise OverloadedError(f"too many {self._what} at the same time; try again")
        self._free -= size
        self._held[caller] += size

    def give(self, caller: str, size: int) -> None:
        """Give bytes back."""
        self._free += size
        self._held[caller] -= size
        if not self._held[caller]:
            del self._held[caller]


@dataclass(frozen=True)
class BodyLimit:
    """What the bodies of some routes may have."""

    largest: int  # bytes of one body
    budget: ByteBudget  # for all bodies together


class BodyLimiter:
    """Limits a body's size and its time while it is read, and the size of all bodies together.

    A body that is declared too large is refused before it is read. If one turns out to be too large
    or too slow, the route's ``receive`` raises :class:`TooLargeError` or :class:`ValidationError`,
    and :class:`OverloadedError` if there is no room for it. A body's room is free again once its
    request is answered.
    """

    def __init__(self, app: ASGIApp, default: BodyLimit, by_path: Mapping[str, BodyLimit]) -> None:
        self._app = app
        self._default = default
        self._by_path = by_path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 413 to a body that is declared too large; pass all others on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        limit = self._by_path.get(route_path(scope), self._default)
        too_large = TooLargeError(f"is larger than {limit.largest} bytes", field="body")
        declared = Headers(scope=scope).get("content-length", "")
        if declared.isdecimal() and int(declared[:20]) > limit.largest:
            await error_response(scope, too_large)(scope, receive, send)
            return
        caller = known_caller(scope.get("state", {}))
        name = STRANGERS if caller is None else caller.name
        seconds = BODY_GRACE_SECONDS
        received = counted = 0
        complete = False

        async def receive_limited() -> Message:
            nonlocal received, counted, complete, seconds
            if complete:
                return await receive()
            began = time.monotonic()
            try:
                # Not wait_for, which may lose a cancellation in Python 3.11.
                async with asyncio.timeout(seconds):
                    message = await receive()
            except TimeoutError:
                raise ValidationError("comes too slowly", field="body") from None
            size = len(message.get("body", b""))
            received += size
            seconds -= time.monotonic() - began  # only waiting counts
            seconds = min(seconds + size / BODY_BYTES_PER_SECOND, BODY_GRACE_SECONDS)
            complete = not message.get("more_body", False)
            if received > limit.largest:
                raise too_large
            more = max(0, received - UNCOUNTED_BYTES) - counted
            limit.budget.take(name, more)
            counted += more
            return message

        try:
            await self._app(scope, receive_limited, send)
        finally:
            limit.budget.give(name, counted)
