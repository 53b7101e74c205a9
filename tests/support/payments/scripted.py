"""A facilitator that answers what it is told, for answers that a real one gives seldom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web
from typing_extensions import override

from tests.support.stand_ins.app_thread import AppThread

VALID = {"isValid": True}
SETTLED = {"success": True, "transaction": "0x1", "network": "eip155:84532", "payer": "0x2"}


class ScriptedFacilitator(AppThread):
    """Approves, unless ``answers`` has something else to say to the next calls of a kind."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: dict[str, list[Callable[[], web.StreamResponse]]] = {
            "verify": [],
            "settle": [],
        }
        self.calls: list[tuple[str, dict[str, str]]] = []

    @override
    def make_app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/{prefix:.*}{question:verify|settle}", self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        question = request.match_info["question"]
        self.calls.append((request.path, dict(request.headers)))
        if self.answers[question]:
            return self.answers[question].pop(0)()
        return web.json_response(VALID if question == "verify" else SETTLED)

    def next(self, question: str, *answers: Any, status: int = 200) -> None:
        """Let the next calls of a kind be answered so, each with a JSON value."""
        for answer in answers:
            self.answers[question].append(
                lambda answer=answer: web.json_response(answer, status=status)  # type: ignore[misc]  # a default fixes the loop's value
            )
