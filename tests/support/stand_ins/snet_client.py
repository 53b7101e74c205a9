"""What tests of the SingularityNET front need besides the daemon: clients and configurations."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from unittest.mock import patch

from scripts import daemon_config
from tests.support.stand_ins.snet_daemon import run_protoc


def generate_client(proto: Path, folder: Path) -> None:
    """Write the client modules that protoc generates for ``proto`` into ``folder``."""
    run_protoc(proto, f"--python_out={folder}", f"--grpc_python_out={folder}")


def write_config(folder: Path, *arguments: str, **secrets: str) -> Path:
    """Have ``scripts/daemon-config`` write a configuration into ``folder``; return its path."""
    path = folder / "snetd.local.json"
    given = ["--organization", "test-org", "--service", "test-service", *arguments]
    with patch.dict(os.environ, secrets), contextlib.redirect_stdout(io.StringIO()):
        assert daemon_config.main([*given, "--output", str(path)]) == 0
    return path
