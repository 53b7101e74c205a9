"""Runs app.py, or anything like it, as a process of its own with a clean environment."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.paths import ROOT

APP: Final = str(ROOT / "app.py")
FAULTY_WORKER: Final = ("-m", "tests.support.processes.faulty_worker")

# The last words of a worker: the batcher's counters.
SCORED: Final = (
    r"scored (\d+) texts? of (\d+) requests? in (\d+) pass(?:es)?(?:, (\d+) of them shared)?: "
    r"(\d+) sequences?, (\d+) tokens?"
)

# Only these come from the environment of the tests; a developer's own settings stay out.
INHERITED: Final = ("PATH", "LD_LIBRARY_PATH", "TMPDIR", "VIRTUAL_ENV")


def clean_environment(home: Path, model_dir: Path | None) -> dict[str, str]:
    """Return what a worker on a CPU needs; ``home`` is an empty folder (the SDK looks there)."""
    environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
    environment |= {
        "HOME": str(home),
        "LANG": "C.UTF-8",
        "OMP_NUM_THREADS": "1",
        "DEVICE": "cpu",
        "DTYPE": "float32",
    }
    if model_dir is not None:
        environment["MODEL_DIR"] = str(model_dir)
    return environment


class WorkerProcess:
    """A running Python process; its output goes to files, which nobody has to empty.

    It leads a session of its own, ended as a whole: the SDK's ping process outlives a worker that
    leaves by ``os._exit``.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        python: str = sys.executable,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # A folder of its own: a second process may run beside it in the same one.
        output = Path(tempfile.mkdtemp(prefix="output-", dir=folder))
        self._stdout, self._stderr = output / "stdout", output / "stderr"
        with self._stdout.open("wb") as out, self._stderr.open("wb") as err:
            self.process = subprocess.Popen(
                [python, *command],
                cwd=ROOT if command[0] == "-m" else folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(30)

    @property
    def stdout(self) -> str:
        """What it has written to standard output so far."""
        return self._stdout.read_bytes().decode("utf-8", "backslashreplace")

    @property
    def stderr(self) -> str:
        """What it has written to standard error so far."""
        return self._stderr.read_bytes().decode("utf-8", "backslashreplace")

    def require_running(self) -> None:
        """Raise :class:`AssertionError` with its last words if it has ended."""
        code = self.process.poll()
        if code is not None:
            raise AssertionError(
                f"the worker ended with {code}\n{self.stdout[-2000:]}\n{self.stderr[-4000:]}"
            )

    def started(self, job_ids: Sequence[str]) -> bool:
        """Say whether the handler has been called for all these jobs, by the log at DEBUG."""
        seen = set(re.findall(r" job (\S+): Started\.$", self.stderr, re.MULTILINE))
        return seen.issuperset(job_ids)

    def terminate(self) -> None:
        """Send SIGTERM, as the platform does."""
        self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float = 120.0) -> int:
        """Return its exit code; raise :class:`AssertionError` if it does not end in time."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"still running after {seconds:g} s\n{self.stderr[-4000:]}"
            ) from None

    def counters(self) -> dict[str, int]:
        """Return the batcher's counters, which the worker logs as its last words."""
        found = re.findall(SCORED, self.stderr)
        if not found:
            raise AssertionError(f"no counters in\n{self.stderr[-4000:]}")
        names = ("texts", "requests", "batches", "shared_batches", "sequences", "tokens")
        return {name: int(value or 0) for name, value in zip(names, found[-1], strict=True)}


def wait_until(
    condition: Callable[[], bool],
    what: str,
    *,
    seconds: float = 120.0,
    watch: Callable[[], None] = lambda: None,
) -> None:
    """Return once ``condition`` holds; ``watch`` is called meanwhile and may raise.

    Raises :class:`TimeoutError` naming ``what`` after ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        watch()
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:g} s in vain for: {what}")
        time.sleep(0.02)
