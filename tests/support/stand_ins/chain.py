"""An Ethereum chain of this machine that has SingularityNET's contracts where Sepolia has them.

Anvil executes the published code of the three contracts (token, escrow, registry) at their
published addresses, under Sepolia's chain id. So snet-cli and snet-sdk take it for Sepolia.
"""

from __future__ import annotations

import json
import subprocess
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from typing_extensions import override

from tests.support.ports import free_port, listens
from tests.support.processes.worker import wait_until
from tests.support.stand_ins.snet_payments import hashed

SEPOLIA: Final = 11155111
WORD_BYTES: Final = 32
COGS_PER_TOKEN: Final = 10**18
TOKENS: Final = 10**6 * COGS_PER_TOKEN


@dataclass(frozen=True)
class Account:
    """An account with ether and without tokens; the chain signs for it, too."""

    address: str
    key: str


class ChainError(Exception):
    """The chain refused a request, or a contract refused a call."""


class Anvil:
    """Runs anvil until the ``with`` block ends; ``url`` is what a client's configuration names."""

    def __init__(self, anvil: Path, chain_id: int, folder: Path) -> None:
        self._accounts = folder / "anvil.json"
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._command = [
            *(str(anvil), "--silent", "--port", str(port), "--chain-id", str(chain_id)),
            *("--config-out", str(self._accounts)),
        ]
        self._port = port
        self.accounts: list[Account] = []

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command)
        try:
            wait_until(self._is_ready, "anvil", seconds=60)
            made = json.loads(self._accounts.read_text())
            addresses, keys = made["available_accounts"], made["private_keys"]
            self.accounts = [
                Account(checksum(address), key)
                for address, key in zip(addresses, keys, strict=True)
            ]
            self.set_up()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.terminate()
        self._process.wait(10)

    def set_up(self) -> None:
        """Put contracts on the new chain."""

    def _is_ready(self) -> bool:
        """Say whether anvil takes requests and has written its accounts, which it does apart."""
        return (
            listens(self._port)
            and self._accounts.exists()
            and self._accounts.read_text().rstrip().endswith("}")
        )

    @property
    def owner(self) -> Account:
        """The first account, which holds all tokens at first."""
        return self.accounts[0]

    def rpc(self, method: str, *parameters: Any) -> Any:
        """Return the result of one JSON-RPC request; raise :class:`ChainError` on an error."""
        body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": method, "params": parameters})
        request = urllib.request.Request(
            self.url, body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            reply = json.load(response)
        if "error" in reply:
            raise ChainError(f"{method}: {reply['error']['message']}")
        return reply["result"]

    def read(self, contract: str, signature: str, *values: Any, sender: str | None = None) -> bytes:
        """Call a function, ``name(type,…)``, without a transaction; return its encoded result."""
        result: str = self.rpc(
            "eth_call", self._message(contract, signature, values, sender), "latest"
        )
        return bytes.fromhex(result[2:])

    def send(self, contract: str, signature: str, *values: Any, sender: str) -> None:
        """Call a function in a transaction."""
        self._transact(self._message(contract, signature, values, sender))

    def transactions(self, account: Account) -> int:
        """Return how many transactions an account has sent."""
        return int(self.rpc("eth_getTransactionCount", account.address, "latest"), 16)

    def _transact(self, message: dict[str, str]) -> None:
        receipt = self.rpc("eth_sendTransactionSync", message)
        if receipt["status"] != "0x1":
            raise ChainError("the transaction was reverted")

    def _message(
        self, contract: str, signature: str, values: tuple[Any, ...], sender: str | None
    ) -> dict[str, str]:
        data = hashed(signature.encode())[:4] + encode(*values)
        return {"from": sender or self.owner.address, "to": contract, "data": f"0x{data.hex()}"}


class LocalChain(Anvil):
    """A chain with SingularityNET's contracts.

    ``contracts`` is the folder ``resources`` of the package snet-contracts.
    """

    def __init__(self, anvil: Path, contracts: Path, folder: Path) -> None:
        super().__init__(anvil, SEPOLIA, folder)
        self._contracts = contracts

    @override
    def set_up(self) -> None:
        # Of the token, the package has the code that stays after a deployment.
        self.token = self._put_code("FetchToken")
        self.rpc("anvil_dealERC20", self.owner.address, self.token, hex(TOKENS))
        self.escrow = self._deploy("MultiPartyEscrow", self.token)
        self.registry = self._deploy("Registry")

    def tokens(self, address: str) -> int:
        """Return how many cogs an address holds."""
        return int.from_bytes(self.read(self.token, "balanceOf(address)", address))

    def _put_code(self, name: str, *values: Any) -> str:
        """Put the package's code of a contract, and values behind it, at its published address."""
        published = json.loads((self._contracts / "networks" / f"{name}.json").read_text())
        address: str = published[str(SEPOLIA)]["address"]
        code = json.loads((self._contracts / "bytecode" / f"{name}.json").read_text())
        self.rpc("anvil_setCode", address, f"0x{code.removeprefix('0x')}{encode(*values).hex()}")
        return address

    def _deploy(self, name: str, *values: Any) -> str:
        """Deploy a contract to its published address, with the values its constructor takes."""
        address = self._put_code(name, *values)
        # The code that a deployment executes writes the contract's first state and returns the
        # code that stays. As the code of the address itself, it does the same there.
        deploy = {"from": self.owner.address, "to": address}
        stays = self.rpc("eth_call", deploy, "latest")
        self._transact(deploy)
        self.rpc("anvil_setCode", address, stays)
        return address


def checksum(address: str) -> str:
    """Return an address in the spelling that snet-sdk compares, with capitals as a checksum."""
    digits = address.lower().removeprefix("0x")
    pairs = zip(digits, hashed(digits.encode()).hex(), strict=False)
    return "0x" + "".join(d.upper() if int(check, 16) > 7 else d for d, check in pairs)


def encode(*values: Any) -> bytes:
    """Encode a call's arguments: numbers, addresses, 32 bytes, other bytes, text, and lists."""
    heads: list[bytes | None] = []
    tails: list[bytes] = []
    for value in values:
        if isinstance(value, int):
            heads.append(value.to_bytes(WORD_BYTES))
        elif isinstance(value, str) and value.startswith("0x"):
            heads.append(bytes.fromhex(value[2:]).rjust(WORD_BYTES, b"\0"))
        elif isinstance(value, bytes) and len(value) == WORD_BYTES:
            heads.append(value)
        else:
            heads.append(None)
            if isinstance(value, list):
                tails.append(encode(len(value), *value))
            else:
                data = value.encode() if isinstance(value, str) else value
                padding = -len(data) % WORD_BYTES
                tails.append(encode(len(data)) + data + bytes(padding))
    offset, encoded = WORD_BYTES * len(heads), b""
    waiting = iter(tails)
    for head in heads:
        if head is None:
            head = encode(offset)
            offset += len(next(waiting))
        encoded += head
    return encoded + b"".join(tails)
