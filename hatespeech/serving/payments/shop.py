"""What is sold and how it is paid for, from the settings. Half a setting stops the start."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from prometheus_client import CollectorRegistry

from hatespeech.errors import SettingsError
from hatespeech.serving.payments.facilitator import SETTLE_SECONDS, Facilitator, open_client
from hatespeech.serving.payments.nevermined import NETWORKS, URLS, CreditsRail
from hatespeech.serving.payments.paid_replies import PaidReplies, SpentPayments
from hatespeech.serving.payments.prices import in_smallest_unit
from hatespeech.serving.payments.rail import Order, PaidWork, Rail
from hatespeech.serving.payments.receipts import Receipts
from hatespeech.serving.payments.terms import PricedRoute, describe
from hatespeech.serving.payments.till import Till
from hatespeech.serving.payments.x402 import USDC, ExactRail, PaymentToken
from hatespeech.serving.settings import ServerSettings

# What each way to pay needs, the first being what turns it on; and what it may have beside.
X402: Final = ("pay_to", "price", "pay_facilitator", "public_url", "bearer_token")
X402_MORE: Final = (
    "price_minimum",
    "pay_network",
    "pay_token",
    "cdp_api_key_id",
    "cdp_api_key_secret",
)
NEVERMINED: Final = ("nvm_api_key", "nvm_plan", "nvm_agent", "public_url", "bearer_token")
NEVERMINED_MORE: Final = ("nvm_network", "nvm_url")
ANY_RAIL: Final = ("receipts_file", "paid_reply_seconds")
ELSEWHERE: Final = frozenset({"public_url", "bearer_token"})  # they have a use of their own

UNIT: Final = "one text of up to 1,000 characters, read once"
COINBASE: Final = "api.cdp.coinbase.com"
COINBASE_FEE: Final = Decimal("0.001")  # for each settlement, in USDC


class Shop:
    """What the paywall needs, for one server."""

    def __init__(
        self,
        client: httpx2.AsyncClient,
        base: str,
        rails: Sequence[Rail],
        routes: Sequence[PricedRoute],
        replies: PaidReplies,
        receipts: Receipts,
    ) -> None:
        """``base`` is the server's public URL; ``client`` is the one that the rails use."""
        self.routes: Mapping[tuple[str, str], PricedRoute] = {
            (route.method, route.path): route for route in routes
        }
        self.rails = rails
        self.tills = {rail.name: Till(rail.name) for rail in rails}
        self.replies = replies
        self.receipts = receipts
        self.spent = SpentPayments()
        self.settling: set[asyncio.Task[Any]] = set()
        self._client = client
        self._about = {route: describe(route, base + route.path) for route in self.routes.values()}

    def order(self, route: PricedRoute, work: PaidWork) -> Order:
        """Return what a request for this work is asked to pay for."""
        about = self._about[route]
        return Order(route.method, about["resource"]["url"], about, work)

    def card(self) -> dict[str, Any]:
        """Return price and terms, for ``GET /`` and the OpenAPI document."""
        return {
            "routes": [f"{method} {path}" for method, path in self.routes],
            "unit": UNIT,
            "accepts": [rail.card() for rail in self.rails],
        }

    async def close(self) -> None:
        """Let settlements end, whose requests may be gone; then close file and connections."""
        if self.settling:
            await asyncio.wait(self.settling, timeout=2 * SETTLE_SECONDS)
        await self._client.aclose()
        self.receipts.close()


def open_shop(
    settings: ServerSettings, routes: Sequence[PricedRoute], registry: CollectorRegistry
) -> Shop | None:
    """Return what is sold, ``None`` if nothing is; raise :class:`SettingsError`."""
    given = {name for name in settings.model_fields_set if getattr(settings, name) is not None}
    exact = _is_whole(given, X402, X402_MORE)
    credits_too = _is_whole(given, NEVERMINED, NEVERMINED_MORE)
    if not exact and not credits_too:
        for name in ANY_RAIL:
            if name in given:
                raise SettingsError(f"{name.upper()} is set, but neither PAY_TO nor NVM_API_KEY is")
        return None
    client = open_client()
    rails: list[Rail] = []  # exact first: clients that only know it take the first offer
    if exact:
        rails.append(_exact_rail(settings, client))
    if credits_too:
        rails.append(_credits_rail(settings, client))
    base = (settings.public_url or "").rstrip("/")
    replies = PaidReplies(settings.paid_reply_seconds)
    receipts = Receipts(registry, settings.receipts_file)
    return Shop(client, base, rails, routes, replies, receipts)


def _is_whole(given: Set[str], needed: Sequence[str], more: Sequence[str]) -> bool:
    """Say whether a way to pay is set; raise :class:`SettingsError` if it is in part."""
    own = [name for name in (*needed, *more) if name in given and name not in ELSEWHERE]
    if not own:
        return False
    for name in needed:
        if name not in given:
            raise SettingsError(f"{name.upper()} is not set, and {own[0].upper()} needs it")
    return True


def _exact_rail(settings: ServerSettings, client: httpx2.AsyncClient) -> ExactRail:
    token = USDC.get(settings.pay_network)
    if settings.pay_token is not None:
        address, name, version, decimals = settings.pay_token.split(",")
        token = PaymentToken(address, name, version, int(decimals))
    if token is None:
        known = " and ".join(USDC)
        raise SettingsError(
            f"PAY_NETWORK={settings.pay_network!r} needs PAY_TOKEN; only {known} do without"
        )
    return ExactRail(
        Facilitator(client, settings.pay_facilitator or "", _authorize(settings)),
        settings.pay_network,
        token,
        settings.pay_to or "",
        _amount("PRICE", settings.price or "", token),
        _amount("PRICE_MINIMUM", settings.price_minimum, token),
    )


def _amount(setting: str, price: str, token: PaymentToken) -> int:
    """Return a price in the token's smallest unit; raise :class:`SettingsError`."""
    amount = in_smallest_unit(price, token.decimals)
    if amount is None:
        raise SettingsError(
            f"{setting}={price!r} is not allowed: the token has {token.decimals} decimals"
        )
    return amount


def _authorize(settings: ServerSettings) -> Callable[[str], Mapping[str, str]]:
    """Return what signs requests to the facilitator; raise :class:`SettingsError`."""
    key_id, secret = settings.cdp_api_key_id, settings.cdp_api_key_secret
    is_coinbase = urlsplit(settings.pay_facilitator or "").hostname == COINBASE
    for name, value in (("CDP_API_KEY_ID", key_id), ("CDP_API_KEY_SECRET", secret)):
        if value is None and (is_coinbase or key_id is not None or secret is not None):
            raise SettingsError(f"{name} is not set, and Coinbase's facilitator needs it")
    if is_coinbase and Decimal(settings.price_minimum) <= COINBASE_FEE:
        raise SettingsError(
            f"PRICE_MINIMUM={settings.price_minimum!r} is not allowed: Coinbase's facilitator "
            f"takes {COINBASE_FEE} for each payment"
        )
    if key_id is None or secret is None:
        return lambda _url: {}
    try:
        from hatespeech.serving.payments.coinbase import CoinbaseKey
    except ModuleNotFoundError:
        raise SettingsError("CDP_API_KEY_ID needs cryptography: pip install cryptography") from None
    try:
        return CoinbaseKey(key_id, secret.get_secret_value()).authorize
    except ValueError as exc:
        raise SettingsError(f"CDP_API_KEY_SECRET is not allowed: it is {exc}") from None


def _credits_rail(settings: ServerSettings, client: httpx2.AsyncClient) -> CreditsRail:
    key = settings.nvm_api_key
    assert key is not None  # noqa: S101 - it is what turns this rail on
    environment = key.get_secret_value().partition(":")[0]
    return CreditsRail(
        client,
        settings.nvm_url or URLS[environment],
        key.get_secret_value(),
        settings.nvm_plan or "",
        settings.nvm_agent or "",
        settings.nvm_network or NETWORKS[environment],
    )
