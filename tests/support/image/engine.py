"""What the checks ask of a container engine, whichever it is."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from tests.support.image.base import Wheels


class Container(Protocol):
    """A running container; leaving the ``with`` block kills what is left of it."""

    started: float  # by time.monotonic

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...

    @property
    def stdout(self) -> str:
        """What it has written to standard output so far."""

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""

    def wait(self, seconds: float = 120.0) -> int:
        """Return its exit code; raise :class:`AssertionError` if it does not end in time."""

    def require_running(self) -> None:
        """Raise :class:`AssertionError` with its last words if it has ended."""

    def terminate(self) -> None:
        """Send SIGTERM to process 1, as ``docker stop`` does."""

    def user_ids(self) -> tuple[int, int]:
        """Return user and group of process 1."""

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command inside, with the container's environment, as ``docker exec`` does."""


class Engine(Protocol):
    """Builds images in a storage of its own, and runs them; ``close`` removes all of it."""

    def make_base(self, wheels: Wheels) -> None:
        """Build the image ``BASE``."""

    def build(
        self,
        context: Path,
        name: str,
        build_arguments: Mapping[str, str],
        target: str | None = None,
    ) -> None:
        """Build ``context``'s Dockerfile, reusing layers, up to a stage or to the end."""

    def config(self, image: str) -> dict[str, Any]:
        """Return an image's configuration: ``User``, ``Env``, ``Entrypoint`` and so on."""

    def layers(self, image: str, folder: Path) -> list[Path]:
        """Write an image's layers as tar files; return them from the base up."""

    def copy_out(self, image: str, path: str, destination: Path) -> None:
        """Copy a folder of an image to this machine."""

    def start(
        self,
        image: str,
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[Path, str] | None = None,
    ) -> Container:
        """Start a container on this machine's network."""

    def close(self) -> None:
        """Remove containers, images and the storage itself."""
