"""Checkpoint folders in caches of the hub are found, and only where it is clear which."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from hatespeech.engine.predictor import choose_folder
from hatespeech.errors import CheckpointError, SettingsError
from hatespeech.model import hub_cache
from hatespeech.model.checkpoint import describe
from hatespeech.settings import EngineSettings

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


@pytest.fixture(autouse=True)
def nowhere_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache of this machine is looked at."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(hub_cache, "RUNPOD_VOLUME", tmp_path / "volume")
    monkeypatch.setattr(hub_cache, "RUNPOD_CACHE", tmp_path / "volume/huggingface-cache/hub")


def cached(cache: Path, checkpoint: Path, *commits: str, main: str | None = COMMIT) -> Path:
    """Make a repository as the hub's client leaves it; return its folder."""
    folder = cache / "models--org--name"
    (folder / "blobs").mkdir(parents=True)
    for commit in commits:
        snapshot = folder / "snapshots" / commit
        snapshot.mkdir(parents=True)
        for number, file in enumerate(sorted(checkpoint.iterdir())):
            blob = folder / "blobs" / f"{number:040x}"
            blob.write_bytes(file.read_bytes())
            (snapshot / file.name).symlink_to(f"../../blobs/{blob.name}")
    if main is not None:
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(main)
    return folder


def chosen(environment: Mapping[str, str]) -> Path:
    return choose_folder(EngineSettings.from_environment(environment))


@pytest.mark.parametrize(
    ("variables", "cache"),
    [
        ({"HF_HUB_CACHE": "{}/mine"}, "mine"),
        ({"HF_HOME": "{}/hf"}, "hf/hub"),
        ({"HF_HUB_CACHE": "{}/mine", "HF_HOME": "{}/hf"}, "mine"),
        ({}, "volume/huggingface-cache/hub"),
        ({}, "home/.cache/huggingface/hub"),
        # A cache that does not have it is passed over.
        ({"HF_HOME": "{}/hf"}, "volume/huggingface-cache/hub"),
    ],
)
def test_a_model_id_is_found_in_the_caches(
    tmp_path: Path, small_checkpoint: Path, variables: dict[str, str], cache: str
) -> None:
    folder = cached(tmp_path / cache, small_checkpoint, COMMIT)
    given = {name: value.format(tmp_path) for name, value in variables.items()}
    found = chosen({"MODEL_ID": "org/name", **given})
    assert found == folder / "snapshots" / COMMIT
    assert describe(found).model_id == describe(small_checkpoint).model_id


def test_a_model_id_is_found_on_a_network_volume(tmp_path: Path, small_checkpoint: Path) -> None:
    folder = tmp_path / "volume" / "org" / "name"
    folder.parent.mkdir(parents=True)
    folder.symlink_to(small_checkpoint)
    assert chosen({"MODEL_ID": "org/name"}) == folder


def test_a_model_id_that_is_nowhere_is_said_with_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        chosen({"MODEL_ID": "org/name", "HF_HOME": str(tmp_path / "hf")})
    said = str(caught.value)
    assert said.startswith("MODEL_ID=org/name is in none of ")
    for place in ("hf/hub/models--org--name", "huggingface-cache/hub/models--org--name"):
        assert place in said
    assert "nothing is downloaded" in said


def test_a_repositorys_folder_stands_for_what_main_was(
    tmp_path: Path, small_checkpoint: Path
) -> None:
    folder = cached(tmp_path, small_checkpoint, COMMIT, OTHER, main=f"{OTHER}\n")
    assert chosen({"MODEL_DIR": str(folder)}) == folder / "snapshots" / OTHER
    assert chosen({"MODEL_DIR": str(folder / "snapshots" / COMMIT)}).name == COMMIT


def test_without_a_main_the_only_snapshot_is_meant(tmp_path: Path, small_checkpoint: Path) -> None:
    folder = cached(tmp_path, small_checkpoint, COMMIT, main=None)
    assert chosen({"MODEL_DIR": str(folder)}) == folder / "snapshots" / COMMIT


@pytest.mark.parametrize(
    ("commits", "main", "said"),
    [
        ((COMMIT, OTHER), None, "has 2 snapshots and no refs/main"),
        ((OTHER,), COMMIT, "refs/main names no snapshot"),
        ((OTHER,), "../snapshots", "refs/main names no snapshot"),
        ((OTHER,), "", "refs/main names no snapshot"),
        ((OTHER,), "ü", "refs/main names no snapshot"),
    ],
)
def test_it_must_be_clear_which_commit_is_meant(
    tmp_path: Path, small_checkpoint: Path, commits: tuple[str, ...], main: str | None, said: str
) -> None:
    folder = cached(tmp_path, small_checkpoint, *commits, main=main)
    with pytest.raises(CheckpointError, match=said):
        chosen({"MODEL_DIR": str(folder)})


def test_two_answers_to_which_model_are_refused(small_checkpoint: Path) -> None:
    both = {"MODEL_DIR": str(small_checkpoint), "MODEL_ID": "org/name"}
    with pytest.raises(SettingsError, match="MODEL_DIR and MODEL_ID are both set"):
        chosen(both)
    # What `docker run -e MODEL_DIR=` sends.
    with pytest.raises(CheckpointError, match="MODEL_ID=org/name"):
        chosen({**both, "MODEL_DIR": ""})


@pytest.mark.parametrize("value", ["name", "a/b/c", "../x", "a/..", "a--b/c", "a b/c", "/a", "a/"])
def test_what_is_no_repository_is_refused(value: str) -> None:
    with pytest.raises(SettingsError, match="MODEL_ID"):
        EngineSettings.from_environment({"MODEL_ID": value})
