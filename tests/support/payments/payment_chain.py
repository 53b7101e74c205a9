"""Base's test network on this machine: anvil, with a token of EIP-3009 where USDC is there."""

from __future__ import annotations

import json
import os
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from typing_extensions import override

from tests.support.cached_tools import CACHE, installed, node_tool
from tests.support.stand_ins.chain import Account, Anvil

ANVIL: Final = "@foundry-rs/anvil-linux-amd64@1.7.1"
SOLC: Final = "solc@0.8.37"
CHAIN: Final = 84532
NETWORK: Final = f"eip155:{CHAIN}"
USDC: Final = "0x036CbD53842c5426634e7929541eC2318f3dCF7e"
MULTICALL: Final = "0xcA11bde05977b3631167028862bE2a173976CA11"
SOURCE: Final = Path(__file__).with_name("Token.sol")
COMPILE: Final = """
const solc = require("solc");
const source = require("fs").readFileSync(process.argv[1], "utf8");
const settings = { optimizer: { enabled: true, runs: 200 }, evmVersion: "paris",
  outputSelection: { "*": { "*": ["evm.deployedBytecode.object"] } } };
const input = { language: "Solidity", sources: { "Token.sol": { content: source } }, settings };
const output = JSON.parse(solc.compile(JSON.stringify(input)));
const contracts = output.contracts["Token.sol"];
const names = Object.keys(contracts);
const code = (name) => "0x" + contracts[name].evm.deployedBytecode.object;
console.log(JSON.stringify(Object.fromEntries(names.map((name) => [name, code(name)]))));
"""


class PaymentChain(Anvil):
    """The chain; each of ``buyers`` has tokens, and no other account has."""

    def __init__(self, folder: Path) -> None:
        super().__init__(
            node_tool(ANVIL) / ANVIL.rpartition("@")[0] / "bin" / "anvil", CHAIN, folder
        )

    @override
    def set_up(self) -> None:
        for name, address in (("Token", USDC), ("Multicall", MULTICALL)):
            self.rpc("anvil_setCode", address, compiled()[name])
        for buyer in self.buyers:
            self.mint(buyer.address, 10**12)

    @property
    def facilitator(self) -> Account:
        """Who sends transactions."""
        return self.accounts[0]

    @property
    def seller(self) -> Account:
        """Who is paid."""
        return self.accounts[1]

    @property
    def pauper(self) -> Account:
        """Who has no tokens."""
        return self.accounts[2]

    @property
    def buyers(self) -> list[Account]:
        """Who has tokens."""
        return self.accounts[3:6]

    @property
    def earned(self) -> int:
        """What the seller has, in the token's smallest unit."""
        return self.balance(self.seller.address)

    def balance(self, address: str) -> int:
        """Return what an address has."""
        return int.from_bytes(self.read(USDC, "balanceOf(address)", address))

    def mint(self, address: str, amount: int) -> None:
        """Give an address tokens."""
        self.send(USDC, "mint(address,uint256)", address, amount, sender=self.facilitator.address)


def compiled() -> dict[str, Any]:
    """Return the code of each contract of ``Token.sol``; it is compiled here once."""
    folder = CACHE / f"token-{sha256(SOURCE.read_bytes() + COMPILE.encode()).hexdigest()[:16]}"

    def compile_it() -> None:
        folder.mkdir()
        ran = subprocess.run(
            ["node", "-e", COMPILE, str(SOURCE)],
            env={"PATH": os.environ["PATH"], "NODE_PATH": str(node_tool(SOLC))},
            capture_output=True,
            text=True,
            timeout=240,
            check=True,
        )
        (folder / "code.json").write_text(ran.stdout)

    code: dict[str, Any] = json.loads((installed(folder, compile_it) / "code.json").read_text())
    return code
