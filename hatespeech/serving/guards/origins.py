"""What a browser hears when it asks whether a page of another origin may call, and it may not."""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from hatespeech.errors import ValidationError
from hatespeech.serving.http_errors import error_response


class OriginGuard:
    """Answers the preflight for an origin that may not call.

    A preflight never holds a token. The token's guard would refuse it for that, which misleads.
    """

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        self._app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer such a preflight with an error; pass all others on."""
        if scope["type"] == "http" and scope["method"] == "OPTIONS":
            headers = Headers(scope=scope)
            listed = not {"*", headers.get("origin")}.isdisjoint(self._origins)
            if "origin" in headers and "access-control-request-method" in headers and not listed:
                error = ValidationError("is not in this server's CORS_ORIGINS", field="Origin")
                await error_response(scope, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)
