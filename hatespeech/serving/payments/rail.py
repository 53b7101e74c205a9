"""What every way to pay has: an offer, a payment that a request carries, and a receipt."""

from __future__ import annotations

import base64
import binascii
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

if TYPE_CHECKING:
    from hatespeech.serving.payments.facilitator import Facilitator

VERSION: Final = 2  # of x402
# For which an offer holds: long enough for a thousand texts on a slow machine.
LIFE_SECONDS: Final = 300

# Of a request's headers together, so that a larger payment never arrives.
HEADER_CHARS: Final = 16 * 1024

# Why a payment is not taken; the metrics count by it.
Reason = Literal["unreadable", "terms", "time", "used", "verify", "settle"]


@dataclass(frozen=True)
class PaidWork:
    """What a request asks for, as far as it is paid for."""

    texts: int  # that can be scored
    units: int  # see prices.py; at least 1


@dataclass(frozen=True)
class Order:
    """One request of a buyer."""

    method: str
    url: str  # the route's public URL, without a query: queries hold texts
    about: Mapping[str, Any]  # ``resource`` and ``extensions``, which x402 hands around
    work: PaidWork


class PaymentFault(Exception):
    """A payment that can't be taken; ``message`` tells its buyer why.

    ``code`` is what a facilitator calls the fault.
    """

    def __init__(self, reason: Reason, message: str, code: str = "") -> None:
        super().__init__(message)
        self.reason: Reason = reason
        self.message = message
        self.code = code


@dataclass(frozen=True)
class Receipt:
    """What a facilitator says of a settlement."""

    transaction: str
    network: str
    payer: str
    more: Mapping[str, str] = field(default_factory=dict)  # a rail's own fields

    def header(self) -> str:
        """Return the value of ``PAYMENT-RESPONSE``."""
        names = ("transaction", "network", "payer")
        told = {name: getattr(self, name) for name in names}
        return encode_header({"success": True, **told, **self.more})


@dataclass
class Payment:
    """A payment that looks right, as far as this server can tell alone."""

    facilitator: Facilitator
    body: Mapping[str, Any]  # what the facilitator is asked about
    rail: str
    network: str
    amount: str  # in the rail's smallest unit
    payer: str  # as the payment says, which is checked by ``verify``; "" if only that tells
    key: str | None  # no two payments have the same; None if one may be used again
    proof: str  # what only its buyer could make, whatever else the header holds
    told: Sequence[str] = ()  # fields of a settlement's answer that the receipt has, too

    async def verify(self) -> None:
        """Return if it is good; raise :class:`PaymentFault` or :class:`FacilitatorError`."""
        decision = await self.facilitator.ask("verify", self.body)
        self.payer = self.payer or decision.text("payer")

    async def settle(self) -> Receipt:
        """Take it; raise :class:`PaymentFault` or :class:`FacilitatorError`."""
        decision = await self.facilitator.ask("settle", self.body)
        payer = self.payer or decision.text("payer")
        more = {name: value for name in self.told if (value := decision.text(name))}
        return Receipt(decision.text("transaction"), self.network, payer, more)


class Rail(ABC):
    """A way to pay."""

    name: ClassVar[str]

    @abstractmethod
    def offer(self, order: Order) -> dict[str, Any]:
        """Return its entry in ``accepts``: what must be paid for this order, and to whom."""

    @abstractmethod
    def read(self, document: Mapping[str, Any], raw: str, order: Order) -> Payment | None:
        """Read a payment; ``None`` if it is of another rail.

        ``raw`` is the header that ``document`` was read from. Raises :class:`PaymentFault`.
        """

    @abstractmethod
    def card(self) -> dict[str, Any]:
        """Return what people and programs may know of it before they call."""


def encode_header(value: Mapping[str, Any]) -> str:
    """Return JSON in base64, as x402's headers hold it."""
    return base64.b64encode(json.dumps(value, separators=(",", ":")).encode()).decode()


def decode_header(text: str) -> dict[str, Any]:
    """Read JSON in base64, of either alphabet; raise :class:`PaymentFault`."""
    padded = text.translate(str.maketrans("-_", "+/")) + "=" * (-len(text) % 4)
    try:
        if len(text) > HEADER_CHARS:
            raise ValueError("too long")
        value = json.loads(base64.b64decode(padded, validate=True))
    except (ValueError, binascii.Error, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise PaymentFault("unreadable", "the payment cannot be read")
    return value
