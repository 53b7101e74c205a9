"""What tests of the SingularityNET front need besides the daemon: clients and configurations."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT


def generate_client(proto: Path, folder: Path) -> None:
    """Write the client modules that protoc generates for ``proto`` into ``folder``."""
    subprocess.run(
        [
            *(sys.executable, "-m", "grpc_tools.protoc", f"-I{proto.parent}"),
            *(f"--python_out={folder}", f"--grpc_python_out={folder}", proto.name),
        ],
        check=True,
        timeout=60,
    )


def write_config(folder: Path, *arguments: str, **secrets: str) -> Path:
    """Have ``scripts/daemon-config`` write a configuration into ``folder``; return its path."""
    path = folder / "snetd.local.json"
    subprocess.run(
        [
            *(sys.executable, "-B", str(ROOT / "scripts" / "daemon-config"), *arguments),
            *("--organization", "test-org", "--service", "test-service", "--output", str(path)),
        ],
        check=True,
        timeout=60,
        stdout=subprocess.DEVNULL,
        env=os.environ | secrets,
    )
    return path
