"""Around every request: its id, security headers, one log line, metrics, and the last resort.

Here ``HEAD`` becomes ``GET``, whose reply loses its body, and a proxy's prefix stands once in the
path.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import time
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hatespeech.errors import InternalError, UnhealthyError, describe_exception
from hatespeech.logs import FIELDS
from hatespeech.serving.guards.auth import PROBES
from hatespeech.serving.http_errors import error_response
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.route_path import route_path

log = logging.getLogger(__name__)

CLIENT_CLOSED: Final = 499  # never sent, because the client is gone
UNMATCHED: Final = "unmatched"
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"})

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")

# For replies whose route does not set them. Caches must not keep scores and texts.
SECURITY_HEADERS: Final = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}


class Envelope:
    """The outermost middleware. Logs method, route, status and duration, never path or query."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; give its reply an id and headers, and log and count it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "OTHER"
        if method == "HEAD":
            scope["method"] = "GET"
        scope["path"] = scope.get("root_path", "") + route_path(scope)
        request_id = choose_request_id(Headers(scope=scope).get("x-request-id", ""))
        started = time.perf_counter()
        status = CLIENT_CLOSED

        async def send_wrapped(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["X-Request-ID"] = request_id
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
            elif method == "HEAD":
                message = {**message, "body": b""}
            await send(message)

        try:
            await self._app(scope, receive, send_wrapped)
        except ClientDisconnect:
            status = CLIENT_CLOSED
        except asyncio.CancelledError:  # the request outlasted the shutdown's grace period
            if status == CLIENT_CLOSED:
                error = UnhealthyError("this worker is being stopped; try again")
                await error_response(scope, error)(scope, receive, send_wrapped)
        except Exception as exc:
            # uvicorn would log it with its message, which may quote a text.
            log.error("request %s failed: %s", request_id, describe_exception(exc))
            if status == CLIENT_CLOSED:
                fault = InternalError("the request could not be answered")
                await error_response(scope, fault)(scope, receive, send_wrapped)
            # Otherwise uvicorn notices that the reply is incomplete and closes the connection.
        finally:
            route = getattr(scope.get("route"), "path", UNMATCHED)
            error_type = scope.get("state", {}).get("error_type")
            report_request(self._metrics, request_id, method, route, status, started, error_type)


def choose_request_id(given: str) -> str:
    """Return the caller's own id of a request if it is fit for a log, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def report_request(
    metrics: Metrics,
    request_id: str,
    method: str,
    route: str,
    status: int,
    started: float,
    error_type: str | None,
) -> None:
    """Count one request and log one line; it began at ``started``, by ``time.perf_counter()``."""
    seconds = time.perf_counter() - started
    metrics.observe_request(method, route, status, seconds, error_type)
    # Probes come every few seconds.
    level = logging.DEBUG if route in PROBES else logging.INFO
    log.log(
        level,
        "request %s %s %s %d %.1f ms",
        request_id,
        method,
        route,
        status,
        seconds * 1e3,
        extra={
            FIELDS: {
                "request_id": request_id,
                "method": method,
                "route": route,
                "status": status,
                "milliseconds": round(seconds * 1e3, 1),
                "error_type": error_type,
            }
        },
    )
