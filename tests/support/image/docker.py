"""A Docker engine of the check's own: its daemon, its storage, its images and containers.

The daemon makes no network bridge and touches no firewall: builds and containers use this machine's
network.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.support.image.base import BASE, PATH, CommandError, Wheels, fill_base
from tests.support.processes.worker import wait_until

PLACES: Final = ("/usr/sbin", "/usr/bin", "/usr/local/bin")
START_SECONDS: Final = 60.0


class NoDockerError(Exception):
    """There is no Docker engine here; the message says why."""


class Docker:
    """An :class:`~tests.support.image.engine.Engine`: a daemon that runs until ``close``.

    Raises :class:`NoDockerError` if it is not installed, can't build with BuildKit or does not
    start.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "docker"
        self._groups = Path("/sys/fs/cgroup", folder.name)
        self._folder.mkdir()
        self.environment = {
            **os.environ,
            "DOCKER_HOST": f"unix://{self._folder}/socket",
            "DOCKER_CONFIG": str(self._folder / "config"),  # not this user's
            "DOCKER_BUILDKIT": "1",
        }
        daemon = next(_found("dockerd"), None)
        if daemon is None:
            raise NoDockerError("dockerd is not installed; on Debian: apt-get install docker.io")
        self._log = self._folder / "log"
        config = self._folder / "daemon.json"  # not this machine's
        config.write_text("{}")
        self._client = self._choose_client()
        with self._log.open("wb") as log:
            self._daemon = subprocess.Popen(
                [
                    daemon,
                    f"--host={self.environment['DOCKER_HOST']}",
                    f"--data-root={self._folder / 'data'}",
                    f"--exec-root={self._folder / 'exec'}",
                    f"--pidfile={self._folder / 'pid'}",
                    f"--config-file={config}",
                    *("--bridge=none", "--iptables=false", "--ip6tables=false"),
                    # Groups of its own, which can be removed in the end.
                    *("--exec-opt=native.cgroupdriver=cgroupfs", f"--cgroup-parent=/{folder.name}"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        try:
            self._wait_for_daemon()
        except BaseException:
            self.close()
            raise

    def _choose_client(self) -> Path:
        """Return a client that can build with BuildKit: a new one needs a plug-in for it."""
        for client in _found("docker"):
            # It reads no Dockerfile before it has found the plug-in.
            done = subprocess.run(
                [str(client), "build", "--help"],
                env=self.environment,
                capture_output=True,
                check=False,
            )
            if done.returncode == 0:
                return client
        raise NoDockerError("no docker command here builds with BuildKit")

    def _wait_for_daemon(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self("version")
            except CommandError as exc:
                ended = self._daemon.poll() is not None
                if ended or time.monotonic() > deadline:
                    lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines()
                    why = lines[-1][-300:] if lines else "it said nothing"
                    raise NoDockerError(f"dockerd does not start: {why}") from exc
                time.sleep(0.1)
            else:
                return

    def command(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        """Run a docker command, whatever comes of it."""
        return subprocess.run(
            [self._client, *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def __call__(self, *arguments: str | Path) -> str:
        """Run a docker command; return its output, or raise :class:`CommandError`."""
        done = self.command(*arguments)
        if done.returncode != 0:
            words = f"{done.stdout}\n{done.stderr}".strip()[-3000:]
            shown = " ".join(map(str, arguments))[:200]
            raise CommandError(f"docker {shown}: {done.returncode}\n{words}")
        return done.stdout.rstrip("\n")

    def make_base(self, wheels: Wheels) -> None:
        """Build the image ``BASE``."""
        root = self._folder / "base"
        root.mkdir()
        fill_base(root, wheels)
        archive = ["tar", "--directory", str(root), "--create", "--file=-", "."]
        with subprocess.Popen(archive, stdout=subprocess.PIPE) as packing:
            done = subprocess.run(
                [self._client, "import", f"--change=ENV PATH={PATH}", "-", BASE],
                env=self.environment,
                stdin=packing.stdout,
                capture_output=True,
                text=True,
                check=False,
            )
        if done.returncode or packing.returncode:
            raise CommandError(f"docker import: {done.stderr}")
        shutil.rmtree(root)

    def build(
        self,
        context: Path,
        name: str,
        build_arguments: Mapping[str, str],
        target: str | None = None,
    ) -> None:
        """Build ``context``'s Dockerfile, reusing layers, up to a stage or to the end."""
        self(
            *("build", "--network=host", "--progress=plain"),
            *(f"--build-arg={key}={value}" for key, value in build_arguments.items()),
            *([f"--target={target}"] if target else []),
            f"--tag={name}",
            context,
        )

    def config(self, image: str) -> dict[str, Any]:
        """Return an image's configuration: ``User``, ``Env``, ``Entrypoint`` and so on."""
        return dict(json.loads(self("image", "inspect", image))[0]["Config"])

    def layers(self, image: str, folder: Path) -> list[Path]:
        """Write an image's layers as tar files; return them from the base up."""
        folder.mkdir()
        saved = folder / "image.tar"
        self("save", f"--output={saved}", image)
        with tarfile.open(saved) as archive:
            archive.extractall(folder, filter="data")
        saved.unlink()
        (manifest,) = json.loads((folder / "manifest.json").read_text())
        return [folder / layer for layer in manifest["Layers"]]

    def copy_out(self, image: str, path: str, destination: Path) -> None:
        """Copy a folder of an image to this machine."""
        container = self("create", image)
        self("cp", f"{container}:{path}", destination)
        self("rm", container)

    def start(
        self,
        image: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[Path, str] | None = None,
        options: Sequence[str] = (),
    ) -> DockerContainer:
        """Start a container on this machine's network; ``options`` are those of ``docker run``."""
        started = time.monotonic()
        identity = self(
            *("run", "--detach", "--network=host"),
            *(f"--env={name}={value}" for name, value in (environment or {}).items()),
            *(f"--volume={source}:{target}" for source, target in (mounts or {}).items()),
            *options,
            image,
            *arguments,
        )
        return DockerContainer(self, identity, started)

    def close(self) -> None:
        """Stop the daemon; remove its containers, images and storage."""
        for container in self.command("ps", "--all", "--quiet").stdout.split():
            self.command("rm", "--force", "--volumes", container)
        self._daemon.terminate()
        try:
            self._daemon.wait(30)
        except subprocess.TimeoutExpired:
            self._daemon.kill()
            self._daemon.wait(30)
        # It keeps its folder mounted on itself.
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            place = line.split(" ")[1]
            if place.startswith(f"{self._folder}/"):
                subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)
        # A kernel has one hierarchy of groups, or one a resource. Groups within one go first.
        for top in (self._groups, *Path("/sys/fs/cgroup").glob(f"*/{self._groups.name}")):
            for group in sorted((top, *top.rglob("*/")), reverse=True):
                with contextlib.suppress(OSError):
                    group.rmdir()
        shutil.rmtree(self._folder, ignore_errors=True)


class DockerContainer:
    """A :class:`~tests.support.image.engine.Container` of a Docker engine."""

    def __init__(self, docker: Docker, identity: str, started: float) -> None:
        self.started, self.identity, self._docker = started, identity, docker

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._docker.command("rm", "--force", "--volumes", self.identity)

    @property
    def stdout(self) -> str:
        """What it has written to standard output so far."""
        return self._docker.command("logs", self.identity).stdout

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        return self._docker.command("logs", self.identity).stderr

    def state(self) -> dict[str, Any]:
        """Return what the engine knows: ``Running``, ``ExitCode``, ``Pid``, ``Health``."""
        return dict(json.loads(self._docker("inspect", self.identity))[0]["State"])

    def wait(self, seconds: float = 120.0) -> int:
        """Return its exit code; raise :class:`AssertionError` if it does not end in time."""
        try:
            wait_until(lambda: not self.state()["Running"], "an end", seconds=seconds)
        except TimeoutError:
            raise AssertionError(f"still running after {seconds:g} s\n{self.stderr}") from None
        return int(self.state()["ExitCode"])

    def require_running(self) -> None:
        """Raise :class:`AssertionError` with its last words if it has ended."""
        state = self.state()
        code = state["ExitCode"]
        words = f"{self.stdout[-2000:]}\n{self.stderr[-4000:]}" if not state["Running"] else ""
        assert state["Running"], f"ended with {code}\n{words}"

    def terminate(self) -> None:
        """Send SIGTERM to process 1, as ``docker stop`` does."""
        self._docker("kill", "--signal=TERM", self.identity)

    def stop(self, seconds: int) -> float:
        """Stop it as users do, with so much time; return the seconds that it took."""
        began = time.monotonic()
        self._docker("stop", f"--time={seconds}", self.identity)
        return time.monotonic() - began

    def user_ids(self) -> tuple[int, int]:
        """Return user and group of process 1."""
        status = Path(f"/proc/{self.state()['Pid']}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return int(fields["Uid"].split()[0]), int(fields["Gid"].split()[0])

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command inside, with the container's environment."""
        return self._docker.command("exec", self.identity, *command)


def _found(program: str) -> Iterator[Path]:
    """Yield the program's places: Debian's first, since its client fits its daemon."""
    for place in dict.fromkeys((*PLACES, *os.environ.get("PATH", "").split(":"))):
        path = Path(place, program)
        if place and os.access(path, os.X_OK):
            yield path
