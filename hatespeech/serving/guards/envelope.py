"""Around every request: its id, security headers, one log line, metrics, and the last resort.

Here ``HEAD`` becomes ``GET``, whose reply loses its body, and a proxy's prefix stands once in the
path.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from typing import Final

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts
from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.routing import compile_path
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hatespeech.errors import InternalError, UnhealthyError, describe_exception
from hatespeech.logs import FIELDS
from hatespeech.serving.compat.protocol import protocol_of
from hatespeech.serving.guards.auth import PROBES
from hatespeech.serving.http_errors import error_response
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.route_path import route_path
from hatespeech.telemetry.recorder import Account

log = logging.getLogger(__name__)

CLIENT_CLOSED: Final = 499  # never sent, because the client is gone
QUIET: Final = PROBES | {"/metrics"}  # they come every few seconds
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
            scope.setdefault("state", {})["head"] = True
        scope["path"] = scope.get("root_path", "") + route_path(scope)
        headers = Headers(scope=scope)
        protocol = protocol_of(scope).name
        with self._metrics.recorder.account(protocol, headers) as account:
            request_id = choose_request_id(headers.get("x-request-id", ""))
            await self._answer(scope, receive, send, method, request_id, account)

    async def _answer(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        method: str,
        request_id: str,
        account: Account,
    ) -> None:
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
            error_type = scope.get("state", {}).get("error_type")
            report_request(
                self._metrics, account, request_id, method, route_of(scope), status, error_type
            )


def path_templates(app: FastAPI) -> list[tuple[re.Pattern[str], str]]:
    """Return what matches each path of the application, and its template, the first first."""
    paths = dict.fromkeys(str(each.path) for each in iter_route_contexts(app.router.routes))
    return [(compile_path(path)[0], path) for path in paths]


def route_of(scope: Scope) -> str:
    """Return the path template of a request's route, also if a guard refused it before that.

    There are only so many templates; a path that fits none of them is ``unmatched``.
    """
    route = scope.get("route")
    if route is not None:
        return str(route.path)
    for pattern, template in scope["app"].state.path_templates:
        if pattern.match(route_path(scope)):
            return str(template)
    return UNMATCHED


def choose_request_id(given: str) -> str:
    """Return the caller's own id of a request if it is fit for a log, else a new one."""
    return given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)


def report_request(
    metrics: Metrics,
    account: Account,
    request_id: str,
    method: str,
    route: str,
    status: int,
    error_type: str | None,
) -> None:
    """Count one request and log one line."""
    milliseconds, protocol = account.milliseconds, account.protocol
    metrics.requests.labels(method, route, str(status), protocol).inc()
    metrics.seconds.labels(method, route, protocol).observe(milliseconds / 1e3)
    if error_type is not None:
        metrics.count_error(error_type)
    metrics.recorder.request_ended(
        account,
        f"{method} {route}",
        quiet=route in QUIET,
        error_type=error_type,
        attributes={
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "hatespeech.request_id": request_id,
            "hatespeech.protocol": protocol,
        },
    )
    texts = str(account.tally)
    log.log(
        logging.DEBUG if route in QUIET else logging.INFO,
        "request %s %s %s %d %.1f ms%s%s%s",
        request_id,
        method,
        route,
        status,
        milliseconds,
        f": {error_type}" if error_type else "",
        f", job {account.job_id}" if account.job_id else "",
        f": {texts}" if texts else "",
        extra={
            FIELDS: {
                "request_id": request_id,
                "method": method,
                "route": route,
                "protocol": protocol,
                "status": status,
                "milliseconds": round(milliseconds, 1),
                "error_type": error_type,
                **({"job_id": account.job_id} if account.job_id else {}),
                **account.tally.fields(),
            }
        },
    )
