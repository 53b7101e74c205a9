"""The header that names the price, and what directories of services read of it (the "bazaar").

A proxy in front may have no more than 4 KiB for the headers of a reply, so the schema is short.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from hatespeech.serving.payments.rail import VERSION, Order, PaidWork, Rail, encode_header

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

SERVICE: Final = "Hate-speech detection"
TAGS: Final = ("moderation", "hate speech", "spam", "nlp")


@dataclass(frozen=True, eq=False)
class PricedRoute:
    """A route whose calls are sold."""

    method: str
    path: str
    description: str
    example: Mapping[str, Any]  # a body or, for GET, the fields of a query
    reply: Mapping[str, Any]  # an example, shortened
    read: Callable[[Request], Awaitable[PaidWork]]  # raises what the route raises


def describe(route: PricedRoute, url: str) -> dict[str, Any]:
    """Return ``resource`` and ``extensions``: what is at this URL, and how to call it."""
    read = {"type": "object", "required": list(route.example)}
    given: dict[str, Any] = {"type": "http", "method": route.method}
    known: dict[str, Any] = {"type": {"const": "http"}, "method": {"const": route.method}}
    if route.method == "GET":
        given["queryParams"] = dict(route.example)
        known["queryParams"] = read
    else:
        given |= {"bodyType": "json", "body": dict(route.example)}
        known |= {"bodyType": {"const": "json"}, "body": read}
    properties = {
        "input": {"type": "object", "properties": known, "required": list(given)},
        "output": {"type": "object"},
    }
    return {
        "resource": {
            "url": url,
            "description": route.description,
            "mimeType": "application/json",
            "serviceName": SERVICE,
            "tags": list(TAGS),
        },
        "extensions": {
            "bazaar": {
                "info": {
                    "input": given,
                    "output": {"type": "json", "example": dict(route.reply)},
                },
                "schema": {"type": "object", "properties": properties, "required": ["input"]},
            }
        },
    }


def payment_required(order: Order, rails: Sequence[Rail], error: str) -> str:
    """Return the value of the header ``PAYMENT-REQUIRED``."""
    return encode_header(
        {
            "x402Version": VERSION,
            "error": error,
            "accepts": [rail.offer(order) for rail in rails],
            **order.about,
        }
    )
