"""A folder is held by one process at a time, also while another one finishes and removes it."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path
from typing import Any

import pytest

from hatespeech.locks import FolderHeldError, held_folder


def test_a_held_folder_is_refused_until_it_is_let_go(tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "down"
    with held_folder(folder), pytest.raises(FolderHeldError), held_folder(folder):
        pass
    with held_folder(folder):
        assert (folder / "lock").exists()


def test_an_error_in_a_held_folder_does_not_take_the_lock_again(tmp_path: Path) -> None:
    entered = []

    def enter() -> None:
        with held_folder(tmp_path / "p"):
            entered.append(True)
            raise FileNotFoundError

    with pytest.raises(FileNotFoundError):
        enter()
    assert entered == [True]


@pytest.mark.parametrize("made_again", [False, True])
def test_a_lock_whose_file_its_last_holder_removed_is_taken_anew(
    made_again: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise two processes would hold the folder: one the removed file, one the new file."""
    folder = tmp_path / "p"
    real = fcntl.flock
    calls = 0

    def finishing_holder(file: Any, operation: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            shutil.rmtree(folder)
            if made_again:  # by a third process
                folder.mkdir()
                (folder / "lock").touch()
        real(file, operation)

    monkeypatch.setattr("fcntl.flock", finishing_holder)
    with held_folder(folder):
        monkeypatch.undo()
        with pytest.raises(FolderHeldError), held_folder(folder):
            pass
    assert calls == 2
