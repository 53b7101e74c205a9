"""Odd answers of facilitators, and requests that are signed for Coinbase's."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hatespeech.serving.payments.coinbase import CoinbaseKey
from hatespeech.serving.payments.facilitator import (
    Decision,
    Facilitator,
    FacilitatorError,
    open_client,
)
from hatespeech.serving.payments.rail import PaymentFault
from tests.support.payments.scripted import SETTLED, ScriptedFacilitator

PENDING = {"success": False, "errorReason": "settlement_pending", "transaction": "0xabc"}


@pytest.fixture
def scripted() -> Iterator[ScriptedFacilitator]:
    with ScriptedFacilitator() as facilitator:
        yield facilitator


def ask(url: str, question: Any = "settle", authorize: Any = lambda _url: {}) -> Decision:
    async def asked() -> Decision:
        async with open_client() as client:
            return await Facilitator(client, url, authorize).ask(question, {"x": 1})

    return asyncio.run(asked())


def test_a_pending_settlement_is_asked_for_once_more(scripted: ScriptedFacilitator) -> None:
    scripted.next("settle", PENDING, SETTLED)
    assert ask(scripted.url).text("transaction") == "0x1"
    assert len(scripted.calls) == 2


def test_a_settlement_that_stays_pending_may_have_been_taken(
    scripted: ScriptedFacilitator,
) -> None:
    scripted.next("settle", PENDING, PENDING, PENDING)
    with pytest.raises(FacilitatorError) as caught:
        ask(scripted.url)
    assert caught.value.may_have_acted
    assert caught.value.transaction == "0xabc"
    assert len(scripted.calls) == 2


@pytest.mark.parametrize("status", [200, 400, 402, 500, 503])
def test_a_decision_counts_whatever_its_status(scripted: ScriptedFacilitator, status: int) -> None:
    scripted.next("settle", {"success": False, "errorReason": "insufficient_funds"}, status=status)
    with pytest.raises(PaymentFault) as caught:
        ask(scripted.url)
    assert caught.value.code == "insufficient_funds"
    assert caught.value.reason == "settle"


@pytest.mark.parametrize(
    ("answer", "status", "acted"),
    [
        ({}, 200, True),
        ({"success": "true"}, 200, True),
        ({"success": 1}, 200, True),
        ({"isValid": True}, 200, True),  # the answer to another question
        ([], 200, True),
        ({}, 500, True),
        ({}, 408, True),
        ({}, 401, False),
        ({}, 404, False),
        ({}, 429, False),
    ],
)
def test_an_answer_without_a_decision_is_none(
    scripted: ScriptedFacilitator, answer: Any, status: int, acted: bool
) -> None:
    scripted.next("settle", answer, status=status)
    with pytest.raises(FacilitatorError) as caught:
        ask(scripted.url)
    assert caught.value.may_have_acted is acted


@pytest.mark.parametrize("status", [400, 402, 422])
def test_an_error_of_the_payment_refuses_it(scripted: ScriptedFacilitator, status: int) -> None:
    scripted.next("verify", {"error": "x"}, status=status)
    with pytest.raises(PaymentFault):
        ask(scripted.url, "verify")


def test_what_a_facilitator_says_is_shown_only_if_it_is_plain(
    scripted: ScriptedFacilitator,
) -> None:
    odd: list[Any] = ["two\r\nlines", "<b>", "x" * 101, 5.5, {}]
    for said in odd:
        scripted.next("verify", {"isValid": False, "invalidReason": said})
        with pytest.raises(PaymentFault) as caught:
            ask(scripted.url, "verify")
        assert caught.value.code == "refused"


def test_an_endless_answer_is_not_read_to_its_end(scripted: ScriptedFacilitator) -> None:
    scripted.answers["verify"].append(lambda: web.Response(body=b"[" * 10_000_000))
    with pytest.raises(FacilitatorError):
        ask(scripted.url, "verify")


def test_a_facilitator_that_moved_is_followed(scripted: ScriptedFacilitator) -> None:
    def moved() -> web.Response:
        return web.Response(status=308, headers={"Location": f"{scripted.url}/new/settle"})

    scripted.answers["settle"].append(moved)
    assert ask(f"{scripted.url}/old").yes
    assert [path for path, _ in scripted.calls] == ["/old/settle", "/new/settle"]


def test_a_key_does_not_follow_to_another_host(scripted: ScriptedFacilitator) -> None:
    elsewhere = scripted.url.replace("127.0.0.1", "localhost")
    scripted.answers["settle"].append(
        lambda: web.Response(status=307, headers={"Location": f"{elsewhere}/settle"})
    )
    assert ask(scripted.url, authorize=lambda _url: {"Authorization": "Bearer secret"}).yes
    assert [headers.get("Authorization") for _, headers in scripted.calls] == [
        "Bearer secret",
        None,
    ]


def test_a_facilitator_that_is_away_is_known_to_have_done_nothing() -> None:
    with pytest.raises(FacilitatorError) as caught:
        ask("http://127.0.0.1:9")
    assert not caught.value.may_have_acted


# Coinbase's.


def parts(headers: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, Any], bytes, bytes]:
    """Return a token's head and claims, what is signed, and the signature."""
    scheme, _, token = headers["Authorization"].partition(" ")
    assert scheme == "Bearer"
    head, claims, signature = token.split(".")
    assert "=" not in token

    def read(text: str) -> bytes:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))

    return (
        json.loads(read(head)),
        json.loads(read(claims)),
        token.rpartition(".")[0].encode(),
        read(signature),
    )


def test_a_request_is_signed_with_an_ed25519_key() -> None:
    private = Ed25519PrivateKey.generate()
    public = private.public_key()
    secret = base64.b64encode(private.private_bytes_raw() + public.public_bytes_raw()).decode()
    key = CoinbaseKey("organizations/1/apiKeys/2", secret)
    url = "https://api.cdp.coinbase.com/platform/v2/x402/verify"
    head, claims, signed, signature = parts(key.authorize(url))
    public.verify(signature, signed)
    assert (head["alg"], head["kid"], head["typ"]) == ("EdDSA", "organizations/1/apiKeys/2", "JWT")
    assert claims["uris"] == ["POST api.cdp.coinbase.com/platform/v2/x402/verify"]
    assert (claims["iss"], claims["aud"]) == ("cdp", ["cdp_service"])
    assert claims["exp"] - claims["nbf"] == 120
    assert abs(claims["nbf"] - time.time()) < 60
    assert head["nonce"] != parts(key.authorize(url))[0]["nonce"]


@pytest.mark.parametrize("line_ends", ["\n", "\\n"])
def test_a_request_is_signed_with_an_ec_key(line_ends: str) -> None:
    private = ec.generate_private_key(ec.SECP256R1())
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    ).decode()
    key = CoinbaseKey("me", pem.replace("\n", line_ends))
    head, _, signed, signature = parts(key.authorize("https://api.cdp.coinbase.com/x/settle"))
    assert head["alg"] == "ES256"
    numbers = (int.from_bytes(signature[:32]), int.from_bytes(signature[32:]))
    der = utils.encode_dss_signature(*numbers)
    private.public_key().verify(der, signed, ec.ECDSA(hashes.SHA256()))


@pytest.mark.parametrize("secret", ["!", "AAAA", "-----BEGIN EC PRIVATE KEY-----\nAAAA\n"])
def test_a_bad_key_is_an_error_of_its_value(secret: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        CoinbaseKey("me", secret)
