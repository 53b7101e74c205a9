"""The rules by which the SingularityNET daemon (snetd 6.2) takes payment, and a ledger of them.

A call is checked before its message is looked at. It locks its channel while it runs, its payment
is committed if it succeeds, and rolled back if it ends in an error. Signatures are real. Of the
daemon's payment types, only ``escrow`` is here: free calls and prepaid tokens are refused as an
unknown type is.
"""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple, Protocol

import coincurve
import grpc
from Crypto.Hash import keccak

PREFIX: Final = "snet-payment-"
TYPE: Final = f"{PREFIX}type"
CHANNEL_ID: Final = f"{PREFIX}channel-id"
NONCE: Final = f"{PREFIX}channel-nonce"
AMOUNT: Final = f"{PREFIX}channel-amount"
SIGNATURE: Final = f"{PREFIX}channel-signature-bin"
ESCROW: Final = "escrow"

CLAIM: Final = b"__MPE_claim_message"
SIGNED_MESSAGE: Final = b"\x19Ethereum Signed Message:\n32"
SIGNATURE_BYTES: Final = 65

Metadata = Iterable[tuple[str, str | bytes]]


class Channel(NamedTuple):
    """A payment channel as the escrow contract keeps it."""

    sender: str  # addresses are "0x" and 40 lower-case digits
    signer: str
    value: int  # cogs
    expiration: int  # a block
    nonce: int = 0


class Contracts(Protocol):
    """What the daemon reads from the blockchain, and from the organisation's metadata."""

    escrow: str  # address of the escrow contract
    expiration_threshold: int  # blocks

    def has_service(self, organization: str, service: str) -> bool:
        """Say whether the registry has the service."""

    def channel(self, channel_id: int) -> Channel | None:
        """Return a channel to this organisation, ``None`` if there is none of this id."""

    def block(self) -> int:
        """Return the number of the newest block."""


@dataclass
class MemoryContracts:
    """Contracts without a chain."""

    services: set[tuple[str, str]] = field(default_factory=set)  # organisation, service
    channels: dict[int, Channel] = field(default_factory=dict)
    escrow: str = f"0x{'e5' * 20}"
    expiration_threshold: int = 100
    newest: int = 1000

    def has_service(self, organization: str, service: str) -> bool:
        return (organization, service) in self.services

    def channel(self, channel_id: int) -> Channel | None:
        return self.channels.get(channel_id)

    def block(self) -> int:
        return self.newest


@dataclass(frozen=True)
class Payment:
    """What a caller signs: how much of the channel is the daemon's, with all calls before."""

    channel_id: int
    nonce: int
    amount: int  # cogs
    signature: bytes = b""

    def message(self, escrow: str) -> bytes:
        """Return the hash that is signed, for the contract at the address ``escrow``."""
        numbers = (self.channel_id, self.nonce, self.amount)
        packed = b"".join(number.to_bytes(32, "big") for number in numbers)
        return hashed(SIGNED_MESSAGE + hashed(CLAIM + bytes.fromhex(escrow[2:]) + packed))

    def signed_with(self, key: bytes, escrow: str) -> Metadata:
        """Return the metadata of a call that makes this payment."""
        signature = coincurve.PrivateKey(key).sign_recoverable(self.message(escrow), hasher=None)
        return (
            (TYPE, ESCROW),
            (CHANNEL_ID, str(self.channel_id)),
            (NONCE, str(self.nonce)),
            (AMOUNT, str(self.amount)),
            (SIGNATURE, signature[:64] + bytes([signature[64] + 27])),
        )


class Refusal(Exception):
    """The daemon ends a call before its handler."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason


@dataclass(frozen=True)
class Entry:
    """What became of one call."""

    code: grpc.StatusCode
    paid: bool
    channel_id: int | None = None  # None for a call that names no channel
    income: int = 0  # cogs


class Payments:
    """Takes the payment of each call, ``price`` cogs.

    ``ledger`` has an entry for each call, in the order in which they ended.
    """

    def __init__(self, contracts: Contracts, price: int) -> None:
        self.ledger: list[Entry] = []
        self._contracts = contracts
        self.price = price
        self._committed: dict[tuple[int, int], Payment] = {}  # by channel and nonce
        self._busy: set[int] = set()
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether a call is in progress on any channel."""
        return bool(self._busy)

    def owed(self, channel_id: int, nonce: int = 0) -> int:
        """Return the cogs of a channel that the daemon can claim."""
        known = self._committed.get((channel_id, nonce))
        return 0 if known is None else known.amount

    @contextlib.contextmanager
    def call(self, context: grpc.ServicerContext) -> Iterator[None]:
        """Let one call through, paid for if the ``with`` block ends without an exception.

        Raises :class:`Refusal` if the payment is not right.
        """
        payment = None
        try:
            payment = read_payment(context.invocation_metadata())
            with self._locked(payment.channel_id):
                self._check(payment)
                yield
                income = payment.amount - self.owed(payment.channel_id, payment.nonce)
                self._committed[payment.channel_id, payment.nonce] = payment
                entry = Entry(
                    grpc.StatusCode.OK, paid=True, channel_id=payment.channel_id, income=income
                )
                self.ledger.append(entry)
        except BaseException as exc:
            code = exc.code if isinstance(exc, Refusal) else context.code()  # type: ignore[attr-defined]
            channel_id = None if payment is None else payment.channel_id
            self.ledger.append(Entry(code, paid=False, channel_id=channel_id))
            raise

    @contextlib.contextmanager
    def _locked(self, channel_id: int) -> Iterator[None]:
        with self._lock:
            if channel_id in self._busy:
                raise Refusal(
                    grpc.StatusCode.FAILED_PRECONDITION,
                    f"another transaction on channel: {{ID: {channel_id}}} is in progress",
                )
            self._busy.add(channel_id)
        try:
            yield
        finally:
            self._busy.remove(channel_id)

    def _check(self, payment: Payment) -> None:
        unauthenticated = grpc.StatusCode.UNAUTHENTICATED
        channel = self._contracts.channel(payment.channel_id)
        if channel is None:
            reason = f'payment channel "{{ID: {payment.channel_id}}}" not found'
            raise Refusal(unauthenticated, reason)
        if payment.nonce != channel.nonce:
            # The daemon's own code, 1000, which clients read as UNKNOWN.
            reason = (
                f"incorrect payment channel nonce, latest: {channel.nonce}, sent: {payment.nonce}"
            )
            raise Refusal(grpc.StatusCode.UNKNOWN, reason)
        signer = recover(payment.message(self._contracts.escrow), payment.signature)
        if signer is None:
            raise Refusal(unauthenticated, "payment signature is not valid")
        if signer not in (channel.signer, channel.sender):
            raise Refusal(unauthenticated, "payment is not signed by channel signer/sender")
        block, threshold = self._contracts.block(), self._contracts.expiration_threshold
        if block + threshold >= channel.expiration:
            reason = (
                f"payment channel is near to be expired, expiration time: {channel.expiration}, "
                f"current block: {block}, expiration threshold: {threshold}"
            )
            raise Refusal(unauthenticated, reason)
        if channel.value < payment.amount:
            reason = (
                f"not enough tokens on payment channel, channel amount: {channel.value}, "
                f"payment amount: {payment.amount}"
            )
            raise Refusal(unauthenticated, reason)
        income = payment.amount - self.owed(payment.channel_id, payment.nonce)
        if income != self.price:
            reason = f"income {income} does not equal to price {self.price}"
            raise Refusal(unauthenticated, reason)


class RateLimit:
    """The daemon's own limit on calls, whoever they come from; checked before the payment."""

    def __init__(self, per_minute: int, burst: int) -> None:
        self._per_second = per_minute / 60
        self._burst = self._left = float(burst)
        self._at = time.monotonic()
        self._lock = threading.Lock()

    def count(self) -> None:
        """Count one call; raise :class:`Refusal` if it is one too many."""
        with self._lock:
            now = time.monotonic()
            self._left = min(self._burst, self._left + (now - self._at) * self._per_second)
            self._at = now
            if self._left < 1:
                reason = "rate limiting , too many requests to handle"
                raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
            self._left -= 1


def read_payment(metadata: Metadata) -> Payment:
    """Return the payment that a call's metadata make; raise :class:`Refusal` if it is malformed."""
    sent: dict[str, list[str | bytes]] = {}
    for key, value in metadata:
        sent.setdefault(key, []).append(value)
    kinds = sent.get(TYPE, [])
    if kinds and kinds[0] != ESCROW:
        raise malformed(f'unexpected "{TYPE}", value: "{kinds[0]!s}"')
    channel_id = read_number(sent, CHANNEL_ID)
    nonce, amount = read_number(sent, NONCE), read_number(sent, AMOUNT)
    signature = read_value(sent, SIGNATURE)
    assert isinstance(signature, bytes)  # as all metadata whose name ends in -bin
    return Payment(channel_id, nonce, amount, signature)


def read_value(sent: Mapping[str, list[str | bytes]], name: str) -> str | bytes:
    """Return the one value of a name; raise :class:`Refusal` if there are none or several."""
    values = sent.get(name, [])
    if not values:
        raise malformed(f'missing "{name}"')
    if len(values) > 1:
        shown = " ".join(map(str, values))
        raise malformed(f'too many values for key "{name}": [{shown}]')
    return values[0]


def read_number(sent: Mapping[str, list[str | bytes]], name: str) -> int:
    """Return the one whole number of a name; raise :class:`Refusal` for anything else."""
    text = str(read_value(sent, name))
    if not re.fullmatch(r"\d{1,78}", text, re.ASCII) or int(text) >= 2**256:
        raise malformed(f'incorrect format "{name}": "{text}"')
    return int(text)


def malformed(reason: str) -> Refusal:
    """Return the refusal of metadata that are not a payment."""
    return Refusal(grpc.StatusCode.INVALID_ARGUMENT, reason)


def price_of(group: Mapping[str, Any]) -> int:
    """Return the price of a call, in cogs, of a payment group in the service's metadata."""
    (price, *_) = sorted(group["pricing"], key=lambda each: not each.get("default"))
    cogs: int = price["price_in_cogs"]
    return cogs


def hashed(data: bytes) -> bytes:
    """Return Ethereum's hash of ``data``."""
    return keccak.new(data=data, digest_bits=256).digest()


def address_of(key: bytes) -> str:
    """Return the address of a private key."""
    return address(coincurve.PrivateKey(key).public_key)


def address(key: coincurve.PublicKey) -> str:
    """Return the address of a public key."""
    return f"0x{hashed(key.format(compressed=False)[1:])[-20:].hex()}"


def recover(message: bytes, signature: bytes) -> str | None:
    """Return the address whose key signed a hash, ``None`` for what is not a signature."""
    if len(signature) != SIGNATURE_BYTES:
        return None
    recoverable = signature[:64] + bytes([signature[64] % 27])
    try:
        key = coincurve.PublicKey.from_signature_and_message(recoverable, message, hasher=None)
    except ValueError:  # r and s are not a point
        return None
    return address(key)
