"""Payments with credits of a plan at Nevermined, whose API checks and redeems buyers' tokens.

A buyer's token is opaque here and goes to Nevermined as it came. Version 3 of it has a nonce, which
is seen spent at settling only; a token of version 2 may be used until its plan is out of credits.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import httpx2
from typing_extensions import override

from hatespeech.serving.payments.facilitator import Facilitator
from hatespeech.serving.payments.rail import (
    LIFE_SECONDS,
    VERSION,
    Order,
    Payment,
    PaymentFault,
    Rail,
)

URLS: Final[Mapping[str, str]] = {
    "sandbox": "https://api.sandbox.nevermined.app",
    "live": "https://api.live.nevermined.app",
}
NETWORKS: Final[Mapping[str, str]] = {"sandbox": "eip155:84532", "live": "eip155:8453"}
CALLS: Final = "/api/v1/x402"
BUYERS_FAULTS: Final = frozenset({"BCK.X402.0007", "BCK.X402.0008", "BCK.X402.0009"})


class CreditsRail(Rail):
    """Takes the credits of one plan, one for each unit."""

    name: ClassVar[str] = "nevermined"

    def __init__(
        self,
        client: httpx2.AsyncClient,
        url: str,
        api_key: str,
        plan: str,
        agent: str,
        network: str,
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}", "Nevermined-Version": "1.1"}
        self._facilitator = Facilitator(
            client, url.rstrip("/") + CALLS, lambda _url: headers, blames_buyer
        )
        self._plan = plan
        self._agent = agent
        self._network = network
        self._scheme = "nvm:erc4337" if network.startswith("eip155:") else "nvm:card-delegation"

    @override
    def offer(self, order: Order) -> dict[str, Any]:
        # The last four are there because clients that only know x402 refuse every offer of a reply
        # if one of them lacks a field.
        return {
            "scheme": self._scheme,
            "network": self._network,
            "planId": self._plan,
            "extra": {"version": "1", "agentId": self._agent, "httpVerb": order.method},
            "amount": str(order.work.units),
            "asset": "nvm:credit",
            "payTo": self._plan,
            "maxTimeoutSeconds": LIFE_SECONDS,
        }

    @override
    def card(self) -> dict[str, Any]:
        return {
            "protocol": self._scheme,
            "network": self._network,
            "plan": self._plan,
            "agent": self._agent,
            "price": "1",
            "minimum": "1",
            "currency": "credits",
        }

    @override
    def read(self, document: Mapping[str, Any], raw: str, order: Order) -> Payment | None:
        accepted = document.get("accepted")
        if not isinstance(accepted, dict) or accepted.get("scheme") != self._scheme:
            return None
        if accepted.get("planId") != self._plan:
            raise PaymentFault("terms", "the payment is for another plan")
        offer = self.offer(order)
        body = {
            "paymentRequired": {
                "x402Version": VERSION,
                "resource": {"url": order.url},
                "accepts": [offer],
                "extensions": {},
            },
            "x402AccessToken": raw,
            "maxAmount": offer["amount"],
        }
        return Payment(
            self._facilitator,
            body,
            self.name,
            self._network,
            offer["amount"],
            payer="",
            key=_key(document),
            proof=raw,
            told=("creditsRedeemed", "remainingBalance"),
        )


def _key(document: Mapping[str, Any]) -> str | None:
    """Return what only one use of a token has; ``None`` if the token may be used again."""
    payload = document.get("payload")
    given = payload if isinstance(payload, dict) else {}
    authorization = given.get("authorization")
    nonce = authorization.get("nonce") if isinstance(authorization, dict) else None
    if not isinstance(nonce, str) or not nonce.strip():
        return None
    return "nevermined " + hashlib.sha256(nonce.encode("utf-8", "replace")).hexdigest()


def blames_buyer(status: int, answer: Mapping[str, Any]) -> bool:
    """Say whether an answer without a decision is about the buyer's payment.

    Nevermined answers some faults of buyers with status 500 and a code, and others with a code and
    a status that could as well be about our key.
    """
    code = str(answer.get("code", ""))
    if status >= 500:
        return status == 500 and code in BUYERS_FAULTS
    return status != 401 and code.startswith("BCK.X402.")
