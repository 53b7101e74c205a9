"""Where requests or texts are counted: in this process, or in a Redis of several servers."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final, TypeVar

from limits import RateLimitItem, WindowStats
from limits.aio.storage import RedisStorage
from limits.aio.strategies import SlidingWindowCounterRateLimiter as SharedLimiter
from limits.errors import ConfigurationError
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter
from typing_extensions import override

from hatespeech.errors import SettingsError
from hatespeech.extras import how_to_install

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

REDIS_SECONDS: Final = 0.5  # for which one request waits for Redis
AGAIN_SECONDS: Final = 5.0  # for which no request waits, after Redis did not answer
SETTING: Final = "RATE_LIMIT_STORAGE"


class RateCounts:
    """Counts requests or texts by the caller's name, in this process."""

    def __init__(self) -> None:
        self._limiter = SlidingWindowCounterRateLimiter(MemoryStorage())

    async def hit(self, limit: RateLimitItem, name: str, cost: int) -> float | None:
        """Count so many requests or texts; if they are too many, return when the next may come.

        That time is in seconds since the epoch.
        """
        if self._limiter.hit(limit, name, cost=cost):
            return None
        return self._limiter.get_window_stats(limit, name).reset_time

    async def stats(self, limit: RateLimitItem, name: str) -> WindowStats:
        """Return how many are left, and when, in seconds since the epoch, the window ends."""
        return self._limiter.get_window_stats(limit, name)

    async def close(self) -> None:
        """Let go of what it counts in."""


class SharedCounts(RateCounts):
    """Counts in Redis. While it is out of reach, each server counts by itself."""

    def __init__(self, url: str) -> None:
        """Try whether Redis is there; raise :class:`SettingsError` if the URL is wrong."""
        try:
            import redis.asyncio
        except ModuleNotFoundError:
            raise SettingsError(f"{SETTING} needs redis: {how_to_install('redis')}") from None
        super().__init__()
        self._failures = (redis.RedisError, OSError, TimeoutError)
        self._retry_at: float | None = None  # Redis did not answer
        options: dict[str, Any] = {
            "socket_timeout": REDIS_SECONDS,
            "socket_connect_timeout": REDIS_SECONDS,
        }
        try:
            self._pool = redis.asyncio.ConnectionPool.from_url(url, **options)
            storage = RedisStorage(url, implementation="redispy", connection_pool=self._pool)  # type: ignore[arg-type]  # limits passes it on
            with redis.Redis.from_url(url, **options) as client:
                client.ping()
        except (ValueError, ConfigurationError):
            # Their messages hold pieces of the URL, and so perhaps of its password.
            raise SettingsError(f"{SETTING}=redis://… is not a URL that redis reads") from None
        except redis.AuthenticationError:
            raise SettingsError(f"{SETTING}=redis://… can't be used: wrong password") from None
        except self._failures as exc:
            self._pause(exc)
        self._shared = SharedLimiter(storage)

    @override
    async def hit(self, limit: RateLimitItem, name: str, cost: int) -> float | None:
        async def shared() -> float | None:
            if await self._shared.hit(limit, name, cost=cost):
                return None
            return (await self._shared.get_window_stats(limit, name)).reset_time

        return await self._first(shared, partial(super().hit, limit, name, cost))

    @override
    async def stats(self, limit: RateLimitItem, name: str) -> WindowStats:
        return await self._first(
            partial(self._shared.get_window_stats, limit, name), partial(super().stats, limit, name)
        )

    async def _first(
        self, shared: Callable[[], Awaitable[Answer]], local: Callable[[], Awaitable[Answer]]
    ) -> Answer:
        """Return what Redis says, or, if it does not answer, what this process has counted."""
        if self._retry_at is None or time.monotonic() > self._retry_at:
            try:
                answer = await shared()
            except self._failures as exc:
                self._pause(exc)
            else:
                if self._retry_at is not None:
                    log.warning("%s: Redis answers again", SETTING)
                    self._retry_at = None
                return answer
        return await local()

    @override
    async def close(self) -> None:
        await self._pool.aclose()

    def _pause(self, exc: BaseException) -> None:
        if self._retry_at is None:
            reason = type(exc).__name__
            log.error("%s: %s; until Redis answers, each server counts by itself", SETTING, reason)
        self._retry_at = time.monotonic() + AGAIN_SECONDS


def open_counts(url: str | None) -> RateCounts:
    """Return where to count: in Redis if there is a URL."""
    return RateCounts() if url is None else SharedCounts(url)
