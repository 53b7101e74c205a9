"""Prepared layers against the modules they are made of, and what they spare a pass."""

from __future__ import annotations

import copy
import random
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor

from hatespeech.model import int8, prepared
from hatespeech.model.network import CustomModel, ModelConfig
from hatespeech.model.packing import PackedBatch
from hatespeech.model.prepared import PreparedLayers, onednn_dtypes, prepare
from tests.support.checkpoints import random_model

needs_onednn = pytest.mark.skipif(not onednn_dtypes(), reason="this build of torch has no oneDNN")


def model_of(layers: int, dtype: torch.dtype = torch.float32) -> CustomModel:
    config = ModelConfig(
        vocab_size=300,
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=96,
        classifier_size=24,
    )
    return random_model(config).to(dtype).requires_grad_(False)


def prepared_from(model: CustomModel, *, quantized: bool = False) -> CustomModel:
    model = copy.deepcopy(model)
    prepare(model, quantized=quantized)
    return model


@pytest.fixture(scope="module")
def sequences() -> list[list[int]]:
    dice = random.Random(3)
    return [
        [dice.randrange(4, 300) for _ in range(n)] for n in (2, 7, 7, 31, 32, 33, 199, 200, 512)
    ]


@needs_onednn
@pytest.mark.parametrize("layers", [1, 2, 3])
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    # Units in the last place of a hidden state, which is below 4.
    [(torch.float32, 1e-5), (torch.bfloat16, 0.06), (torch.float16, 0.008)],
    ids=str,
)
@torch.inference_mode()
def test_first_states_equal_those_of_the_modules(
    sequences: list[list[int]], layers: int, dtype: torch.dtype, tolerance: float
) -> None:
    model = model_of(layers, dtype)
    batch = PackedBatch.pack(sequences, 1, "cpu")
    exact = copy.deepcopy(model).double().model(batch, first_only=True)
    found = prepared_from(model).model(batch, first_only=True)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=tolerance)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@torch.inference_mode()
def test_compiled_layers_give_what_they_give_in_python(
    sequences: list[list[int]], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype == torch.int8 and not int8.is_exact():
        pytest.skip("this processor has no VNNI")
    quantized = dtype == torch.int8
    model = model_of(3, torch.float32 if quantized else dtype)
    compiled = prepared_from(model, quantized=quantized).forward_sequences(sequences)
    monkeypatch.setattr(prepared, "_script", lambda thing: thing)
    monkeypatch.setattr(prepared, "_encoder", lambda: prepared._encode)
    in_python = prepared_from(model, quantized=quantized).forward_sequences(sequences)
    assert torch.equal(in_python, compiled)


@needs_onednn
@torch.inference_mode()
def test_more_layers_need_no_more_of_python(sequences: list[list[int]]) -> None:
    def calls(model: CustomModel) -> int:
        count = 0

        def note(_frame: FrameType, event: str, _argument: Any) -> None:
            nonlocal count
            count += event in ("call", "c_call")

        with torch.inference_mode():
            model.forward_sequences(sequences[:3])
            sys.setprofile(note)
            try:
                model.forward_sequences(sequences[:3])
            finally:
                sys.setprofile(None)
        return count

    few, many = model_of(2), model_of(6)
    assert calls(prepared_from(many)) == calls(prepared_from(few))
    assert calls(many) > calls(few) + 100


@pytest.fixture
def without_onednn(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a processor whose oneDNN is not used."""
    monkeypatch.setattr(prepared, "onednn_dtypes", frozenset)
    prepared._encoder.cache_clear()
    yield
    prepared._encoder.cache_clear()


@pytest.mark.usefixtures("without_onednn")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_without_onednn_they_multiply_as_torch_does(
    sequences: list[list[int]], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_arguments: object) -> Tensor:
        raise AssertionError("oneDNN is not there")

    monkeypatch.setattr(torch.ops.mkldnn, "_linear_pointwise", absent)
    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", absent)
    model = model_of(2, dtype)
    found = prepared_from(model).forward_sequences(sequences)
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found, model.forward_sequences(sequences), rtol=0, atol=tolerance)


@needs_onednn
@torch.inference_mode()
def test_a_user_can_turn_onednn_off(
    sequences: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    model = model_of(2)
    prepared_model = prepared_from(model)
    encoder = prepared_model.model.get_submodule("encoder")
    assert isinstance(encoder, PreparedLayers)
    assert not any(t.is_mkldnn for layer in encoder._weights for group in layer for t in group)
    torch.testing.assert_close(
        prepared_model.forward_sequences(sequences),
        model.forward_sequences(sequences),
        rtol=0,
        atol=1e-5,
    )


def test_they_are_neither_moved_nor_cast_nor_saved() -> None:
    model = prepared_from(model_of(2))
    with pytest.raises(RuntimeError, match="cannot be moved or cast"):
        model.half()
    assert not [key for key in model.state_dict() if "encoder" in key]


def test_they_refuse_what_they_do_not_compute(
    sequences: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = prepared_from(model_of(2))
    with pytest.raises(ValueError, match="first tokens"):
        model.model(PackedBatch.pack(sequences, 1, "cpu"))
    one_group = [(0, len(sequences))]
    monkeypatch.setattr("hatespeech.model.packing.group_bounds", lambda *_: one_group)
    with pytest.raises(ValueError, match="without padding"):
        model.model(PackedBatch.pack(sequences, 1, "cpu"), first_only=True)
