"""Credits of a plan at Nevermined, by a stand-in of its API and its own client as the buyer."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.serving.payments.market import ask, pay
from tests.support.bad_inputs import MARKER
from tests.support.http_client import SECONDS, HttpClient
from tests.support.local_server import LocalServer, local_server
from tests.support.other_clients import run_python
from tests.support.payments.buyer import decoded
from tests.support.payments.nevermined_stand_in import (
    AGENT,
    BUYER,
    PLAN,
    NeverminedStandIn,
    access_token,
)

KEY = "sandbox:the-secret-key-of-the-seller"
SCHEME = "nvm:erc4337"


@pytest.fixture(scope="module")
def nevermined() -> Iterator[NeverminedStandIn]:
    with NeverminedStandIn() as stand_in:
        yield stand_in


@pytest.fixture(scope="module")
def server(
    nevermined: NeverminedStandIn, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    settings = {
        "PUBLIC_URL": "https://scores.example",
        "NVM_API_KEY": KEY,
        "NVM_PLAN": PLAN,
        "NVM_AGENT": AGENT,
        "NVM_URL": nevermined.url,
        "LOG_LEVEL": "DEBUG",
    }
    folder = tmp_path_factory.mktemp("nevermined")
    with local_server(folder, small_checkpoint, settings) as server:
        yield server.ready()


def token(server: HttpClient, *, once: bool = False) -> str:
    return access_token(ask(server).offer(SCHEME), once=once)


def test_credits_go_by_the_text(server: HttpClient, nevermined: NeverminedStandIn) -> None:
    before = nevermined.balance
    nevermined.calls.clear()
    reply = pay(server, token(server), {"texts": [MARKER] * 7})
    assert len(reply.json()["items"]) == 7
    assert nevermined.balance == before - 7
    receipt = decoded(reply.headers["PAYMENT-RESPONSE"])
    assert receipt["creditsRedeemed"] == "7"
    assert receipt["remainingBalance"] == str(nevermined.balance)
    assert [call for call, _, _ in nevermined.calls] == ["verify", "settle"]
    for _, body, headers in nevermined.calls:
        assert body["maxAmount"] == "7"
        assert body["paymentRequired"]["resource"] == {"url": "https://scores.example/score"}
        assert headers["Authorization"] == f"Bearer {KEY}"
        assert headers["Nevermined-Version"] == "1.1"
        assert MARKER not in str(body)


def test_a_token_for_many_uses_pays_each_time(
    server: HttpClient, nevermined: NeverminedStandIn
) -> None:
    before = nevermined.balance
    payment = token(server)
    for _ in range(3):
        assert pay(server, payment).status_code == 200
    assert nevermined.balance == before - 3


def test_a_token_for_one_use_buys_one_reply(
    server: HttpClient, nevermined: NeverminedStandIn
) -> None:
    before = nevermined.balance
    payment = token(server, once=True)
    first = pay(server, payment)
    assert pay(server, payment).text == first.text
    assert pay(server, payment, {"text": "another"}).status_code == 402
    assert nevermined.balance == before - 1


def test_a_token_that_was_spent_elsewhere_is_refused(
    server: HttpClient, nevermined: NeverminedStandIn
) -> None:
    payment = token(server, once=True)
    nonce = decoded(payment + "=" * (-len(payment) % 4))["payload"]["authorization"]["nonce"]
    nevermined.spent.add(nonce)
    reply = pay(server, payment)
    assert reply.status_code == 402
    assert "BCK.X402.0059" in reply.json()["error"]
    assert decoded(reply.headers["PAYMENT-RESPONSE"])["success"] is False


@pytest.mark.parametrize(
    ("knobs", "status"),
    [
        ({"verify_status": 500, "code": "BCK.X402.0007"}, 402),
        ({"settle_status": 500, "code": "BCK.X402.0008"}, 402),
        ({"verify_status": 404, "code": "BCK.X402.0013"}, 402),
        ({"verify_status": 500, "code": "BCK.X402.0051"}, 503),
        ({"verify_status": 503, "code": "BCK.X402.0007"}, 503),
        ({"verify_status": 401, "code": "BCK.X402.0001"}, 503),  # our own key
        ({"settle_status": 401}, 503),
    ],
)
def test_a_buyers_fault_is_told_from_ours(
    server: HttpClient, nevermined: NeverminedStandIn, knobs: dict[str, Any], status: int
) -> None:
    before = nevermined.balance
    nevermined.knobs = knobs
    try:
        assert pay(server, token(server)).status_code == status
    finally:
        nevermined.knobs = {}
    assert nevermined.balance == before


def test_a_token_of_another_plan_or_without_credits_is_refused(
    server: HttpClient, nevermined: NeverminedStandIn
) -> None:
    before = nevermined.balance
    offer = ask(server).offer(SCHEME)
    other = access_token({**offer, "planId": "999"}, once=False)
    assert pay(server, other).status_code == 402
    nevermined.balance = 2
    try:
        assert pay(server, token(server), {"texts": ["a", "b", "c"]}).status_code == 402
        assert nevermined.balance == 2
    finally:
        nevermined.balance = before


def test_an_error_redeems_nothing(server: HttpClient, nevermined: NeverminedStandIn) -> None:
    before = nevermined.balance
    assert pay(server, token(server), {"texts": 5}).status_code == 422
    assert pay(server, token(server), {"text": " "}).status_code == 422
    assert nevermined.balance == before


def test_the_sellers_key_is_told_to_nobody(server: LocalServer) -> None:
    told = [
        server.stderr,
        server.get("/").text,
        server.get("/openapi.json", headers={}).text,
        server.get("/metrics").text,
        str(ask(server).document),
    ]
    assert KEY not in "".join(told)
    assert "the-secret-key" not in "".join(told)


BUY = """
import os
os.environ["NVM_BACKEND_URL"] = nevermined
import requests
from payments_py import Payments, PaymentOptions
from payments_py.x402.types import DelegationConfig, X402TokenOptions

payments = Payments.get_instance(
    PaymentOptions(nvm_api_key="local:" + jwt, environment="custom")
)
options = X402TokenOptions(
    scheme="nvm:erc4337",
    network="eip155:84532",
    delegation_config=DelegationConfig(
        spending_limit_cents=1000, duration_secs=3600, currency="usdc"
    ),
)
token = payments.x402.get_x402_access_token(plan, agent, token_options=options)["accessToken"]
reply = requests.post(url, json={"texts": ["good morning", "good night"]},
                      headers={"payment-signature": token}, timeout=60)
print(json.dumps([reply.status_code, reply.json(), reply.headers.get("PAYMENT-RESPONSE")]))
"""


def _part(value: dict[str, str]) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


@pytest.mark.slow
def test_nevermineds_own_client_buys(server: LocalServer, nevermined: NeverminedStandIn) -> None:
    before = nevermined.balance
    status, reply, receipt = run_python(
        "payments-py==1.18.0",
        BUY,
        nevermined=nevermined.url,
        url=f"{server.url}/score",
        plan=PLAN,
        agent=AGENT,
        jwt=f"{_part({'alg': 'none'})}.{_part({'sub': BUYER, 'o11y': 'x'})}.{_part({})}",
    )
    assert status == 200, reply
    assert len(reply["items"]) == 2
    assert decoded(receipt)["creditsRedeemed"] == "2"
    assert nevermined.balance == before - 2


def test_a_get_names_its_verb(server: HttpClient) -> None:
    reply = requests.get(f"{server.url}/score?text=a", timeout=SECONDS)
    offers = decoded(reply.headers["PAYMENT-REQUIRED"])["accepts"]
    assert offers[0]["extra"] == {"version": "1", "agentId": AGENT, "httpVerb": "GET"}
