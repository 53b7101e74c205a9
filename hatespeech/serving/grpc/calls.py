"""One call of the RPC ``runsync``: who asks, for what, and the reply or its status code."""

import asyncio
import logging
from typing import Any, Final, cast
from urllib.parse import unquote

from grpc import StatusCode

from hatespeech import errors
from hatespeech.serving.grpc.messages import read_input, write_reply
from hatespeech.serving.grpc.room import ArrivingMessages
from hatespeech.serving.guards.auth import Tokens
from hatespeech.serving.guards.envelope import CLIENT_CLOSED, choose_request_id, report_request
from hatespeech.serving.guards.limits import CallerRates
from hatespeech.serving.http_errors import STATUSES
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.served_model import ServedModel
from hatespeech.telemetry.recorder import Account

log = logging.getLogger(__name__)

GRPC: Final = "grpc"  # the protocol, and the route that log and metrics name
MESSAGE_SECONDS: Final = 120.0  # for a request's message, once its head is there
CODES: Final = {  # by HTTP's status, which log and metrics have: one alert serves both fronts
    401: StatusCode.UNAUTHENTICATED,
    413: StatusCode.RESOURCE_EXHAUSTED,  # as gRPC itself answers a message over its limit
    422: StatusCode.INVALID_ARGUMENT,
    429: StatusCode.RESOURCE_EXHAUSTED,
    500: StatusCode.INTERNAL,
    503: StatusCode.UNAVAILABLE,
}
UNEXPECTED: Final = errors.InternalError("the request could not be answered")


class CallHandler:
    """Answers calls, each in a task of its own, on the event loop that scores."""

    def __init__(
        self, tokens: Tokens, rates: CallerRates, metrics: Metrics, arriving: ArrivingMessages
    ) -> None:
        self._tokens, self._rates, self._metrics = tokens, rates, metrics
        self._arriving = arriving
        self.model: ServedModel  # set before the first call
        self.running: set[asyncio.Task[Any]] = set()
        self.stopping = False  # new calls are refused

    async def answer(self, _messages: object, context: Any) -> bytes:
        """Return the reply, or end the call with an error's code, line and trailing metadata."""
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        self.running.add(task)
        task.add_done_callback(self.running.discard)  # the reply is sent by then
        headers = dict(reversed(context.invocation_metadata()))  # of several, the first counts
        with self._metrics.recorder.account(GRPC, headers) as account:
            return await self._answer(headers, context, account)

    async def _answer(self, headers: dict[str, str], context: Any, account: Account) -> bytes:
        request_id = choose_request_id(headers.get("x-request-id", ""))
        metadata: Any = (("x-request-id", request_id),)
        status, error_type = CLIENT_CLOSED, None  # also for a deadline, which is the client's
        try:
            reply = await self._reply(headers, context, request_id)
            status = 200
            context.set_trailing_metadata(metadata)
            return reply
        except Exception as exc:
            if not isinstance(exc, errors.ServiceError):
                # gRPC would log and send its message, which may quote a text.
                log.error("request %s failed: %s", request_id, errors.describe_exception(exc))
                exc = UNEXPECTED
            status, error_type, line = STATUSES[type(exc)], exc.code, str(exc)
            # gRFC A6: after how many milliseconds a retry may succeed; -1 for never.
            pushback = str(1000 * exc.retry_after if exc.retry_after else -1)
            metadata += (("grpc-retry-pushback-ms", pushback),)
        finally:
            report_request(self._metrics, account, request_id, "POST", GRPC, status, error_type)
        # What abort raises stays in memory until garbage is collected. So it must not be raised
        # while the exception is handled, whose traceback holds the request's message; and the
        # exception must have no name here but `exc`, which Python deletes.
        return cast(bytes, await context.abort(CODES[status], line, metadata))  # it always raises

    async def _reply(self, headers: dict[str, str], context: Any, request_id: str) -> bytes:
        """Raise CancelledError if the client goes or its time is over: that drops the texts."""
        if self.stopping:
            raise errors.UnhealthyError("this worker is being stopped; try again")
        address = context.peer().partition(":")[2].rpartition(":")[0]
        caller = self._tokens.identify(headers, unquote(address).strip("[]"))
        await self._rates.count(caller)
        async with self._arriving.place(caller.name):
            body = read_input(await read_message(context))
        await self._rates.charge(caller, body)
        reply = await self.model.score(body, wait_for_room=False, caller=caller.share)
        return write_reply(reply, request_id)


async def read_message(context: Any) -> bytes:
    """Return the request's message; raise :class:`ServiceError` if it is too slow or too large."""
    try:
        async with asyncio.timeout(MESSAGE_SECONDS):
            message = await context.read()
    except TimeoutError:
        raise errors.ValidationError("comes too slowly", field="message") from None
    if not isinstance(message, bytes):  # gRPC has refused it
        raise errors.TooLargeError("is larger than this service reads", field="message")
    return message
