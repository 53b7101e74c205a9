"""``GET /docs``: Swagger UI, served from here alone, and the document that it shows."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from hatespeech.serving.openapi import TITLE
from hatespeech.serving.routes.static import add_file

# Swagger UI sets style attributes and has its icons in data: URLs. Scripts come only from here.
DOCS_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'"
)
DOCS_PAGE: Final = f"""\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{TITLE}</title>
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" href="docs/favicon.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
# The styles are Swagger UI's own; which of them hold is left to its user by a class.
DOCS_START: Final = """\
const dark = matchMedia("(prefers-color-scheme: dark)");
const show = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
dark.addEventListener("change", show);
show();
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null,
  defaultModelsExpandDepth: -1,
  defaultModelExpandDepth: 4,
  defaultModelRendering: "example",
  tryItOutEnabled: true
});
"""
DOCS_FILES: Final = {
    "swagger-ui.css": ("swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": ("swagger-ui-bundle.js", "text/javascript"),
    "favicon.png": ("favicon-32x32.png", "image/png"),
}


def docs_routes() -> APIRouter:
    """Return ``GET /docs``, its files and ``GET /openapi.json``."""
    router = APIRouter(include_in_schema=False)

    @router.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(DOCS_PAGE, headers={"Content-Security-Policy": DOCS_POLICY})

    @router.get("/openapi.json")
    async def openapi(request: Request) -> Response:
        schema: dict[str, Any] = request.app.openapi()
        return JSONResponse(schema)

    folder = resources.files("fastapi_swagger.resources")  # Swagger UI's own files, nothing else
    for name, (source, kind) in DOCS_FILES.items():
        add_file(router, f"/docs/{name}", folder.joinpath(source).read_bytes(), kind)
    add_file(router, "/docs/start.js", DOCS_START, "text/javascript")
    return router
