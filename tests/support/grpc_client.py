"""Calls the service's RPC as any gRPC client does, by messages compiled from service.proto."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import grpc
from google.protobuf import json_format
from google.protobuf.message import Message

from tests.paths import ROOT
from tests.support.http_client import SECONDS, TOKEN
from tests.support.stand_ins.snet_daemon import compile_proto, new_message

METHOD: Final = "/service.runsync/runsync"

Metadata = Sequence[tuple[str, str]]

BEARER: Final[Metadata] = [("authorization", f"Bearer {TOKEN}")]


@dataclass(frozen=True)
class Ended:
    """How a call ended."""

    code: grpc.StatusCode
    line: str  # the details
    metadata: Mapping[str, str]  # trailing
    message: Any = None  # the proto's reply, if the code is OK

    @property
    def name(self) -> str:
        """The code's name."""
        return str(self.code.name)


def question(job_input: Mapping[str, Any] | None) -> Message:
    """Return the proto's request; ``None`` leaves ``input`` out."""
    (method,) = compile_proto(ROOT / "service.proto")
    body = {} if job_input is None else {"input": job_input}
    return json_format.ParseDict(body, new_message(method, "input"))


def answer(raw: bytes) -> Message:
    """Return the proto's reply."""
    (method,) = compile_proto(ROOT / "service.proto")
    message = new_message(method, "output")
    message.ParseFromString(raw)
    return message


class GrpcClient:
    """A client with a connection of its own."""

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        credentials: grpc.ChannelCredentials | None = None,
        options: Sequence[tuple[str, Any]] = (),
    ) -> None:
        every = [
            ("grpc.use_local_subchannel_pool", 1),
            ("grpc.max_send_message_length", -1),
            *options,
        ]
        address = f"{host}:{port}"
        self.channel: Any
        if credentials is None:
            self.channel = grpc.insecure_channel(address, every)
        else:
            self.channel = grpc.secure_channel(address, credentials, every)
        self._call = self.channel.unary_unary(METHOD)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.channel.close()

    def score(
        self, job_input: Mapping[str, Any] | None, metadata: Metadata = BEARER, **options: Any
    ) -> Ended:
        """Call once; ``options`` are grpcio's, such as ``timeout``."""
        return self.send(question(job_input).SerializeToString(), metadata, **options)

    def send(self, raw: bytes, metadata: Metadata = BEARER, **options: Any) -> Ended:
        """Send a request as bytes."""
        return self.result(self.begin(raw, metadata, **options))

    def begin(
        self, request: bytes | Mapping[str, Any], metadata: Metadata = BEARER, **options: Any
    ) -> Any:
        """Begin a call; return grpcio's future."""
        raw = request if isinstance(request, bytes) else question(request).SerializeToString()
        return self._call.future(raw, metadata=metadata, **{"timeout": SECONDS, **options})

    def result(self, call: Any) -> Ended:
        """Wait for a call that was begun."""
        try:
            message = answer(call.result())
        except (grpc.RpcError, grpc.FutureCancelledError):
            message = None
        metadata = {str(key): str(value) for key, value in call.trailing_metadata() or ()}
        return Ended(call.code(), call.details() or "", metadata, message)


@contextlib.contextmanager
def unfinished(
    client: GrpcClient, method: str, count: int, metadata: Metadata = ()
) -> Iterator[list[Any]]:
    """Begin calls whose messages do not come; cancel those that are left at the end."""
    left = threading.Event()

    def nothing() -> Iterator[bytes]:
        left.wait(SECONDS)
        yield from ()

    begin = client.channel.stream_stream(method)
    calls = [begin(nothing(), metadata=metadata, timeout=SECONDS) for _ in range(count)]
    try:
        yield calls
    finally:
        for call in calls:
            call.cancel()
        left.set()
