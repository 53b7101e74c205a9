"""Many calls of every kind, mixed, while the facilitator is slow, broken or gone by turns.

    python -m tests.serving.payments.storm --calls 1000

Good payments, replayed, forged and underpaid ones, requests that are wrong, buyers who hang up.
Then, in fair weather, buyers who hung up or were turned away send the same payment again. At the
end the chain is asked about every payment. This must hold:

- the seller has what the taken payments add up to, and the receipts say the same;
- every buyer who paid has the reply to the texts of that request;
- every buyer who has a reply paid, or the settlement is written down as one without an outcome;
- no bad payment was taken.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import requests

from hatespeech.serving.payments import facilitator as asking
from hatespeech.serving.payments import till
from tests.serving.payments.market import Market, ask, hang_up, open_market, pay, selling
from tests.support.checkpoints import build_checkpoint
from tests.support.http_client import HttpClient
from tests.support.local_server import LocalServer
from tests.support.payments.buyer import decoded, encoded, sign
from tests.support.payments.payment_chain import USDC

AT_ONCE: Final = 12
GOOD: Final = ("good", "hung up", "wrong request")
BAD: Final = ("forged", "underpaid", "replayed")
KINDS: Final = (*("good",) * 9, *("hung up",) * 4, "wrong request", *BAD, "replayed")
WEATHER: Final[tuple[dict[str, Any], ...]] = (
    {},
    {},
    {},
    {"verify_before": 0.3},
    {"settle_before": 0.3},
    {"settle_before": 2.5, "settle_times": 2},  # past the deadline
    {"verify_status": 503, "verify_times": 5},
    {"settle_status": 500, "settle_times": 2},
    {"settle_hangs_up": True, "settle_times": 2},
)


@dataclass
class Call:
    """One call: its payment, and how it ended."""

    kind: str
    payment: str
    body: dict[str, Any]
    statuses: list[int] = field(default_factory=list)  # 0 for a connection that broke
    replies: list[list[str]] = field(default_factory=list)  # the texts of each

    @property
    def authorization(self) -> dict[str, str]:
        fields: dict[str, str] = decoded(self.payment)["payload"]["authorization"]
        return fields

    @property
    def key(self) -> str:
        return f"x402 {self.authorization['from']} {self.authorization['nonce']}".lower()

    @property
    def is_good(self) -> bool:
        return self.kind in GOOD

    @property
    def is_replay(self) -> bool:
        return self.kind == "replayed"

    def send(self, server: HttpClient) -> None:
        """Send it, and note how it ended."""
        try:
            reply = pay(server, self.payment, self.body)
        except requests.ConnectionError:
            self.statuses.append(0)
            return
        self.statuses.append(reply.status_code)
        if reply.status_code == 200:
            self.replies.append([item["text"] for item in reply.json()["items"]])


@dataclass(frozen=True)
class Outcome:
    """What a storm left."""

    calls: int
    kinds: dict[str, int]
    statuses: dict[int, int]
    earned: int
    receipts: int
    unknown: int  # settlements without an outcome
    unknown_unpaid: int  # of them, those that were not taken: served for free
    wrongs: list[str]  # what must not be


def storm(market: Market, server: LocalServer, receipts: Path, calls: int, seed: int) -> Outcome:
    """Send so many calls; return what came of them."""
    before = market.chain.earned
    made: list[Call] = []
    over = threading.Event()

    def one(number: int) -> None:
        chance = random.Random(f"{seed} {number}")
        call = make_call(market, server, chance, number, made)
        if call.kind == "hung up":
            hang_up(server, call.payment, call.body, after=chance.uniform(0, 0.5))
        else:
            call.send(server)
        made.append(call)

    def change_weather() -> None:
        chance = random.Random(seed)
        while not over.wait(chance.uniform(0.2, 0.8)):
            if chance.random() < 0.1:
                market.facilitator.stop()
                time.sleep(0.3)
                market.facilitator.start()
            else:
                market.facilitator.turn(**chance.choice(WEATHER))

    weather = threading.Thread(target=change_weather)
    weather.start()
    try:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(one, range(calls)))
    finally:
        over.set()
        weather.join()
        market.facilitator.turn()
    for call in made:  # in fair weather
        deadline = time.monotonic() + 60
        while call.is_good and not call.replies and call.kind != "wrong request":
            call.send(server)
            assert time.monotonic() < deadline, call
            if not call.replies:
                time.sleep(0.2)
    return account(market, made, receipts, market.chain.earned - before)


def make_call(
    market: Market, server: HttpClient, chance: random.Random, number: int, made: list[Call]
) -> Call:
    """Return a call of a random kind."""
    kind = chance.choice(KINDS)
    body: dict[str, Any] = {"texts": [f"text {number}"] * chance.randint(1, 8)}
    earlier = [call for call in made if call.replies]
    if kind == "replayed" and earlier:
        return Call(kind, chance.choice(earlier).payment, body)
    terms = ask(server, body)
    payment = sign(chance.choice(market.chain.buyers), terms)
    if kind in ("forged", "replayed"):
        document = decoded(payment)
        document["payload"]["authorization"]["nonce"] = f"0x{chance.randbytes(32).hex()}"
        return Call("forged", encoded(document), body)
    if kind == "underpaid":
        return Call(kind, sign(market.buyer, terms, value="1"), body)
    if kind == "wrong request":
        return Call(kind, payment, {**body, "colour": "red"})
    return Call(kind, payment, body)


def account(market: Market, made: list[Call], receipts: Path, earned: int) -> Outcome:
    """Ask the chain about every payment, and compare."""
    lines = [json.loads(line) for line in receipts.read_text().splitlines()]
    unknown = {line["payment"]: int(line["amount"]) for line in lines if line["outcome"] != "paid"}
    written = sum(int(line["amount"]) for line in lines if line["outcome"] == "paid")
    wrongs = [f"replayed and served: {each}" for each in made if each.is_replay and each.replies]
    taken: dict[str, int] = {}
    for call in made:
        if call.is_replay:
            continue
        if is_taken(market, call):
            taken[call.key] = int(call.authorization["value"])
            if not (call.is_good and call.replies):
                wrongs.append(f"paid for nothing: {call}")
        elif call.replies and call.key not in unknown:
            wrongs.append(f"served for free: {call}")
        if any(texts != call.body["texts"] for texts in call.replies):
            wrongs.append(f"another's reply: {call}")
    if earned != sum(taken.values()):
        wrongs.append(f"earned {earned}, and the payments taken are {sum(taken.values())}")
    in_the_end = sum(amount for key, amount in unknown.items() if key in taken)
    if written + in_the_end != earned:
        wrongs.append(f"earned {earned}, and the receipts say {written} and {in_the_end}")
    return Outcome(
        len(made),
        dict(Counter(call.kind for call in made)),
        dict(Counter(status for call in made for status in call.statuses)),
        earned,
        written,
        len(unknown),
        len(unknown.keys() - taken.keys()),
        wrongs,
    )


def is_taken(market: Market, call: Call) -> bool:
    """Ask the chain whether it has seen a payment."""
    payer, nonce = call.authorization["from"], bytes.fromhex(call.authorization["nonce"][2:])
    state = "authorizationState(address,bytes32)"
    return any(market.chain.read(USDC, state, payer, nonce))


@contextlib.contextmanager
def impatient() -> Iterator[None]:
    """Make deadlines and pauses short."""
    with (
        patch.dict(asking.SECONDS, verify=1.5, settle=2.0),
        patch.object(till, "CLOSED_SECONDS", 1),
        patch.object(till, "WHILE_SECONDS", 10.0),
    ):
        yield


def main() -> int:
    """Run a storm, print how it ended; return 1 if something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, impatient():
        folder = Path(name)
        checkpoint = build_checkpoint(folder / "checkpoint").path
        receipts = folder / "receipts.jsonl"
        with open_market(folder) as market:
            settings = market.settings(RECEIPTS_FILE=str(receipts))
            with selling(folder, checkpoint, settings) as server:
                started = time.monotonic()
                found = storm(market, server, receipts, options.calls, options.seed)
    print(f"{found}\n{time.monotonic() - started:.0f} s")
    return 1 if found.wrongs else 0


if __name__ == "__main__":
    sys.exit(main())
