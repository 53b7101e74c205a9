"""Signs payments by hand, so that tests can sign what no client would."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import coincurve
import requests

from tests.support.stand_ins.chain import Account, encode
from tests.support.stand_ins.snet_payments import hashed

_TRANSFER = hashed(
    b"TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,"
    b"uint256 validBefore,bytes32 nonce)"
)
_DOMAIN = hashed(
    b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
)


@dataclass(frozen=True)
class Terms:
    """What a reply with status 402 asks for."""

    document: Mapping[str, Any]

    @classmethod
    def of(cls, reply: requests.Response) -> Terms:
        """Read the header ``PAYMENT-REQUIRED``."""
        assert reply.status_code == 402, reply.text
        return cls(decoded(reply.headers["PAYMENT-REQUIRED"]))

    def offer(self, scheme: str = "exact") -> dict[str, Any]:
        """Return the entry of a scheme."""
        (found,) = (each for each in self.document["accepts"] if each["scheme"] == scheme)
        assert isinstance(found, dict)
        return found


def sign(
    account: Account, terms: Terms, accepted: Mapping[str, Any] | None = None, **changed: Any
) -> str:
    """Return a payment for terms, as ``PAYMENT-SIGNATURE`` holds it.

    ``changed`` are fields of the authorization to sign instead of what the terms ask for, and
    ``accepted`` what the payment says of the terms.
    """
    offer = terms.offer()
    now = int(time.time())
    fields = {
        "from": account.address,
        "to": offer["payTo"],
        "value": offer["amount"],
        "validAfter": str(now - 600),
        "validBefore": str(now + offer["maxTimeoutSeconds"]),
        "nonce": f"0x{secrets.token_hex(32)}",
        **changed,
    }
    chain = int(offer["network"].rpartition(":")[2])
    names = (hashed(offer["extra"][name].encode()) for name in ("name", "version"))
    domain = hashed(encode(_DOMAIN, *names, chain, offer["asset"]))
    times = (int(fields[name]) for name in ("value", "validAfter", "validBefore"))
    nonce = bytes.fromhex(fields["nonce"][2:])
    message = hashed(encode(_TRANSFER, fields["from"], fields["to"], *times, nonce))
    key = coincurve.PrivateKey.from_hex(account.key.removeprefix("0x"))
    made = key.sign_recoverable(hashed(b"\x19\x01" + domain + message), hasher=None)
    signature = made[:64] + bytes([made[64] + 27])
    return encoded(
        {
            "x402Version": 2,
            "accepted": {**offer, **(accepted or {})},
            "payload": {"signature": f"0x{signature.hex()}", "authorization": fields},
            "resource": terms.document["resource"],
            "extensions": terms.document["extensions"],
        }
    )


def encoded(value: Mapping[str, Any]) -> str:
    """Return JSON in base64."""
    return base64.b64encode(json.dumps(value).encode()).decode()


def decoded(header: str) -> dict[str, Any]:
    """Read JSON in base64."""
    value = json.loads(base64.b64decode(header))
    assert isinstance(value, dict)
    return value
