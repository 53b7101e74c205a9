"""Runs the published clients of other services, each in an environment of its own."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.cached_tools import node_tool, python_of

SECONDS: Final = 60  # more than any of these scripts takes on a busy machine


def run_python(requirement: str, script: str, **given: Any) -> Any:
    """Run a script in an environment that holds ``name==version``; return what it prints as JSON.

    ``given`` are the script's global names. Skips the test if the client can't be installed.
    """
    python = _installed(lambda: python_of(requirement), requirement)
    text = f"import json\nglobals().update(json.loads({json.dumps(json.dumps(given))}))\n{script}"
    return _run([str(python), "-W", "ignore", "-c", text])


def run_node(package: str, script: str, **given: Any) -> Any:
    """Run a script beside ``name@version``; return what it prints as JSON.

    ``given`` is the script's object ``given``; ``require`` finds the package.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    modules = _installed(lambda: node_tool(package), package)
    text = (
        "const { createRequire } = require('node:module');\n"
        f"const load = createRequire({json.dumps(str(modules) + '/')});\n"
        f"const given = {json.dumps(given)};\n"
        f"(async (require) => {{\n{script}\n}})(load);"
    )
    return _run(["node", "-e", text])


def _installed(install: Callable[[], Path], name: str) -> Path:
    try:
        return install()
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as exc:
        pytest.skip(f"{name} can't be installed here: {str(exc).splitlines()[0][:200]}")


def _run(command: list[str]) -> Any:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return json.loads(ran.stdout)
