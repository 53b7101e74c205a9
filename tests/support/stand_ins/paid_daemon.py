"""Stands in for what snetd has before its passthrough: the services and checks of payment.

A gRPC server that answers ``PaymentChannelStateService`` as snet-sdk asks it, checks the payment
of every other call against the contracts of a chain, and passes the call on to the daemon's
stand-in. A payment is kept if the call succeeds, and dropped if it fails. It takes payments of the
type ``escrow`` only.
"""

from __future__ import annotations

import base64
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self

import grpc

from tests.support.stand_ins.chain import LocalChain, encode
from tests.support.stand_ins.snet_daemon import compile_proto, new_message

STATE_METHOD: Final = "/escrow.PaymentChannelStateService/GetChannelState"
CLAIM_PREFIX: Final = b"__MPE_claim_message"
STATE_PREFIX: Final = b"__get_channel_state"
RECOVER: Final = "0x0000000000000000000000000000000000000001"  # built into every chain
SIGNED_PREFIX: Final = b"\x19Ethereum Signed Message:\n32"
HEADER: Final = "snet-payment-"
SIGNATURE_BYTES: Final = 65


@dataclass(frozen=True)
class PaymentGroup:
    """What the published metadata say about payment."""

    group_id: str  # base 64
    payment_address: str
    expiration_threshold: int  # blocks
    price: int  # cogs a call


@dataclass(frozen=True)
class Payment:
    """A promise that the operator can claim: this much of the channel, signed by the caller."""

    channel: int
    nonce: int
    amount: int  # cogs, of all calls on the channel so far
    signature: bytes


@dataclass(frozen=True)
class PaymentChannel:
    """A payment channel as the escrow contract keeps it."""

    nonce: int
    sender: str
    signer: str
    recipient: str
    group_id: bytes
    value: int  # cogs
    expiration: int  # a block

    @classmethod
    def read(cls, chain: LocalChain, channel: int) -> Self:
        """Read it from the chain; the sender of a channel that does not exist is zero."""
        found = chain.read(chain.escrow, "channels(uint256)", channel)
        words = [found[start : start + 32] for start in range(0, len(found), 32)]
        sender, signer, recipient = (f"0x{word[12:].hex()}" for word in words[1:4])
        numbers = [int.from_bytes(words[index]) for index in (0, 5, 6)]
        return cls(numbers[0], sender, signer, recipient, words[4], numbers[1], numbers[2])


class PaidDaemon:
    """The running stand-in; ``address`` is where gRPC clients call it.

    ``payments`` are those of the calls that succeeded, in order. ``busy`` holds the channels on
    which a call is in progress; a test may add one.
    """

    def __init__(self, chain: LocalChain, passthrough: str, state_proto: Path) -> None:
        self.payments: list[Payment] = []
        self.refused: list[grpc.StatusCode] = []
        self.busy: set[int] = set()
        self.group: PaymentGroup | None = None
        self._chain = chain
        (self._state, *_) = compile_proto(state_proto)
        self._lock = threading.Lock()
        self._passthrough = grpc.insecure_channel(passthrough)
        self._server = grpc.server(
            ThreadPoolExecutor(8), handlers=[_AnyMethod(self)], options=[("grpc.so_reuseport", 0)]
        )
        port = self._server.add_insecure_port("127.0.0.1:0")
        self.address = f"127.0.0.1:{port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(grace=0).wait(10)
        self._passthrough.close()

    def last_payment(self, channel: int) -> Payment | None:
        """Return the newest promise of a channel's present nonce, which is worth all before it."""
        nonce = PaymentChannel.read(self._chain, channel).nonce
        return next(
            (
                payment
                for payment in reversed(self.payments)
                if (payment.channel, payment.nonce) == (channel, nonce)
            ),
            None,
        )

    def answer(self, method: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        """Answer one call."""
        if method == STATE_METHOD:
            return self._answer_state(request, context)
        sent = dict(context.invocation_metadata())
        channel = int(self._header(sent, "channel-id", context))
        with self._lock:
            if channel in self.busy:
                reason = f"another transaction on channel: {channel} is in progress"
                self._refuse(context, grpc.StatusCode.FAILED_PRECONDITION, reason)
            self.busy.add(channel)
        try:
            payment = self._check_payment(channel, sent, context)
            send: Any = self._passthrough.unary_unary(method)  # bytes to bytes
            try:
                reply: bytes = send(request)
            except grpc.RpcError as error:
                if isinstance(error, grpc.Call):
                    self._refuse(context, error.code(), str(error.details()))
                raise
            self.payments.append(payment)
            return reply
        finally:
            self.busy.remove(channel)

    def _check_payment(
        self, channel_id: int, sent: dict[str, Any], context: grpc.ServicerContext
    ) -> Payment:
        assert self.group is not None
        payment = Payment(
            channel_id,
            int(self._header(sent, "channel-nonce", context)),
            int(self._header(sent, "channel-amount", context)),
            bytes(self._header(sent, "channel-signature-bin", context)),
        )
        refuse = functools.partial(self._refuse, context, grpc.StatusCode.UNAUTHENTICATED)
        channel = PaymentChannel.read(self._chain, channel_id)
        if (channel.recipient, channel.group_id) != (
            self.group.payment_address.lower(),
            base64.b64decode(self.group.group_id),
        ):
            refuse(f'payment channel "{{ID: {channel_id}}}" not found')
        if payment.nonce != channel.nonce:
            reason = f"incorrect payment channel nonce, latest: {channel.nonce}"
            self._refuse(context, grpc.StatusCode.UNKNOWN, f"{reason}, sent: {payment.nonce}")
        message = encode_packed(
            CLAIM_PREFIX, self._chain.escrow, channel_id, payment.nonce, payment.amount
        )
        if self._recover(message, payment.signature) not in (channel.signer, channel.sender):
            refuse("payment is not signed by channel signer/sender")
        block = int(self._chain.rpc("eth_blockNumber"), 16)
        if channel.expiration <= block + self.group.expiration_threshold:
            refuse("payment channel is near to be expired")
        if payment.amount > channel.value:
            refuse("not enough tokens on payment channel")
        before = self.last_payment(channel_id)
        income = payment.amount - (before.amount if before else 0)
        if income != self.group.price:
            refuse(f"income {income} does not equal to price {self.group.price}")
        return payment

    def _answer_state(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        question: Any = new_message(self._state, "input")
        question.ParseFromString(request)
        channel_id = int.from_bytes(question.channel_id)
        channel = PaymentChannel.read(self._chain, channel_id)
        message = encode_packed(
            STATE_PREFIX, self._chain.escrow, channel_id, question.current_block
        )
        if self._recover(message, question.signature) not in (channel.signer, channel.sender):
            reason = "only channel signer/sender/receiver can get latest channel state"
            self._refuse(context, grpc.StatusCode.UNAUTHENTICATED, reason)
        reply: Any = new_message(self._state, "output")
        reply.current_nonce = encode(channel.nonce)
        if payment := self.last_payment(channel_id):
            reply.current_signed_amount = encode(payment.amount)
            reply.current_signature = payment.signature
        encoded: bytes = reply.SerializeToString()
        return encoded

    def _recover(self, message: bytes, signature: bytes) -> str:
        """Return the address whose key signed a message."""
        if len(signature) != SIGNATURE_BYTES:
            return ""
        signed = self._chain.keccak(SIGNED_PREFIX + self._chain.keccak(message))
        data = signed + encode(signature[64]) + signature[:64]
        found: str = self._chain.rpc("eth_call", {"to": RECOVER, "data": f"0x{data.hex()}"})
        return f"0x{found[-40:]}"

    def _header(self, sent: dict[str, Any], name: str, context: grpc.ServicerContext) -> Any:
        if (value := sent.get(f"{HEADER}{name}")) is None:
            reason = f'missing "{HEADER}{name}"'
            self._refuse(context, grpc.StatusCode.INVALID_ARGUMENT, reason)
        return value

    def _refuse(
        self, context: grpc.ServicerContext, code: grpc.StatusCode, reason: str
    ) -> NoReturn:
        self.refused.append(code)
        context.abort(code, reason)
        raise AssertionError("abort always raises")


class _AnyMethod(grpc.GenericRpcHandler):
    """Hands every method to the daemon, request and reply as bytes."""

    def __init__(self, daemon: PaidDaemon) -> None:
        self._daemon = daemon

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        handle: Callable[[bytes, grpc.ServicerContext], bytes] = functools.partial(
            self._daemon.answer, handler_call_details.method
        )
        return grpc.unary_unary_rpc_method_handler(handle)


def encode_packed(prefix: bytes, address: str, *numbers: int) -> bytes:
    """Return what callers hash and sign, as Solidity's ``abi.encodePacked`` writes it."""
    return prefix + bytes.fromhex(address[2:]) + encode(*numbers)
