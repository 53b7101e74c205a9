"""The table of docs/singularitynet.md, row by row: what a caller sees, and whether it is paid for.

Every call here is made and paid for as a caller's library does it, through the stand-in of the
daemon, to real workers: our handler behind the emulation of Runpod's API, and ``server.py``.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from hatespeech.engine.predictor import Predictor
from hatespeech.engine.scorer import Scorer
from hatespeech.settings import EngineSettings
from hatespeech.worker.handler import JobHandler
from tests.paths import ROOT
from tests.support.faulty_device import Switches, faulty_device
from tests.support.http_client import TOKEN
from tests.support.local_server import local_server
from tests.support.processes.worker import wait_until
from tests.support.stand_ins.runpod.endpoint import ENDPOINT_ID, KEY, RunpodEndpoint
from tests.support.stand_ins.runpod.jobs import Fault
from tests.support.stand_ins.snet_client import write_config
from tests.support.stand_ins.snet_daemon import PROTO, SnetDaemon, compile_proto, new_message
from tests.support.stand_ins.snet_payments import (
    Channel,
    MemoryContracts,
    Payment,
    address_of,
)

PAGE: Final = ROOT / "docs" / "singularitynet.md"
HEADING: Final = "| what the caller sees | what it means | what to do | Runpod | your own |"
CHANNEL: Final = 7
CALLER_KEY: Final = bytes.fromhex("11" * 32)
STRANGER_KEY: Final = bytes.fromhex("22" * 32)
METHOD: Final = "/service.runsync/runsync"
CULPRIT: Final = "the device chokes on this"
SMALL: Final = 600  # bytes of a reply that a client reads in these tests
# A published proto that the service's replies do not fit.
OTHER_PROTO: Final = """
syntax = "proto3";
package service;
service runsync { rpc runsync(data) returns (output); }
message data { Input input = 1; }
message Input { optional string prompt = 1; }
message output { int32 status = 2; }
"""
# In which words of an error the caller can tell one row from another.
CAUSES: Final = (
    r"upstream http status \d+",
    "error executing HTTP service",
    "protoToJson error",
    "jsonToProto error",
    "rate limiting",
)


@dataclass(frozen=True)
class Outcome:
    """What a caller saw of one call, and whether it was paid for."""

    seen: str  # as the page's first column says it
    paid: bool


@dataclass(frozen=True)
class Way:
    """A daemon in front of one kind of service, and what the service needs to go wrong."""

    config: Path
    switches: Switches
    folder: Path
    cloud: RunpodEndpoint | None = None  # None for a service of one's own
    model_dir: Path | None = None

    def changed(self, **settings: Any) -> Way:
        """Return this with other settings of the daemon."""
        config = json.loads(self.config.read_text()) | settings
        path = self.folder / f"{len(list(self.folder.iterdir()))}.json"
        path.write_text(json.dumps(config))
        return replace(self, config=path)

    @contextlib.contextmanager
    def daemon(self, proto: Path = PROTO) -> Iterator[Caller]:
        """Run the daemon; yield a caller with a channel."""
        sender = address_of(CALLER_KEY)
        contracts = MemoryContracts(
            services={("test-org", "test-service")},
            channels={CHANNEL: Channel(sender, sender, value=10**18, expiration=10_000)},
        )
        with SnetDaemon(self.config, proto=proto, contracts=contracts) as daemon:
            yield Caller(daemon, contracts.escrow)

    def call(self, **question: Any) -> Outcome:
        """Make one call on a daemon of its own."""
        with self.daemon() as caller:
            return caller(**question)


class Caller:
    """Pays for each call on its channel."""

    def __init__(self, daemon: SnetDaemon, escrow: str) -> None:
        assert daemon.payments is not None
        self.daemon, self._escrow, self._payments = daemon, escrow, daemon.payments

    def __call__(
        self,
        *,
        key: bytes = CALLER_KEY,
        nonce: int = 0,
        pays: bool = True,
        method: str = METHOD,
        seconds: float = 60,
        reads: int = -1,
        send: bool = True,
        waits: bool = True,
        **question: Any,
    ) -> Outcome:
        before = self._payments.owed(CHANNEL)
        payment = Payment(CHANNEL, nonce, before + self._payments.price)
        metadata = tuple(payment.signed_with(key, self._escrow)) if pays else ()
        (described,) = compile_proto(PROTO)
        message: Any = new_message(described, "input")
        if send:
            message.input.SetInParent()
        for name, value in question.items():
            if isinstance(value, list):
                getattr(message.input, name).extend(value)
            else:
                setattr(message.input, name, value)
        options = [("grpc.max_receive_message_length", reads), ("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(self.daemon.address, options=options) as channel:
            call: Callable[..., Any] = channel.unary_unary(
                method,
                request_serializer=lambda sent: sent.SerializeToString(),
                response_deserializer=type(new_message(described, "output")).FromString,
            )
            try:
                seen = describe_reply(call(message, timeout=seconds, metadata=metadata))
            except grpc.RpcError as error:
                seen = describe_error(error)
        if waits:  # of a call that its caller gave up, the daemon learns later
            wait_until(lambda: not self._payments.busy, "the daemon to end the call")
        return Outcome(seen, self._payments.owed(CHANNEL) > before)


def describe_reply(reply: Any) -> str:
    """Return the page's words for a reply."""
    if reply.status != "COMPLETED":
        code = reply.error.partition(":")[0]
        return f"`status` `{reply.status}`" + (f", `error` `{code}: …`" if code else "")
    errors = [bool(item.error) for item in reply.output.items]
    if errors and all(errors):
        return "`COMPLETED`, every item with an `error`"
    return "`COMPLETED`" + (", an item with an `error`" if any(errors) else "")


def describe_error(error: grpc.RpcError) -> str:
    """Return the page's words for an error."""
    assert isinstance(error, grpc.Call)
    details = str(error.details())
    words = f"`{error.code().name}`"
    if "eceived message larger than max" in details:
        return f"{words}, about the {'request' if details.startswith('grpc: ') else 'reply'}"
    cause = re.match("|".join(CAUSES), details)
    return f"{words}, `{cause[0]}`" if cause else words


@pytest.fixture(scope="module")
def switches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Switches]:
    switches = Switches(tmp_path_factory.mktemp("switches"))
    with faulty_device(switches, CULPRIT):
        yield switches


@pytest.fixture(scope="module")
def runpod(
    switches: Switches, small_classifier: Predictor, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Way]:
    scorer = Scorer(small_classifier, EngineSettings())
    folder = tmp_path_factory.mktemp("runpod")
    with RunpodEndpoint(JobHandler(scorer)) as cloud:
        config = write_config(
            folder,
            *("--endpoint-id", ENDPOINT_ID, "--wait-seconds", "1"),
            RUNPOD_API_KEY=KEY,
            RUNPOD_ENDPOINT_BASE_URL=cloud.base_url,
        )
        yield Way(config, switches, folder, cloud)
    scorer.close()


@pytest.fixture(scope="module")
def own(
    switches: Switches, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Way]:
    folder = tmp_path_factory.mktemp("own")
    with local_server(folder, small_checkpoint) as server:
        url = server.ready().url
        config = write_config(
            folder, "--self-hosted", url, "--wait-seconds", "1", BEARER_TOKEN=TOKEN
        )
        yield Way(config, switches, folder, model_dir=small_checkpoint)


# What happens, in the order of the page. Each returns what the caller sees of it.


def all_is_well(way: Way) -> Outcome:
    return way.call(prompt="good morning")


def one_text_is_bad(way: Way) -> Outcome:
    return way.call(prompts=["good morning", ""])


def every_text_is_bad(way: Way) -> Outcome:
    return way.call(prompts=["", ""])


def input_is_invalid(way: Way) -> Outcome:
    return way.call(prompt="")


def input_is_too_large(way: Way) -> Outcome:
    return way.call(prompt="a" * 10_001)


def device_broke(way: Way) -> Outcome:
    if way.cloud is not None:
        return cloud_answers(way, Fault(200, '{"status": "FAILED", "error": "unhealthy: broken"}'))
    broken = Switches(way.folder / "broken")
    broken.folder.mkdir()
    assert way.model_dir is not None
    with faulty_device(broken), local_server(broken.folder, way.model_dir) as server:
        url = server.ready().url
        broken.break_device()
        return way.changed(service_endpoint=url).call(prompt="good morning")


def service_fails_on_it(way: Way) -> Outcome:
    return way.call(prompt=CULPRIT)


def no_worker_is_free(way: Way) -> Outcome:
    assert way.cloud is not None
    way.cloud.workers = False
    return way.call(prompt="good morning")


def it_takes_longer_than_the_wait(way: Way) -> Outcome:
    way.switches.hold()
    try:
        return way.call(prompt="good morning")
    finally:
        way.switches.release()


def runpod_cancelled_it(way: Way) -> Outcome:
    return cloud_answers(way, Fault(200, '{"id": "a", "status": "CANCELLED"}'))


def runpod_stopped_it(way: Way) -> Outcome:
    return cloud_answers(way, Fault(200, '{"id": "a", "status": "TIMED_OUT"}'))


def cloud_answers(way: Way, fault: Fault) -> Outcome:
    assert way.cloud is not None
    way.cloud.always["runsync"] = fault
    return way.call(prompt="good morning")


def message_has_no_input(way: Way) -> Outcome:
    return way.call(send=False)


def daemons_key_is_wrong(way: Way) -> Outcome:
    wrong = {"key": "Authorization", "value": "Bearer wrong", "location": "header"}
    return way.changed(service_credentials=[wrong]).call(prompt="good morning")


def endpoint_does_not_exist(way: Way) -> Outcome:
    endpoint = json.loads(way.config.read_text())["service_endpoint"]
    wrong = endpoint.replace(ENDPOINT_ID, "missing") if way.cloud else f"{endpoint}missing/"
    return way.changed(service_endpoint=wrong).call(prompt="good morning")


def reply_is_too_large(way: Way) -> Outcome:
    credentials = json.loads(way.config.read_text())["service_credentials"]
    for credential in credentials:
        if credential["key"] == "Scores-Or-Error":
            credential["value"] = str(SMALL)
    small = way.changed(service_credentials=credentials)
    return small.call(prompts=["good morning"] * 20, reads=SMALL)


def too_many_requests(way: Way) -> Outcome:
    if way.cloud is not None:
        return cloud_answers(way, Fault(429, "{}"))
    assert way.model_dir is not None
    folder = way.folder / "limited"
    folder.mkdir()
    with local_server(folder, way.model_dir, {"RATE_LIMIT": "1/hour"}) as server:
        wait_until(lambda: server.get("/health").status_code == 200, "the model")
        server.get("/")
        return way.changed(service_endpoint=server.url).call(prompt="good morning")


def platform_fails(way: Way) -> Outcome:
    return cloud_answers(way, Fault(500, "oops"))


def platform_is_down(way: Way) -> Outcome:
    return cloud_answers(way, Fault(503, "oops"))


def platform_is_slow(way: Way) -> Outcome:
    return cloud_answers(way, Fault(504, "oops"))


def service_is_unreachable(way: Way) -> Outcome:
    return way.changed(service_endpoint="http://127.0.0.1:1/").call(prompt="good morning")


def service_outlasts_the_daemons_time_out(way: Way) -> Outcome:
    way.switches.hold()
    try:
        return way.changed(service_timeout="100ms").call(prompt="good morning")
    finally:
        way.switches.release()


def method_is_unknown(way: Way) -> Outcome:
    return way.call(method="/service.runsync/missing", prompt="good morning")


def answer_does_not_fit_the_proto(way: Way) -> Outcome:
    proto = way.folder / "other.proto"
    proto.write_text(OTHER_PROTO)
    with way.daemon(proto) as caller:
        return caller(prompt="good morning")


def callers_deadline_passes(way: Way) -> Outcome:
    way.switches.hold()
    try:
        outcomes = (way.call(prompt="good morning", seconds=0.5) for _ in range(10))
        # The daemon may notice first.
        return next(each for each in outcomes if each.seen == "`DEADLINE_EXCEEDED`")
    finally:
        way.switches.release()


def request_is_too_large(way: Way) -> Outcome:
    return way.changed(max_message_size_in_mb=1).call(prompt="a" * 2**20)


def daemons_own_limit(way: Way) -> Outcome:
    limited = way.changed(rate_limit_per_minute=1, burst_size=1)
    with limited.daemon() as caller:
        assert caller(prompt="good morning").paid
        return caller(prompt="good morning")


def two_calls_at_once(way: Way) -> Outcome:
    first: list[Outcome] = []
    with way.changed(service_timeout="60s").daemon() as caller:
        way.switches.hold()
        try:
            thread = threading.Thread(target=lambda: first.append(caller(prompt="good morning")))
            thread.start()
            wait_until(lambda: way.switches.held, "the device")
            second = caller(prompt="good morning", waits=False)
        finally:
            way.switches.release()
            thread.join(60)
    assert first[0] == Outcome("`COMPLETED`", paid=True)  # as if it had been alone
    return second


def payment_is_missing(way: Way) -> Outcome:
    return way.call(pays=False, prompt="good morning")


def payment_is_signed_by_another(way: Way) -> Outcome:
    return way.call(key=STRANGER_KEY, prompt="good morning")


def nonce_is_wrong(way: Way) -> Outcome:
    return way.call(nonce=3, prompt="good morning")


BOTH: Final = (
    *(all_is_well, one_text_is_bad, every_text_is_bad, input_is_invalid, input_is_too_large),
    *(device_broke, service_fails_on_it, it_takes_longer_than_the_wait, message_has_no_input),
    *(daemons_key_is_wrong, endpoint_does_not_exist, reply_is_too_large, too_many_requests),
    *(service_is_unreachable, service_outlasts_the_daemons_time_out, method_is_unknown),
    *(answer_does_not_fit_the_proto, callers_deadline_passes, request_is_too_large),
    *(daemons_own_limit, two_calls_at_once, payment_is_missing, payment_is_signed_by_another),
    nonce_is_wrong,
)
RUNPOD_ALONE: Final = (
    *(no_worker_is_free, runpod_cancelled_it, runpod_stopped_it),
    *(platform_fails, platform_is_down, platform_is_slow),
)


def table() -> Mapping[str, tuple[str, str]]:
    """Return the page's rows: what the caller sees, and who pays for it with each service."""
    _, _, rest = PAGE.read_text(encoding="utf-8").partition(f"{HEADING}\n")
    assert rest, "the page has no such table"
    rows: dict[str, tuple[str, str]] = {}
    for line in rest.splitlines()[1:]:
        if not line.startswith("| "):
            break
        seen, _, _, runpod, own = line.strip("| ").split(" | ")
        assert seen not in rows, f"two rows of {seen}"
        rows[seen] = (runpod, own)
    return rows


def observe(way: Way, *scenarios: Callable[[Way], Outcome]) -> dict[str, str]:
    """Return who pays, by what the caller sees, over all that can happen this way."""
    found: dict[str, str] = {}
    for scenario in scenarios:
        outcome = scenario(way)
        if way.cloud is not None:
            way.cloud.forget()
        pays = "paid" if outcome.paid else "free"
        assert found.setdefault(outcome.seen, pays) == pays, (scenario, outcome)
    return found


def test_the_pages_table_says_what_is_seen_and_paid_for(runpod: Way, own: Way) -> None:
    seen = (observe(runpod, *BOTH, *RUNPOD_ALONE), observe(own, *BOTH))
    produced = {row: tuple(each.get(row, "–") for each in seen) for row in {**seen[0], **seen[1]}}
    rows = table()
    assert produced == rows, "\n".join(f"| {row} | {pays} |" for row, pays in produced.items())
