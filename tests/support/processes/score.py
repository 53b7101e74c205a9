"""Runs score.py: here, as a process of its own, or as one that is killed at a chosen moment.

    python -m tests.support.processes.score hatespeech.bulk.places:Place.write 3 before IN OUT …

kills itself by SIGKILL before (or after) the third call of what is named, which is as sudden as any
``kill -9``, and at the same moment every time.
"""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hatespeech.bulk import command
from tests.paths import MINI, ROOT
from tests.support.processes.worker import clean_environment

SECONDS: Final = 240  # generous: the machine may be busy


def run_here(source: object, out: object, *more: str) -> None:
    """Run ``score.py`` in this process and folder; it must succeed."""
    assert command.main([str(source), str(out), *more]) == 0


def environment(home: Path) -> dict[str, str]:
    """Return what score.py needs here."""
    return clean_environment(home, MINI)


def run_score(
    home: Path,
    *arguments: object,
    moment: Sequence[object] | None = None,
    more: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run ``score.py``, killed at ``moment`` if one is given, and wait for it."""
    program = ["-m", "tests.support.processes.score", *moment] if moment else [ROOT / "score.py"]
    return subprocess.run(
        [sys.executable, *map(str, [*program, *arguments])],
        cwd=ROOT,
        env={**environment(home), **(more or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def die_at(target: str, call: int, when: str) -> None:
    """Have this process killed at the given call of ``module:attribute.path``."""
    module, _, path = target.partition(":")
    *parents, name = path.split(".")
    holder: Any = importlib.import_module(module)
    for parent in parents:
        holder = getattr(holder, parent)
    real = getattr(holder, name)
    calls = 0

    def counted(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        found = real(*arguments, **options)
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return found

    setattr(holder, name, counted)


if __name__ == "__main__":
    die_at(sys.argv[1], int(sys.argv[2]), sys.argv[3])
    sys.exit(command.main(sys.argv[4:]))
