"""The pages about selling: their examples run, and their settings and figures are true."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from prometheus_client import CollectorRegistry

from hatespeech.contract import parse_request
from hatespeech.serving.payments.prices import work_of
from hatespeech.serving.payments.shop import open_shop
from hatespeech.serving.settings import ServerSettings
from tests.docs.pages import marked
from tests.paths import ROOT
from tests.serving.payments.market import Market, open_market, selling
from tests.support.http_client import HttpClient
from tests.support.other_clients import run_script

PAGE: Final = "docs/selling.md"
CHECK: Final = "check: a test starts a server with these settings"
PYPI: Final = "x402[evm,extensions,httpx,requests]==2.25.0"
NPM: Final = ("@x402/fetch@2.27.0", "@x402/evm@2.27.0", "viem@2.57.20")


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Market]:
    with open_market(tmp_path_factory.mktemp("market")) as market:
        yield market


@pytest.fixture(scope="module")
def server(
    market: Market, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    folder = tmp_path_factory.mktemp("selling")
    with selling(folder, small_checkpoint, market.settings()) as server:
        yield server


@pytest.mark.slow
def test_the_examples_of_buyers_buy(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    (shell,) = marked(PAGE, "run")
    shown = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", shell.text.replace("$URL", server.url)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert '"amount": "3000"' in shown.stdout
    environment = {"URL": server.url, "KEY": market.buyer.key}
    (python,) = marked(PAGE, f"run with {PYPI}")
    (javascript,) = marked(PAGE, f"run with {' '.join(NPM)}")
    assert run_script(PYPI, python.text, environment).split()[0] in (
        "hate",
        "abusing",
        "neutral",
        "spam",
    )
    assert run_script(NPM, javascript.text, environment).endswith("200\n")
    assert market.chain.earned == before + 2 * 2000


@pytest.mark.parametrize("page", [PAGE, "docs/nevermined.md"])
def test_the_settings_of_a_page_sell(page: str) -> None:
    (block,) = marked(page, CHECK)
    given = dict(
        re.findall(r"\b([A-Z_]+)=(\S+)", block.text.replace("$(openssl rand -hex 32)", "token"))
    )
    assert block.text.rstrip().endswith("server.py")
    shop = open_shop(ServerSettings.from_environment(given), [], CollectorRegistry())
    assert shop is not None
    assert len(shop.card()["accepts"]) == 1


def test_the_table_of_units_is_right() -> None:
    text = (ROOT / PAGE).read_text(encoding="utf-8")
    rows = [int(units) for units in re.findall(r"^\| .* \| (\d+) \|$", text, re.MULTILINE)]
    tweet = "one two three four five six seven eight nine ten " * 2
    requests: list[dict[str, object]] = [
        {"text": tweet},
        {"texts": [tweet] * 100},
        {"text": "x" * 2500},
        {"texts": [tweet] * 100, "robust": True},
        {"text": tweet, "explain": True},
        {"text": tweet, "explain": "leave_one_out"},
    ]
    found = [work_of(parse_request(request, ServerSettings())).units for request in requests]
    assert [*found, 0] == rows
    # The last row: such a text adds nothing.
    both = parse_request({"texts": [tweet, "", None]}, ServerSettings())
    assert work_of(both).units == 1
