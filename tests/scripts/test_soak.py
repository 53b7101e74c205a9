"""The soak finds what grows, and nothing in a server or a worker grows grossly within a minute."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks import growth, soak
from benchmarks.growth import KINDS, Kind
from benchmarks.soak_traffic import Action, Traffic, UnexpectedError
from hatespeech.memory import MIB
from tests.paths import ROOT
from tests.support.processes.worker import WorkerProcess, clean_environment

MEMORY, FILES, THREADS, DATABASE = KINDS
# Leaks memory and files, and ends in order at SIGTERM.
LEAK = """
import signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
held = []
while True:
    if {leaks}:
        held += [open("/dev/null"), bytearray(200_000)]
    time.sleep(0.02)
"""


@pytest.mark.parametrize(
    ("hourly", "wobble", "grows"),
    [(0, 0, False), (0, 50, False), (10, 0, False), (60, 1, True), (-90, 1, False)],
    ids=["flat", "noise", "little", "leak", "less"],
)
def test_a_slope_counts_if_it_is_clearly_above_what_is_allowed(
    hourly: float, wobble: float, grows: bool
) -> None:
    rng = random.Random(1)
    times = [600 + index for index in range(1200)]
    values = [MIB * (500 + hourly * t / 3600 + rng.gauss(0, wobble)) for t in times]
    found = growth.growth(MEMORY, times, values)
    assert found.grows == grows
    assert found.slope == pytest.approx(hourly, abs=3 * found.error + 1e-6)


def test_the_error_of_a_slope_is_that_of_a_line_through_means() -> None:
    """Six means of two samples each, by hand: 0, 1, 0, 1, 0, 1 at 1, 3, … 11 hours."""
    times = [3600 * (index + 0.5) for index in range(12)]
    found = growth.growth(Kind("x", 1, 0, 0), times, [0, 0, 1, 1] * 3)
    assert found.slope == pytest.approx(3 / 70)
    assert found.error == pytest.approx(((1.5 - 9 / 70) / 4 / 70) ** 0.5)


def test_a_short_run_allows_more() -> None:
    assert MEMORY.allowed(1, 1) == 8
    assert MEMORY.allowed(1 / 60, 10) == 4 + 60 * 40


def traffic_of(leaks: bool, act: Callable[[random.Random], object]) -> object:
    @contextmanager
    def front(folder: Path, _seconds: float) -> Iterator[Traffic]:
        script = LEAK.format(leaks=leaks)
        environment = clean_environment(folder, None)
        with WorkerProcess(["-c", script], environment, folder) as process:
            yield Traffic(process, None, {"nothing": Action(1, act)}, lambda: None)

    return front


def refuse(_chance: random.Random) -> object:
    raise UnexpectedError("500")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("leaks", "act", "said"),
    [
        (True, lambda _chance: "done", ["grows: resident memory, MiB", "grows: open files"]),
        (False, lambda _chance: "done", []),
        (False, refuse, ["unexpected: nothing: 500"]),
    ],
    ids=["leak", "nothing", "wrong_reply"],
)
def test_growth_and_wrong_replies_fail_the_soak(
    leaks: bool,
    act: Callable[[random.Random], object],
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(soak, "FRONTS", {"http": traffic_of(leaks, act)})
    code = soak.main(["--front", "http", "--minutes", "0.1"])
    lines = capsys.readouterr().out.splitlines()
    found = [line for line in lines if line.startswith(("grows", "unexpected"))]
    assert [line.partition(" (")[0] for line in found] == said
    assert code == (1 if said else 0)


@pytest.mark.slow
@pytest.mark.parametrize(("front", "minutes"), [("http", "1"), ("worker", "0.5")])
def test_nothing_grows_grossly_within_a_minute(front: str, minutes: str) -> None:
    # A young process settles for minutes, so a hundred times what a soak of half an hour allows.
    command = [sys.executable, "-m", "benchmarks.soak", "--front", front]
    done = subprocess.run(
        [*command, "--minutes", minutes, "--settling", "100"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "resident memory" in done.stdout
