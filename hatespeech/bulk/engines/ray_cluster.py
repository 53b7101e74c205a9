"""The connection to Ray: an existing cluster, or a Ray that is started and ended with the run."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import ray

from hatespeech.bulk.engines.base import EngineError
from hatespeech.cli import restored_signals
from hatespeech.errors import describe_exception
from hatespeech.paths import PACKAGE
from hatespeech.settings import EngineSettings

CONNECT_SECONDS: Final = 10
OBJECT_STORE_BYTES: Final = 512 * 1024 * 1024  # a part takes at most 16 MB, usually half a MB
# A socket's path has at most 107 bytes, of which Ray needs 70.
LONGEST_FOLDER: Final = 30


@dataclass(frozen=True)
class Actors:
    """How many actors score, and what each gets."""

    count: int
    cpus: int  # for each; also its number of threads
    gpus: float  # for each


class Cluster:
    """A connection to Ray. Raises :class:`EngineError` if it can't be made."""

    def __init__(self, address: str | None) -> None:
        self._folder: Path | None = None
        self._closed = False
        options: dict[str, Any] = {"logging_level": logging.CRITICAL, "log_to_driver": False}
        if address:
            if address != "auto":
                require_reachable(address)
            # The cluster's machines have the libraries, but not this package.
            options |= {"address": address, "runtime_env": {"py_modules": [str(PACKAGE)]}}
        else:
            self._folder = Path(tempfile.mkdtemp(prefix="ray-", dir=_short_folder()))
            options |= {
                "address": "local",
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE_BYTES,
                "_temp_dir": str(self._folder),
            }
        try:
            with restored_signals(signal.SIGTERM), _stderr_closed():
                ray.init(**options)
        except BaseException as exc:
            self.close()
            if isinstance(exc, SystemExit):  # Ray turns SIGTERM into this
                raise KeyboardInterrupt from None
            if isinstance(exc, ConnectionError):
                raise EngineError(
                    f"--address {address}: no Ray cluster answers there; if it requires a token, "
                    "set RAY_AUTH_MODE=token"
                ) from None
            if isinstance(exc, Exception):
                # For instance another version of Ray or Python. No text was read yet, so the
                # message can't quote one.
                first = str(exc).strip().partition("\n")[0]
                raise EngineError(f"Ray: {first or describe_exception(exc)}") from None
            raise

    def close(self) -> None:
        """Disconnect, and end Ray if it was started here. May be called twice."""
        if self._closed:
            return
        self._closed = True
        with restored_signals(signal.SIGTERM):
            ray.shutdown()
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)

    def plan(self, options: argparse.Namespace, settings: EngineSettings) -> Actors:
        """Decide how many actors there are, and what each gets.

        Raises :class:`EngineError` if the cluster has no room for them.
        """
        if settings.device.startswith("cuda:"):
            raise EngineError(f"DEVICE={settings.device}: Ray chooses the GPU; set DEVICE=cuda")
        known: Any = ray.nodes()  # type: ignore[no-untyped-call]  # Ray leaves it so
        nodes = [node["Resources"] for node in known if node["Alive"]]
        machines = [(int(node.get("CPU", 0)), float(node.get("GPU", 0))) for node in nodes]
        gpus = options.gpus_per_actor
        if gpus is None:
            wanted = settings.device == "cuda" or any(there for _, there in machines)
            gpus = 1.0 if wanted and settings.device != "cpu" else 0.0
        if bool(gpus) != (settings.device == "cuda") and settings.device != "auto":
            raise EngineError(
                f"DEVICE={settings.device} and --gpus-per-actor {gpus:g} contradict each other"
            )
        cpus = options.cpus_per_actor
        if cpus is None:
            cpus = 1 if gpus else min((there for there, _ in machines if there), default=1)
        room = [
            min(there // cpus, int(on_board / gpus + 1e-6) if gpus else there)
            for there, on_board in machines
        ]
        each = f"{gpus:g} GPU and {cpus} CPUs" if gpus else f"{cpus} CPUs"
        if not any(room):
            cores = max((there for there, _ in machines), default=0)
            graphics = max((there for _, there in machines), default=0)
            raise EngineError(
                f"no machine has room for an actor of {each}: the largest has {cores} CPUs, "
                f"{graphics:g} GPUs"
            )
        count = options.num_actors
        if count is None:
            count = sum(room) if gpus else sum(map(bool, room))
        if count > sum(room):
            raise EngineError(
                f"--num-actors {count}: there is room for {sum(room)} actors of {each}"
            )
        return Actors(count, cpus, gpus)


def require_reachable(address: str) -> None:
    """Raise :class:`EngineError` if nothing listens there; Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS):
            pass
    except (OSError, OverflowError) as exc:
        reason = getattr(exc, "strerror", None) or "no answer"
        raise EngineError(f"--address {address}: can't be reached: {reason}") from None


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    return folder if len(folder) <= LONGEST_FOLDER else "/tmp"  # noqa: S108 - mkdtemp goes in it


@contextlib.contextmanager
def _stderr_closed() -> Iterator[None]:
    """Discard what Ray writes to standard error while it starts; its errors are exceptions."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
