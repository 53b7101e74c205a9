"""What the service is and how it is: the card, the probes and the metrics."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, Final

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from hatespeech.serving.compat.protocol import Protocol
from hatespeech.serving.jobs.runner import JobRunner
from hatespeech.serving.jobs.store import StoreError
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.openapi import OPEN, SUMMARY, TITLE, Card, Health, errors
from hatespeech.serving.payments.shop import Shop
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import ServerSettings

LINKS: Final = {
    "demo": "/demo",
    "documentation": "/docs",
    "openapi": "/openapi.json",
    "health": "/health",
}
PING_STATUS: Final = {"ready": 200, "loading": 204, "broken": 503}
PING_REPLIES: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "Ready."},
    204: {"description": "The model is loading."},
    503: {"description": "Broken; the process is about to end."},
}


def service_routes(settings: ServerSettings, metrics: Metrics, version: str) -> APIRouter:
    """Return ``GET /``, ``/ping``, ``/health`` and, unless it is off, ``/metrics``."""
    router = APIRouter(tags=["service"])

    @router.get(
        "/",
        operation_id="card",
        summary="What this is",
        responses={200: {"model": Card}, **errors()},
    )
    async def card(request: Request) -> Response:
        """Name, version, model, links, other services' protocols, and what calls cost buyers."""
        root = request.scope.get("root_path", "")
        about = {"name": TITLE, "version": version, "summary": SUMMARY}
        model: ServedModel = request.app.state.model
        served: Sequence[Protocol] = request.app.state.protocols
        protocols = {protocol.name: protocol.routes for protocol in served}
        links = {name: root + path for name, path in LINKS.items()}
        told = {**about, "model": model.model_id, "links": links, "protocols": protocols}
        shop: Shop | None = request.app.state.shop
        return JSONResponse(told if shop is None else {**told, "payment": shop.card()})

    @router.get(
        "/ping",
        operation_id="ping",
        summary="Ready?",
        openapi_extra=OPEN,
        response_class=Response,
        responses=PING_REPLIES,
    )
    async def ping(request: Request) -> Response:
        """The health check of Runpod's load balancer."""
        return Response(status_code=PING_STATUS[request.app.state.model.state])

    @router.get(
        "/health",
        operation_id="health",
        summary="Ready, in words",
        openapi_extra=OPEN,
        responses={200: {"model": Health}, 503: {"model": Health}},
    )
    async def health(request: Request) -> Response:
        """200 only when ready. The SingularityNET daemon reads it as a heartbeat."""
        model: ServedModel = request.app.state.model
        jobs: JobRunner = request.app.state.jobs
        body = {
            "status": model.state,
            "model": model.model_id,
            "dtype": model.dtype,
            "embedded": model.embedded,
            "jobs": jobs.state,
        }
        return JSONResponse(body, 200 if model.state == "ready" else 503)

    if settings.metrics != "off":
        _add_metrics(router, metrics, is_open=settings.metrics == "open")
    return router


def _add_metrics(router: APIRouter, metrics: Metrics, *, is_open: bool) -> None:
    @router.get(
        "/metrics",
        operation_id="metrics",
        summary="Metrics for Prometheus",
        openapi_extra=OPEN if is_open else {},
        response_class=PlainTextResponse,
        responses={
            200: {"description": "Prometheus text format."},
            **({} if is_open else errors()),
        },
    )
    async def metrics_text(request: Request) -> Response:
        """Requests, latency, errors, batches, windows, queues."""
        jobs: JobRunner = request.app.state.jobs
        with contextlib.suppress(StoreError):  # the count stays as it was
            await jobs.count_unfinished()
        # CONTENT_TYPE_LATEST names a charset; Starlette would add a second one.
        return Response(
            generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )
