"""Nobody is charged for nothing and nothing is free, by the balances on the chain."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest
import requests

from hatespeech.contract import Reply
from hatespeech.serving.guards import connection
from hatespeech.serving.payments import facilitator as asking
from hatespeech.serving.payments import till
from hatespeech.serving.served_model import ServedModel
from tests.serving.payments.market import (
    MINIMUM,
    ONE,
    PRICE,
    Market,
    ask,
    buy,
    hang_up,
    pay,
    selling,
)
from tests.support.bad_inputs import MARKER
from tests.support.http_client import BEARER, SECONDS, HttpClient, together
from tests.support.payments.buyer import Terms, decoded, encoded, sign
from tests.support.payments.payment_chain import NETWORK, USDC
from tests.support.processes.server import http_server
from tests.support.processes.worker import wait_until

pytestmark = pytest.mark.slow

MAX_BODY: Final = 400_000


@pytest.fixture(scope="module")
def server(
    market: Market, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    folder = tmp_path_factory.mktemp("selling")
    settings = market.settings(
        RECEIPTS_FILE=str(folder / "receipts.jsonl"), MAX_BODY_BYTES=f"{MAX_BODY}"
    )
    with selling(folder, small_checkpoint, settings) as server:
        yield server


def scored(server: HttpClient) -> float:
    """Return how many texts have been scored."""
    return server.metrics()["texts_total"]


@contextlib.contextmanager
def scoring_after(wait: Callable[[], object]) -> Iterator[None]:
    """Let the model wait for something before it scores."""
    score = ServedModel.score

    async def later(self: ServedModel, *arguments: Any, **named: Any) -> Reply:
        await asyncio.to_thread(wait)
        return await score(self, *arguments, **named)

    with patch.object(ServedModel, "score", later):
        yield


# What is good.


def test_a_buyer_pays_the_price_and_gets_the_reply(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    reply = buy(server, market.buyer)
    assert reply.status_code == 200, reply.text
    assert reply.json()["text"] == ONE["text"]
    assert market.chain.earned == before + MINIMUM
    receipt = decoded(reply.headers["PAYMENT-RESPONSE"])
    assert receipt["success"] is True
    assert receipt["payer"] == market.buyer.address
    assert receipt["network"] == NETWORK


def test_a_get_is_paid_for_as_well(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    url = f"{server.url}/score?text={MARKER}"
    payment = sign(market.buyer, Terms.of(requests.get(url, timeout=SECONDS)))
    reply = requests.get(url, headers={"PAYMENT-SIGNATURE": payment}, timeout=SECONDS)
    assert reply.json()["text"] == MARKER
    assert market.chain.earned == before + MINIMUM


@pytest.mark.parametrize(
    ("body", "units"),
    [
        ({"texts": ["good morning"] * 100}, 100),
        ({"text": "word " * 400}, 2),  # 2,000 characters
        ({"text": "word " * 400 + "x"}, 3),
        ({"texts": ["good morning"] * 10, "robust": True}, 20),
        ({"text": "you are a fool", "explain": True}, 1 + 2**4 - 1),
        ({"text": "you are a fool", "explain": "leave_one_out", "robust": True}, 2 + 4),
        ({"texts": ["good morning", "", 5, "good night", None, "x" * 10_001, "bye"]}, 3),
    ],
)
def test_the_price_is_that_of_the_work(
    server: HttpClient, market: Market, body: dict[str, Any], units: int
) -> None:
    before = market.chain.earned
    assert buy(server, market.buyer, body).status_code == 200
    assert market.chain.earned == before + max(units * PRICE, MINIMUM)


def test_openais_clients_pay_for_moderations(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    body = {"input": ["good morning", "good night", "bye"]}
    asked = server.request("POST", "/v1/moderations", {}, json=body)
    assert asked.json()["error"]["message"].startswith("payment is needed")
    reply = pay(server, sign(market.buyer, Terms.of(asked)), body, "/v1/moderations")
    assert len(reply.json()["results"]) == 3
    assert market.chain.earned == before + 3 * PRICE


def test_a_token_holder_pays_nothing_whatever_else_is_sent(
    server: HttpClient, market: Market
) -> None:
    before = market.chain.earned
    payment = sign(market.buyer, ask(server))
    for headers in (BEARER, {**BEARER, "PAYMENT-SIGNATURE": payment}):
        reply = server.request("POST", "/score", headers, json=ONE)
        assert reply.status_code == 200
        assert "PAYMENT-RESPONSE" not in reply.headers
    assert market.chain.earned == before


def test_a_head_is_not_sold(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    url = f"{server.url}/score?text=hello"
    payment = sign(market.buyer, Terms.of(requests.get(url, timeout=SECONDS)))
    reply = requests.head(url, headers={"PAYMENT-SIGNATURE": payment}, timeout=SECONDS)
    assert reply.status_code == 402
    assert market.chain.earned == before


# What is asked for.


def test_the_terms_hold_what_clients_need(server: HttpClient, market: Market) -> None:
    reply = server.request("POST", "/score", {}, json=ONE)
    assert reply.json() == {"error": "payment is needed", "error_type": "payment_required"}
    assert reply.headers["Cache-Control"] == "no-store"
    assert len(reply.headers["PAYMENT-REQUIRED"]) < 3000  # a proxy may take 4 KiB of headers
    document = Terms.of(reply).document
    assert document["x402Version"] == 2
    assert document["resource"]["url"] == "https://scores.example/score"
    assert document["accepts"] == [
        {
            "scheme": "exact",
            "network": NETWORK,
            "asset": USDC,
            "amount": str(MINIMUM),
            "payTo": market.chain.seller.address,
            "maxTimeoutSeconds": 300,
            "extra": {"name": "USDC", "version": "2"},
        }
    ]


@pytest.mark.parametrize(
    ("body", "kind"),
    [(b"", "application/json"), (b"{}", "application/json"), (b"", ""), (b"{", "text/plain")],
)
def test_a_directory_that_sends_nothing_is_told_the_terms(
    server: HttpClient, body: bytes, kind: str
) -> None:
    reply = server.request("POST", "/score", {"Content-Type": kind} if kind else {}, data=body)
    assert Terms.of(reply).offer()["amount"] == str(MINIMUM)


def test_other_routes_take_no_payment(server: HttpClient, market: Market) -> None:
    payment = {"PAYMENT-SIGNATURE": sign(market.buyer, ask(server))}
    for method, path in (
        *(("POST", "/run"), ("POST", "/runsync"), ("POST", "/score/file"), ("GET", "/")),
        *(("GET", "/metrics"), ("POST", "/predict"), ("PUT", "/score"), ("HEAD", "/")),
        *(("POST", "/score/"), ("POST", "//score"), ("POST", "/Score"), ("GET", "/v1/moderations")),
    ):
        reply = server.request(method, path, payment, json={"input": ONE})
        assert reply.status_code == 401, (method, path)


def test_a_wrong_token_stays_401_beside_a_good_payment(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    payment = sign(market.buyer, ask(server))
    for wrong in ({"Authorization": "Bearer x"}, {"X-API-Key": "x"}, {"X-API-Key": ""}):
        reply = server.request("POST", "/score", {**wrong, "PAYMENT-SIGNATURE": payment}, json=ONE)
        assert reply.status_code == 401
    assert market.chain.earned == before


# What is not good.


NEED_THE_CHAIN: Final = (
    *("no funds", "signed by another", "another's name", "amount changed after signing"),
)


def bad_payments(server: HttpClient, market: Market) -> Iterator[tuple[str, str]]:
    """Yield payments that must not be taken, and why."""
    terms, buyer, now = ask(server), market.buyer, int(time.time())
    thief = market.chain.pauper
    yield "garbage", "!!!"
    yield "not JSON", "aGVsbG8="
    yield "a list", "W10="
    yield "empty object", encoded({})
    yield "nested deeply", "W1tb" * 2000
    yield "underpaid", sign(buyer, terms, value=str(MINIMUM - 1))
    yield "overpaid", sign(buyer, terms, value=str(MINIMUM + 1))
    yield "free", sign(buyer, terms, value="0")
    yield "negative", tampered(buyer, terms, value="-1")
    yield "lying about the amount", sign(buyer, terms, {"amount": "1"}, value="1")
    yield "lying about the payee", sign(buyer, terms, {"payTo": thief.address}, to=thief.address)
    yield "lying about the token", sign(buyer, terms, {"asset": thief.address})
    yield "lying about the network", sign(buyer, terms, {"network": "eip155:31337"})
    yield "another scheme", sign(buyer, terms, {"scheme": "upto"})
    yield "to somebody else", sign(buyer, terms, to=thief.address)
    yield "expired", sign(buyer, terms, validBefore=str(now - 1))
    yield "about to expire", sign(buyer, terms, validBefore=str(now + 20))
    yield "not valid yet", sign(buyer, terms, validAfter=str(now + 3600))
    yield "no funds", sign(thief, terms)
    yield "signed by another", tampered(buyer, terms, **{"from": thief.address})
    yield "another's name", tampered(thief, terms, **{"from": buyer.address})
    yield "amount changed after signing", tampered(buyer, terms_of(terms, "1"), value=str(MINIMUM))
    yield "numbers as Python alone reads them", tampered(buyer, terms, value="2_000")
    yield "numbers of another script", tampered(buyer, terms, value="٢٠٠٠")
    yield "a number", tampered(buyer, terms, value=MINIMUM)
    yield "a short nonce", tampered(buyer, terms, nonce="0x01")
    yield "version 1", changed_document(buyer, terms, x402Version=1)
    yield "no payload", changed_document(buyer, terms, payload=None)
    yield "accepted is a list", changed_document(buyer, terms, accepted=[])


def terms_of(terms: Terms, amount: str) -> Terms:
    """Return terms of another amount."""
    accepts = [{**terms.offer(), "amount": amount}]
    return Terms({**terms.document, "accepts": accepts})


def tampered(account: Any, terms: Terms, **changed: Any) -> str:
    """Return a payment whose authorization was changed after it was signed."""
    payment = decoded(sign(account, terms))
    payment["payload"]["authorization"] |= changed
    payment["accepted"]["amount"] = str(MINIMUM)
    return encoded(payment)


def changed_document(account: Any, terms: Terms, **changed: Any) -> str:
    """Return a payment that is changed around the authorization."""
    return encoded({**decoded(sign(account, terms)), **changed})


def test_a_bad_payment_is_refused_before_any_work(server: HttpClient, market: Market) -> None:
    before, texts = market.chain.earned, scored(server)
    payments = list(bad_payments(server, market))
    assert len(payments) > 25
    market.facilitator.calls()
    for why, payment in payments:
        reply = pay(server, payment)
        assert reply.status_code == 402, (why, reply.text)
        assert Terms.of(reply).offer()["amount"] == str(MINIMUM)
        assert reply.json()["error_type"] == "payment_required"
    assert market.chain.earned == before
    assert scored(server) == texts
    # All that can be seen without the chain is refused here.
    asked = [call["call"] for call in market.facilitator.calls()]
    assert asked == ["verify"] * len(NEED_THE_CHAIN)


def test_one_texts_price_does_not_buy_a_hundred(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    payment = sign(market.buyer, ask(server))
    assert pay(server, payment, {"texts": ["good morning"] * 100}).status_code == 402
    assert pay(server, payment).status_code == 200  # it is not used up
    assert market.chain.earned == before + MINIMUM


def test_a_payment_buys_once_whatever_it_is_sent_with(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    terms = ask(server)
    payment = sign(market.buyer, terms)
    first = pay(server, payment)
    texts = scored(server)
    again = pay(server, payment)
    assert again.status_code == 200
    assert again.text == first.text
    assert again.headers["PAYMENT-RESPONSE"] == first.headers["PAYMENT-RESPONSE"]
    assert scored(server) == texts
    # The other signature that the chain takes for the same message.
    order = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
    document = decoded(payment)
    raw = bytes.fromhex(document["payload"]["signature"][2:])
    s = (order - int.from_bytes(raw[32:64])).to_bytes(32)
    document["payload"]["signature"] = "0x" + (raw[:32] + s + bytes([55 - raw[64]])).hex()
    upper = decoded(payment)
    upper["payload"]["authorization"]["nonce"] = (
        "0x" + upper["payload"]["authorization"]["nonce"][2:].upper()
    )
    for other, body in (
        (payment, {"text": "another text"}),
        (encoded(document), ONE),
        (encoded(upper), {"text": "a third text"}),
    ):
        assert pay(server, other, body).status_code == 402
    assert market.chain.earned == before + MINIMUM


# Nothing for an error.


def test_an_error_costs_nothing_and_does_not_use_the_payment_up(
    server: HttpClient, market: Market
) -> None:
    before = market.chain.earned
    payment = sign(market.buyer, ask(server))
    for body, status in (
        ({"texts": "not a list"}, 422),
        ({"text": "a", "colour": "red"}, 422),
        ({"text": " \u200b "}, 422),  # found by the engine, after the payment was verified
        ({"text": "x" * 10_001}, 413),
        ({"text": "a", "thresholds": "unheard of"}, 422),
    ):
        assert pay(server, payment, body).status_code == status
    assert pay(server, payment).status_code == 200
    assert market.chain.earned == before + MINIMUM


def test_a_reply_without_a_score_costs_nothing(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    for texts in (["", None], [" ", "\u200b"]):
        reply = buy(server, market.buyer, {"texts": texts})
        assert reply.status_code == 200
        assert all("error" in item for item in reply.json()["items"])
        assert "PAYMENT-RESPONSE" not in reply.headers
    assert market.chain.earned == before


def test_a_body_over_the_limit_is_413_before_it_is_priced(
    server: HttpClient, market: Market
) -> None:
    payment = sign(market.buyer, ask(server))
    assert pay(server, payment, {"text": "x" * MAX_BODY}).status_code == 413
    chunks = (b"x" * 50_000 for _ in range(10))
    headers = {"PAYMENT-SIGNATURE": payment, "Content-Type": "application/json"}
    assert server.request("POST", "/score", headers, data=chunks).status_code == 413
    assert server.request("POST", "/score", {}, json={"text": "x" * MAX_BODY}).status_code == 413


# Several at once, and buyers who hang up.


def test_of_two_requests_with_one_payment_one_is_served(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    payment = sign(market.buyer, ask(server))
    market.facilitator.calls()
    with market.facilitator.knobs(settle_before=1):
        bodies = (ONE, {"text": "another text"})
        replies = together(2, lambda index: pay(server, payment, bodies[index]))
    assert sorted(reply.status_code for reply in replies) == [200, 402]
    assert [call["call"] for call in market.facilitator.calls()] == ["verify", "settle"]
    assert market.chain.earned == before + MINIMUM


def hung_up(server: HttpClient) -> float:
    """Return how many clients hung up before their reply."""
    counts = server.metrics().items()
    return sum(value for name, value in counts if name.startswith("requests_total:499:POST:"))


def test_who_hangs_up_while_the_payment_is_verified_pays_nothing(
    server: HttpClient, market: Market
) -> None:
    before, gone = market.chain.earned, hung_up(server)
    market.facilitator.calls()
    payment = sign(market.buyer, ask(server))
    with market.facilitator.knobs(verify_before=1):
        hang_up(server, payment, ONE, after=0.3)
        wait_until(lambda: hung_up(server) == gone + 1, "the hang-up to be noticed")
    assert [call["call"] for call in market.facilitator.calls()] == ["verify"]
    assert market.chain.earned == before
    assert pay(server, payment).status_code == 200


def test_who_hangs_up_while_texts_are_scored_pays_nothing(
    server: HttpClient, market: Market
) -> None:
    before, gone = market.chain.earned, hung_up(server)
    payment = sign(market.buyer, ask(server))
    market.facilitator.calls()
    with scoring_after(lambda: time.sleep(2)):
        hang_up(server, payment, ONE, after=1)
        wait_until(lambda: hung_up(server) == gone + 1, "the hang-up to be noticed")
    assert [call["call"] for call in market.facilitator.calls()] == ["verify"]
    assert market.chain.earned == before


def test_who_hangs_up_while_the_payment_settles_gets_the_reply_later(
    server: HttpClient, market: Market
) -> None:
    before, texts = market.chain.earned, scored(server)
    payment = sign(market.buyer, ask(server))
    with market.facilitator.knobs(settle_before=2):
        hang_up(server, payment, ONE, after=1)
        wait_until(lambda: market.chain.earned == before + MINIMUM, "the settlement")
        wait_until(lambda: pay(server, payment).status_code == 200, "the reply")
    reply = pay(server, payment)
    assert reply.json()["text"] == ONE["text"]
    assert decoded(reply.headers["PAYMENT-RESPONSE"])["success"] is True
    assert market.chain.earned == before + MINIMUM
    assert scored(server) == texts + 1


# Facilitators that are slow, broken or gone.


def test_a_payment_that_cannot_be_verified_costs_nothing(
    server: HttpClient, market: Market
) -> None:
    before, texts = market.chain.earned, scored(server)
    payment = sign(market.buyer, ask(server))
    slow = patch.dict(asking.SECONDS, verify=0.5)
    for knobs in ({"verify_status": 503}, {"verify_status": 404}, {"verify_before": 1.5}):
        with slow, market.facilitator.knobs(**knobs):
            reply = pay(server, payment)
        assert (reply.status_code, reply.json()["error_type"]) == (503, "unhealthy")
        assert "Retry-After" in reply.headers
    assert scored(server) == texts
    assert market.chain.earned == before
    assert pay(server, payment).status_code == 200


def test_a_settlement_that_takes_long_is_waited_for(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    with market.facilitator.knobs(settle_after=1.5):
        assert "PAYMENT-RESPONSE" in buy(server, market.buyer).headers
    assert market.chain.earned == before + MINIMUM


def test_a_settlement_without_an_outcome_is_served_and_written_down(
    market: Market, small_checkpoint: Path, tmp_path: Path
) -> None:
    before = market.chain.earned
    receipts = tmp_path / "receipts.jsonl"
    with selling(
        tmp_path, small_checkpoint, market.settings(RECEIPTS_FILE=str(receipts))
    ) as server:
        with market.facilitator.knobs(settle_hangs_up=True):
            reply = buy(server, market.buyer)
        assert reply.status_code == 200
        assert "PAYMENT-RESPONSE" not in reply.headers
        wait_until(lambda: market.chain.earned == before + MINIMUM, "the transaction")
        short = patch.dict(asking.SECONDS, settle=0.5)
        with short, market.facilitator.knobs(settle_before=1.5):
            assert buy(server, market.buyer).status_code == 200
        wait_until(lambda: market.chain.earned == before + 2 * MINIMUM, "the transaction")
        assert server.metrics()["payments_total:unknown:x402:"] == 2
    lines = [json.loads(line) for line in receipts.read_text().splitlines()]
    assert [line["outcome"] for line in lines] == ["unknown", "unknown"]
    assert all(market.buyer.address.lower() in line["payment"] for line in lines)


def test_three_settlements_without_an_outcome_close_the_till_to_their_buyer(
    market: Market, small_checkpoint: Path, tmp_path: Path
) -> None:
    before = market.chain.earned
    with selling(tmp_path, small_checkpoint, market.settings()) as server:
        with market.facilitator.knobs(settle_status=503):
            statuses = [buy(server, market.buyer).status_code for _ in range(3)]
            assert statuses == [200, 200, 200]
            texts = scored(server)
            reply = buy(server, market.buyer)
        assert (reply.status_code, reply.headers["Retry-After"]) == (503, "30")
        assert buy(server, market.buyer).status_code == 503  # however well it is now
        assert scored(server) == texts
        assert server.post("/score", json=ONE).status_code == 200  # for a token
        assert market.chain.earned == before
        assert buy(server, market.chain.buyers[1]).status_code == 200
    assert market.chain.earned == before + MINIMUM


def test_requests_of_a_crowd_are_not_all_free_while_settlements_hang(
    market: Market, small_checkpoint: Path, tmp_path: Path
) -> None:
    before = market.chain.earned
    few = patch.object(till, "AT_ONCE", 4)
    with few, selling(tmp_path, small_checkpoint, market.settings()) as server:
        terms = ask(server)
        payments = [sign(market.buyer, terms) for _ in range(24)]
        short = patch.dict(asking.SECONDS, settle=1.5)
        with short, market.facilitator.knobs(settle_before=4):
            replies = together(24, lambda index: pay(server, payments[index]))
        served = sum(reply.status_code == 200 for reply in replies)
        assert 4 <= served <= 4 + 2  # a turn may be free before the third ends
        # They end later, and must not end in another test.
        wait_until(lambda: market.chain.earned == before + served * MINIMUM, "them")
        assert {reply.status_code for reply in replies} == {200, 503}


def test_a_facilitator_that_is_gone_costs_a_buyer_nothing(
    market: Market, small_checkpoint: Path, tmp_path: Path
) -> None:
    before = market.chain.earned
    with selling(tmp_path, small_checkpoint, market.settings()) as server:
        payment = sign(market.buyer, ask(server))
        market.facilitator.turn(verify_exits=True)
        try:
            with scoring_after(market.facilitator.wait):
                assert pay(server, payment).status_code == 503  # gone when it is to settle
            assert pay(server, payment).status_code == 503  # gone when it is to verify
        finally:
            market.facilitator.start()
        assert market.chain.earned == before
        assert pay(server, payment).status_code == 200
    assert market.chain.earned == before + MINIMUM


def test_a_buyer_whose_payment_is_good_does_not_give_way_to_strangers(
    market: Market, small_checkpoint: Path, tmp_path: Path
) -> None:
    few = patch.object(connection, "MAX_CONNECTIONS", 3)
    with few, selling(tmp_path, small_checkpoint, market.settings()) as server:
        payment = sign(market.buyer, ask(server))
        market.facilitator.calls()
        with market.facilitator.knobs(settle_before=2), ThreadPoolExecutor(1) as pool:
            reply = pool.submit(pay, server, payment)
            wait_until(
                lambda: any(call["call"] == "settle" for call in market.facilitator.calls()),
                "the settlement to begin",
            )
            strangers = [server.connect() for _ in range(4)]
            assert server.get("/ping").status_code == 200  # so all of them have been let in
            assert reply.result().status_code == 200
        for each in strangers:
            each.close()


def test_a_stop_lets_a_settlement_end(
    market: Market, small_checkpoint: Path, tmp_path: Path
) -> None:
    before = market.chain.earned
    receipts = tmp_path / "receipts.jsonl"
    settings = market.settings(RECEIPTS_FILE=str(receipts))
    with http_server(tmp_path, small_checkpoint, settings) as server, ThreadPoolExecutor(1) as pool:
        payment = sign(market.buyer, ask(server.ready()))
        market.facilitator.calls()
        with market.facilitator.knobs(settle_before=2):
            reply = pool.submit(pay, server, payment)
            wait_until(
                lambda: any(call["call"] == "settle" for call in market.facilitator.calls()),
                "the settlement to begin",
            )
            server.terminate()
            assert reply.result().status_code == 200
        assert server.wait() == 0
    assert market.chain.earned == before + MINIMUM
    assert json.loads(receipts.read_text())["outcome"] == "paid"


# Limits, privacy, books.


def test_buyers_have_the_rate_limit_of_their_address(
    market: Market, small_checkpoint: Path, tmp_path: Path
) -> None:
    with selling(tmp_path, small_checkpoint, market.settings(RATE_LIMIT="3/minute")) as server:
        terms = ask(server)
        assert pay(server, sign(market.buyer, terms)).status_code == 200
        assert pay(server, "!!!").status_code == 402
        reply = pay(server, sign(market.buyer, terms))
        assert (reply.status_code, reply.json()["error_type"]) == (429, "rate_limited")


def test_a_large_body_counts_as_several_requests_though_nothing_is_paid(
    market: Market, small_checkpoint: Path, tmp_path: Path
) -> None:
    with selling(tmp_path, small_checkpoint, market.settings(RATE_LIMIT="10/minute")) as server:
        body = json.dumps({"texts": ["x" * 900] * 400}).encode()  # over five times 64 KiB
        headers = {"Content-Type": "application/json"}
        statuses = [
            server.request("POST", "/score", headers, data=body).status_code for _ in range(3)
        ]
    assert statuses == [402, 429, 429]


def test_a_paid_reply_goes_to_its_buyers_address_alone(
    market: Market, small_checkpoint: Path, tmp_path: Path
) -> None:
    """Signature and nonce are on the chain, where everyone can read them."""
    before = market.chain.earned
    settings = market.settings(TRUSTED_PROXIES="127.0.0.1", ROOT_PATH="/moderation")
    with selling(tmp_path, small_checkpoint, settings) as server:
        payment = {"PAYMENT-SIGNATURE": sign(market.buyer, ask(server))}

        def send(address: str, path: str) -> int:
            headers = {**payment, "X-Forwarded-For": address}
            return server.request("POST", path, headers, json=ONE).status_code

        assert send("203.0.113.1", "/moderation/score") == 200
        assert send("203.0.113.2", "/moderation/score") == 402
        assert send("203.0.113.1", "/score") == 200  # the prefix or not, it is the same request
    assert market.chain.earned == before + MINIMUM


def test_no_reply_is_kept_if_that_is_off(
    market: Market, small_checkpoint: Path, tmp_path: Path
) -> None:
    before = market.chain.earned
    settings = market.settings(PAID_REPLY_SECONDS="0")
    with selling(tmp_path, small_checkpoint, settings) as server:
        payment = sign(market.buyer, ask(server))
        assert pay(server, payment).status_code == 200
        market.facilitator.calls()
        assert pay(server, payment).status_code == 402
        assert market.facilitator.calls() == []  # the server remembers it
    with selling(tmp_path, small_checkpoint, settings) as server:
        assert pay(server, payment).status_code == 402  # and so does the chain
    assert market.chain.earned == before + MINIMUM


def test_a_facilitator_learns_neither_text_nor_query(server: HttpClient, market: Market) -> None:
    market.facilitator.calls()
    url = f"{server.url}/score?text={MARKER}"
    payment = decoded(sign(market.buyer, Terms.of(requests.get(url, timeout=SECONDS))))
    # A client may put there what it likes; SDKs put the URL that they called.
    payment["resource"] = {"url": url, "description": MARKER}
    payment["extensions"] = {"note": MARKER}
    payment["accepted"]["extra"]["note"] = MARKER
    payment["payload"]["note"] = payment["payload"]["authorization"]["note"] = MARKER
    headers = {"PAYMENT-SIGNATURE": encoded(payment)}
    assert requests.get(url, headers=headers, timeout=SECONDS).status_code == 200
    calls = market.facilitator.calls()
    assert [call["call"] for call in calls] == ["verify", "settle"]
    assert MARKER not in json.dumps(calls)
    assert calls[0]["body"]["paymentPayload"]["resource"]["url"] == "https://scores.example/score"


def test_the_books_agree_with_the_chain(
    market: Market, small_checkpoint: Path, tmp_path: Path
) -> None:
    before = market.chain.earned
    receipts = tmp_path / "receipts.jsonl"
    settings = market.settings(RECEIPTS_FILE=str(receipts), LOG_FORMAT="json")
    with selling(tmp_path, small_checkpoint, settings) as server:
        reply = buy(server, market.buyer, {"texts": [MARKER] * 5})
        assert reply.status_code == 200
        pay(server, "!!!")
        metrics = server.metrics()
        log = server.stderr
    (line,) = (json.loads(line) for line in receipts.read_text().splitlines())
    assert receipts.stat().st_mode & 0o777 == 0o600
    transaction = decoded(reply.headers["PAYMENT-RESPONSE"])["transaction"]
    assert market.chain.rpc("eth_getTransactionReceipt", transaction)["status"] == "0x1"
    assert line.pop("time")
    assert line == {
        "outcome": "paid",
        "rail": "x402",
        "transaction": transaction,
        "payer": market.buyer.address,
        "amount": str(5 * PRICE),
        "route": "POST /score",
        "texts": 5,
    }
    assert market.chain.earned == before + 5 * PRICE
    assert metrics["paid_amount_total:x402"] == 5 * PRICE
    assert metrics["paid_texts_total:x402"] == 5
    assert metrics["payments_total:paid:x402:"] == 1
    assert metrics["payments_total:asked:none:"] == 1
    assert metrics["payments_total:refused:none:unreadable"] == 1
    assert metrics["receipts_unwritten"] == 0
    assert transaction in log
    assert MARKER not in log + receipts.read_text()


def test_the_card_and_the_document_name_the_price(server: HttpClient, market: Market) -> None:
    card = server.get("/").json()["payment"]
    assert card["routes"] == ["POST /score", "GET /score", "POST /v1/moderations"]
    (way,) = card["accepts"]
    assert (way["price"], way["minimum"], way["currency"]) == ("0.001", "0.002", "USDC")
    assert way["pay_to"] == market.chain.seller.address
    document = server.get("/openapi.json", headers={}).json()
    scheme = document["components"]["securitySchemes"]["payment"]
    assert (scheme["in"], scheme["name"]) == ("header", "PAYMENT-SIGNATURE")
    assert "0.001 USDC" in scheme["description"]
    for path, method in (("/score", "post"), ("/score", "get"), ("/v1/moderations", "post")):
        operation = document["paths"][path][method]
        assert {"payment": []} in operation["security"]
        assert operation["responses"]["402"]["headers"].keys() == {"PAYMENT-REQUIRED"}
    assert "security" not in document["paths"]["/run"]["post"]
