"""Runs the published clients of other services, each in an environment of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from tests.support.cached_tools import node_tool, python_of

SECONDS: Final = 240  # more than any of these scripts takes on a busy machine
# LiteLLM asks the internet for prices when it is imported.
OFFLINE: Final = {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def run_python(requirement: str, script: str, **given: Any) -> Any:
    """Run a script in an environment that holds ``name==version``; return what it prints as JSON.

    ``given`` are the script's global names. Skips the test if the client can't be installed.
    """
    names = f"import json\nglobals().update(json.loads({json.dumps(json.dumps(given))}))\n"
    return json.loads(run_script(requirement, names + script))


def run_node(package: str, script: str, **given: Any) -> Any:
    """Run a script beside ``name@version``; return what it prints as JSON.

    ``given`` is the script's object ``given``. Skips the test if the client can't be installed.
    """
    text = f"const given = {json.dumps(given)};\n(async () => {{\n{script}\n}})();"
    return json.loads(run_script(package, text))


def run_script(
    client: str | tuple[str, ...], text: str, environment: Mapping[str, str] | None = None
) -> str:
    """Run a script beside a client: ``name==version`` of PyPI, or of npm one or more
    ``name@version``.

    Returns what it prints; raises :class:`AssertionError` if it fails.
    """
    added = {**OFFLINE, **(environment or {})}
    if isinstance(client, str) and "==" in client:
        python = _installed(lambda: python_of(client), client)
        command = [str(python), "-W", "ignore", "-c", text]
    else:
        if shutil.which("node") is None or shutil.which("npm") is None:
            pytest.skip("node and npm are not installed")
        packages = (client,) if isinstance(client, str) else client
        modules = _installed(lambda: node_tool(*packages), packages[0])
        added["NODE_PATH"] = str(modules)
        command = ["node", "-e", text]
    ran = subprocess.run(
        command, env={**os.environ, **added}, capture_output=True, text=True, timeout=SECONDS
    )
    assert ran.returncode == 0, ran.stdout[-2000:] + ran.stderr[-2000:]
    return ran.stdout


def _installed(install: Callable[[], Path], name: str) -> Path:
    try:
        return install()
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as exc:
        pytest.skip(f"{name} can't be installed here: {str(exc).splitlines()[0][:200]}")
