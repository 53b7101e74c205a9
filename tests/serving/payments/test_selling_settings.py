"""A server that is to sell starts with whole settings only, and says which one is missing."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry

from hatespeech.contract import parse_request
from hatespeech.serving.payments.prices import in_smallest_unit, text_units, work_of
from hatespeech.serving.payments.shop import open_shop
from hatespeech.serving.settings import ServerSettings
from tests.support.http_client import TOKEN
from tests.support.local_server import refusal

X402: Final = {
    "BEARER_TOKEN": TOKEN,
    "PUBLIC_URL": "https://scores.example",
    "PAY_TO": "0x" + "12" * 20,
    "PAY_FACILITATOR": "https://x402.org/facilitator",
    "PRICE": "0.0005",
}
NEVERMINED: Final = {
    "BEARER_TOKEN": TOKEN,
    "PUBLIC_URL": "https://scores.example",
    "NVM_API_KEY": "sandbox:secret-of-the-seller",
    "NVM_PLAN": "123",
    "NVM_AGENT": "42",
}
COINBASE: Final = "https://api.cdp.coinbase.com/platform/v2/x402"
ED25519: Final = base64.b64encode(bytes(range(64))).decode()


@pytest.fixture
def folder(tmp_path: Path) -> dict[str, str]:
    return {"JOBS_DB": str(tmp_path / "jobs.sqlite3")}


@pytest.mark.parametrize("whole", [X402, NEVERMINED, X402 | NEVERMINED])
def test_half_a_setting_stops_the_start_by_name(
    whole: dict[str, str], folder: dict[str, str]
) -> None:
    for missing in whole:
        said = refusal({**folder, **whole, missing: ""})
        assert missing in said
        assert "secret" not in said


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"PAY_TO": "0x123"}, "PAY_TO="),
        ({"PAY_TO": "0x" + "00" * 20}, "PAY_TO="),
        ({"PAY_TO": "vitalik.eth"}, "PAY_TO="),
        ({"PRICE": "0"}, "PRICE="),
        ({"PRICE": "-1"}, "PRICE="),
        ({"PRICE": "1e-3"}, "PRICE="),
        ({"PRICE": "0.0000001"}, "PRICE='0.0000001' is not allowed: the token has 6 decimals"),
        ({"PRICE": "free"}, "PRICE="),
        ({"PRICE_MINIMUM": "0"}, "PRICE_MINIMUM="),
        ({"PAY_NETWORK": "base"}, "PAY_NETWORK="),
        ({"PAY_NETWORK": "eip155:1"}, "PAY_NETWORK='eip155:1' needs PAY_TOKEN"),
        ({"PAY_TOKEN": "0x" + "34" * 20}, "PAY_TOKEN="),
        ({"PAY_TOKEN": f"0x{'34' * 20},Euro,2,99"}, "PAY_TOKEN="),
        ({"PAY_FACILITATOR": "http://facilitator.example"}, "PAY_FACILITATOR="),
        ({"PAY_FACILITATOR": "https://user:pass@facilitator.example"}, "PAY_FACILITATOR="),
        ({"PAY_FACILITATOR": COINBASE}, "CDP_API_KEY_ID is not set"),
        ({"CDP_API_KEY_ID": "me"}, "CDP_API_KEY_SECRET is not set"),
        ({"CDP_API_KEY_SECRET": ED25519}, "CDP_API_KEY_ID is not set"),
        ({"CDP_API_KEY_ID": "me", "CDP_API_KEY_SECRET": "secret"}, "CDP_API_KEY_SECRET"),
        ({"PAID_REPLY_SECONDS": "-1"}, "PAID_REPLY_SECONDS="),
        ({"RECEIPTS_FILE": "/nowhere/receipts.jsonl"}, "RECEIPTS_FILE=/nowhere/receipts.jsonl"),
        ({"NVM_NETWORK": "stripe"}, "NVM_API_KEY is not set, and NVM_NETWORK needs it"),
    ],
)
def test_a_wrong_setting_stops_the_start_by_name(
    changed: dict[str, str], named: str, folder: dict[str, str]
) -> None:
    said = refusal({**folder, **X402, **changed})
    assert named in said
    assert "secret" not in said
    assert ED25519 not in said


@pytest.mark.parametrize("name", ["RECEIPTS_FILE", "PAID_REPLY_SECONDS", "PRICE", "NVM_PLAN"])
def test_settings_of_a_seller_without_a_way_to_pay_stop_the_start(
    name: str, folder: dict[str, str], tmp_path: Path
) -> None:
    value = str(tmp_path / "receipts") if name == "RECEIPTS_FILE" else "300"
    assert name in refusal({**folder, "BEARER_TOKEN": TOKEN, name: value})


def test_nevermineds_key_is_checked_and_not_shown(folder: dict[str, str]) -> None:
    said = refusal({**folder, **NEVERMINED, "NVM_API_KEY": "secret-without-a-prefix"})
    assert said.startswith("error: NVM_API_KEY is not allowed")
    assert "secret" not in said


def test_coinbases_fee_is_below_the_least_price(folder: dict[str, str]) -> None:
    coinbase = {"PAY_FACILITATOR": COINBASE, "CDP_API_KEY_ID": "me", "CDP_API_KEY_SECRET": ED25519}
    said = refusal({**folder, **X402, **coinbase, "PRICE_MINIMUM": "0.001"})
    assert "PRICE_MINIMUM='0.001' is not allowed" in said


def test_nothing_is_sold_unless_it_is_set() -> None:
    settings = ServerSettings.from_environment({"BEARER_TOKEN": TOKEN})
    assert open_shop(settings, [], CollectorRegistry()) is None


def test_any_token_can_be_named() -> None:
    token = f"0x{'34' * 20},Euro Coin,1,18"
    settings = ServerSettings.from_environment(
        {**X402, "PAY_NETWORK": "eip155:1", "PAY_TOKEN": token, "PRICE": "0.000000000000000001"}
    )
    shop = open_shop(settings, [], CollectorRegistry())
    assert shop is not None
    (way,) = shop.card()["accepts"]
    assert (way["price"], way["currency"]) == ("0.000000000000000001", "Euro Coin")


# Prices.


def test_prices_are_exact() -> None:
    assert in_smallest_unit("0.1", 6) == 100_000
    assert in_smallest_unit("123456789.123456", 6) == 123_456_789_123_456
    assert in_smallest_unit("0.0000001", 6) is None
    assert in_smallest_unit("5", 0) == 5


def test_a_unit_is_a_thousand_started_characters_read_once() -> None:
    for chars, units in ((1, 1), (1000, 1), (1001, 2), (10_000, 10)):
        assert text_units("x" * chars, None, robust=False) == units
        assert text_units("x" * chars, None, robust=True) == 2 * units
    assert text_units("a b c", "leave_one_out", robust=False) == 1 + 3
    assert text_units("a b c", "shapley", robust=True) == 2 + 2**3 - 1
    # A window, which is all that is explained of a long text, has about 2,000 characters.
    assert text_units("x " * 4000, "leave_one_out", robust=False) == 8 + 2 * 256


def test_a_text_that_cannot_be_scored_has_no_price() -> None:
    request = parse_request({"texts": ["a", "", None, "b"]}, ServerSettings())
    work = work_of(request)
    assert (work.texts, work.units) == (2, 2)
    assert work_of(parse_request({"texts": ["", None]}, ServerSettings())).texts == 0
