"""The application: routes, middleware, start and stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any, Final

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from hatespeech import logs
from hatespeech.errors import SettingsError, describe_exception
from hatespeech.serving.compat.openai import OpenAI, priced_openai_routes
from hatespeech.serving.compat.served import protocol_routes, served_protocols
from hatespeech.serving.guards.auth import OPEN_PATHS, TokenGuard, require_guard
from hatespeech.serving.guards.envelope import Envelope, path_templates
from hatespeech.serving.guards.limits import (
    BodyLimit,
    BodyLimiter,
    ByteBudget,
    CallerRates,
    HeadGuard,
    RateLimiter,
)
from hatespeech.serving.guards.origins import OriginGuard
from hatespeech.serving.guards.paywall import PAYMENT, RECEIPT, TERMS, Paywall
from hatespeech.serving.guards.rate_counts import open_counts
from hatespeech.serving.http_errors import install_error_handlers
from hatespeech.serving.jobs.opening import open_store
from hatespeech.serving.jobs.runner import JobRunner
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.openapi import DESCRIPTION, SUMMARY, TITLE, install_openapi
from hatespeech.serving.payments.shop import Shop, open_shop
from hatespeech.serving.routes.demo import demo_routes
from hatespeech.serving.routes.docs import docs_routes
from hatespeech.serving.routes.files import file_routes
from hatespeech.serving.routes.jobs import endpoint_routes, job_routes
from hatespeech.serving.routes.score import priced_score_routes, score_routes
from hatespeech.serving.routes.service import service_routes
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import SAFE_TOKEN_CHARS, ServerSettings
from hatespeech.version import __version__

log = logging.getLogger(__name__)

CORS_REQUEST_HEADERS: Final = (
    "Access-Control-Expose-Headers",  # clients that pay send it, though it belongs to replies
    "Authorization",
    "Content-Type",
    "Idempotency-Key",
    PAYMENT,
    "X-API-Key",
    "X-Goog-Api-Key",
    "X-Request-ID",
)
CORS_REPLY_HEADERS: Final = (
    "RateLimit-Limit",
    "RateLimit-Policy",
    "RateLimit-Remaining",
    "RateLimit-Reset",
    TERMS,
    RECEIPT,
    "Retry-After",
    "X-Mapping-Version",
    "X-Model-Version",
    "X-Request-ID",
)


def terminate() -> None:
    """End this process as an operator would; server.py turns this into an exit code."""
    os.kill(os.getpid(), signal.SIGTERM)


def create_app(settings: ServerSettings, stop: Callable[[], None] = terminate) -> FastAPI:
    """Build the application. It calls ``stop``, once, if the model fails to load or breaks.

    Opens ``JOBS_DB``. Raises :class:`SettingsError` if it cannot be opened, if the settings do not
    say who may call, or say by half what is sold, or if a proxy's prefix is a path of ours.
    """
    require_guard(settings)
    configure_logs(settings)
    metrics = Metrics(settings)
    storage = settings.rate_limit_storage
    counts = open_counts(None if storage is None else storage.get_secret_value())
    rates = CallerRates(settings, counts)
    grpc_server = None
    if settings.grpc is not None:
        from hatespeech.serving.grpc import GrpcServer

        grpc_server = GrpcServer(settings, metrics, rates)
    priced = [*priced_score_routes(settings)]
    if OpenAI.name in settings.protocols:
        priced += priced_openai_routes(settings)
    shop = open_shop(settings, priced, metrics.registry)
    store = open_store(settings)

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        metrics.recorder.start()
        model = ServedModel(settings, metrics.recorder, stop)
        jobs = JobRunner(store, model, metrics, settings)
        app.state.model, app.state.jobs = model, jobs
        metrics.watch(model, lambda: jobs.unfinished)
        if grpc_server is not None:
            await grpc_server.start(model)
            log.info("answering gRPC on %s", settings.grpc)
        model.start()
        await store.start(jobs)
        jobs.start()
        asyncio.get_running_loop().set_exception_handler(log_unhandled)
        yield
        if grpc_server is not None:
            await grpc_server.drain()
        await jobs.close()
        if shop is not None:
            await shop.close()
        model.close()
        await store.close()
        await counts.close()
        metrics.recorder.close()

    app = FastAPI(
        title=TITLE,
        summary=SUMMARY,
        description=DESCRIPTION,
        version=__version__,
        lifespan=lifespan,
        docs_url=None,  # ours load nothing from other servers
        redoc_url=None,
        openapi_url=None,
        redirect_slashes=False,
        # They hold URLs, and URLs hold texts.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.state.grpc_server = grpc_server
    app.state.rates = rates
    app.state.protocols = served_protocols(settings)
    app.state.shop = shop
    include_routes(app, settings, metrics)
    install_error_handlers(app)
    install_openapi(app, settings, shop)
    add_guards(app, settings, metrics)
    if not settings.tokens:
        log.warning("ALLOW_ANONYMOUS=1: everyone who can reach this server may use it")
    elif any(len(token) < SAFE_TOKEN_CHARS for token in settings.tokens):
        log.warning("BEARER_TOKEN: a token shorter than %d characters is weak", SAFE_TOKEN_CHARS)
    return app


def include_routes(app: FastAPI, settings: ServerSettings, metrics: Metrics) -> None:
    """Add all routes; raise :class:`SettingsError` if a proxy's prefix is one of their paths."""
    jobs_router = job_routes(settings)
    # Documents list the routes in this order.
    app.include_router(score_routes(settings))
    app.include_router(file_routes(settings))
    app.include_router(jobs_router)
    app.include_router(
        endpoint_routes(jobs_router), prefix="/v2/{endpoint_id}", include_in_schema=False
    )
    app.include_router(service_routes(settings, metrics, app.version))
    app.include_router(docs_routes())
    app.include_router(demo_routes(settings))
    for router in protocol_routes(settings, metrics, app.state.rates):
        app.include_router(router)
    app.state.path_templates = path_templates(app)
    require_prefix(settings.root_path, [path for _, path in app.state.path_templates])


def add_guards(app: FastAPI, settings: ServerSettings, metrics: Metrics) -> None:
    """Put the guards around the routes, the innermost first."""
    shop: Shop | None = app.state.shop
    rates: CallerRates = app.state.rates
    if shop is not None:
        app.add_middleware(Paywall, shop=shop, rates=rates)
    app.add_middleware(
        BodyLimiter,
        default=body_limit(settings.max_body_bytes, settings.all_bodies_bytes),
        by_path={"/score/file": body_limit(settings.max_file_bytes, settings.all_files_bytes)},
    )
    app.add_middleware(RateLimiter, rates=rates)
    app.add_middleware(
        TokenGuard,
        tokens=settings.tokens,
        open_paths=OPEN_PATHS.union(
            {"/metrics"} if settings.metrics == "open" else (),
            *(protocol.open_paths for protocol in app.state.protocols),
        ),
        health_port=settings.health_port,
        priced=() if shop is None else shop.routes,
    )
    if settings.origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.origins,
            allow_methods=["GET", "POST"],
            allow_headers=CORS_REQUEST_HEADERS,
            expose_headers=CORS_REPLY_HEADERS,
        )
    app.add_middleware(OriginGuard, origins=settings.origins)
    app.add_middleware(HeadGuard)
    app.add_middleware(Envelope, metrics=metrics)


def require_prefix(root_path: str, paths: Sequence[str]) -> None:
    """Raise :class:`SettingsError` if a proxy's prefix is one of our own paths.

    It would be taken off the path whether the proxy's prefix or the route is meant.
    """
    if root_path and any(f"{path}/".startswith(f"{root_path}/") for path in paths):
        raise SettingsError(
            f"ROOT_PATH={root_path!r} is not allowed: this server has a path of that name"
        )


def log_unhandled(_loop: asyncio.AbstractEventLoop, context: Mapping[str, Any]) -> None:
    """Log in one line what asyncio would print with a traceback, and with what that quotes."""
    exc = context.get("exception")
    reason = "" if exc is None else f": {describe_exception(exc)}"
    # What follows the first line names objects, and with them what they hold.
    log.error("%s%s", context["message"].partition("\n")[0], reason)


def body_limit(largest: int, total: int) -> BodyLimit:
    """Return the limit on one body and on all together."""
    return BodyLimit(largest, ByteBudget(total, largest))


def configure_logs(settings: ServerSettings) -> None:
    """Send the package's log and uvicorn's to one place; silence uvicorn's access log.

    The access log would hold query strings, and with them texts; the envelope logs requests.
    """
    logs.configure(settings, "uvicorn.error", "asyncio")
    access = logging.getLogger("uvicorn.access")
    access.handlers = []
    access.propagate = False
