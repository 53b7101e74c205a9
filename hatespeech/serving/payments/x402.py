"""Payments by x402 version 2, scheme ``exact``: a signed transfer of a token (EIP-3009).

The signature binds payer, receiver, amount, token and time, and the chain takes each nonce once. It
says nothing of the request. A facilitator gets the signature and our own terms; what else a buyer
sends stays here, because it may hold a text.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar, Final

from typing_extensions import override

from hatespeech.serving.payments.facilitator import Facilitator
from hatespeech.serving.payments.payment_settings import ADDRESS
from hatespeech.serving.payments.rail import (
    LIFE_SECONDS,
    VERSION,
    Order,
    Payment,
    PaymentFault,
    Rail,
)

SCHEME: Final = "exact"
# A payment may be valid for less than an offer, but must not end while its texts are scored.
LEAST_SECONDS: Final = 30

_FIELDS: Final[Mapping[str, re.Pattern[str]]] = {
    "from": re.compile(ADDRESS),
    "to": re.compile(ADDRESS),
    "value": re.compile(r"[0-9]{1,78}"),
    "validAfter": re.compile(r"[0-9]{1,78}"),
    "validBefore": re.compile(r"[0-9]{1,78}"),
    "nonce": re.compile(r"0x[0-9a-fA-F]{64}"),
}
# That of a wallet contract is longer than the 65 bytes of a key's.
_SIGNATURE: Final = re.compile(r"0x([0-9a-fA-F]{2}){65,4096}")


@dataclass(frozen=True)
class PaymentToken:
    """A token with EIP-3009; name and version are those of its EIP-712 domain."""

    address: str
    name: str
    version: str
    decimals: int


USDC: Final[Mapping[str, PaymentToken]] = {
    "eip155:8453": PaymentToken("0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913", "USD Coin", "2", 6),
    "eip155:84532": PaymentToken("0x036CbD53842c5426634e7929541eC2318f3dCF7e", "USDC", "2", 6),
}


@dataclass(frozen=True)
class ExactRail(Rail):
    """Takes one token on one chain."""

    name: ClassVar[str] = "x402"

    facilitator: Facilitator
    network: str
    token: PaymentToken
    pay_to: str
    price: int  # in the token's smallest unit
    minimum: int

    @override
    def offer(self, order: Order) -> dict[str, Any]:
        return {
            "scheme": SCHEME,
            "network": self.network,
            "asset": self.token.address,
            "amount": str(max(self.minimum, order.work.units * self.price)),
            "payTo": self.pay_to,
            "maxTimeoutSeconds": LIFE_SECONDS,
            "extra": {"name": self.token.name, "version": self.token.version},
        }

    @override
    def card(self) -> dict[str, Any]:
        def plain(amount: int) -> str:
            return format(Decimal(amount).scaleb(-self.token.decimals).normalize(), "f")

        return {
            "protocol": f"x402 version {VERSION}, {SCHEME}",
            "network": self.network,
            "asset": self.token.address,
            "currency": self.token.name,
            "price": plain(self.price),
            "minimum": plain(self.minimum),
            "pay_to": self.pay_to,
        }

    @override
    def read(self, document: Mapping[str, Any], raw: str, order: Order) -> Payment | None:
        accepted = document.get("accepted")
        if not isinstance(accepted, dict) or accepted.get("scheme") != SCHEME:
            return None
        offer = self.offer(order)
        same = ("network", "asset", "amount", "payTo")
        if document.get("x402Version") != VERSION or any(
            str(accepted.get(name)).lower() != offer[name].lower() for name in same
        ):
            raise PaymentFault("terms", "the payment is for other terms")
        signature, fields = _read_payload(document.get("payload"))
        if fields["to"].lower() != self.pay_to.lower() or int(fields["value"]) != int(
            offer["amount"]
        ):
            raise PaymentFault("terms", "the payment is signed for other terms")
        now = time.time()
        if not int(fields["validAfter"]) <= now <= int(fields["validBefore"]) - LEAST_SECONDS:
            raise PaymentFault(
                "time", f"the payment must be valid now and for {LEAST_SECONDS} s more"
            )
        payload = {
            "x402Version": VERSION,
            "accepted": offer,
            "payload": {"signature": signature, "authorization": fields},
            **order.about,
        }
        body = {
            "x402Version": VERSION,
            "paymentPayload": payload,
            "paymentRequirements": offer,
        }
        return Payment(
            self.facilitator,
            body,
            self.name,
            self.network,
            offer["amount"],
            payer=fields["from"],
            key=f"x402 {fields['from']} {fields['nonce']}".lower(),
            proof=signature.lower(),
        )


def _read_payload(payload: object) -> tuple[str, dict[str, str]]:
    """Return the signature and the fields that it signs; raise :class:`PaymentFault`."""
    given = payload if isinstance(payload, dict) else {}
    signature, authorization = given.get("signature"), given.get("authorization")
    if isinstance(authorization, dict) and isinstance(signature, str):
        fields = {name: authorization.get(name) for name in _FIELDS}
        if _SIGNATURE.fullmatch(signature) and all(
            isinstance(value, str) and _FIELDS[name].fullmatch(value)
            for name, value in fields.items()
        ):
            return signature, {name: str(value) for name, value in fields.items()}
    raise PaymentFault("unreadable", "the payment cannot be read")
