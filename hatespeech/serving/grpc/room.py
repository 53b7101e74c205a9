"""Room for calls that score: how many other calls may run, and how many messages may arrive."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, cast
from weakref import WeakValueDictionary

from grpc import HandlerCallDetails, RpcMethodHandler, StatusCode, stream_stream_rpc_method_handler
from grpc.aio import ServerInterceptor
from typing_extensions import override

from hatespeech.contract import MAX_ID_CHARS
from hatespeech.errors import OverloadedError
from hatespeech.serving.guards.connection import MAX_GRPC_CONNECTIONS
from hatespeech.serving.settings import ServerSettings

# Of each method that does not score, such as Watch of the health. A client may watch the health
# once for each of its connections.
MAX_OTHER_CALLS: Final = MAX_GRPC_CONNECTIONS
PLACE_SECONDS: Final = 15.0  # for a place among the messages that arrive
UTF8_BYTES: Final = 4  # of a code point, at most
# The proto's tags and lengths: of a text and its id, and of a request with its options.
TEXT_FRAME_BYTES: Final = 16
REQUEST_FRAME_BYTES: Final = 4096

REFUSAL: Final = OverloadedError("too many calls of this method at the same time; try again")


def largest_message(settings: ServerSettings) -> int:
    """Return the bytes that a message within the contract's limits may have.

    A text has no escapes in the proto, so this is much less than a body of HTTP may have.
    """
    texts = UTF8_BYTES * settings.max_request_chars
    ids = settings.max_texts_per_request * (UTF8_BYTES * MAX_ID_CHARS + TEXT_FRAME_BYTES)
    return min(texts + ids + REQUEST_FRAME_BYTES, settings.max_body_bytes)


class OtherCalls(ServerInterceptor):
    """Refuses a call of any other method than ``scoring`` if too many of that method run.

    They need no token, so without this limit strangers could keep out all calls that score.
    """

    def __init__(self, scoring: str) -> None:
        """``scoring`` is the path of the method that is not limited here."""
        self._scoring = scoring
        self._running: defaultdict[str, set[asyncio.Task[Any]]] = defaultdict(set)  # by method

    @override
    async def intercept_service(
        self,
        continuation: Callable[[HandlerCallDetails], Awaitable[RpcMethodHandler[Any, Any] | None]],
        handler_call_details: HandlerCallDetails,
    ) -> RpcMethodHandler[Any, Any] | None:
        """Return the method's handler, or one that refuses the call before it reads a message."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method == self._scoring:
            return handler
        running = self._running[method]
        if len(running) >= MAX_OTHER_CALLS:
            return stream_stream_rpc_method_handler(refuse)
        task = cast("asyncio.Task[Any]", asyncio.current_task())  # it ends with the call
        running.add(task)
        task.add_done_callback(running.discard)
        return handler


async def refuse(_messages: object, context: Any) -> None:
    """End a call as one too many."""
    pushback = ("grpc-retry-pushback-ms", str(1000 * REFUSAL.retry_after))
    await context.abort(StatusCode.RESOURCE_EXHAUSTED, str(REFUSAL), (pushback,))


class ArrivingMessages:
    """Places for messages that arrive; one caller may have half of them, and others wait.

    gRPC tells the size of a message only when all of it is there. So each place stands for the
    largest message. One that is small has its place for a moment only.
    """

    def __init__(self, total: int, largest: int) -> None:
        """``total`` is the bytes of all messages, ``largest`` the bytes of one, which must fit."""
        places = max(1, total // largest)
        self._all = asyncio.Semaphore(places)
        self._most_of_one = max(1, places // 2)
        self._of_callers: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @contextlib.asynccontextmanager
    async def place(self, caller: str) -> AsyncIterator[None]:
        """Have a place; raise :class:`OverloadedError` if none gets free in time."""
        own = self._of_callers.get(caller)
        if own is None:
            own = self._of_callers[caller] = asyncio.Semaphore(self._most_of_one)
        async with contextlib.AsyncExitStack() as places:
            try:
                async with asyncio.timeout(PLACE_SECONDS):
                    await places.enter_async_context(own)
                    await places.enter_async_context(self._all)
            except TimeoutError:
                raise OverloadedError(
                    "too many messages arrive at the same time; try again"
                ) from None
            yield
