"""The shipped ``compose.yaml``, brought up by a real Compose in the check's own engine."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import requests

from tests.support.image.docker import Docker
from tests.support.ports import free_port
from tests.support.processes.worker import wait_until

PROJECT: Final = "check-image"
TOKEN: Final = "token-of-the-check-0123456789"


class Compose:
    """Compose for one project folder; jobs survive ``down``, but not :meth:`close`."""

    def __init__(self, docker: Docker, context: Path, image: str) -> None:
        self._docker, self._context = docker, context
        self.port = free_port()
        self._environment = {
            **docker.environment,
            "COMPOSE_PROJECT_NAME": PROJECT,
            "IMAGE": image,
            "PORT": str(self.port),
        }

    def run(
        self, *arguments: str, environment: Mapping[str, str]
    ) -> subprocess.CompletedProcess[str]:
        """Run Compose, whatever comes of it."""
        return subprocess.run(
            ["docker-compose", *arguments],
            cwd=self._context,
            env={**self._environment, **environment},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def __call__(self, *arguments: str) -> str:
        """Run Compose with a token; raise :class:`AssertionError` if it fails."""
        done = self.run(*arguments, environment={"BEARER_TOKEN": TOKEN})
        assert done.returncode == 0, f"{arguments}: {done.stdout}{done.stderr}"
        return done.stdout.strip()

    def up(self) -> str:
        """Bring it up; return the container once it is healthy."""
        self("up", "--detach", "--no-build")
        container = self("ps", "--quiet", "server")

        def healthy() -> bool:
            state = json.loads(self._docker("inspect", container))[0]["State"]
            assert state["Running"], self("logs")
            return bool(state["Health"]["Status"] == "healthy")

        wait_until(healthy, "a healthy server")
        return container

    def ask(
        self, method: str, path: str, body: object = None, files: Mapping[str, Any] | None = None
    ) -> requests.Response:
        """Ask the server, through the port that Compose published."""
        return requests.request(
            method,
            f"http://127.0.0.1:{self.port}{path}",
            json=body,
            files=files,
            headers={"Authorization": f"Bearer {TOKEN}"},
            timeout=60,
        )

    def close(self) -> None:
        """Remove its containers, network and volume."""
        self("down", "--volumes")


def check_compose(docker: Docker, context: Path, image: str) -> str:
    """Without a token it refuses; with one it serves, and jobs outlive the container."""
    if shutil.which("docker-compose") is None:
        return "not run: there is no docker-compose; on Debian: apt-get install docker-compose"
    compose = Compose(docker, context, image)
    refused = compose.run("up", "--detach", "--no-build", environment={"BEARER_TOKEN": ""})
    assert refused.returncode != 0
    assert "BEARER_TOKEN" in refused.stderr, refused.stderr
    try:
        container = compose.up()
        host = json.loads(docker("inspect", container))[0]["HostConfig"]
        assert host["ReadonlyRootfs"], host
        assert host["CapDrop"] == ["ALL"], host
        assert compose.ask("GET", "/demo").status_code == 200
        upload = {"file": ("a.csv", b"text\ngood morning\n")}  # which goes through /tmp
        assert compose.ask("POST", "/score/file", files=upload).status_code == 200
        job = compose.ask("POST", "/run", {"input": {"prompt": "good morning"}}).json()["id"]
        compose("down")
        compose.up()
        done = compose.ask("GET", f"/status/{job}").json()
        assert done["status"] in ("COMPLETED", "IN_QUEUE", "IN_PROGRESS"), done
    finally:
        compose.close()
    return "refused without a token; up, healthy, and its job still there after down and up"
