"""``GET /demo``: a page to try the service in a browser; its files are in ``serving/demo``."""

from __future__ import annotations

from importlib import resources
from typing import Final

from fastapi import APIRouter
from starlette.responses import HTMLResponse, Response

from hatespeech.pages.frame import LABEL_COLOURS
from hatespeech.serving.routes.static import add_file
from hatespeech.serving.settings import ServerSettings

# Nothing inline, nothing from other servers, and no script may make markup from strings.
DEMO_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
DEMO_FILES: Final = {
    "demo.css": "text/css",
    "demo.js": "text/javascript",
    "items.js": "text/javascript",
    "programs.js": "text/javascript",
    "table.js": "text/javascript",
    "icon.svg": "image/svg+xml",
}
SIGN_IN: Final = '<details id="sign-in" open'


def demo_routes(settings: ServerSettings) -> APIRouter:
    """Return ``GET /demo`` and its files; the page asks for a token only if one is needed."""
    router = APIRouter(include_in_schema=False)
    folder = resources.files("hatespeech.serving").joinpath("demo")
    page = folder.joinpath("index.html").read_text(encoding="utf-8")
    if not settings.tokens:
        page = page.replace(SIGN_IN, f"{SIGN_IN} hidden")

    @router.get("/demo")
    async def demo() -> Response:
        return HTMLResponse(page, headers={"Content-Security-Policy": DEMO_POLICY})

    for name, kind in DEMO_FILES.items():
        content = folder.joinpath(name).read_bytes()
        if name == "demo.css":
            content = LABEL_COLOURS.encode() + content
        add_file(router, f"/demo/{name}", content, kind)
    return router
