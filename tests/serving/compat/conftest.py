"""The server that the tests of other services' protocols share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.local_server import LocalServer, local_server


@pytest.fixture(scope="package")
def server(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LocalServer]:
    environment = {"CORS_ORIGINS": "*", "MAX_WINDOWS": "1024"}
    with local_server(tmp_path_factory.mktemp("compat"), small_checkpoint, environment) as server:
        yield server.ready()
