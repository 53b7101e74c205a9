"""The published clients of x402 buy, as their users would let them, and so does a web page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
import requests
from aiohttp import web
from playwright.sync_api import Browser, Page
from typing_extensions import override

from tests.serving.payments.market import MINIMUM, Market, ask, selling
from tests.support.browsers import chromium
from tests.support.http_client import SECONDS, HttpClient
from tests.support.other_clients import run_python, run_script
from tests.support.payments.buyer import Terms, decoded, sign
from tests.support.payments.facilitators import X402
from tests.support.payments.nevermined_stand_in import AGENT, PLAN
from tests.support.stand_ins.app_thread import AppThread

pytestmark = pytest.mark.slow

FETCH: Final = ("@x402/fetch@2.27.0", "@x402/evm@2.27.0", "viem@2.57.20")


class WebSite(AppThread):
    """An empty page, on this machine: browsers keep pages of the internet away from it."""

    @override
    def make_app(self) -> web.Application:
        async def page(_request: web.Request) -> web.Response:
            return web.Response(text="<html></html>", content_type="text/html")

        app = web.Application()
        app.router.add_get("/", page)
        return app


@pytest.fixture(scope="module")
def site() -> Iterator[WebSite]:
    with WebSite() as site:
        yield site


@pytest.fixture(scope="module")
def server(
    market: Market, site: WebSite, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    """A server that sells by x402 and for credits, which buyers by x402 must not mind."""
    settings = market.settings(
        CORS_ORIGINS=site.url,
        NVM_API_KEY="sandbox:key",
        NVM_PLAN=PLAN,
        NVM_AGENT=AGENT,
        NVM_URL="http://127.0.0.1:9",
    )
    with selling(tmp_path_factory.mktemp("buyers"), small_checkpoint, settings) as server:
        yield server


PYTHON: Final = """
import asyncio
import requests
from eth_account import Account
from x402 import x402Client, x402ClientSync
from x402.extensions.bazaar import validate_discovery_extension
from x402.http.clients import wrapHttpxWithPayment, wrapRequestsWithPayment
from x402.mechanisms.evm.exact import register_exact_evm_client
from x402.mechanisms.evm.signers import EthAccountSigner

signer = EthAccountSigner(Account.from_key(key))

async def with_httpx():
    client = register_exact_evm_client(x402Client(), signer)
    async with wrapHttpxWithPayment(client, timeout=60) as http:
        return [
            await http.post(url, json={"texts": ["good morning", "good night"]}),
            await http.get(url, params={"text": "good morning"}),
            await http.post(url, json={"texts": 5}),
        ]

session = wrapRequestsWithPayment(
    requests.Session(), register_exact_evm_client(x402ClientSync(), signer)
)
replies = [*asyncio.run(with_httpx()), session.post(url, json={"text": "bye"}, timeout=60)]
from x402.extensions.bazaar.types import parse_discovery_extension
found = [validate_discovery_extension(parse_discovery_extension(each)).valid for each in listings]
print(json.dumps([
    [[r.status_code, r.json(), r.headers.get("PAYMENT-RESPONSE")] for r in replies], found
]))
"""


def test_pypis_clients_buy(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    url = f"{server.url}/score"
    asked = [
        ask(server),
        Terms.of(requests.get(url, timeout=SECONDS)),
        ask(server, {"input": "good morning"}, "/v1/moderations"),
    ]
    listings = [each.document["extensions"]["bazaar"] for each in asked]
    replies, valid = run_python(
        X402,
        PYTHON,
        key=market.buyer.key,
        url=url,
        listings=listings,
    )
    assert [status for status, _, _ in replies] == [200, 200, 422, 200]
    assert len(replies[0][1]["items"]) == 2
    assert replies[3][1]["text"] == "bye"
    receipts = [receipt and decoded(receipt)["success"] for _, _, receipt in replies]
    assert receipts == [True, True, None, True]
    assert market.chain.earned == before + 3 * MINIMUM
    assert valid == [True] * 3


NODE: Final = """
const { wrapFetchWithPaymentFromConfig } = require("@x402/fetch");
const { ExactEvmScheme } = require("@x402/evm");
const { privateKeyToAccount } = require("viem/accounts");
const given = JSON.parse(process.env.GIVEN);
const scheme = new ExactEvmScheme(privateKeyToAccount(given.key));
const pay = wrapFetchWithPaymentFromConfig(fetch, {
  schemes: [{ network: "eip155:84532", client: scheme }],
});
const send = async (body) => {
  const headers = { "Content-Type": "application/json" };
  const reply = await pay(given.url, { method: "POST", headers, body: JSON.stringify(body) });
  return [reply.status, await reply.json(), reply.headers.get("PAYMENT-RESPONSE")];
};
(async () => {
  const many = { texts: Array(100).fill("good night") };
  const replies = [await send({ text: "good morning" }), await send(many)];
  console.log(JSON.stringify(replies));
})();
"""


def test_npms_client_buys(server: HttpClient, market: Market) -> None:
    before = market.chain.earned
    given = {"key": market.buyer.key, "url": f"{server.url}/score"}
    one, many = json.loads(run_script(FETCH, NODE, {"GIVEN": json.dumps(given)}))
    assert (one[0], many[0]) == (200, 200)
    assert len(many[1]["items"]) == 100
    assert decoded(many[2])["payer"] == market.buyer.address
    assert market.chain.earned == before + MINIMUM + 100_000


BROWSER: Final = """async ({ url, payment }) => {
  const headers = { "Content-Type": "application/json" };
  const body = JSON.stringify({ text: "good morning everyone" });
  const asked = await fetch(url, { method: "POST", headers, body });
  // As the package of x402 for browsers sends it.
  const paid = await fetch(url, { method: "POST", body, headers: {
    ...headers, "PAYMENT-SIGNATURE": payment,
    "Access-Control-Expose-Headers": "PAYMENT-RESPONSE,X-PAYMENT-RESPONSE" } });
  const seen = { asked: asked.status, terms: asked.headers.get("PAYMENT-REQUIRED") };
  return { ...seen, paid: paid.status, receipt: paid.headers.get("PAYMENT-RESPONSE"),
           label: (await paid.json()).label };
}"""


def page_at(origin: str, browser: Browser) -> Page:
    """Open the page of an origin."""
    page = browser.new_page()
    page.goto(f"{origin}/")
    return page


@pytest.mark.browser
def test_a_page_of_an_allowed_origin_buys(
    server: HttpClient, site: WebSite, market: Market
) -> None:
    before = market.chain.earned
    given = {"url": f"{server.url}/score", "payment": sign(market.buyer, ask(server))}
    with chromium() as browser:
        seen = page_at(site.url, browser).evaluate(BROWSER, given)
        other = site.url.replace("127.0.0.1", "localhost")
        refused = page_at(other, browser).evaluate(
            "async ({ url }) => { try { await fetch(url); return false } catch { return true } }",
            given,
        )
    assert (seen["asked"], seen["paid"]) == (402, 200)
    assert decoded(seen["terms"])["x402Version"] == 2
    assert decoded(seen["receipt"])["success"] is True
    assert seen["label"]
    assert refused
    assert market.chain.earned == before + MINIMUM
