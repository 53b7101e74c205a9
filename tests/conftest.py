"""Fixtures shared by all tests."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.processes.worker import WorkerProcess, clean_environment

if TYPE_CHECKING:
    from hatespeech.engine.classifier import Classifier

# Workers are forked from here; the tokenizers library would warn about it on standard error.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

# A shell starts its background jobs with SIGINT ignored, and what a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

StartWorker = Callable[[Sequence[str], Mapping[str, str]], WorkerProcess]


@pytest.fixture(scope="session")
def small_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of random weights, with scores that differ between texts."""
    from tests.support.checkpoints import build_checkpoint

    return build_checkpoint(tmp_path_factory.mktemp("small") / "checkpoint").path


@pytest.fixture(scope="session")
def small_classifier(small_checkpoint: Path) -> Classifier:
    """The same model in this process, to compare a worker's scores with."""
    from hatespeech.engine.classifier import Classifier
    from hatespeech.settings import EngineSettings

    return Classifier.from_settings(
        EngineSettings(model_dir=small_checkpoint, device="cpu", dtype="float32")
    )


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
            base = clean_environment(folder, small_checkpoint)
            return running.enter_context(WorkerProcess(command, {**base, **environment}, folder))

        yield start
