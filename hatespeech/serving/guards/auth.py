"""Who may call, and which paths need no token."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from hatespeech.errors import SettingsError
from hatespeech.serving.compat.protocol import protocol_of
from hatespeech.serving.http_errors import NotFoundError, UnauthorizedError, error_response
from hatespeech.serving.route_path import route_path
from hatespeech.serving.settings import ServerSettings

# For probes, and for people who want to know what this is. All other paths need the token, even
# paths that do not exist.
PROBES: Final = frozenset({"/ping", "/health"})
OPEN_PATHS: Final = PROBES | {"/docs", "/openapi.json", "/demo"}
OPEN_FOLDERS: Final = ("/docs/", "/demo/")

# In a scope's ``state``: the payment of the request is good, as far as its facilitator can tell.
VERIFIED: Final = "verified"
REALM: Final = 'Bearer realm="hate-speech-detection"'


@dataclass(frozen=True)
class Caller:
    """Where a request comes from."""

    token: bytes  # b"" if the server needs none; kept in memory, never written
    name: str  # requests are counted by it
    share: str | None = None  # its name, if there are others, who must have room in the queue, too
    pays: bool = False  # for each request, as it has no token


def require_guard(settings: ServerSettings) -> None:
    """Raise :class:`SettingsError` unless the settings say who may call."""
    if not settings.tokens and not settings.allow_anonymous:
        raise SettingsError(
            "BEARER_TOKEN is not set; make one: export BEARER_TOKEN=$(openssl rand -hex 32) "
            "(or set ALLOW_ANONYMOUS=1 to serve everyone)"
        )


class Tokens:
    """The tokens that let callers in, over every protocol. Without one, everyone is let in."""

    def __init__(self, tokens: Sequence[str]) -> None:
        self._tokens = [(digest(token.encode()), token.encode()) for token in tokens]

    def identify(
        self, headers: Mapping[str, str], address: str, elsewhere: Sequence[str] = ()
    ) -> Caller:
        """Return the caller who sends these headers from this address.

        ``headers`` have lower-case names; ``elsewhere`` are tokens that a protocol found in other
        places. Raises :class:`UnauthorizedError`.
        """
        if not self._tokens:
            return stranger(address)
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        given = [headers.get("x-api-key", ""), *elsewhere]
        if scheme.lower() == "bearer":
            given.append(credentials.strip())
        found: Caller | None = None
        # Compare every token with every value given, in constant time, so that the time taken does
        # not tell which was nearly right.
        for value in given:
            presented = digest(value.encode("latin-1", "replace"))
            for known, token in self._tokens:
                if hmac.compare_digest(presented, known):
                    name = f"token {known.hex()[:16]}"
                    found = Caller(token, name, name if len(self._tokens) > 1 else None)
        if found is None:
            raise UnauthorizedError("a valid token is needed: Authorization: Bearer, or X-API-Key")
        return found

    def sender_of(self, scope: Scope) -> Caller:
        """Return the caller who sends a request over HTTP; raise :class:`UnauthorizedError`."""
        elsewhere = protocol_of(scope).credentials(scope)
        return self.identify(Headers(scope=scope), address_of(scope), elsewhere)


class TokenGuard:
    """Passes on requests that hold a right token, as ``Authorization: Bearer`` or ``X-API-Key``.

    One of them is enough: behind a gateway that needs ``Authorization`` for itself, callers can
    send ``X-API-Key``. On ``health_port`` only the probes are answered.
    """

    def __init__(
        self,
        app: ASGIApp,
        tokens: Sequence[str],
        open_paths: frozenset[str],
        health_port: int | None,
        priced: Container[tuple[str, str]] = (),
    ) -> None:
        """``priced`` holds method and path of each route that takes payments as well."""
        self._app = app
        self._priced = priced
        self._tokens = Tokens(tokens)
        self._open_paths = open_paths
        self._health_port = health_port

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 to a request without a right token; pass all others on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = route_path(scope)
        server = scope.get("server")  # a Unix socket has no port
        on_health_port = server and self._health_port and server[1] == self._health_port
        if on_health_port and path not in PROBES:
            error = NotFoundError("this port has only /ping and /health")
            await error_response(scope, error)(scope, receive, send)
            return
        if path in self._open_paths or path.startswith(OPEN_FOLDERS):
            await self._app(scope, receive, send)
            return
        try:
            caller = self._tokens.sender_of(scope)
        except UnauthorizedError as error:
            headers = Headers(scope=scope)
            presented = "authorization" in headers or "x-api-key" in headers
            elsewhere = protocol_of(scope).credentials(scope)
            if presented or elsewhere or (scope["method"], path) not in self._priced:
                error_code = ', error="invalid_token"' if presented else ""
                reply = error_response(scope, error, {"WWW-Authenticate": REALM + error_code})
                await reply(scope, receive, send)
                return
            caller = stranger(address_of(scope), pays=True)
        scope.setdefault("state", {})["caller"] = caller
        await self._app(scope, receive, send)


def stranger(address: str, *, pays: bool = False) -> Caller:
    """Return a caller without a token, who is known by its address alone."""
    name = f"address {network_of(address)}"
    return Caller(b"", name, name, pays)


def address_of(scope: Scope) -> str:
    """Return the address that a request comes from; "" if its connection has none."""
    client = scope.get("client")
    return str(client[0]) if client else ""


def caller_of(request: Request) -> Caller:
    """Return the caller that :class:`TokenGuard` identified."""
    caller: Caller = request.scope["state"]["caller"]
    return caller


def known_caller(state: Mapping[str, Any]) -> Caller | None:
    """Return who sends the request of a scope's ``state``.

    ``None`` for a buyer until its payment is verified, and as long as it has shown no token on an
    open path.
    """
    caller: Caller | None = state.get("caller")
    return None if caller is None or (caller.pays and VERIFIED not in state) else caller


def network_of(address: str) -> str:
    """Return what counts as one address: of IPv6, its /64 network, which is one customer's."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address  # of a socket that has none
    if isinstance(parsed, ipaddress.IPv4Address):
        return str(parsed)
    if parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.IPv6Network((parsed, 64), strict=False))


def digest(token: bytes) -> bytes:
    """Hash a token, so that comparing it does not depend on its length."""
    return hashlib.sha256(token).digest()
