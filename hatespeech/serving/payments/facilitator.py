"""Asks a facilitator whether a payment is good, and to take it."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import httpx2

from hatespeech.serving.payments.rail import PaymentFault

VERIFY_SECONDS: Final = 5.0
SETTLE_SECONDS: Final = 20.0
CONNECT_SECONDS: Final = 4.0  # less than either, so that it is known that nothing was sent
CONNECTIONS: Final = 256
ANSWER_BYTES: Final = 64 * 1024
REDIRECTS: Final = 3

# Of these 4xx statuses a buyer is not to blame: our key, our URL, or too many requests of ours.
OURS: Final = frozenset({401, 403, 404, 405, 429})
PENDING: Final = "settlement_pending"

_NOTHING_SENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_PLAIN: Final = re.compile(r"[A-Za-z0-9_.:/ -]{1,100}")

Question = Literal["verify", "settle"]
FLAGS: Final[Mapping[Question, str]] = {"verify": "isValid", "settle": "success"}
SECONDS: Final[Mapping[Question, float]] = {"verify": VERIFY_SECONDS, "settle": SETTLE_SECONDS}

log = logging.getLogger(__name__)


class FacilitatorError(Exception):
    """No decision came. ``may_have_acted``: whether the payment may have been taken all the same.

    ``transaction`` is the one that was begun, if that is known.
    """

    def __init__(self, why: str, *, may_have_acted: bool, transaction: str = "") -> None:
        super().__init__(why)
        self.may_have_acted = may_have_acted
        self.transaction = transaction


@dataclass(frozen=True)
class Decision:
    """What a facilitator answers."""

    yes: bool
    fields: Mapping[str, Any]

    def text(self, name: str) -> str:
        """Return a field that is fit for logs and headers; "" for any other."""
        value = self.fields.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = f"{value}"
        return value if isinstance(value, str) and _PLAIN.fullmatch(value) else ""

    @property
    def reason(self) -> str:
        """Why it refuses, if it says so plainly."""
        names = ("invalidReason", "errorReason", "code", "message")
        return next(filter(None, map(self.text, names)), "refused")


def open_client() -> httpx2.AsyncClient:
    """Return the one client of all rails. Close it in the event loop that uses it."""
    # A connection that is kept may be closed by the other end just when a settlement is sent over
    # it. Nobody could tell then whether it arrived, and the call would be free.
    limits = httpx2.Limits(max_connections=CONNECTIONS, max_keepalive_connections=0)
    return httpx2.AsyncClient(follow_redirects=True, max_redirects=REDIRECTS, limits=limits)


class Facilitator:
    """One facilitator. ``authorize`` returns the headers of a POST to a URL."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        url: str,
        authorize: Callable[[str], Mapping[str, str]],
        refuses: Callable[[int, Mapping[str, Any]], bool] = lambda _status, _answer: False,
    ) -> None:
        """``refuses`` says whether an odd answer is about the buyer all the same."""
        self._client = client
        self._url = url.rstrip("/")
        self._authorize = authorize
        self._refuses = refuses

    async def ask(self, question: Question, body: Mapping[str, Any]) -> Decision:
        """Return the decision; raise :class:`PaymentFault` or :class:`FacilitatorError`."""
        decision = await self._post(question, body)
        if decision.text("errorReason") == PENDING and decision.text("transaction"):
            decision = await self._post(question, body)  # the same, so it looks after that one
            if decision.text("errorReason") == PENDING:
                raise FacilitatorError(
                    PENDING, may_have_acted=True, transaction=decision.text("transaction")
                )
        if not decision.yes:
            code = decision.reason
            raise PaymentFault(question, f"the facilitator refuses the payment: {code}", code)
        return decision

    async def _post(self, question: Question, body: Mapping[str, Any]) -> Decision:
        url = f"{self._url}/{question}"
        seconds = SECONDS[question]
        timeout = httpx2.Timeout(seconds, connect=CONNECT_SECONDS, pool=CONNECT_SECONDS)
        raw = b""
        try:
            # The client's own time-outs are for each read, and a byte a second would pass them.
            async with (
                asyncio.timeout(seconds),
                self._client.stream(
                    "POST", url, json=body, headers=self._authorize(url), timeout=timeout
                ) as response,
            ):
                async for chunk in response.aiter_bytes():
                    raw += chunk
                    if len(raw) > ANSWER_BYTES:
                        break
        except Exception as exc:  # whatever it is, the payment may have been taken
            # Its message may hold what was sent.
            sent = not isinstance(exc, _NOTHING_SENT)
            raise FacilitatorError(type(exc).__name__, may_have_acted=sent) from None
        if url.startswith("https:") and response.url.scheme != "https":
            raise FacilitatorError("a redirect without TLS", may_have_acted=True)
        return self._read(question, response.status_code, raw)

    def _read(self, question: Question, status: int, raw: bytes) -> Decision:
        try:
            answer = json.loads(raw)
        except (ValueError, RecursionError):
            answer = None
        fields: Mapping[str, Any] = answer if isinstance(answer, dict) else {}
        yes = fields.get(FLAGS[question])
        if isinstance(yes, bool):
            return Decision(yes, fields)
        if self._refuses(status, fields) or (
            400 <= status < 500 and status != 408 and status not in OURS
        ):
            return Decision(False, fields)
        if status in OURS:
            log.error("a facilitator answers %d to %s: look at its URL and key", status, question)
        raise FacilitatorError(f"status {status}", may_have_acted=status not in OURS)
