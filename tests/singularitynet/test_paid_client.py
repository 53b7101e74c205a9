"""Callers who pay: examples/snet_paid_client.py, with the real SDK, contracts and signatures.

A chain of this machine has the published contracts, and a stand-in of IPFS has the metadata. The
daemon's stand-in checks each payment against them. Real workers score the texts.
"""

from __future__ import annotations

import asyncio
import configparser
import functools
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import grpc
import pytest
from typing_extensions import override

from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.engine.scorer import Scorer
from hatespeech.labels import LABELS
from hatespeech.settings import EngineSettings
from hatespeech.worker.handler import JobHandler
from tests.docs.pages import marked
from tests.paths import ROOT
from tests.support.cached_tools import SNET_CLI, SNET_SDK, node_tool, python_tool, site_packages
from tests.support.ports import free_port
from tests.support.processes.worker import wait_until
from tests.support.stand_ins.chain import COGS_PER_TOKEN, Account, LocalChain
from tests.support.stand_ins.ipfs import IpfsNode
from tests.support.stand_ins.marketplace import ORGANIZATION, PRICE, SERVICE, PaymentGroup, publish
from tests.support.stand_ins.paid_daemon import ChainContracts, PaidDaemon
from tests.support.stand_ins.runpod.endpoint import ENDPOINT_ID, KEY, RunpodEndpoint
from tests.support.stand_ins.runpod.jobs import Fault
from tests.support.stand_ins.snet_client import write_config

CLIENT: Final = ROOT / "examples" / "snet_paid_client.py"
# What the Node example says to install.
NODE_PACKAGES: Final = (
    "ethers@6.17.0",
    "@grpc/grpc-js@1.14.7",
    "@grpc/proto-loader@0.8.1",
    "protobufjs@7.6.6",
)
ANVIL: Final = "@foundry-rs/anvil-linux-amd64@1.7.1"


class GatedHandler(JobHandler):
    """Works jobs while its gate is open."""

    def __init__(self, scorer: Scorer) -> None:
        super().__init__(scorer)
        self.gate = threading.Event()
        self.gate.set()

    @override
    async def __call__(self, job: Mapping[str, Any]) -> dict[str, Any]:
        while not self.gate.is_set():
            await asyncio.sleep(0.02)
        return await super().__call__(job)


@pytest.fixture(scope="module")
def handler(small_classifier: Predictor) -> Iterator[GatedHandler]:
    scorer = Scorer(small_classifier, EngineSettings())
    yield GatedHandler(scorer)
    scorer.close()


@pytest.fixture(scope="module")
def endpoint(handler: GatedHandler) -> Iterator[RunpodEndpoint]:
    with RunpodEndpoint(handler) as cloud:
        yield cloud


@pytest.fixture
def cloud(endpoint: RunpodEndpoint) -> Iterator[RunpodEndpoint]:
    """The emulation, in its normal mode again after each test."""
    yield endpoint
    endpoint.forget()


@dataclass
class Market:
    """A published service whose daemon takes payments, and accounts to pay with."""

    chain: LocalChain
    ipfs: IpfsNode
    daemon: PaidDaemon
    operator: Account
    callers: Iterator[Account]
    sdk: Path  # its environment

    def new_caller(self, tokens: float = 1) -> Account:
        """Return an account that has never sent a transaction."""
        caller = next(self.callers)
        cogs = int(tokens * COGS_PER_TOKEN)
        self.chain.send(
            self.chain.token,
            "transfer(address,uint256)",
            *(caller.address, cogs),
            sender=self.chain.owner.address,
        )
        return caller

    def start(
        self, caller: Account, home: Path, *command: str, **given: str
    ) -> subprocess.Popen[str]:
        """Start a program with the SDK, in a home of its own."""
        secrets = {
            "SNET_PRIVATE_KEY": caller.key,
            "SNET_ETH_RPC_ENDPOINT": self.chain.url,
            "SNET_IPFS_ENDPOINT": self.ipfs.multiaddress,
        }
        return subprocess.Popen(
            [str(self.sdk / "bin" / "python"), *command],
            cwd=home,
            env={"PATH": os.environ["PATH"], "HOME": str(home)} | secrets | given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, caller: Account, home: Path, *command: str, **given: str) -> Ran:
        """Run a program with the SDK."""
        return finish(self.start(caller, home, *command, **given))

    def call(self, caller: Account, home: Path, *texts: str, **given: str) -> Ran:
        """Run the example."""
        return self.run(caller, home, *example_command(*texts), **given)


def example_command(*texts: str, service: str = SERVICE) -> list[str]:
    return [str(CLIENT), "--organization", ORGANIZATION, "--service", service, *texts]


@dataclass
class Ran:
    """What a program printed before it ended."""

    code: int
    out: list[str]
    error: list[str]


def finish(process: subprocess.Popen[str]) -> Ran:
    """Wait for a program's end."""
    try:
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    return Ran(process.returncode, out.splitlines(), error.splitlines())


@pytest.fixture(scope="module")
def market(endpoint: RunpodEndpoint, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    anvil = node_tool(ANVIL) / ANVIL.rpartition("@")[0] / "bin" / "anvil"
    sdk = python_tool(SNET_SDK)
    packages = site_packages(sdk) / "snet"
    folder = tmp_path_factory.mktemp("market")
    with (
        LocalChain(anvil, packages / "contracts" / "resources", folder) as chain,
        IpfsNode() as ipfs,
    ):
        address = f"127.0.0.1:{free_port()}"
        operator, *callers = chain.accounts[1:]
        group = PaymentGroup(operator.address)
        published = publish(chain, ipfs, operator, group, f"http://{address}")
        metadata = folder / "service_metadata.json"
        metadata.write_text(json.dumps(published))
        config = write_config(
            folder,
            *("--endpoint-id", ENDPOINT_ID, "--wait-seconds", "60"),
            RUNPOD_API_KEY=KEY,
            RUNPOD_ENDPOINT_BASE_URL=endpoint.base_url,
        )
        keys = json.loads(config.read_text())
        keys |= {"organization_id": ORGANIZATION, "service_id": SERVICE}
        config.write_text(json.dumps(keys))
        contracts = ChainContracts(chain, group)
        state_proto = packages / "sdk" / "resources" / "proto" / "state_service.proto"
        with PaidDaemon(config, metadata, contracts, state_proto, address) as daemon:
            yield Market(chain, ipfs, daemon, operator, iter(callers), sdk)


def shown(line: str) -> Any:
    return pytest.approx([float(number) for number in line.split()[:4]], abs=1e-4)


@pytest.mark.slow
def test_only_the_first_call_sends_transactions(
    market: Market, cloud: RunpodEndpoint, tmp_path: Path, small_classifier: Predictor
) -> None:
    caller = market.new_caller()
    paid = len(market.daemon.paid)
    first = market.call(caller, tmp_path, "good morning 🌞")
    second = market.call(caller, tmp_path, "you are scum", "", "good morning 🌞")
    assert (first.code, second.code) == (0, 0), [first.error, second.error]
    assert first.error[-1] == "paid 0.00001 FET; transactions: 2"
    assert second.error == ["paid 0.00001 FET; transactions: 0"]
    assert market.chain.transactions(caller) == 2
    known = [
        getattr(s, "scores", ())
        for s in small_classifier.score(["you are scum", "good morning 🌞"])
    ]
    assert list(known[1]) == shown(first.out[1])
    head, scum, empty, morning = second.out
    assert head.split() == ["hate", "abusing", "neutral", "spam", "toxic", "label", "text"]
    assert [list(scores) for scores in known] == [shown(scum), shown(morning)]
    assert empty.endswith("[validation: prompts[1]: must not be empty]")
    assert empty.split()[:5] == ["-"] * 5
    amounts = [payment.amount for payment in market.daemon.paid[paid:]]
    assert amounts == [PRICE, 2 * PRICE]


@pytest.mark.slow
def test_pages_program_funds_a_channel_with_two_calls(
    market: Market, cloud: RunpodEndpoint, tmp_path: Path
) -> None:
    caller = market.new_caller()
    (block,) = marked("docs/singularitynet.md", "check: compiles")
    (tmp_path / "program.py").write_text(block.text, encoding="utf-8")
    sent = []
    for _ in range(3):
        ran = market.run(caller, tmp_path, "program.py")
        assert ran.code == 0, ran.error
        assert [line.split()[1:] for line in ran.out[-2:]] == [
            ["good", "morning"],
            ["you", "are", "scum"],
        ]
        sent.append(market.chain.transactions(caller))
    assert sent == [2, 5, 5]


@pytest.mark.slow
def test_operator_is_paid_and_the_channel_goes_on(
    market: Market, cloud: RunpodEndpoint, tmp_path: Path
) -> None:
    caller = market.new_caller()
    for _ in range(2):
        assert market.call(caller, tmp_path, "good morning").code == 0
    payment = market.daemon.paid[-1]
    signature = payment.signature
    escrow, operator = market.chain.escrow, market.operator.address
    market.chain.send(
        escrow,
        "channelClaim(uint256,uint256,uint256,uint8,bytes32,bytes32,bool)",
        *(payment.channel_id, payment.amount, payment.amount),
        *(signature[64], signature[:32], signature[32:64], False),
        sender=operator,
    )
    held = market.chain.read(escrow, "balances(address)", operator)
    assert int.from_bytes(held) == 2 * PRICE
    after = market.call(caller, tmp_path, "good morning")
    assert after.error == ["paid 0.00001 FET; transactions: 0"]
    assert (market.daemon.paid[-1].nonce, market.daemon.paid[-1].amount) == (1, PRICE)


@pytest.mark.slow
def test_call_waits_while_another_is_in_progress_or_the_service_is_down(
    market: Market, cloud: RunpodEndpoint, handler: GatedHandler, tmp_path: Path
) -> None:
    caller = market.new_caller()
    assert market.call(caller, tmp_path, "good morning").code == 0
    till = market.daemon.payments
    assert till is not None
    entries, paid = len(till.ledger), len(market.daemon.paid)
    handler.gate.clear()
    first = market.start(caller, tmp_path, *example_command("good morning"))
    wait_until(lambda: till.busy, "a call in progress", seconds=30)
    second = market.start(caller, tmp_path, *example_command("you are scum"))
    wait_until(lambda: len(till.ledger) > entries, "a refusal", seconds=30)
    cloud.fail("runsync", Fault(503))
    handler.gate.set()
    assert finish(first).code == 0
    ran = finish(second)
    assert (ran.code, len(ran.out)) == (0, 2)
    *pauses, last = ran.error
    assert [line.partition(": ")[0] for line in pauses] == ["FAILED_PRECONDITION", "UNAVAILABLE"]
    assert all(re.search(r"; next try in \d s$", line) for line in pauses)
    assert last == "paid 0.00001 FET; transactions: 0"
    amounts = [payment.amount for payment in market.daemon.paid[paid:]]
    assert amounts == [2 * PRICE, 3 * PRICE]


@pytest.mark.slow
def test_every_failure_is_told_on_one_line(
    market: Market, cloud: RunpodEndpoint, tmp_path: Path
) -> None:
    caller, poor = market.new_caller(), market.new_caller(tokens=0.0005)
    assert market.call(caller, tmp_path, "good morning").code == 0
    failed = market.call(caller, tmp_path, "")
    cloud.always["runsync"] = Fault(200, '{"status": "IN_QUEUE", "id": "sync-1"}')
    queued = market.call(caller, tmp_path, "good morning")
    cloud.always["runsync"] = Fault(401)
    refused = market.call(caller, tmp_path, "good morning")
    cloud.forget()
    for ran, reason in (
        (failed, "error: FAILED: validation: prompt: must not be empty (job sync-"),
        (queued, "error: IN_QUEUE: no result yet (job sync-1)"),
        (refused, "error: UNAVAILABLE: upstream http status 401"),
        (market.call(poor, tmp_path, "a"), "error: 100 calls cost 0.001 FET, and the account has"),
        (
            market.run(caller, tmp_path, *example_command("a", service="other")),
            "error: ServiceNotFoundError: Service with org_id=my-org service_id=other",
        ),
        (
            market.call(caller, tmp_path, "a", SNET_PRIVATE_KEY=""),
            "error: SNET_PRIVATE_KEY is not set",
        ),
        (
            market.call(caller, tmp_path, "a", SNET_ETH_RPC_ENDPOINT="http://127.0.0.1:1"),
            "error: ",
        ),
    ):
        (line,) = ran.error
        assert line.startswith(reason)
        assert (ran.code, ran.out) == (1, [])
        assert caller.key not in line
    assert market.chain.transactions(poor) == 0


@pytest.mark.slow
def test_pages_commands_open_a_channel_that_the_sdk_and_the_cli_use(
    market: Market, cloud: RunpodEndpoint, tmp_path: Path
) -> None:
    cli = python_tool(SNET_CLI)
    caller = market.new_caller(tokens=10)
    environment = {
        "PATH": f"{cli / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(tmp_path),
    }

    def run(command: str) -> str:
        ran = subprocess.run(
            ["bash", "-ec", command],
            cwd=tmp_path,
            env=environment,
            input="y\n" * 2,  # the CLI asks before each transaction
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    settings = configparser.ConfigParser()
    settings.read_dict(
        {
            "network.local": {"default_eth_rpc_endpoint": market.chain.url},
            "ipfs": {"default_ipfs_endpoint": market.ipfs.multiaddress},
            "identity.me": {
                "identity_type": "key",
                "private_key": caller.key,
                "network": "local",
                "default_wallet_index": "0",
            },
            "session": {"network": "local", "identity": "me"},
        }
    )
    (tmp_path / ".snet").mkdir()
    with (tmp_path / ".snet" / "config").open("w") as file:
        settings.write(file)
    *_, printed = map(run, page_commands("channel"))
    assert 'status: "COMPLETED"' in printed
    sent = market.chain.transactions(caller)
    ran = market.call(caller, tmp_path, "good morning")
    assert ran.error[-1] == "paid 0.00001 FET; transactions: 0", ran.error
    assert market.chain.transactions(caller) == sent
    first, second = market.daemon.paid[-2:]
    assert (first.channel_id, first.amount) == (second.channel_id, second.amount - PRICE)
    extend, *take_back = page_commands("renewal")
    run(extend)
    channel = market.daemon.contracts.channel(second.channel_id)
    assert channel is not None
    assert channel.value == 15 * 10**14
    # A channel that ends soon, since the chain is slow to add the blocks of twenty days.
    escrow, block = market.chain.escrow, market.daemon.contracts.block()
    recipient, group_id = market.operator.address, bytes(32)
    market.chain.send(
        escrow,
        "openChannel(address,address,bytes32,uint256,uint256)",
        *(caller.address, recipient, group_id, 5 * 10**14, block + 2),
        sender=caller.address,
    )
    market.chain.rpc("anvil_mine", "0x5")
    held = market.chain.tokens(caller.address)
    for command in take_back:
        run(command)
    assert market.chain.tokens(caller.address) == held + 10**14
    balance = market.chain.read(escrow, "balances(address)", caller.address)
    assert int.from_bytes(balance) == 4 * 10**14


def page_commands(mark: str) -> list[str]:
    (block,) = marked("docs/singularitynet.md", f"check: {mark}")
    return block.text.splitlines()


def call_from_node(market: Market, caller: Account, folder: Path, *texts: str, **given: str) -> Ran:
    """Run the Node example on the channel of the newest payment."""
    price = f"{PRICE / COGS_PER_TOKEN:.18f}"
    options = {
        "endpoint": f"http://{market.daemon.address}",
        "channel": str(market.daemon.paid[-1].channel_id),
        "price": given.pop("price", price),
    }
    arguments = [word for name, value in options.items() for word in (f"--{name}", value)]
    secrets = {"SNET_PRIVATE_KEY": caller.key, "SNET_ETH_RPC_ENDPOINT": market.chain.url}
    command = ["node", "examples/snet_paid_client.mjs", *arguments, *texts]
    ran = subprocess.run(
        command,
        cwd=folder,
        env={"PATH": os.environ["PATH"]} | secrets | given,
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Ran(ran.returncode, ran.stdout.splitlines(), ran.stderr.splitlines())


@pytest.mark.slow
def test_node_client_pays_from_a_channel_that_is_open(
    market: Market, cloud: RunpodEndpoint, tmp_path: Path, small_classifier: Predictor
) -> None:
    (tmp_path / "examples").mkdir()
    for name in ("examples/snet_paid_client.mjs", "service.proto"):
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "node_modules").symlink_to(node_tool(*NODE_PACKAGES))
    caller = market.new_caller()
    assert market.call(caller, tmp_path, "good morning").code == 0
    sent, paid = market.chain.transactions(caller), len(market.daemon.paid)
    cloud.fail("runsync", Fault(503))
    one = call_from_node(market, caller, tmp_path, "good morning")
    many = call_from_node(market, caller, tmp_path, "you are scum", "")
    assert (one.code, many.code) == (0, 0), [one.error, many.error]
    (known,) = small_classifier.score(["good morning"])
    assert isinstance(known, Prediction)
    label, score = max(zip(LABELS, known.scores, strict=True), key=lambda pair: pair[1])
    assert one.out == [f"{label} {score:.4f} good morning"]
    assert one.error == ["UNAVAILABLE: upstream http status 503:; next try in 2 s"]
    assert many.out[1].strip() == "validation: prompts[1]: must not be empty"
    amounts = [payment.amount for payment in market.daemon.paid[paid:]]
    assert amounts == [2 * PRICE, 3 * PRICE]
    assert market.chain.transactions(caller) == sent
    for ran, reason in (
        (call_from_node(market, caller, tmp_path, ""), "FAILED: validation: prompt: must not be"),
        (call_from_node(market, caller, tmp_path, "a", price="1"), "channel"),
        (call_from_node(market, caller, tmp_path, "a", SNET_PRIVATE_KEY=""), "SNET_PRIVATE_KEY is"),
    ):
        (line,) = ran.error
        assert line.startswith(f"error: {reason}")
        assert (ran.code, ran.out) == (1, [])


@pytest.mark.slow
def test_help_needs_no_sdk(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-W", "error", str(CLIENT), "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0
    for word in ("SNET_PRIVATE_KEY", "--calls", "snet-sdk 6.0.0", "examples:"):
        assert word in ran.stdout


def test_content_ids_are_those_of_ipfs() -> None:
    with IpfsNode() as node:
        added = node.add(b"hello world\n")
    assert added == "QmT78zSuBmuS4z925WZfrqQ1qHaJ56DQaTfyMUF7F8ff5o"


@pytest.fixture
def example() -> ModuleType:
    """The example as a module; it imports the SDK only where it calls it."""
    spec = importlib.util.spec_from_file_location("snet_paid_client", CLIENT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Refusing(grpc.GenericRpcHandler):
    """A service that refuses every call with one code."""

    def __init__(self, code: grpc.StatusCode, reason: str) -> None:
        self.calls = 0
        self._code, self._reason = code, reason

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        def handle(_request: bytes, context: grpc.ServicerContext) -> bytes:
            self.calls += 1
            context.abort(self._code, self._reason)
            raise AssertionError("abort always raises")

        return grpc.unary_unary_rpc_method_handler(handle)


class BareClient:
    """Calls like the SDK's client, and pays nothing."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def call_rpc(self, method: str, message: str, **_fields: Any) -> Any:
        send: Any = self._channel.unary_unary(f"/service.{method}/{method}")
        return send(b"")


@pytest.mark.parametrize(
    ("code", "reason", "calls"),
    [
        ("FAILED_PRECONDITION", "another transaction on channel: 1 is in progress", 5),
        ("UNAVAILABLE", "upstream http status 503: \nAbout error & possible fixes: …", 5),
        ("UNAVAILABLE", "upstream http status 429: ", 5),
        ("UNAVAILABLE", "upstream http status 422: ", 1),
        ("UNAUTHENTICATED", "payment is not signed by channel signer/sender", 1),
        ("INTERNAL", "error executing HTTP service", 1),
    ],
)
def test_only_what_may_pass_is_tried_again_and_not_for_long(
    example: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    code: str,
    reason: str,
    calls: int,
) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(example.time, "sleep", pauses.append)
    service = Refusing(grpc.StatusCode[code], reason)
    server = grpc.server(ThreadPoolExecutor(1), handlers=[service])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = functools.partial(example.call_with_pauses, BareClient(channel), {"prompt": "a"})
        with pytest.raises(example.CallerError) as caught:
            ask()
    server.stop(grace=0).wait(10)
    assert str(caught.value) == f"{code}: {reason.splitlines()[0].strip()}"
    assert service.calls == calls
    assert pauses == [2, 4, 8, 16][: calls - 1]
    assert len(capsys.readouterr().err.splitlines()) == len(pauses)
