"""What operators do to a container, with a real engine: ``docker run``'s options, and ``stop``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import requests

from tests.support.image.docker import Docker, DockerContainer
from tests.support.ports import free_port
from tests.support.processes.worker import wait_until
from tests.support.services.postgres import find_programs, postgres
from tests.support.small_disk import small_disk

LOCKED_DOWN: Final = (
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges:true",
    "--user=4321:4321",
)
TOKEN: Final = "token-of-the-check-0123456789"
HEADERS: Final = {"Authorization": f"Bearer {TOKEN}"}
DISK_BYTES: Final = 8_000_000
CALLERS: Final = 8
TEXTS_EACH: Final = 48
LONG_TEXT: Final = "good morning everyone on this fine day " * 12


class Server:
    """A container that serves HTTP on this machine's network."""

    def __init__(self, container: DockerContainer, port: int) -> None:
        self.container, self.url = container, f"http://127.0.0.1:{port}"

    def post(self, path: str, body: object) -> requests.Response:
        """POST JSON."""
        return requests.post(self.url + path, json=body, headers=HEADERS, timeout=60)

    def metric(self, name: str) -> float:
        """Return the value of a metric without labels."""
        text = requests.get(f"{self.url}/metrics", headers=HEADERS, timeout=60).text
        (value,) = re.findall(rf"^hate_speech_{name} (\S+)$", text, re.MULTILINE)
        return float(value)

    def score(self) -> None:
        """Score a text."""
        reply = self.post("/score", {"text": "good morning"})
        assert reply.status_code == 200, reply.text
        assert reply.json()["text"] == "good morning"


class Hardening:
    """Starts containers of an image in an engine."""

    def __init__(self, docker: Docker, image: str, folder: Path) -> None:
        self._docker, self._image, self._folder = docker, image, folder

    def serve(self, *options: str, **environment: str) -> Server:
        """Start a server; return once the engine has found it healthy."""
        port = free_port()
        container = self._docker.start(
            self._image,
            "server",
            environment={"PORT": str(port), "BEARER_TOKEN": TOKEN, **environment},
            options=["--health-interval=500ms", *options],
        )
        try:
            wait_until(
                lambda: container.state()["Health"]["Status"] == "healthy",
                "a healthy server",
                watch=container.require_running,
            )
        except BaseException:
            container.__exit__(None, None, None)
            raise
        return Server(container, port)

    def locked_down(self) -> str:
        """Nothing can be written, no capability is left, and the user is not the image's."""
        with self._docker.start(self._image, options=LOCKED_DOWN) as worker:
            assert worker.wait() == 0, worker.stderr
            assert "label" in json.loads(worker.stdout)
        server = self.serve(*LOCKED_DOWN, "--tmpfs=/tmp", JOBS_DB="/tmp/jobs.sqlite3")
        with server.container:
            server.score()
            upload = {"file": ("a.csv", b"text\ngood morning\n")}  # which goes through /tmp
            reply = requests.post(
                f"{server.url}/score/file", files=upload, headers=HEADERS, timeout=60
            )
            assert reply.status_code == 200, reply.text
        return "scored as another user, without a file to write"

    def little_memory(self) -> str:
        """The last line says what is wrong."""
        last = ""
        for arguments in ([], ["server"]):
            options = ["--memory=100m", f"--env=BEARER_TOKEN={TOKEN}"]
            with self._docker.start(self._image, *arguments, options=options) as container:
                assert container.wait() == 1, container.stderr
                last = container.stderr.splitlines()[-1]
                assert last.startswith("error: this container may use 104 MB of memory"), last
        return last.removeprefix("error: ")

    def no_jobs_file(self) -> str:
        """A jobs file that can't be written ends the server, with its name."""
        options = (*LOCKED_DOWN, f"--env=BEARER_TOKEN={TOKEN}")
        with self._docker.start(self._image, "server", options=options) as container:
            assert container.wait() == 1, container.stderr
            last = container.stderr.splitlines()[-1]
            assert last.startswith("error: JOBS_DB"), last
        return last.removeprefix("error: ")

    def stop_under_load(self) -> str:
        """``docker stop`` lets the server answer what it has taken, and it ends by itself."""
        server = self.serve()
        with server.container, ThreadPoolExecutor(CALLERS) as callers:
            body = {"texts": [LONG_TEXT] * TEXTS_EACH}
            began = server.metric("texts_total")
            replies = [callers.submit(server.post, "/score", body) for _ in range(CALLERS)]
            wait_until(
                lambda: server.metric("texts_total") - began >= CALLERS * TEXTS_EACH,
                "all texts accepted",
                watch=server.container.require_running,
            )
            open_texts = server.metric("queue_texts")
            seconds = server.container.stop(90)
            assert server.container.wait() == 0, server.container.stderr
            for reply in replies:
                assert reply.result().status_code == 200, reply.result().text
                assert len(reply.result().json()["items"]) == TEXTS_EACH
        return (
            f"{CALLERS} requests answered, {open_texts:.0f} of their {CALLERS * TEXTS_EACH} texts "
            f"after SIGTERM; ended after {seconds:.1f} s"
        )

    def full_volume(self) -> str:
        """A full volume refuses jobs and nothing else; room on it heals that."""
        user = int(self._docker.config(self._image)["User"].partition(":")[0])
        with small_disk(self._folder / "volume", DISK_BYTES, user) as disk:
            server = self.serve(f"--volume={disk}:/home/worker")
            with server.container:
                other = disk / "other"
                with other.open("wb", buffering=0) as file:
                    fill(lambda: file.write(bytes(100_000)))
                refused = server.post("/run", {"input": {"prompt": "good morning"}})
                assert refused.status_code == 503, refused.text
                server.score()
                other.unlink()
                accepted = server.post("/run", {"input": {"prompt": "good morning"}})
                assert accepted.status_code == 200, accepted.text
                assert server.container.stop(30) < 30
                assert server.container.wait() == 0, server.container.stderr
        return f"{refused.json()['error']}"

    def postgres(self) -> str:
        """Jobs go through PostgreSQL, with what EXTRAS brought."""
        if find_programs() is None:
            return "not run: PostgreSQL is not installed"
        with postgres() as database:
            server = self.serve(JOBS_DB=database.create("jobs"))
            with server.container:
                job = server.post("/runsync", {"input": {"prompt": "good morning"}}).json()
                assert job["status"] == "COMPLETED", job
        return "a job answered"


def fill(write: Callable[[], object]) -> None:
    """Write until there is no room."""
    while True:
        try:
            write()
        except OSError:
            return


def checks(hardening: Hardening) -> Sequence[tuple[str, Callable[[], str]]]:
    """Return the checks and their names."""
    return (
        ("locked down", hardening.locked_down),
        ("too little memory", hardening.little_memory),
        ("no place for jobs", hardening.no_jobs_file),
        ("docker stop under load", hardening.stop_under_load),
        ("full volume", hardening.full_volume),
        ("PostgreSQL", hardening.postgres),
    )
