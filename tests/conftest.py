"""Fixtures shared by all tests, and the kinds of tests that the quick tier leaves out."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.paths import MINI
from tests.support.processes.worker import WorkerProcess, clean_environment

if TYPE_CHECKING:
    from hatespeech.engine.predictor import Predictor

# Workers are forked from here; the tokenizers library would warn about it on standard error.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A shell starts its background jobs with SIGINT ignored, and what a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Kinds that a test is of by what its fixtures start; others are marked where they stand.
KIND_BY_FIXTURE: Final = {
    "browser": "browser",
    "cluster": "ray",
    "impatient": "slow",
    "served": "slow",
    "start_worker": "slow",
}
KINDS: Final = ("slow", "ray", "browser")
STARTS: Final = ("subprocess.Popen", "os.fork", "os.posix_spawn", "os.system")

StartWorker = Callable[[Sequence[str], Mapping[str, str]], WorkerProcess]


class Quick:
    """Whether the test that runs is of no kind, and may start no process."""

    now = False


def refuse_processes(event: str, _arguments: tuple[object, ...]) -> None:
    """Raise for a process that a test starts without being marked; an audit hook."""
    if Quick.now and event in STARTS:
        raise AssertionError("this test starts a process: mark it slow (pytest.mark.slow)")


sys.addaudithook(refuse_processes)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        for fixture, kind in KIND_BY_FIXTURE.items():
            if fixture in getattr(item, "fixturenames", ()):
                item.add_marker(kind)


@pytest.fixture(autouse=True)
def _collect_everything() -> Iterator[None]:
    """Undo what a command of ours did in this process, which is not its own."""
    yield
    gc.unfreeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    Quick.now = not any(item.get_closest_marker(kind) for kind in KINDS)
    try:
        return (yield)
    finally:
        Quick.now = False


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of random weights, with scores that differ between texts."""
    from tests.support.checkpoints import build_checkpoint

    return build_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint").path


@pytest.fixture(scope="session")
def small_classifier(small_checkpoint: Path) -> Predictor:
    """The same model in this process, to compare a worker's scores with."""
    from hatespeech.engine.predictor import Predictor
    from hatespeech.settings import EngineSettings

    return Predictor.from_settings(
        EngineSettings(model_dir=small_checkpoint, device="cpu", dtype="float32")
    )


@pytest.fixture
def mini(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Run in an empty folder, with the embedded model on the CPU."""
    for name, value in {"MODEL_DIR": str(MINI), "DEVICE": "cpu", "DTYPE": "float32"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def clean_process(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[pytest.MonkeyPatch]:
    """Lets a program run in this process: an empty folder, settings of the tests, its own log."""
    from hatespeech.serving.settings import ServerSettings
    from tests.support.loggers import loggers_kept

    for name in (*map(str.upper, ServerSettings.model_fields), "RUNPOD_WEBHOOK_GET_JOB"):
        monkeypatch.delenv(name, raising=False)
    for name, value in clean_environment(tmp_path, small_checkpoint).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    with loggers_kept():
        yield monkeypatch


@pytest.fixture(scope="module")
def start_worker(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[StartWorker]:
    """Starts a worker: its command after ``python``, and what to add to a clean environment.

    An empty value unsets a variable. Whatever still runs when the module's tests are over is ended.
    """
    with contextlib.ExitStack() as running:

        def start(command: Sequence[str], environment: Mapping[str, str]) -> WorkerProcess:
            folder = tmp_path_factory.mktemp("worker")
            # At DEBUG the log says when each job starts.
            base = {**clean_environment(folder, small_checkpoint), "LOG_LEVEL": "DEBUG"}
            return running.enter_context(WorkerProcess(command, {**base, **environment}, folder))

        yield start
