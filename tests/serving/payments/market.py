"""A chain and a facilitator, and servers that sell there."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from tests.support.http_client import SECONDS, HttpClient
from tests.support.local_server import LocalServer, local_server
from tests.support.payments.buyer import Terms, sign
from tests.support.payments.facilitators import X402Facilitator
from tests.support.payments.payment_chain import NETWORK, PaymentChain
from tests.support.ports import free_port
from tests.support.stand_ins.chain import Account

PRICE: Final = 1_000  # of a unit, in the token's smallest: 0.001
MINIMUM: Final = 2_000
ONE: Final[Mapping[str, Any]] = {"text": "good morning everyone"}


@dataclass
class Market:
    """Where a server sells. ``buyer`` is one of the chain's."""

    chain: PaymentChain
    facilitator: X402Facilitator

    @property
    def buyer(self) -> Account:
        """Somebody with tokens."""
        return self.chain.buyers[0]

    def settings(self, **more: str) -> dict[str, str]:
        """Return the settings of a server that sells here."""
        return {
            "PORT": str(free_port()),
            "PUBLIC_URL": "https://scores.example",
            "PAY_TO": self.chain.seller.address,
            "PAY_NETWORK": NETWORK,
            "PAY_FACILITATOR": self.facilitator.url,
            "PRICE": "0.001",
            "PRICE_MINIMUM": "0.002",
            **more,
        }


@contextlib.contextmanager
def open_market(folder: Path) -> Iterator[Market]:
    """Start a chain and a facilitator; skip the test where their packages can't be installed."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    try:
        chain = PaymentChain(folder)
        facilitator_of = X402Facilitator
        with chain, facilitator_of(chain, folder) as facilitator:
            yield Market(chain, facilitator)
    except (RuntimeError, subprocess.TimeoutExpired) as exc:
        pytest.skip(f"no chain or facilitator can be installed here: {str(exc).splitlines()[0]}")


@contextlib.contextmanager
def selling(folder: Path, checkpoint: Path, settings: Mapping[str, str]) -> Iterator[LocalServer]:
    """Run a server that sells."""
    with local_server(folder, checkpoint, settings) as server:
        yield server.ready()


def ask(server: HttpClient, body: Any = None, path: str = "/score") -> Terms:
    """Ask what a request costs."""
    return Terms.of(server.request("POST", path, {}, json=ONE if body is None else body))


def pay(
    server: HttpClient, payment: str, body: Any = None, path: str = "/score"
) -> requests.Response:
    """Send a request with a payment."""
    given = ONE if body is None else body
    return requests.post(
        server.url + path, json=given, headers={"PAYMENT-SIGNATURE": payment}, timeout=SECONDS
    )


def buy(server: HttpClient, account: Account, body: Any = None) -> requests.Response:
    """Ask for the price, and pay it."""
    return pay(server, sign(account, ask(server, body)), body)


def hang_up(server: HttpClient, payment: str, body: Any, after: float) -> None:
    """Send a request with a payment, and close the connection ``after`` seconds."""
    data = json.dumps(body).encode()
    head = (
        f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(data)}\r\nPAYMENT-SIGNATURE: {payment}\r\n\r\n"
    )
    with server.connect() as connection:
        connection.sendall(head.encode() + data)
        time.sleep(after)
