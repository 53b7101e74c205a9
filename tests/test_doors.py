"""Where programs start: Ctrl-C, and packages that are missing."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import pytest

from hatespeech import extras
from tests.paths import ROOT
from tests.support.http_client import TOKEN
from tests.support.ports import free_port
from tests.support.processes.worker import clean_environment

# Python imports this first of all: it says when a module is about to be imported, and waits there.
WAITING: Final = """
import os, signal, sys

class Wait:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["WAIT_AT"]:
            os.write(1, b"waits")
            while True:
                signal.pause()

sys.meta_path.insert(0, Wait())
"""
MISSING: Final = """
import os, sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ["MISSING"]:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
"""


def start(
    folder: Path, command: Sequence[str], first: str, environment: Mapping[str, str]
) -> subprocess.Popen[str]:
    """Start Python with a door, after it has run ``first``."""
    (folder / "sitecustomize.py").write_text(first, encoding="utf-8")
    (folder / "in.csv").write_text("text,label\ngood morning,neutral\n", encoding="utf-8")
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**environment, "PYTHONPATH": f"{folder}:{ROOT}"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def door(name: str) -> str:
    return str(ROOT / name)


TEXT: Final = ("-m", "hatespeech")
JOB: Final = '{"input": {"prompt": "good morning"}}'


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "module"),
    [
        ((door("app.py"),), "hatespeech.cli"),
        ((door("app.py"), "--test_input", JOB), "torch"),
        ((door("app.py"), "--rp_serve_api"), "runpod"),
        ((door("server.py"),), "hatespeech.cli"),
        ((door("server.py"),), "fastapi"),
        ((door("score.py"), "in.csv", "out.csv"), "hatespeech.bulk.plan"),
        ((door("score.py"), "in.csv", "out.csv"), "torch"),
        ((door("evaluate.py"), "in.csv"), "sklearn"),
        ((door("train.py"), "--help"), "torch"),
        ((door("download.py"), "--help"), "hatespeech.fetching.options"),
        ((*TEXT, "good morning"), "hatespeech.console.commands"),
        ((*TEXT, "good morning"), "torch"),
        ((*TEXT, "score", "in.csv", "out.csv"), "hatespeech.bulk.plan"),
        ((*TEXT, "upload", "--help"), "hatespeech.fetching.hub_upload"),
    ],
)
def test_ctrl_c_during_the_start_ends_a_program_with_130_and_at_most_one_line(
    command: Sequence[str], module: str, small_checkpoint: Path, tmp_path: Path
) -> None:
    settings = {
        **clean_environment(tmp_path, small_checkpoint),
        "BEARER_TOKEN": TOKEN,
        "PORT": str(free_port()),
        "WAIT_AT": module,
    }
    with start(tmp_path, command, WAITING, settings) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        said = process.stdout.read(len("waits"))
        process.send_signal(signal.SIGINT)
        lines = process.stderr.read().splitlines()
        assert (said, process.wait(60)) == ("waits", 130), lines
    assert len([line for line in lines if "small embedded" not in line]) <= 1, lines


@pytest.mark.slow
def test_nothing_is_loaded_before_ctrl_c_is_quiet() -> None:
    code = "import sys; before = set(sys.modules); import hatespeech.door; "
    done = subprocess.run(
        [sys.executable, "-c", f"{code}print(*set(sys.modules) - before)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    ours = {f"hatespeech{name}" for name in ("", ".door", ".libraries", ".version")}
    assert set(done.stdout.split()) - {"__future__"} == ours


@pytest.mark.slow
@pytest.mark.parametrize("name", ["evaluate", "train"])
@pytest.mark.parametrize("command", [False, True])
def test_a_missing_package_is_one_line_even_for_the_help(
    name: str, command: bool, tmp_path: Path
) -> None:
    called = f"python -m hatespeech {name}" if command else f"{name}.py"
    words = [*TEXT, name] if command else [door(f"{name}.py")]
    settings = {**clean_environment(tmp_path, None), "MISSING": "sklearn"}
    with start(tmp_path, [*words, "--help"], MISSING, settings) as process:
        out, err = process.communicate(timeout=120)
    advice = f"pip install -r requirements-{name}.txt"
    assert (process.returncode, out) == (1, "")
    assert err == f"error: {called} needs sklearn: {advice}\n"


def test_the_advice_names_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for extra in ("grpc", "ray", "evaluate"):
        assert (ROOT / f"requirements-{extra}.txt").is_file()
        assert extras.how_to_install(extra) == f"pip install -r requirements-{extra}.txt"
    for other in ("server", "worker", None):  # which have no file of their own
        assert extras.how_to_install(other) == "pip install -r requirements.txt"
    monkeypatch.setattr(extras, "IS_CHECKOUT", False)
    assert extras.how_to_install("grpc") == "pip install '.[grpc]' in a checkout"
    assert extras.how_to_install(None) == "pip install . in a checkout"


def test_a_package_of_our_own_that_is_missing_is_a_fault_and_no_advice() -> None:
    def fail() -> int:
        raise ModuleNotFoundError("no", name="hatespeech.nowhere")

    with pytest.raises(ModuleNotFoundError):
        extras.run_or_advise(fail, "score.py", None)
