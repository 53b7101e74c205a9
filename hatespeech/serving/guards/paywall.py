"""Sells calls: the innermost guard, which lets a reply go once it is paid for.

It reads a request's body and prices it with the route's own reader. Then: check the payment here,
have it verified, let the route work, have it settled, send the reply. Nothing is charged for an
error, nor for a reply without a score. A reply whose settlement has an unknown outcome goes out.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Mapping
from typing import Final

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hatespeech.errors import InternalError, ServiceError, UnhealthyError
from hatespeech.serving.guards.auth import VERIFIED, Caller
from hatespeech.serving.guards.limits import CallerRates
from hatespeech.serving.http_errors import PaymentRequiredError, error_response
from hatespeech.serving.payments.facilitator import FacilitatorError
from hatespeech.serving.payments.paid_replies import PaidReply
from hatespeech.serving.payments.rail import (
    Order,
    PaidWork,
    Payment,
    PaymentFault,
    Receipt,
    decode_header,
    encode_header,
)
from hatespeech.serving.payments.receipts import Outcome
from hatespeech.serving.payments.shop import Shop
from hatespeech.serving.payments.terms import PricedRoute, payment_required
from hatespeech.serving.payments.till import CLOSED_SECONDS
from hatespeech.serving.reading import LARGE_BODY
from hatespeech.serving.route_path import route_path

PAYMENT: Final = "PAYMENT-SIGNATURE"
TERMS: Final = "PAYMENT-REQUIRED"
RECEIPT: Final = "PAYMENT-RESPONSE"

# The price that is named for a request that cannot be read, as a directory of services sends it.
LEAST_WORK: Final = PaidWork(1, 1)
NO_RAIL: Final = "none"

log = logging.getLogger(__name__)


class Paywall:
    """Serves buyers on priced routes; callers with a token pass."""

    def __init__(self, app: ASGIApp, shop: Shop, rates: CallerRates) -> None:
        self._app = app
        self._shop = shop
        self._rates = rates
        self._in_use: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 402 to a buyer whose payment is missing or not taken; pass token holders on."""
        route = None
        if scope["type"] == "http":
            route = self._shop.routes.get((scope["method"], route_path(scope)))
        caller: Caller | None = scope.get("state", {}).get("caller")
        if route is None or (caller is not None and not caller.pays):
            await self._app(scope, receive, send)
            return
        scope["route"] = route  # for the log, until the application finds its own
        try:
            body = await Request(scope, receive).body()
            if caller is not None:
                # It is read before anything is paid, so a large one counts as several requests.
                await self._rates.count(caller, len(body) // LARGE_BODY)
            work = await price(route, scope, body)
        except ServiceError as error:  # a body that breaks a limit
            await error_response(scope, error)(scope, receive, send)
            return
        order = self._shop.order(route, work or LEAST_WORK)
        sale = Sale(self._shop, order, f"{route.method} {route.path}", scope, receive, send)
        raw = Headers(scope=scope).get(PAYMENT)
        if not raw or scope["state"].get("head"):  # without a body, a reply is not worth its price
            self._shop.receipts.count(NO_RAIL, "asked")
            await sale.ask("payment is needed")
            return
        again = replay(body, receive)
        if work is None:
            # The route says what is wrong with the request, whatever the payment is worth.
            self._shop.receipts.count(NO_RAIL, "uncharged", "error")
            await self._app(scope, again, refusing_success(send))
            return
        try:
            payment = self._read(raw, order)
            await self._sell(payment, digest(scope, body, payment, caller), sale, again)
        except PaymentFault as fault:
            await sale.refuse(fault)

    def _read(self, raw: str, order: Order) -> Payment:
        """Return the payment that a header holds; raise :class:`PaymentFault`."""
        document = decode_header(raw)
        for rail in self._shop.rails:
            payment = rail.read(document, raw, order)
            if payment is not None:
                return payment
        raise PaymentFault("terms", "the payment is for other terms")

    async def _sell(self, payment: Payment, request: bytes, sale: Sale, receive: Receive) -> None:
        """Serve a request with its payment; raise :class:`PaymentFault` before the work."""
        sale.payment = payment
        if payment.key is None:
            await self._serve(payment, sale, receive)
            return
        kept = self._shop.replies.find(payment.key)
        if kept is not None:
            if kept.digest != request:
                raise PaymentFault("used", "this payment has been used for another request")
            self._shop.receipts.count(payment.rail, "repeated")
            await kept.send(sale.send_raw)
            return
        if payment.key in self._shop.spent:
            # A facilitator might say once more that it is paid.
            raise PaymentFault("used", "this payment has been used")
        if payment.key in self._in_use:
            raise PaymentFault("used", "this payment is in use; send it again in a moment")
        self._in_use.add(payment.key)
        sale.digest = request
        try:
            await self._serve(payment, sale, receive)
        finally:
            key = payment.key
            if sale.settlement is None or sale.settlement.done():
                self._in_use.discard(key)
            else:  # this request was cut off, and the settlement goes on
                sale.settlement.add_done_callback(lambda _task: self._in_use.discard(key))

    async def _serve(self, payment: Payment, sale: Sale, receive: Receive) -> None:
        if self._shop.tills[payment.rail].is_closed_to(payment.payer):
            await sale.turn_away("closed")
            return
        try:
            await payment.verify()
        except FacilitatorError as error:
            log.warning("a payment cannot be verified: %s", error)
            await sale.turn_away("verify")
            return
        sale.scope["state"][VERIFIED] = True  # its connection is not for strangers from here on
        await self._app(sale.scope, receive, sale.send)


class Sale:
    """One request of a buyer: sends its reply, once that is paid for."""

    def __init__(
        self, shop: Shop, order: Order, route: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """``route`` is method and path, for the receipt."""
        self.scope = scope
        self.send_raw = send
        self.payment: Payment | None = None
        self.digest: bytes | None = None  # if its reply may be asked for again
        self.settlement: asyncio.Task[Receipt | None] | None = None
        self._shop = shop
        self._order = order
        self._route = route
        self._receive = receive
        self._reply: PaidReply | None = None
        self._replaced = False

    async def send(self, message: Message) -> None:
        """Pass a message of the route on; before the first, take the payment."""
        if self._replaced:
            return
        if message["type"] == "http.response.start":
            if message["status"] >= 400:
                self._count("uncharged", "error")
            elif self.scope["state"].get("scored") == 0:
                self._count("uncharged", "unscored")
            elif not await self._take_payment(message):
                self._replaced = True
                return
        elif message["type"] == "http.response.body" and self._reply is not None:
            self._keep(message)
        await self.send_raw(message)

    async def _take_payment(self, start: Message) -> bool:
        """Settle, and add the receipt to the reply; if that fails, answer so and return False."""
        self.settlement = asyncio.ensure_future(self._settle())
        self._shop.settling.add(self.settlement)
        self.settlement.add_done_callback(self._forget)
        try:
            # A request that is cut off does not take its settlement along.
            receipt = await asyncio.shield(self.settlement)
        except PaymentFault as fault:
            await self.refuse(fault)
            return False
        except FacilitatorError as error:
            log.warning("a payment cannot be settled: %s", error)
            await self.turn_away("settle")
            return False
        if receipt is not None:
            MutableHeaders(scope=start)[RECEIPT] = receipt.header()
        if self.digest is not None:
            self._reply = PaidReply(self.digest, start["status"], list(start["headers"]))
        return True

    async def _settle(self) -> Receipt | None:
        """Take the payment; return ``None`` if it may have been taken.

        Raises :class:`PaymentFault`, and :class:`FacilitatorError` if it has not been taken.
        """
        payment = self.payment
        assert payment is not None  # noqa: S101 - the route works for a payment only
        till = self._shop.tills[payment.rail]
        async with till.turns:
            if till.is_closed_to(payment.payer):
                raise FacilitatorError("closed", may_have_acted=False)
            try:
                receipt = await payment.settle()
            except FacilitatorError as error:
                if not error.may_have_acted:
                    raise
                till.note(payment.payer, known=False)
                self._shop.spent.add(payment.key)
                self._shop.receipts.note_unknown(payment, error, self._route, self._order.work)
                return None
            except PaymentFault:
                till.note(payment.payer, known=True)
                raise
            till.note(payment.payer, known=True)
        self._shop.spent.add(payment.key)
        self._shop.receipts.note_paid(payment, receipt, self._route, self._order.work)
        return receipt

    def _forget(self, settlement: asyncio.Task[Receipt | None]) -> None:
        self._shop.settling.discard(settlement)
        if not settlement.cancelled():
            settlement.exception()  # if its request was cut off, it is unread

    def _keep(self, message: Message) -> None:
        reply = self._reply
        assert reply is not None  # noqa: S101 - see the caller
        reply.parts.append(message.get("body", b""))
        if not message.get("more_body", False) and self.payment and self.payment.key:
            self._shop.replies.keep(self.payment.key, reply)

    async def ask(self, why: str, headers: Mapping[str, str] | None = None) -> None:
        """Answer 402 with the terms."""
        error = PaymentRequiredError(why)
        terms = payment_required(self._order, self._shop.rails, why)
        reply = error_response(self.scope, error, {TERMS: terms, **(headers or {})})
        await reply(self.scope, self._receive, self.send_raw)

    async def refuse(self, fault: PaymentFault) -> None:
        """Answer 402 to a payment that is not taken."""
        self._count("refused", fault.reason)
        log.info("%s: %s", self._route, fault.message)
        headers = {}
        if fault.reason == "settle" and self.payment is not None:
            failed = {"success": False, "errorReason": fault.code, "transaction": ""}
            who = {"network": self.payment.network, "payer": self.payment.payer}
            headers[RECEIPT] = encode_header({**failed, **who})
        await self.ask(fault.message, headers)

    async def turn_away(self, why: str) -> None:
        """Answer 503: payments can't be taken now, and this one is not."""
        self._count("unavailable", why)
        error = UnhealthyError("payments cannot be taken now; nothing was charged; try again")
        if why == "closed":
            error.retry_after = CLOSED_SECONDS
        reply = error_response(self.scope, error)
        await reply(self.scope, self._receive, self.send_raw)

    def _count(self, outcome: Outcome, reason: str) -> None:
        rail = NO_RAIL if self.payment is None else self.payment.rail
        self._shop.receipts.count(rail, outcome, reason)


async def price(route: PricedRoute, scope: Scope, body: bytes) -> PaidWork | None:
    """Return what a request asks for, ``None`` if its route is going to refuse it."""
    try:
        return await route.read(Request(scope, replay(body, gone)))
    except ServiceError:
        return None


def digest(scope: Scope, body: bytes, payment: Payment, caller: Caller | None) -> bytes:
    """Return what tells one request of one buyer from all others."""
    found = hashlib.sha256()
    buyer = "" if caller is None else caller.name
    texts = (scope["method"], route_path(scope), payment.proof, buyer)
    for part in (*map(str.encode, texts), scope["query_string"], body):
        found.update(len(part).to_bytes(8) + part)
    return found.digest()


def replay(body: bytes, receive: Receive) -> Receive:
    """Return what gives a body that has been read, then what follows it: the hang-up."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def gone() -> Message:
    """Give the message of a client that is gone."""
    return {"type": "http.disconnect"}


def refusing_success(send: Send) -> Send:
    """Return a ``send`` for a request that is not paid for: it lets errors pass alone."""

    async def refuse(message: Message) -> None:
        if message["type"] == "http.response.start" and message["status"] < 400:
            log.error("a request that could not be priced has a result, which is held back")
            raise InternalError("the request could not be answered")
        await send(message)

    return refuse
