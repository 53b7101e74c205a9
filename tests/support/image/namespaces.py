"""Runs an image as a container engine would: its user, environment and command, as process 1.

Namespaces by ``unshare``, the image's files by ``chroot``; the network is this machine's. Process 1
matters: the kernel shields it from every signal that it has no handler for.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from tests.support.processes.worker import wait_until

# Arguments: root, user:group, then pairs of folders or files to mount, "--", the command.
SCRIPT: Final = """
set -e
root=$1 user=$2; shift 2
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do mount --bind "$1" "$root$2"; shift 2; done
shift
exec chroot --userspec="$user" "$root" "$@"
"""


class NamespaceContainer:
    """A running container; leaving the ``with`` block kills what is left of it."""

    def __init__(
        self,
        root: Path,
        config: Mapping[str, Any],
        folder: Path,
        arguments: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
        mounts: Mapping[Path, str] | None = None,
    ) -> None:
        self._root, self._config = root, config
        self._user = config["User"] if ":" in config["User"] else f"{config['User']}:0"
        self._environment = {
            "HOME": home(root, config["User"].partition(":")[0]),
            **dict(each.split("=", 1) for each in config["Env"]),
            **(environment or {}),
        }
        command = [*(config["Entrypoint"] or []), *(arguments or config["Cmd"] or [])]
        binds = [str(part) for pair in (mounts or {}).items() for part in pair]
        folder.mkdir(parents=True)
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        self.started = time.monotonic()
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self._process = subprocess.Popen(
                [
                    *("unshare", "--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"),
                    *("sh", "-c", SCRIPT, "sh", str(root), self._user, *binds, "--"),
                    *self._inside(command),
                ],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()  # unshare takes process 1 along, and that one all the others
        self._process.wait(30)

    def _inside(self, command: Sequence[str]) -> list[str]:
        variables = [f"{name}={value}" for name, value in self._environment.items()]
        return ["env", "-i", f"--chdir={self._config['WorkingDir']}", *variables, *command]

    @property
    def stdout(self) -> str:
        """What it has written to standard output so far."""
        return self._stdout.read_text(encoding="utf-8")

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        return self._stderr.read_text(encoding="utf-8")

    def wait(self, seconds: float = 120.0) -> int:
        """Return its exit code; raise :class:`AssertionError` if it does not end in time."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still running after {seconds:g} s\n{self.stderr}") from None

    def require_running(self) -> None:
        """Raise :class:`AssertionError` with its last words if it has ended."""
        code = self._process.poll()
        assert code is None, f"ended with {code}\n{self.stdout[-2000:]}\n{self.stderr[-4000:]}"

    def terminate(self) -> None:
        """Send SIGTERM to process 1, as ``docker stop`` does."""
        os.kill(self._first_process(), signal.SIGTERM)

    def user_ids(self) -> tuple[int, int]:
        """Return user and group of process 1."""
        status = Path(f"/proc/{self._first_process()}/status").read_text()
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return int(fields["Uid"].split()[0]), int(fields["Gid"].split()[0])

    def execute(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command inside, with the container's environment, as ``docker exec`` does."""
        enter = ["nsenter", f"--target={self._first_process()}", "--mount", "--pid", "--ipc"]
        change = ["chroot", f"--userspec={self._user}", str(self._root)]
        return subprocess.run(
            [*enter, *change, *self._inside(command)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def _first_process(self) -> int:
        parent = self._process.pid
        children = Path(f"/proc/{parent}/task/{parent}/children")
        wait_until(lambda: bool(children.read_text()), "process 1", watch=self.require_running)
        return int(children.read_text().split()[0])


def home(root: Path, user: str) -> str:
    """Return a user's home as the image's ``/etc/passwd`` has it."""
    for line in (root / "etc/passwd").read_text().splitlines():
        fields = line.split(":")
        if user in (fields[0], fields[2]):
            return fields[5]
    raise AssertionError(f"the image has no user {user}")
