"""Signs requests to Coinbase's facilitator: a JSON Web Token for each, good for two minutes.

The claims are those of Coinbase's own SDKs. Two signatures and some base64 do not need another
package beside cryptography.
"""

from __future__ import annotations

import base64
import binascii
import json
import secrets
import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

HOST: Final = "api.cdp.coinbase.com"
LIFE_SECONDS: Final = 120
SEED_BYTES: Final = 32  # of an Ed25519 key, which comes with its public half behind it
P256_BYTES: Final = 32


class CoinbaseKey:
    """A secret API key of Coinbase's Developer Platform."""

    def __init__(self, key_id: str, secret: str) -> None:
        """Read the key: Ed25519 in base64, or EC in PEM. Raises :class:`ValueError`."""
        self._id = key_id
        self._key = _read_key(secret)

    def authorize(self, url: str) -> Mapping[str, str]:
        """Return the headers of one POST."""
        place = urlsplit(url)
        now = int(time.time())
        is_ed = isinstance(self._key, Ed25519PrivateKey)
        head = {
            "alg": "EdDSA" if is_ed else "ES256",
            "kid": self._id,
            "typ": "JWT",
            "nonce": secrets.token_hex(16),
        }
        claims = {
            "sub": self._id,
            "iss": "cdp",
            "aud": ["cdp_service"],
            "nbf": now,
            "exp": now + LIFE_SECONDS,
            "uris": [f"POST {place.netloc}{place.path}"],
        }
        signed = f"{_encode(_json(head))}.{_encode(_json(claims))}"
        return {"Authorization": f"Bearer {signed}.{_encode(self._sign(signed.encode()))}"}

    def _sign(self, data: bytes) -> bytes:
        if isinstance(self._key, Ed25519PrivateKey):
            return self._key.sign(data)
        # A token holds the two numbers themselves, not their DER.
        numbers = utils.decode_dss_signature(self._key.sign(data, ec.ECDSA(hashes.SHA256())))
        return b"".join(number.to_bytes(P256_BYTES) for number in numbers)


def _read_key(secret: str) -> Ed25519PrivateKey | ec.EllipticCurvePrivateKey:
    if not secret.startswith("-----BEGIN"):
        try:
            raw = base64.b64decode(secret, validate=True)
        except binascii.Error:
            raise ValueError("not base64") from None
        if len(raw) != 2 * SEED_BYTES:
            raise ValueError("not an Ed25519 key")
        return Ed25519PrivateKey.from_private_bytes(raw[:SEED_BYTES])
    try:
        # A variable of one line holds the line ends as "\n".
        key = serialization.load_pem_private_key(secret.replace("\\n", "\n").encode(), None)
    except (TypeError, UnsupportedAlgorithm):
        raise ValueError("not a plain key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise ValueError("not an EC key of P-256")
    return key


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
