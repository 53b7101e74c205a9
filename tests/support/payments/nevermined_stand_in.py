"""Nevermined's API as payments-py 1.18 calls it, and a seller's two calls; not the real one."""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from typing import Any, Final

from aiohttp import web
from typing_extensions import override

from tests.support.stand_ins.app_thread import AppThread

PLAN: Final = "1234567890"
AGENT: Final = "42"
BUYER: Final = "0xB0B0000000000000000000000000000000000000"
NETWORK: Final = "eip155:84532"


class NeverminedStandIn(AppThread):
    """Keeps one buyer's credits; ``calls`` is what it was sent, and ``knobs`` how it misbehaves."""

    def __init__(self) -> None:
        super().__init__()
        self.balance = 1000
        self.spent: set[str] = set()
        self.calls: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        self.knobs: dict[str, Any] = {}

    @override
    def make_app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/api/v1/x402/verify", self._verify)
        app.router.add_post("/api/v1/x402/settle", self._settle)
        app.router.add_post("/api/v1/x402/permissions", self._permissions)
        app.router.add_post("/api/v1/delegation/create", self._delegation)
        app.router.add_get("/api/v1/protocol/plans/{plan}", self._plan)
        app.router.add_get("/api/v1/protocol/plans/{plan}/balance/{holder}", self._balance)
        return app

    async def _plan(self, request: web.Request) -> web.Response:
        plan = {"id": request.match_info["plan"], "registry": {"price": {"isCrypto": True}}}
        return web.json_response({**plan, "metadata": {"plan": {}}})

    async def _balance(self, request: web.Request) -> web.Response:
        place = request.match_info
        return web.json_response(
            {
                "planId": place["plan"],
                "planName": "tweets",
                "planType": "credits",
                "holderAddress": place["holder"],
                "balance": str(self.balance),
                "creditsContract": "0x0",
                "isSubscriber": True,
                "pricePerCredit": 0.001,
            }
        )

    async def _delegation(self, _request: web.Request) -> web.Response:
        return web.json_response({"delegationId": "00000000-0000-4000-8000-000000000001"})

    async def _permissions(self, request: web.Request) -> web.Response:
        body = await request.json()
        once = body.get("tokenVersion") == 3
        token = access_token(body["accepted"], once=once, resource=body.get("resource"))
        return web.json_response({"accessToken": token})

    async def _verify(self, request: web.Request) -> web.Response:
        refusal, _, _ = await self._look("verify", request)
        return refusal or web.json_response({"isValid": True, "payer": BUYER, "network": NETWORK})

    async def _settle(self, request: web.Request) -> web.Response:
        refusal, amount, nonce = await self._look("settle", request)
        if refusal is not None:
            return refusal
        if nonce in self.spent:
            return refused(402, "BCK.X402.0059")
        if nonce:
            self.spent.add(nonce)
        self.balance -= amount
        return web.json_response(
            {
                "success": True,
                "payer": BUYER,
                "transaction": f"0x{secrets.token_hex(32)}",
                "network": NETWORK,
                "creditsRedeemed": str(amount),
                "remainingBalance": str(self.balance),
            }
        )

    async def _look(
        self, call: str, request: web.Request
    ) -> tuple[web.Response | None, int, str | None]:
        """Return a refusal, if there is a reason; the credits; and the token's nonce."""
        body = await request.json()
        self.calls.append((call, body, dict(request.headers)))
        if f"{call}_status" in self.knobs:
            return refused(self.knobs[f"{call}_status"], self.knobs.get("code", "")), 0, None
        await asyncio.sleep(self.knobs.get(f"{call}_before", 0))
        try:
            token = json.loads(base64.urlsafe_b64decode(body["x402AccessToken"] + "=="))
        except ValueError:
            return refused(400, "BCK.X402.0010"), 0, None
        amount = int(body["maxAmount"])
        if token["accepted"]["planId"] != body["paymentRequired"]["accepts"][0]["planId"]:
            return refused(402, "BCK.X402.0013"), 0, None
        if amount > self.balance:
            return refused(402, "BCK.X402.0023"), 0, None
        return None, amount, token["payload"]["authorization"].get("nonce")


def access_token(accepted: dict[str, Any], *, once: bool, resource: Any = None) -> str:
    """Return a buyer's token: for one use, or for many."""
    authorization: dict[str, Any] = {
        "from": BUYER,
        "sessionKeys": [{"id": "redeem", "data": "0x1"}],
    }
    if once:
        authorization["nonce"] = f"0x{secrets.token_hex(32)}"
    token = {
        "x402Version": 2,
        "accepted": accepted,
        "payload": {"signature": f"0x{secrets.token_hex(65)}", "authorization": authorization},
        "extensions": {},
        **({} if resource is None else {"resource": resource}),
    }
    return base64.urlsafe_b64encode(json.dumps(token).encode()).decode().rstrip("=")


def refused(status: int, code: str) -> web.Response:
    return web.json_response({"code": code, "message": "no", "httpStatus": status}, status=status)
