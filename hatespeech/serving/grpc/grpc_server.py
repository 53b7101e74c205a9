"""The gRPC server: port, TLS, limits of a connection, health, reflection, start and stop."""

import asyncio
import ssl
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2

from hatespeech.errors import SettingsError
from hatespeech.serving.grpc.calls import CallHandler
from hatespeech.serving.grpc.messages import METHOD, POOL, SERVICE
from hatespeech.serving.grpc.room import ArrivingMessages, OtherCalls, largest_message
from hatespeech.serving.guards.auth import Tokens
from hatespeech.serving.guards.connection import MAX_GRPC_CONNECTIONS
from hatespeech.serving.guards.limits import CallerRates
from hatespeech.serving.metrics import Metrics
from hatespeech.serving.served_model import ServedModel
from hatespeech.serving.settings import SHUTDOWN_SECONDS, ServerSettings

MAX_CALLS: Final = 2048  # at the same time, over all connections
LAME_DUCK_SECONDS: Final = 1.0  # calls are refused by us, one by one, before gRPC refuses them
OPTIONS: Final = [
    ("grpc.so_reuseport", 0),  # with it, a second server on the port would take half of the calls
    ("grpc.max_concurrent_streams", 128),  # of a connection
    # Of a message that is not read yet, 64 KiB come in. With the probe it would be all of it.
    ("grpc.http2.bdp_probe", 0),
    ("grpc.max_allowed_incoming_connections", MAX_GRPC_CONNECTIONS),
    ("grpc.server_handshake_timeout_ms", 15_000),
    # Then a client is told to connect again, and a silent one makes room. Calls that run, such as
    # Watch, have the grace. (A limit on idle time would fail a call that comes just then.)
    ("grpc.max_connection_age_ms", 60_000),
    ("grpc.max_connection_age_grace_ms", 600_000),
    ("grpc.keepalive_time_ms", 60_000),  # our pings, which find clients that are gone
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),  # a client with more is cut off
]


class GrpcServer:
    """Serves the proto once started; calls are UNAVAILABLE until the model is ready."""

    def __init__(self, settings: ServerSettings, metrics: Metrics, rates: CallerRates) -> None:
        self._address = str(settings.grpc)
        self._credentials = read_credentials(settings.grpc_tls_cert, settings.grpc_tls_key)
        largest = largest_message(settings)
        self._options = [*OPTIONS, ("grpc.max_receive_message_length", largest)]
        arriving = ArrivingMessages(settings.all_bodies_bytes, largest)
        self._calls = CallHandler(Tokens(settings.tokens), rates, metrics, arriving)
        self._stopping: asyncio.Task[None] | None = None

    async def start(self, model: ServedModel) -> None:
        """Bind the port and serve; raise :class:`RuntimeError` if the port is not free."""
        self._calls.model = model
        self._server = grpc.aio.server(
            interceptors=[OtherCalls(f"/{SERVICE.full_name}/{METHOD.name}")],
            options=self._options,
            maximum_concurrent_rpcs=MAX_CALLS,
        )
        if self._credentials is None:
            self._server.add_insecure_port(self._address)
        else:
            self._server.add_secure_port(self._address, self._credentials)
        # On the wire, a stream of one message is the same as a message; here it means that the
        # handler runs, and knows the caller, before a message is read.
        handler: Any = grpc.stream_unary_rpc_method_handler(self._calls.answer)
        self._server.add_registered_method_handlers(SERVICE.full_name, {METHOD.name: handler})
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        for known in (health_pb2, reflection_pb2):
            POOL.AddSerializedFile(known.DESCRIPTOR.serialized_pb)
        names = (SERVICE.full_name, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, self._server, POOL)
        self._watching = asyncio.create_task(self._tell_health(model))
        await self._server.start()

    def drain(self) -> asyncio.Task[None]:
        """Refuse new calls, give those in flight as long as requests over HTTP; return the task."""
        self._stopping = self._stopping or asyncio.create_task(self._stop())
        return self._stopping

    async def _stop(self) -> None:
        await self._health.enter_graceful_shutdown()
        self._calls.stopping = True
        await asyncio.sleep(LAME_DUCK_SECONDS)  # gRPC cancels calls that it has not handed over yet
        if self._calls.running:
            await asyncio.wait(self._calls.running, timeout=SHUTDOWN_SECONDS)
        await self._server.stop(None)  # what is left: late calls, streams of Watch and reflection

    async def _tell_health(self, model: ServedModel) -> None:
        states = health_pb2.HealthCheckResponse
        for change in (model.settled, model.broken, asyncio.Event()):
            status = states.SERVING if model.state == "ready" else states.NOT_SERVING
            await self._health.set("", status)
            await self._health.set(SERVICE.full_name, status)
            await change.wait()


def read_credentials(certificate: Path | None, key: Path | None) -> grpc.ServerCredentials | None:
    """Return what TLS needs, ``None`` without it; raise :class:`SettingsError` for bad files."""
    if certificate is None and key is None:
        return None
    files = (certificate or Path("unset"), key or Path("unset"))
    try:
        # gRPC would only fail to listen. Without a password given here, OpenSSL would ask for one.
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(*files, password=lambda: b"")
        return grpc.ssl_server_credentials([(files[1].read_bytes(), files[0].read_bytes())])
    except OSError as exc:
        names = "GRPC_TLS_CERT={} and GRPC_TLS_KEY={}".format(*files)
        raise SettingsError(f"{names} are not a certificate and its key: {exc.strerror}") from None
