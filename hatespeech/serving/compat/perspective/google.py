"""Perspective's paths, where its clients put the key, and Google's form of an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.types import Scope
from typing_extensions import override

from hatespeech.errors import ServiceError, TooLargeError
from hatespeech.serving.compat.lenient import query_values
from hatespeech.serving.compat.perspective.errors import (
    CommentError,
    SuggestionsOffError,
    invalid_request,
    long_comment,
)
from hatespeech.serving.compat.protocol import Protocol
from hatespeech.serving.http_errors import RateLimitedError, UnauthorizedError

ANALYZE: Final = "/v1alpha1/comments:analyze"
SUGGEST: Final = "/v1alpha1/comments:suggestscore"
DISCOVERY: Final = "/$discovery/rest"
BATCH: Final = "/batch"

# Google's names of its statuses.
NAMES: Final[Mapping[int, str]] = {
    400: "INVALID_ARGUMENT",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "UNIMPLEMENTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    501: "UNIMPLEMENTED",
    503: "UNAVAILABLE",
    504: "DEADLINE_EXCEEDED",
}
ERROR_INFO: Final = "type.googleapis.com/google.rpc.ErrorInfo"


class Perspective(Protocol):
    """The protocol of Google's Perspective API."""

    name = "perspective"
    title = "Google's Perspective API"
    places = ("/v1alpha1/", "/$discovery/", BATCH)
    # The document says nothing that is secret. Each part of a batch brings its own key.
    open_paths = frozenset({DISCOVERY, BATCH})
    routes = (f"POST {ANALYZE}", f"POST {SUGGEST}", f"POST {BATCH}", f"GET {DISCOVERY}")

    @override
    def credentials(self, scope: Scope) -> Sequence[str]:
        # Google's clients write the key into the URL, which this server does not log.
        header = Headers(scope=scope).get("x-goog-api-key")
        return [*query_values(scope, "key"), *([header] if header else [])]

    @override
    def answer(self, scope: Scope, error: ServiceError, status: int) -> tuple[int, dict[str, Any]]:
        message = error.line
        details: list[dict[str, Any]] = []
        if isinstance(error, CommentError):
            status, details = 400, [error.detail()]
        elif isinstance(error, UnauthorizedError):
            headers = Headers(scope=scope)
            if self.credentials(scope) or "authorization" in headers or "x-api-key" in headers:
                # Clients compare the reason. Others tell it by the message.
                status, message = 400, "API key not valid. Please pass a valid API key."
                details = [_error_info("API_KEY_INVALID")]
            else:
                status = 403
                message = "The request has no API key: add ?key=, with a token of this server."
        elif isinstance(error, TooLargeError):
            details = [long_comment().detail()]
        elif isinstance(error, SuggestionsOffError):
            status = 501
        elif isinstance(error, RateLimitedError):
            message = f"Quota exceeded: {error.message} {error.retry_after} s."
            details = [_error_info("RATE_LIMIT_EXCEEDED")]
        elif status in (415, 422):
            status, details = 400, [invalid_request("").detail()]
        # PyPerspective looks into the first detail of every error.
        details = details or [_error_info(NAMES[status])]
        body = {"code": status, "message": message, "status": NAMES[status], "details": details}
        return status, {"error": body}


def _error_info(reason: str) -> dict[str, Any]:
    return {"@type": ERROR_INFO, "reason": reason, "domain": "googleapis.com", "metadata": {}}
