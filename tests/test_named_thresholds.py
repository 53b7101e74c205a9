"""Files of thresholds: what is read, and what stops the start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest

from hatespeech import Classifier
from hatespeech.errors import SettingsError
from hatespeech.model.checkpoint import describe
from hatespeech.named_thresholds import NamedThresholds, version_of

MODEL: Final = "mini@0123456789ab"
FILE: Final[dict[str, Any]] = {
    "name": "ours",
    "version": "0f0f0f0f",
    "model": MODEL,
    "thresholds": {"hate": 0.75, "toxic": 0.5},
    "wish": "precision 0.95",
}


def test_a_file_has_a_name_a_version_and_numbers(tmp_path: Path) -> None:
    path = tmp_path / "any name.json"
    path.write_text(json.dumps(FILE))
    found = NamedThresholds.load(path, MODEL)
    assert found == NamedThresholds("ours", "0f0f0f0f", {"hate": 0.75, "toxic": 0.5})
    assert found.to_dict() == {"name": "ours", "version": "0f0f0f0f", "hate": 0.75, "toxic": 0.5}


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"name": "strict"}, "the name strict is for what a model recommends"),
        ({"name": "Ours!"}, "its name is missing or wrong"),
        ({"version": 2}, "its version is missing or wrong"),
        ({"thresholds": {}}, "its thresholds is missing or wrong"),
        ({"thresholds": {"hate": 1.5}}, "its thresholds.hate is missing or wrong"),
        ({"thresholds": {"rude": 0.5}}, "its thresholds.rude.[key] is missing or wrong"),
        ({"model": "other@0123456789ab"}, f"other@0123456789ab, but this model is {MODEL}"),
        ({"model": None}, "its model is missing or wrong"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(
    change: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "ours.json"
    path.write_text(json.dumps({**FILE, **change}))
    with pytest.raises(SettingsError) as caught:
        NamedThresholds.load(path, MODEL)
    assert fault in str(caught.value)
    assert str(caught.value).startswith(f"THRESHOLDS_FILE={path}")


@pytest.mark.parametrize(("content", "fault"), [("{", "is not a file"), (None, "No such file")])
def test_what_is_no_file_of_thresholds_is_refused(
    content: str | None, fault: str, tmp_path: Path
) -> None:
    path = tmp_path / "ours.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SettingsError, match=fault):
        NamedThresholds.load(path, MODEL)


def test_the_version_changes_with_a_number_and_with_the_model() -> None:
    numbers = {"hate": 0.5, "spam": 0.25}
    versions = {
        version_of(numbers, MODEL),
        version_of(numbers | {"hate": 0.51}, MODEL),
        version_of(numbers, "other"),
    }
    assert len(versions) == 3
    assert version_of({"spam": 0.25, "hate": 0.5}, MODEL) in versions


def test_the_library_knows_the_names_of_a_file(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ours.json"
    never = {"thresholds": {"neutral": 0.0}, "model": describe(small_checkpoint).model_id}
    path.write_text(json.dumps({**FILE, **never}))
    monkeypatch.setenv("THRESHOLDS_FILE", str(path))
    with Classifier.load(small_checkpoint, device="cpu", dtype="float32") as classifier:
        assert classifier.score("good morning", thresholds="ours").flagged == ("neutral",)
