"""The stand-in for the SingularityNET daemon takes payment by the daemon's rules, one by one."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from tests.singularitynet.conftest import Service
from tests.support.processes.worker import wait_until
from tests.support.stand_ins.snet_daemon import DaemonConfigError, SnetDaemon
from tests.support.stand_ins.snet_payments import (
    AMOUNT,
    CHANNEL_ID,
    NONCE,
    SIGNATURE,
    TYPE,
    Channel,
    Entry,
    MemoryContracts,
    Metadata,
    Payment,
    address_of,
    hashed,
    recover,
)

KEY: Final = bytes.fromhex("11" * 32)
SIGNER_KEY: Final = bytes.fromhex("22" * 32)
STRANGER_KEY: Final = bytes.fromhex("33" * 32)
PRICE: Final = 5
METADATA: Final = {
    "service_type": "http",
    "groups": [
        {
            "group_name": "default_group",
            "pricing": [
                {"price_model": "fixed_price", "price_in_cogs": 9},
                {"price_model": "fixed_price", "price_in_cogs": PRICE, "default": True},
            ],
        }
    ],
}
PROTO: Final = """
syntax = "proto3";
package zoo;
message Words { string text = 1; }
service Zoo { rpc ask(Words) returns (Words); }
"""
# The channels: 1 is as it should be, 2 was claimed from twice, 3 ends soon.
CHANNELS: Final = {
    1: Channel(address_of(KEY), address_of(SIGNER_KEY), value=20, expiration=5000),
    2: Channel(address_of(KEY), address_of(KEY), value=20, expiration=5000, nonce=2),
    3: Channel(address_of(KEY), address_of(KEY), value=20, expiration=1100),
}

Codes = grpc.StatusCode


class Shop:
    """A daemon that runs, and its contracts."""

    def __init__(self, daemon: SnetDaemon, contracts: MemoryContracts) -> None:
        assert daemon.payments is not None
        self.daemon, self.contracts, self.payments = daemon, contracts, daemon.payments

    @property
    def ledger(self) -> list[Entry]:
        return self.payments.ledger

    def pay(
        self, amount: int = PRICE, key: bytes = KEY, channel: int = 1, nonce: int = 0
    ) -> dict[str, str | bytes]:
        payment = Payment(channel, nonce, amount)
        return dict(payment.signed_with(key, self.contracts.escrow))

    def send(self, metadata: Metadata, request: bytes = b"", method: str = "ask") -> bytes:
        with grpc.insecure_channel(self.daemon.address) as channel:
            call: Callable[..., bytes] = channel.unary_unary(
                f"/zoo.Zoo/{method}", request_serializer=bytes, response_deserializer=bytes
            )
            return call(request, timeout=60, metadata=tuple(metadata))

    def refused(self, metadata: Metadata, **options: Any) -> tuple[grpc.StatusCode, str]:
        with pytest.raises(grpc.RpcError) as caught:
            self.send(metadata, **options)
        error = caught.value
        assert isinstance(error, grpc.Call)
        return error.code(), str(error.details())


Open = Callable[..., Shop]


@pytest.fixture
def open_shop(service: Service, tmp_path: Path) -> Iterator[Open]:
    """Starts a daemon in front of ``service``, with settings of its own."""
    running: list[SnetDaemon] = []

    def start(**settings: Any) -> Shop:
        given = {
            "organization_id": "org",
            "service_id": "svc",
            "service_endpoint": service.url,
            "token_secret_key": "t" * 32,
        }
        contents = {
            "config.json": json.dumps(given | settings),
            "metadata.json": json.dumps(METADATA),
            "zoo.proto": PROTO,
        }
        for name, text in contents.items():
            (tmp_path / name).write_text(text)
        config, metadata, proto = (tmp_path / name for name in contents)
        contracts = MemoryContracts({("org", "svc")}, dict(CHANNELS))
        daemon = SnetDaemon(config, metadata, proto, contracts=contracts)
        running.append(daemon.__enter__())
        return Shop(daemon, contracts)

    yield start
    for daemon in running:
        daemon.__exit__(None, None, None)


@pytest.fixture
def shop(open_shop: Open) -> Shop:
    return open_shop()


def test_the_hash_and_the_addresses_are_ethereums() -> None:
    """By values that everyone knows: of nothing, and of the private key 1."""
    assert hashed(b"").hex().startswith("c5d2460186f7233c")
    assert address_of((1).to_bytes(32, "big")) == "0x7e5f4552091a69125d5dfcb7b8c2659029395bdf"


def test_a_call_that_succeeds_is_paid_for(shop: Shop, service: Service) -> None:
    assert shop.send(shop.pay().items()) == b"\x0a\x02ok"
    assert shop.send(shop.pay(2 * PRICE, SIGNER_KEY).items()) == b"\x0a\x02ok"
    assert shop.ledger == [Entry(Codes.OK, True, 1, PRICE), Entry(Codes.OK, True, 1, PRICE)]
    assert shop.payments.owed(1) == 2 * PRICE
    assert len(service.paths) == 2


def test_escrow_is_the_type_of_a_payment_that_names_none(shop: Shop) -> None:
    payment = shop.pay()
    del payment[TYPE]
    shop.send(payment.items())
    assert shop.payments.owed(1) == PRICE


@pytest.mark.parametrize("status", [400, 413, 422, 500, 503, 504])
def test_a_status_outside_2xx_rolls_the_payment_back(
    shop: Shop, service: Service, status: int
) -> None:
    service.status = status
    code, _ = shop.refused(shop.pay().items())
    assert code == Codes.UNAVAILABLE
    assert shop.ledger == [Entry(Codes.UNAVAILABLE, False, 1)]
    service.status = 200
    shop.send(shop.pay().items())  # the channel is free again, and nothing is owed before it
    assert shop.payments.owed(1) == PRICE


@pytest.mark.parametrize("status", [200, 201, 299])
def test_any_2xx_is_paid_for_whatever_it_says(shop: Shop, service: Service, status: int) -> None:
    service.status, service.body = status, '{"status": "FAILED"}'
    assert shop.send(shop.pay().items()) == b""
    assert shop.payments.owed(1) == PRICE


def test_what_the_handler_refuses_is_rolled_back(shop: Shop, service: Service) -> None:
    payment = list(shop.pay().items())
    assert shop.refused(payment, method="missing")[0] == Codes.INTERNAL
    assert shop.refused(payment, request=b"\xff\xff")[0] == Codes.INTERNAL
    huge = b"\x0a\xfc\xff\xff\x02" + b"a" * (6 * 2**20 - 4)
    code, details = shop.refused(payment, request=huge)
    assert (code, "larger than max" in details) == (Codes.RESOURCE_EXHAUSTED, True)
    service.body = '{"text": 5}'
    assert shop.refused(payment)[0] == Codes.INTERNAL
    assert [entry.paid for entry in shop.ledger] == [False] * 4
    assert shop.payments.owed(1) == 0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({TYPE: "job"}, f'unexpected "{TYPE}", value: "job"'),
        ({CHANNEL_ID: None}, f'missing "{CHANNEL_ID}"'),
        ({NONCE: None}, f'missing "{NONCE}"'),
        ({AMOUNT: None}, f'missing "{AMOUNT}"'),
        ({SIGNATURE: None}, f'missing "{SIGNATURE}"'),
        ({CHANNEL_ID: "one"}, f'incorrect format "{CHANNEL_ID}": "one"'),
        ({AMOUNT: "1.5"}, f'incorrect format "{AMOUNT}": "1.5"'),
    ],
)
def test_malformed_payment_is_an_invalid_argument(
    shop: Shop, service: Service, change: dict[str, str | None], reason: str
) -> None:
    payment = {key: value for key, value in (shop.pay() | change).items() if value is not None}
    # The message and the method are wrong, too: the payment is looked at first.
    refused = shop.refused(payment.items(), request=b"\xff", method="missing")
    assert refused == (Codes.INVALID_ARGUMENT, reason)
    assert [(entry.code, entry.paid) for entry in shop.ledger] == [(Codes.INVALID_ARGUMENT, False)]
    assert service.paths == []


def test_two_values_of_one_name_are_an_invalid_argument(shop: Shop) -> None:
    code, details = shop.refused([*shop.pay().items(), (NONCE, "4")])
    assert code == Codes.INVALID_ARGUMENT
    assert details == f'too many values for key "{NONCE}": [0 4]'


@pytest.mark.parametrize(
    ("payment", "reason"),
    [
        ({"channel": 9}, 'payment channel "{ID: 9}" not found'),
        ({"key": STRANGER_KEY}, "payment is not signed by channel signer/sender"),
        ({"amount": PRICE - 1}, f"income {PRICE - 1} does not equal to price {PRICE}"),
        ({"amount": PRICE + 1}, f"income {PRICE + 1} does not equal to price {PRICE}"),
        ({"amount": 0}, f"income 0 does not equal to price {PRICE}"),
        (
            {"amount": 21},
            "not enough tokens on payment channel, channel amount: 20, payment amount: 21",
        ),
        (
            {"channel": 3},
            "payment channel is near to be expired, expiration time: 1100, current block: 1000, "
            "expiration threshold: 100",
        ),
    ],
)
def test_payment_that_is_not_right_is_unauthenticated(
    shop: Shop, service: Service, payment: dict[str, Any], reason: str
) -> None:
    assert shop.refused(shop.pay(**payment).items()) == (Codes.UNAUTHENTICATED, reason)
    assert not shop.ledger[0].paid
    assert service.paths == []
    shop.send(shop.pay().items())  # the channel is not locked


def test_signature_that_is_none_is_unauthenticated(shop: Shop) -> None:
    for signature in (b"", b"a" * 64, b"\xff" * 65):
        refused = shop.refused((shop.pay() | {SIGNATURE: signature}).items())
        assert refused == (Codes.UNAUTHENTICATED, "payment signature is not valid")


def test_signature_for_another_contract_or_amount_is_anothers(shop: Shop) -> None:
    elsewhere = dict(Payment(1, 0, PRICE).signed_with(KEY, f"0x{'aa' * 20}"))
    more = shop.pay(2 * PRICE) | {AMOUNT: str(PRICE)}
    for payment in (elsewhere, more):
        code, details = shop.refused(payment.items())
        assert (code, details.startswith("payment is not signed")) == (Codes.UNAUTHENTICATED, True)


def test_signatures_of_both_kinds_of_last_byte_are_read() -> None:
    payment = Payment(1, 0, PRICE)
    escrow = MemoryContracts().escrow
    signature = bytes(dict(payment.signed_with(KEY, escrow))[SIGNATURE])  # type: ignore[arg-type]
    assert signature[64] >= 27
    bare = signature[:64] + bytes([signature[64] - 27])
    for each in (signature, bare):
        assert recover(payment.message(escrow), each) == address_of(KEY)


def test_wrong_nonce_has_a_code_that_clients_do_not_know(shop: Shop) -> None:
    refused = shop.refused(shop.pay(channel=2, nonce=1).items())
    reason = "incorrect payment channel nonce, latest: 2, sent: 1"
    assert refused == (Codes.UNKNOWN, reason)
    shop.send(shop.pay(channel=2, nonce=2).items())


def test_a_claimed_channel_starts_again_with_the_next_nonce(shop: Shop) -> None:
    shop.send(shop.pay().items())
    claimed = CHANNELS[1]._replace(nonce=1, value=20 - PRICE)
    shop.contracts.channels[1] = claimed
    assert shop.refused(shop.pay(2 * PRICE).items())[0] == Codes.UNKNOWN
    shop.send(shop.pay(nonce=1).items())
    assert (shop.payments.owed(1), shop.payments.owed(1, nonce=1)) == (PRICE, PRICE)


def test_a_channel_takes_one_call_at_a_time(shop: Shop, service: Service) -> None:
    service.wait_seconds = 60
    thread = threading.Thread(target=shop.send, args=(shop.pay().items(),))
    thread.start()
    wait_until(lambda: bool(service.paths), "the first call")
    refused = shop.refused(shop.pay(2 * PRICE).items())
    assert refused == (
        Codes.FAILED_PRECONDITION,
        "another transaction on channel: {ID: 1} is in progress",
    )
    service.proceed.set()
    thread.join(60)
    shop.send(shop.pay(channel=2, nonce=2).items())  # other channels were never locked
    assert [(entry.code, entry.paid) for entry in shop.ledger] == [
        (Codes.FAILED_PRECONDITION, False),
        (Codes.OK, True),
        (Codes.OK, True),
    ]


def test_the_daemons_own_limit_comes_before_the_payment(open_shop: Open) -> None:
    shop = open_shop(rate_limit_per_minute=1, burst_size=2)
    shop.send(shop.pay().items())
    assert shop.refused([])[0] == Codes.INVALID_ARGUMENT
    refused = shop.refused([])
    assert refused == (Codes.RESOURCE_EXHAUSTED, "rate limiting , too many requests to handle")
    assert shop.payments.owed(1) == PRICE


@pytest.mark.parametrize(
    "settings",
    [{"organization_id": "other"}, {"service_id": "other"}, {"daemon_group_name": "other"}],
)
def test_what_is_not_published_stops_the_daemon(open_shop: Open, settings: dict[str, str]) -> None:
    with pytest.raises(DaemonConfigError, match="'other'"):
        open_shop(**settings)


def test_without_contracts_nobody_pays(service: Service, tmp_path: Path) -> None:
    (tmp_path / "zoo.proto").write_text(PROTO)
    (tmp_path / "metadata.json").write_text('{"service_type": "http"}')
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"service_endpoint": service.url, "token_secret_key": "t" * 32}))
    with (
        SnetDaemon(config, tmp_path / "metadata.json", tmp_path / "zoo.proto") as daemon,
        grpc.insecure_channel(daemon.address) as channel,
    ):
        call: Callable[..., bytes] = channel.unary_unary(
            "/zoo.Zoo/ask", request_serializer=bytes, response_deserializer=bytes
        )
        assert call(b"", timeout=60) == b"\x0a\x02ok"
    assert daemon.payments is None
