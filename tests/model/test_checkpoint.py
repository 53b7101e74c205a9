"""The checkpoint folder: what is written can be served, what is damaged can't."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from hatespeech.errors import CheckpointError
from hatespeech.model import checkpoint as checkpoints
from hatespeech.model import identity
from hatespeech.model.checkpoint import CONFIG, TOKENIZER, WEIGHTS
from hatespeech.paths import file_sha256
from tests.support.checkpoints import THRESHOLDS


@pytest.fixture
def folder(small_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small_checkpoint, tmp_path / "copy"))


def edit_config(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for key, value in changes.items():
        if value is None:
            del config[key]
        else:
            config[key] = value
    (folder / CONFIG).write_text(json.dumps(config), encoding="utf-8")


def edit_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    state = load_file(folder / WEIGHTS)
    change(state)
    save_file(state, folder / WEIGHTS)
    digests = {file: file_sha256(folder / file) for file in (WEIGHTS, TOKENIZER)}
    edit_config(folder, sha256=digests)


def test_what_was_saved_is_sound_and_loads_bit_equal(small_checkpoint: Path) -> None:
    checkpoint = checkpoints.verify(small_checkpoint)
    saved = load_file(small_checkpoint / WEIGHTS)
    loaded = checkpoints.load_model(checkpoint).state_dict()
    assert loaded.keys() == saved.keys()
    assert all(torch.equal(loaded[key], saved[key]) for key in saved)


def test_loading_converts_to_the_dtype_asked_for_in_evaluation_mode(small_checkpoint: Path) -> None:
    checkpoint = checkpoints.describe(small_checkpoint)
    model = checkpoints.load_model(checkpoint, dtype=torch.bfloat16)
    assert {weight.dtype for weight in model.parameters()} == {torch.bfloat16}
    assert not model.training
    assert not any(weight.requires_grad for weight in model.parameters())


def test_the_model_id_changes_with_weights_tokenizer_and_normaliser(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = [checkpoints.describe(folder).model_id]
    for file in (WEIGHTS, TOKENIZER):
        digests = dict(checkpoints.describe(folder).sha256)
        edit_config(folder, sha256=digests | {file: "0" * 64})
        ids.append(checkpoints.describe(folder).model_id)
        edit_config(folder, sha256=digests)
    monkeypatch.setattr(identity, "NORMALIZER_VERSION", "another")
    ids.append(checkpoints.describe(folder).model_id)
    assert len(set(ids)) == len(ids)
    assert all(i.startswith("small-random@") and len(i.split("@")[1]) == 12 for i in ids)


def test_recommended_thresholds_are_read_without_their_version(small_checkpoint: Path) -> None:
    thresholds = checkpoints.describe(small_checkpoint).thresholds
    assert thresholds == {name: THRESHOLDS[name] for name in ("balanced", "strict")}


@pytest.mark.parametrize(
    "thresholds",
    [
        {"balanced": 0.5},
        {"strict": {"hat": 0.5}},
        {"strict": {"hate": "0.5"}},
        {"balanced": {"hate": 1.01}},
        ["balanced"],
    ],
    ids=["number", "label", "string", "over_1", "list"],
)
def test_thresholds_no_score_can_be_held_to_are_refused(folder: Path, thresholds: Any) -> None:
    edit_config(folder, thresholds=thresholds)
    with pytest.raises(CheckpointError, match="thresholds"):
        checkpoints.describe(folder)


def test_the_languages_are_english_unless_the_file_says_otherwise(folder: Path) -> None:
    assert checkpoints.describe(folder).languages == ("en",)
    edit_config(folder, languages=["de", "gsw"])
    assert checkpoints.describe(folder).languages == ("de", "gsw")
    edit_config(folder, languages=None)
    assert checkpoints.describe(folder).languages == ("en",)


@pytest.mark.parametrize(
    "languages",
    ["en", [], ["English"], ["EN"], [7], {"en": 1}, 0],
    ids=["string", "none", "name", "capitals", "number", "object", "zero"],
)
def test_languages_that_are_no_list_of_codes_are_refused(folder: Path, languages: Any) -> None:
    edit_config(folder, languages=languages)
    with pytest.raises(CheckpointError, match="languages must be a list"):
        checkpoints.describe(folder)


@pytest.mark.parametrize("file", [CONFIG, WEIGHTS, TOKENIZER])
def test_a_missing_file_is_named(folder: Path, file: str) -> None:
    (folder / file).unlink()
    with pytest.raises(CheckpointError, match=f"{file} is missing"):
        checkpoints.describe(folder)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"name": None}, "lacks name"),
        ({"labels": None}, "lacks labels"),
        ({"sha256": {}}, "lacks model.safetensors"),
        ({"labels": ["hate", "neutral", "abusing", "spam"]}, "labels must be hate, abusing"),
        ({"num_attention_heads": 7}, "hidden_size must be a multiple"),
        ({"hidden_size": "wide"}, "hidden_size must be a whole number"),
        ({"name": 5}, "must be strings"),
    ],
)
def test_an_inconsistent_configuration_is_refused_by_name(
    folder: Path, changes: dict[str, Any], expected: str
) -> None:
    edit_config(folder, **changes)
    with pytest.raises(CheckpointError, match=expected):
        checkpoints.describe(folder)


def test_a_configuration_that_is_no_object_is_refused(folder: Path) -> None:
    for content in ("[]", "{", "null", '"text"'):
        (folder / CONFIG).write_text(content, encoding="utf-8")
        with pytest.raises(CheckpointError, match="cannot be read"):
            checkpoints.describe(folder)


DAMAGES: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "a weight missing": lambda state: state.pop("linear1.bias"),
    "a weight too many": lambda state: state.update(extra=torch.zeros(1)),
    "a wrong shape": lambda state: state.update({"linear1.bias": torch.zeros(3)}),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_weights_that_do_not_fit_are_refused_in_one_line(
    folder: Path, damage: Callable[[dict[str, torch.Tensor]], object]
) -> None:
    edit_weights(folder, damage)
    with pytest.raises(CheckpointError, match=r"model\.safetensors does not load") as caught:
        checkpoints.load_model(checkpoints.describe(folder))
    assert "\n" not in str(caught.value)


def test_truncated_weights_are_refused(folder: Path) -> None:
    weights = folder / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="does not load"):
        checkpoints.load_model(checkpoints.describe(folder))


def test_a_tokenizer_that_does_not_fit_is_refused(folder: Path) -> None:
    checkpoint = checkpoints.describe(folder)
    content = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
    (folder / TOKENIZER).write_text(json.dumps({**content, "post_processor": None}))
    with pytest.raises(CheckpointError, match="does not add <s> and </s>"):
        checkpoints.load_tokenizer(checkpoint)
    (folder / TOKENIZER).write_text("{}")
    with pytest.raises(CheckpointError, match="does not load"):
        checkpoints.load_tokenizer(checkpoint)


def test_verifying_finds_changed_files_and_values_that_are_not_finite(folder: Path) -> None:
    edit_weights(folder, lambda state: state["linear1.bias"].fill_(float("inf")))
    with pytest.raises(CheckpointError, match=r"linear1\.bias holds a value that is not finite"):
        checkpoints.verify(folder)
    with (folder / TOKENIZER).open("a") as file:
        file.write("\n")
    with pytest.raises(CheckpointError, match="does not have the SHA-256"):
        checkpoints.verify(folder)


def test_the_command_says_sound_or_why_not(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoints.main([str(folder)]) == 0
    assert capsys.readouterr().out.endswith(": OK\n")
    (folder / TOKENIZER).unlink()
    assert checkpoints.main([str(folder)]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@torch.inference_mode()
def test_a_prepared_model_scores_the_same(folder: Path, dtype: torch.dtype) -> None:
    checkpoint = checkpoints.describe(folder)
    plain = checkpoints.load_model(checkpoint, dtype=dtype)
    reordered = checkpoints.load_model(checkpoint, dtype=dtype, reorder=True)
    sequences = [[0, *range(5, 5 + length), 2] for length in (1, 30, 7, 200)]
    exact = checkpoints.load_model(checkpoint).double().forward_sequences(sequences)
    error, as_modules = (
        (model.forward_sequences(sequences) - exact).norm() for model in (reordered, plain)
    )
    assert error < 3 * as_modules
    assert reordered.prepared is not None
    assert not reordered.model.encoder.state_dict()
