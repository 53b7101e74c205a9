"""What a protocol of another service has, for the guards and for errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.types import Scope

from hatespeech.errors import ServiceError
from hatespeech.serving.route_path import route_path
from hatespeech.telemetry.recorder import HTTP

if TYPE_CHECKING:  # the guards import this module
    from hatespeech.serving.compat.mapping import Meanings
    from hatespeech.serving.guards.limits import CallerRates
    from hatespeech.serving.metrics import Metrics
    from hatespeech.serving.settings import ServerSettings


@dataclass(frozen=True)
class Shared:
    """What the routes of all protocols share with each other, and with the rest of the server."""

    settings: ServerSettings
    metrics: Metrics
    rates: CallerRates
    meanings: Meanings


class Protocol:
    """A protocol: what its clients send and read beside the routes; ours, unless it says more."""

    name: str = HTTP
    title: str  # of the service, for documents
    places: tuple[str, ...] = ()  # its paths; one that ends in a slash stands for all below it
    open_paths: frozenset[str] = frozenset()  # those that need no token
    routes: tuple[str, ...] = ()  # for people: method and path of each

    def holds(self, path: str) -> bool:
        """Say whether a path belongs to this protocol, also if no route is there."""
        return any(
            path == place or (place.endswith("/") and path.startswith(place))
            for place in self.places
        )

    def credentials(self, scope: Scope) -> Sequence[str]:  # noqa: ARG002 - others need it
        """Return the tokens that a request holds where this protocol alone looks for them."""
        return ()

    def answer(
        self,
        scope: Scope,  # noqa: ARG002 - others need it
        error: ServiceError,
        status: int,
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the body for an error, whose status in our protocol is given."""
        return status, {"error": error.line, "error_type": error.code}


OURS: Final = Protocol()


def protocol_of(scope: Scope) -> Protocol:
    """Return the protocol that a request's path belongs to: a served one of others, or ours."""
    app = scope.get("app")
    served: Sequence[Protocol] = app.state.protocols if app is not None else ()
    return next((protocol for protocol in served if protocol.holds(route_path(scope))), OURS)
