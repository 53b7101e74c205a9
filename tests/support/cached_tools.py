"""Programs from the registries that tests run and that this project does not depend on.

Each lies in a folder of its own in the user's cache, and is installed there once.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

CACHE: Final = (
    Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hate-speech-detection-tests"
)
INSTALL_SECONDS: Final = 540
SNET_CLI: Final = "snet-cli==3.1.1"
SNET_SDK: Final = "snet-sdk==6.0.0"


def python_tool(requirement: str) -> Path:
    """Return the folder of a virtual environment that holds ``name==version``."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    folder = CACHE / f"{requirement.replace('==', '-')}-py{version}"

    def install() -> None:
        run(sys.executable, "-m", "venv", str(folder))
        run(str(folder / "bin" / "pip"), "install", "--quiet", "--no-compile", requirement)

    return installed(folder, install)


def python_of(requirement: str) -> Path:
    """Return the Python of the virtual environment that holds ``name==version``."""
    return python_tool(requirement) / "bin" / "python"


def node_tool(*requirements: str) -> Path:
    """Return the folder ``node_modules`` that holds each ``name@version``."""
    names = [
        requirement.strip("@").replace("/", "-").replace("@", "-") for requirement in requirements
    ]
    folder = CACHE / "_".join(names)

    def install() -> None:
        folder.mkdir(parents=True)
        options = ("--no-audit", "--no-fund", "--ignore-scripts")
        run("npm", "install", *options, "--prefix", str(folder), *requirements)

    return installed(folder, install) / "node_modules"


def site_packages(environment: Path) -> Path:
    """Return the folder of a virtual environment that packages are installed in."""
    (found,) = environment.glob("lib/python*/site-packages")
    return found


def installed(folder: Path, install: Callable[[], None]) -> Path:
    """Return a folder that an installation filled to its end, now or before."""
    complete = folder / "complete"
    CACHE.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another process may be installing it
        if not complete.exists():
            shutil.rmtree(folder, ignore_errors=True)
            install()
            complete.touch()
    return folder


def run(*command: str) -> None:
    """Run a command; raise ``RuntimeError`` with its output if it fails."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL_SECONDS)
    if ran.returncode:
        raise RuntimeError(f"{command[0]} failed: {ran.stdout}{ran.stderr}")
