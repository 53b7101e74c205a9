"""What the service is, how it is, and how to use it."""

from __future__ import annotations

from importlib import resources
from typing import Any, Final

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from hatespeech.serving.jobs.runner import JobRunner
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.openapi import OPEN, SUMMARY, TITLE, Card, Health, errors
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import ServerSettings

# Swagger UI sets style attributes and has its icons in data: URLs. Scripts come from here alone.
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
DOCS_START: Final = """\
SwaggerUIBundle({
  url: "openapi.json",
  dom_id: "#swagger-ui",
  deepLinking: true,
  validatorUrl: null
});
"""
DOCS_FILES: Final = {
    "swagger-ui.css": ("swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": ("swagger-ui-bundle.js", "text/javascript"),
    "favicon.png": ("favicon-32x32.png", "image/png"),
}


def meta_routes(settings: ServerSettings, metrics: Metrics, version: str) -> APIRouter:
    """Return the card, the probes, the metrics and the documentation."""
    router = APIRouter(tags=["service"])

    @router.get(
        "/",
        operation_id="card",
        summary="What this is",
        responses={200: {"model": Card}, **errors()},
    )
    async def card(request: Request) -> Response:
        """Name, version, model, and where to go on."""
        links = {
            "demo": "/demo",
            "documentation": "/docs",
            "openapi": "/openapi.json",
            "health": "/health",
        }
        return JSONResponse(
            {
                "name": TITLE,
                "version": version,
                "summary": SUMMARY,
                "model": request.app.state.model.model_id,
                "links": links,
            }
        )

    @router.get(
        "/ping",
        operation_id="ping",
        summary="Ready?",
        openapi_extra=OPEN,
        response_class=Response,
        responses={
            200: {"description": "Ready."},
            204: {"description": "The model is being loaded."},
            503: {"description": "Broken; the process is about to end."},
        },
    )
    async def ping(request: Request) -> Response:
        """The health check of Runpod's load balancer."""
        status = {"ready": 200, "loading": 204, "broken": 503}
        return Response(status_code=status[request.app.state.model.state])

    router.head("/ping", include_in_schema=False)(ping)  # what monitors send

    @router.get(
        "/health",
        operation_id="health",
        summary="Ready? In words",
        openapi_extra=OPEN,
        responses={200: {"model": Health}, 503: {"model": Health}},
    )
    async def health(request: Request) -> Response:
        """200 only when ready; the SingularityNET daemon's heartbeat."""
        model: ServedModel = request.app.state.model
        body = {"status": model.state, "model": model.model_id}
        return JSONResponse(body, 200 if model.state == "ready" else 503)

    router.head("/health", include_in_schema=False)(health)

    if settings.metrics != "off":

        @router.get(
            "/metrics",
            operation_id="metrics",
            summary="For Prometheus",
            openapi_extra=OPEN if settings.metrics == "open" else {},
            response_class=PlainTextResponse,
            responses={
                200: {"description": "Prometheus text format."},
                **({} if settings.metrics == "open" else errors()),
            },
        )
        async def metrics_text(request: Request) -> Response:
            """Requests, latency, errors, batches, windows, queues."""
            jobs: JobRunner = request.app.state.jobs
            await jobs.count()
            # Its content type names a charset; Starlette would add another.
            return Response(
                generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
            )

    router.include_router(_docs_routes())
    return router


def _docs_routes() -> APIRouter:
    router = APIRouter(include_in_schema=False)
    folder = resources.files("fastapi_swagger.resources")  # Swagger UI's own files, nothing else
    files: dict[str, tuple[bytes | str, str]] = {
        name: (folder.joinpath(source).read_bytes(), kind)
        for name, (source, kind) in DOCS_FILES.items()
    }
    files["start.js"] = (DOCS_START, "text/javascript")

    @router.get("/docs")
    async def docs() -> Response:
        return HTMLResponse(DOCS_PAGE, headers={"Content-Security-Policy": DOCS_POLICY})

    @router.get("/openapi.json")
    async def openapi(request: Request) -> Response:
        schema: dict[str, Any] = request.app.openapi()
        return JSONResponse(schema)

    def add(name: str, content: bytes | str, kind: str) -> None:
        @router.get(f"/docs/{name}")
        async def docs_file() -> Response:
            return Response(
                content, media_type=kind, headers={"Cache-Control": "public, max-age=3600"}
            )

    for name, (content, kind) in files.items():
        add(name, content, kind)
    return router
