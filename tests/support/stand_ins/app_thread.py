"""An aiohttp application on 127.0.0.1, in a thread of its own."""

from __future__ import annotations

import asyncio
import ssl
import threading
from types import TracebackType
from typing import Self

from aiohttp import web

# A ping of Runpod's SDK lists every job in progress in its URL: 256 of them are over 8,190 bytes.
LINE_BYTES = 256 * 1024


class AppThread:
    """Serves what ``make_app`` returns until the ``with`` block ends; ``url`` is where."""

    def __init__(self) -> None:
        self.url = ""
        self.tls: ssl.SSLContext | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=type(self).__name__)
        self._runner: web.AppRunner | None = None

    def make_app(self) -> web.Application:
        """Return the application; called in the thread's event loop."""
        raise NotImplementedError

    async def stop(self) -> None:
        """End what the application still does; called in the event loop before it closes."""

    def __enter__(self) -> Self:
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result(30)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(30)
        self._loop.close()

    async def _serve(self) -> None:
        self._runner = web.AppRunner(
            self.make_app(), access_log=None, shutdown_timeout=2, max_line_size=LINE_BYTES
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=self.tls).start()
        scheme = "http" if self.tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._runner.addresses[0][1]}"

    async def _close(self) -> None:
        await self.stop()
        if self._runner is not None:
            await self._runner.cleanup()
