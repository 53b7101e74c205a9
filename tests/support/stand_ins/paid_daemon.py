"""The daemon's stand-in on a chain: it takes payments from real channels, and says how they stand.

snet-sdk and snet-cli ask ``PaymentChannelStateService`` before each call, so this answers it, too.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
from typing_extensions import override

from tests.support.stand_ins.chain import LocalChain, encode
from tests.support.stand_ins.marketplace import PaymentGroup, identifier
from tests.support.stand_ins.snet_daemon import SnetDaemon, compile_proto, fail, new_message
from tests.support.stand_ins.snet_payments import (
    SIGNED_MESSAGE,
    Channel,
    Payment,
    hashed,
    read_payment,
    recover,
)

STATE_METHOD: Final = "/escrow.PaymentChannelStateService/GetChannelState"
STATE: Final = b"__get_channel_state"
WORD_BYTES: Final = 32


class ChainContracts:
    """What the daemon reads from a chain, for one organisation's group."""

    def __init__(self, chain: LocalChain, group: PaymentGroup) -> None:
        self.escrow = chain.escrow
        self.expiration_threshold = group.expiration_threshold
        self._chain, self._group = chain, group

    def has_service(self, organization: str, service: str) -> bool:
        """Say whether the registry has the service."""
        found = self._chain.read(
            self._chain.registry,
            "getServiceRegistrationById(bytes32,bytes32)",
            *(identifier(organization), identifier(service)),
        )
        return bool(int.from_bytes(found[:WORD_BYTES]))

    def channel(self, channel_id: int) -> Channel | None:
        """Return a channel to the group, ``None`` if there is none of this id."""
        found = self._chain.read(self.escrow, "channels(uint256)", channel_id)
        words = [found[at : at + WORD_BYTES] for at in range(0, len(found), WORD_BYTES)]
        nonce, sender, signer, recipient, group_id, value, expiration = words
        if (recipient[12:].hex(), group_id) != (
            self._group.payment_address[2:].lower(),
            base64.b64decode(self._group.group_id),
        ):
            return None
        return Channel(
            *(f"0x{sender[12:].hex()}", f"0x{signer[12:].hex()}"),
            *map(int.from_bytes, (value, expiration, nonce)),
        )

    def block(self) -> int:
        """Return the number of the newest block."""
        return int(self._chain.rpc("eth_blockNumber"), 16)


class PaidDaemon(SnetDaemon):
    """The running stand-in; ``paid`` has the payments of the calls that succeeded, in order.

    ``state_proto`` is ``state_service.proto``, which snet-sdk contains.
    """

    def __init__(
        self,
        config: Path,
        metadata: Path,
        contracts: ChainContracts,
        state_proto: Path,
        address: str,
    ) -> None:
        super().__init__(config, metadata, address=address, contracts=contracts)
        self.paid: list[Payment] = []
        self.contracts = contracts
        (self._state, *_) = compile_proto(state_proto)

    @override
    def answer(
        self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> bytes:
        if method == STATE_METHOD:
            return self._answer_state(next(requests), context)
        reply = super().answer(method, requests, context)
        self.paid.append(read_payment(context.invocation_metadata()))
        return reply

    def _answer_state(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        question: Any = new_message(self._state, "input")
        question.ParseFromString(request)
        channel_id = int.from_bytes(question.channel_id)
        channel = self.contracts.channel(channel_id)
        if channel is None:
            fail(context, grpc.StatusCode.UNKNOWN, f"channel is not found, channelId: {channel_id}")
        asked = encode(channel_id, question.current_block)
        packed = STATE + bytes.fromhex(self.contracts.escrow[2:]) + asked
        signer = recover(hashed(SIGNED_MESSAGE + hashed(packed)), question.signature)
        if signer not in (channel.signer, channel.sender):
            reason = "only channel signer/sender/receiver can get latest channel state"
            fail(context, grpc.StatusCode.UNKNOWN, reason)
        reply: Any = new_message(self._state, "output")
        reply.current_nonce = encode(channel.nonce)
        assert self.payments is not None
        if amount := self.payments.owed(channel_id, channel.nonce):
            reply.current_signed_amount = encode(amount)
        encoded: bytes = reply.SerializeToString()
        return encoded
