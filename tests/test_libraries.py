"""What is decided before torch is loaded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hatespeech.libraries import set_library_defaults
from tests.paths import ROOT
from tests.support.ports import free_port
from tests.support.processes.worker import clean_environment


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "3000"}),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, {"OMP_WAIT_POLICY": "ACTIVE"}),
        ({"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "7"}),
        (
            {"OMP_WAIT_POLICY": "ACTIVE", "TOKENIZERS_PARALLELISM": "true"},
            {"OMP_WAIT_POLICY": "ACTIVE", "TOKENIZERS_PARALLELISM": "true"},
        ),
    ],
)
def test_what_somebody_set_stays(given: dict[str, str], expected: dict[str, str]) -> None:
    environment = dict(given)
    set_library_defaults(environment)
    others = {"TOKENIZERS_PARALLELISM": "false", "GRPC_VERBOSITY": "NONE"}
    assert environment == {**others, **expected}


NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def run_script(
    script: str, environment: dict[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script],
        env=environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize("entry", ["app", "server", "uvicorn", "benchmarks", "library"])
def test_threads_that_wait_sleep_before_torch_is_loaded(entry: str, tmp_path: Path) -> None:
    """Set later, OpenMP would not see it: each entry point is watched importing torch."""
    script = f"""
import os, sys

class Watch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            print("policy", *map(os.environ.get, {NAMES!r}), flush=True)
            os._exit(0)

sys.meta_path.insert(0, Watch())
entry = {entry!r}
if entry == "app":
    import app
    sys.argv = ["app.py", "--test_input", '{{"input": {{"prompt": "a"}}}}']
    app.main()
elif entry == "server":
    import server
    sys.argv = ["server.py"]
    server.main()
elif entry == "uvicorn":
    import server
    server.app
elif entry == "benchmarks":
    import benchmarks
else:
    import hatespeech
import torch
"""
    environment = clean_environment(tmp_path, None) | {
        "ALLOW_ANONYMOUS": "1",
        "JOBS_DB": str(tmp_path / "jobs.sqlite3"),
        "PORT": str(free_port()),
        "PYTHONPATH": str(ROOT),
    }
    done = run_script(script, environment, tmp_path)
    assert "policy PASSIVE 3000" in done.stdout, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "given", "warned"),
    [
        ("torch", {}, True),
        ("hatespeech", {}, False),
        ("torch", {"OMP_WAIT_POLICY": "PASSIVE"}, False),
    ],
)
def test_the_library_says_once_that_torch_was_loaded_too_early(
    before: str, given: dict[str, str], warned: bool, small_checkpoint: Path, tmp_path: Path
) -> None:
    script = f"""
import {before}, torch
from hatespeech import Classifier

for _ in range(2):
    with Classifier.load({str(small_checkpoint)!r}, device="cpu") as classifier:
        classifier.score("good morning")
"""
    environment = clean_environment(tmp_path, None) | {"PYTHONPATH": str(ROOT)} | given
    done = run_script(script, environment, tmp_path)
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert [all(name in line for name in NAMES) for line in lines] == [True] * warned, lines
