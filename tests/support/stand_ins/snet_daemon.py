"""Stands in for the SingularityNET daemon (snetd 6.2): its gRPC-to-HTTP passthrough.

A gRPC server that takes any method, as the daemon's does, and treats it by the daemon's rules; the
numbered comments below follow them. It reads the daemon's own configuration file, ``SNET_*``
variables, the published metadata and the published proto.

Without contracts, every call passes as if it had been paid for. With them, the stand-in takes
payment by the rules of :mod:`tests.support.stand_ins.snet_payments`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import functools
import io
import json
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NoReturn, Self
from urllib.parse import SplitResult, urlencode, urlsplit, urlunsplit

import aiohttp
import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from grpc_tools import protoc

from scripts import snetd_config
from tests.paths import ROOT
from tests.support.stand_ins.snet_payments import (
    Contracts,
    Payments,
    RateLimit,
    Refusal,
    price_of,
)

PROTO: Final = ROOT / "service.proto"
METADATA: Final = ROOT / "service_metadata.json"

ERROR_PAGES: Final = (
    "https://dev.singularitynet.io/docs/products/DecentralizedAIPlatform/Daemon/error-codes/#_"
)
SERVICE_UNAVAILABLE: Final = 1
INVALID_PROTO: Final = 3

# What Python's gRPC gives for a call without a deadline: the rest of a 64-bit clock.
NO_DEADLINE_SECONDS: Final = 10**9


class DaemonConfigError(Exception):
    """The daemon would not start with this configuration."""


@dataclass(frozen=True)
class DaemonConfig:
    """What the passthrough takes from the configuration file; every other key is ignored."""

    service_endpoint: str
    service_credentials: list[dict[str, Any]]
    service_timeout: float  # seconds
    max_message_size_in_mb: int
    passthrough_enabled: bool
    organization_id: str
    service_id: str
    daemon_group_name: str
    rate_limit_per_minute: int
    burst_size: int

    @classmethod
    def read(cls, path: Path, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the file and the variables, which win over it.

        Raises :class:`DaemonConfigError` where snetd would not start.
        """
        given = json.loads(path.read_text())
        for old, new in snetd_config.DEPRECATED.items():
            if old in given:
                warnings.warn(f"Config parameter '{old}' is deprecated, use '{new}'", stacklevel=2)
        config = snetd_config.settle(given, environment)
        for refusal in snetd_config.refusals(config):
            raise DaemonConfigError(str(refusal))
        if not config["blockchain_enabled"]:
            raise DaemonConfigError("without a blockchain the service type is grpc: raw frames")
        return cls(
            config["service_endpoint"],
            config["service_credentials"],
            snetd_config.duration(config["service_timeout"]) or 0,
            config["max_message_size_in_mb"],
            config["passthrough_enabled"],
            config.get("organization_id", ""),
            config.get("service_id", ""),
            config["daemon_group_name"],
            config.get("rate_limit_per_minute", 0),  # none
            config.get("burst_size", 10**9),
        )


def run_protoc(path: Path, *options: str) -> None:
    """Run the compiler, which is a library here, on one proto file."""
    if protoc.main(["protoc", f"-I{path.parent}", *options, path.name]):
        raise ValueError(f"{path.name} does not compile")


@functools.cache
def compile_proto(path: Path) -> list[MethodDescriptor]:
    """Compile one proto file, once; return the methods of its services in the file's order."""
    with tempfile.TemporaryDirectory() as folder:
        compiled = Path(folder) / "descriptors"
        run_protoc(path, f"--descriptor_set_out={compiled}", "--include_imports")
        files = descriptor_pb2.FileDescriptorSet.FromString(compiled.read_bytes())
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    descriptor = pool.FindFileByName(path.name)
    return [
        method for service in descriptor.services_by_name.values() for method in service.methods
    ]


class SnetDaemon:
    """The running stand-in; ``address`` is where gRPC clients call it."""

    def __init__(
        self,
        config: Path,
        metadata: Path = METADATA,
        proto: Path = PROTO,
        address: str = "127.0.0.1:0",
        contracts: Contracts | None = None,
    ) -> None:
        self._config = DaemonConfig.read(config)
        published = json.loads(metadata.read_text())
        if (service_type := published["service_type"]) != "http":
            raise DaemonConfigError(f"this stand-in has no passthrough for {service_type!r}")
        self.payments = None if contracts is None else self._open_till(contracts, published)
        self._rate = None
        if per_minute := self._config.rate_limit_per_minute:
            self._rate = RateLimit(per_minute, self._config.burst_size)
        self._methods = compile_proto(proto)
        self._max_bytes = self._config.max_message_size_in_mb * 1024 * 1024
        self._server = grpc.server(
            ThreadPoolExecutor(8),
            handlers=[_AnyMethod(self)],
            options=[("grpc.max_receive_message_length", -1), ("grpc.so_reuseport", 0)],
        )
        port = self._server.add_insecure_port(address)
        self.address = f"{address.rpartition(':')[0]}:{port}"

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.stop(grace=0).wait(10)

    def _open_till(self, contracts: Contracts, published: Mapping[str, Any]) -> Payments:
        organization, service = self._config.organization_id, self._config.service_id
        if not contracts.has_service(organization, service):
            raise DaemonConfigError(f"no service {service!r} of an organization {organization!r}")
        groups = {group["group_name"]: group for group in published["groups"]}
        name = self._config.daemon_group_name
        if name not in groups:
            raise DaemonConfigError(f"no group {name!r} in the service's metadata")
        return Payments(contracts, price_of(groups[name]))

    def answer(
        self, method: str, requests: Iterator[bytes], context: grpc.ServicerContext
    ) -> bytes:
        """Answer one call: how often, who pays, then what."""
        try:
            if self._rate is not None:
                self._rate.count()
            with contextlib.nullcontext() if self.payments is None else self.payments.call(context):
                return self.pass_through(method, self._receive(requests), context)
        except Refusal as refusal:
            fail(context, refusal.code, refusal.reason)

    def _receive(self, requests: Iterator[bytes]) -> bytes:
        """Return a call's message; gRPC's own limit here would end the call before its payment."""
        request = next(requests)
        if len(request) > self._max_bytes:
            reason = (
                f"grpc: received message larger than max ({len(request)} vs. {self._max_bytes})"
            )
            raise Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, reason)
        return request

    def pass_through(
        self, full_method: str, request: bytes, context: grpc.ServicerContext
    ) -> bytes:
        """Answer one call: the daemon's ``grpcToHTTP``."""
        if not self._config.passthrough_enabled:
            return request
        # 1. Only the method's name matters, looked up over all services: the first match wins.
        service, _, name = full_method.strip("/").partition("/")
        if not service or not name or "/" in name:
            fail(
                context, grpc.StatusCode.INTERNAL, f'unexpected grpc method format: "{full_method}"'
            )
        method = next((method for method in self._methods if method.name == name), None)
        if method is None:
            fail(context, grpc.StatusCode.INTERNAL, "protoToJson error: ", INVALID_PROTO)
        # 2. JSON under the proto's own names; fields at zero are left out unless optional and set.
        message = new_message(method, "input")
        try:
            message.ParseFromString(request)
        except DecodeError:
            fail(context, grpc.StatusCode.INTERNAL, "protoToJson error: ", INVALID_PROTO)
        body = json_format.MessageToDict(message, preserving_proto_field_name=True)
        # 3., 4. Where to, and with which credentials.
        url, headers = self._address_request(name, body)
        # 5. The client's deadline counts if there is one, else service_timeout; the HTTP client
        # gives up a second after service_timeout in any case.
        limit = self._config.service_timeout + 1
        remaining = context.time_remaining()
        if remaining is None or remaining > NO_DEADLINE_SECONDS:
            remaining = self._config.service_timeout
        try:
            status, text = asyncio.run(post(url, headers, body, min(remaining, limit)))
        except (aiohttp.ClientError, TimeoutError) as exc:
            reason = f"error executing HTTP service: {type(exc).__name__} {exc}"
            fail(context, grpc.StatusCode.INTERNAL, reason, SERVICE_UNAVAILABLE)
        if not 200 <= status < 300:
            reason = f"upstream http status {status}: {text}"
            fail(context, grpc.StatusCode.UNAVAILABLE, reason, SERVICE_UNAVAILABLE)
        # Unknown fields are dropped, missing ones zero, a wrong type fails the whole call.
        reply = new_message(method, "output")
        try:
            if not isinstance(json.loads(text), dict):
                raise ValueError("unexpected token")
            json_format.Parse(text, reply, ignore_unknown_fields=True)
        except (json_format.ParseError, ValueError) as exc:
            reason = f"jsonToProto error: invalid proto, can't convert json to proto msg: {exc}"
            fail(context, grpc.StatusCode.INTERNAL, reason, INVALID_PROTO)
        return reply.SerializeToString()

    def _address_request(self, name: str, body: dict[str, Any]) -> tuple[str, dict[str, str]]:
        """Return URL and headers, and merge what belongs there into ``body``."""
        base = urlsplit(self._config.service_endpoint)
        headers: dict[str, str] = {}
        query: list[tuple[str, str]] = []
        for credential in self._config.service_credentials:
            key, value = credential["key"], credential.get("value")
            if credential["location"] == "body":
                body[key] = value
            elif isinstance(value, str) and credential["location"] == "header":
                headers[key] = value
            elif isinstance(value, str):
                query.append((key, value))
        headers["content-type"] = "application/json"
        # The endpoint's own query string is dropped.
        path = f"/{'/'.join(filter(None, [*base.path.split('/'), name]))}"
        return urlunsplit(
            SplitResult(base.scheme, base.netloc, path, urlencode(query), "")
        ), headers


class _AnyMethod(grpc.GenericRpcHandler):
    """Hands every method to the daemon, request and reply as bytes."""

    def __init__(self, daemon: SnetDaemon) -> None:
        self._daemon = daemon

    def service(
        self, handler_call_details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes]:
        method = handler_call_details.method

        def handle(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
            return self._daemon.answer(method, requests, context)

        # To the client a stream of one message. The daemon, too, takes payment before it reads.
        return grpc.stream_unary_rpc_method_handler(handle)


def new_message(method: MethodDescriptor, side: str) -> Message:
    """Return an empty message of a method's ``input`` or ``output`` type."""
    descriptor = method.input_type if side == "input" else method.output_type
    message: Message = message_factory.GetMessageClass(descriptor)()
    return message


def fail(
    context: grpc.ServicerContext, code: grpc.StatusCode, reason: str, page: int | None = None
) -> NoReturn:
    """End the call with an error, worded as the daemon words it."""
    hint = "" if page is None else f"\nAbout error & possible fixes: {ERROR_PAGES}{page}"
    context.abort(code, f"{reason}{hint}")
    raise AssertionError("abort always raises")


async def post(
    url: str, headers: dict[str, str], body: dict[str, Any], seconds: float
) -> tuple[int, str]:
    """POST ``body`` as JSON; return status and text. ``seconds`` bound the whole exchange."""
    timeout = aiohttp.ClientTimeout(total=seconds)
    async with (
        aiohttp.ClientSession(timeout=timeout) as session,
        session.post(url, data=io.BytesIO(json.dumps(body).encode()), headers=headers) as response,
    ):
        return response.status, (await response.read()).decode(errors="replace")


def main() -> None:
    """Run until interrupted, where the configuration's ``daemon_endpoint`` says."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.support.stand_ins.snet_daemon",
        description="Stand in for snetd on this machine, without blockchain and payment: take any "
        "gRPC call and pass it to the configuration's service_endpoint, as snetd does.",
    )
    parser.add_argument("config", type=Path, help="what scripts/daemon-config wrote")
    config: Path = parser.parse_args().config
    endpoint = json.loads(config.read_text())["daemon_endpoint"]
    with SnetDaemon(config, address=endpoint) as daemon:
        sys.stderr.write(f"taking gRPC calls on {daemon.address}; Ctrl-C ends it\n")
        with contextlib.suppress(KeyboardInterrupt):
            threading.Event().wait()


if __name__ == "__main__":
    main()
