"""Garbage collection: off while a service starts, and never again over what it has loaded."""

from __future__ import annotations

import gc
import os
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest

from hatespeech.bulk import command as bulk
from hatespeech.collector import starting, without_garbage_collection
from hatespeech.console import one_text
from hatespeech.worker import command as worker
from tests.support.local_server import local_server, refusal
from tests.support.loggers import loggers_kept
from tests.support.processes.server import server_environment
from tests.support.processes.worker import clean_environment


class Loop:
    """An object that refers to itself, so only a collection frees it."""

    def __init__(self) -> None:
        self.itself = self


def is_freed_by_collection(made: Callable[[], Loop]) -> bool:
    freed = weakref.ref(made())
    gc.collect()
    return freed() is None


@pytest.fixture(autouse=True)
def _as_in_a_new_process() -> Iterator[None]:
    gc.unfreeze()
    assert gc.isenabled()
    yield
    assert gc.isenabled()


def test_collection_is_off_within_and_on_again_behind_even_after_an_error() -> None:
    def fail() -> None:
        with without_garbage_collection():
            assert not gc.isenabled()
            raise ValueError("any")

    with pytest.raises(ValueError, match="any"):
        fail()
    assert gc.isenabled()


def test_collection_that_was_off_stays_off() -> None:
    gc.disable()
    try:
        with without_garbage_collection():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_what_is_made_while_a_process_starts_is_left_out_of_later_collections() -> None:
    def made() -> Loop:
        with starting():
            assert not gc.isenabled()
            return Loop()

    assert not is_freed_by_collection(made)
    assert is_freed_by_collection(Loop)


def test_a_process_that_fails_to_start_collects_everything() -> None:
    with pytest.raises(ValueError, match="any"), starting():
        raise ValueError("any")
    assert not gc.get_freeze_count()


# The commands that are processes of their own.


def local_run() -> int:
    return worker.main(["--test_input", '{"input": {"prompt": "good"}}'])


def one_score() -> int:
    return one_text.show_scores("good", as_json=False)


def table() -> int:
    Path("in.csv").write_text("text\ngood\n", encoding="utf-8")
    return bulk.main(["in.csv", "out.csv"])


@pytest.mark.parametrize("command", [local_run, one_score, table])
def test_a_command_leaves_out_what_it_loads(
    command: Callable[[], int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    small_checkpoint: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    monkeypatch.chdir(tmp_path)
    with patch.dict(os.environ, clean_environment(tmp_path, small_checkpoint)), loggers_kept():
        assert command() == 0
    assert any(capfdbinary.readouterr())
    assert gc.get_freeze_count()


def test_a_server_leaves_out_its_application_and_its_model(
    tmp_path: Path, small_checkpoint: Path
) -> None:
    environment = server_environment(tmp_path, small_checkpoint, {"JOBS_DB": str(tmp_path)})
    assert "JOBS_DB" in refusal(environment)
    assert gc.get_freeze_count()
    gc.unfreeze()
    with local_server(tmp_path, small_checkpoint) as server:
        server.ready()
        assert gc.get_freeze_count()
