"""A server that answers gRPC beside HTTP, in a thread of this process, and a client of each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest

from hatespeech.serving.grpc import grpc_server
from tests.support.grpc_client import GrpcClient
from tests.support.local_server import LocalServer, local_server
from tests.support.ports import free_port

MAX_BODY: Final = 3_000_000


@dataclass(frozen=True)
class Both:
    """The two fronts of one server."""

    http: LocalServer
    grpc: GrpcClient
    port: int  # gRPC's


@pytest.fixture(scope="package", autouse=True)
def brief() -> Iterator[None]:
    """Have the servers of this process end a second sooner."""
    with patch.object(grpc_server, "LAME_DUCK_SECONDS", 0.05):
        yield


@pytest.fixture(scope="package")
def both(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    port = free_port()
    environment = {
        "GRPC": f"127.0.0.1:{port}",
        "MAX_BODY_BYTES": str(MAX_BODY),
        "LOG_LEVEL": "DEBUG",
        "LOG_FORMAT": "json",
    }
    folder = tmp_path_factory.mktemp("grpc")
    with local_server(folder, small_checkpoint, environment) as http, GrpcClient(port) as client:
        yield Both(http.ready(), client, port)
