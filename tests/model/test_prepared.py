"""A prepared model against the modules that it is made of, and what it spares a pass."""

from __future__ import annotations

import copy
import os
import random
import sys
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from hatespeech.model import int8, prepared
from hatespeech.model.network import CustomModel, ModelConfig
from hatespeech.model.packing import ROW_STEP, PackedBatch
from hatespeech.model.prepared import PreparedModel, onednn_dtypes, prepare
from tests.support.checkpoints import random_model

needs_onednn = pytest.mark.skipif(not onednn_dtypes(), reason="this build of torch has no oneDNN")


def model_of(layers: int, dtype: torch.dtype = torch.float32) -> CustomModel:
    torch.manual_seed(layers)
    config = ModelConfig(
        vocab_size=300,
        hidden_size=64,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=96,
        classifier_size=24,
    )
    model = random_model(config)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):  # or one could be taken for another
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return model.to(dtype).requires_grad_(False)


def products_of(model: CustomModel) -> list[Tensor]:
    """The weights that a prepared model multiplies by."""
    assert isinstance(model.prepared, PreparedModel)
    return [product[0] for layer in model.prepared._tensors[1:-1] for product in layer[:4]]


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
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@torch.inference_mode()
def test_logits_are_as_exact_as_those_of_the_modules(
    sequences: list[list[int]], layers: int, dtype: torch.dtype
) -> None:
    model = model_of(layers, dtype)
    exact = copy.deepcopy(model).double().forward_sequences(sequences)
    found = prepared_from(model).forward_sequences(sequences)
    assert found.dtype == dtype
    error, of_modules = (
        (logits - exact).norm() for logits in (found, model.forward_sequences(sequences))
    )
    assert error < 3 * of_modules
    assert of_modules < 0.02 * exact.norm()


@torch.inference_mode()
def test_rows_that_belong_to_no_sequence_change_nothing(sequences: list[list[int]]) -> None:
    model = prepared_from(model_of(2))
    few = sequences[:4]
    exact = model(PackedBatch.pack(few, 1, "cpu"))
    assert sum(map(len, few)) % ROW_STEP
    torch.testing.assert_close(model(PackedBatch.pack(few, 1, "cpu", ROW_STEP)), exact)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8], ids=str)
@torch.inference_mode()
def test_a_compiled_pass_gives_what_it_gives_in_python(
    sequences: list[list[int]], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    if dtype == torch.int8 and not int8.is_exact():
        pytest.skip("this processor has no VNNI")
    quantized = dtype == torch.int8
    model = model_of(3, torch.float32 if quantized else dtype)
    compiled = prepared_from(model, quantized=quantized).forward_sequences(sequences)
    monkeypatch.setattr(prepared, "_script", lambda thing: thing)
    monkeypatch.setattr(prepared, "_compiled", lambda: prepared._forward)
    in_python = prepared_from(model, quantized=quantized).forward_sequences(sequences)
    assert torch.equal(in_python, compiled)


@needs_onednn
@pytest.mark.skipif(os.environ.get("PYTORCH_JIT") == "0", reason="nothing is compiled")
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
    prepared._compiled.cache_clear()
    yield
    prepared._compiled.cache_clear()


@needs_onednn
@pytest.mark.parametrize("error", [OSError("no sources"), RuntimeError("Unknown builtin op")])
@torch.inference_mode()
def test_a_pass_that_cannot_be_compiled_runs_in_python(
    sequences: list[list[int]],
    error: Exception,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    model = model_of(2)
    compiled = prepared_from(model).forward_sequences(sequences)

    def fail(_thing: object) -> None:
        raise error

    monkeypatch.setattr(torch.jit, "script", fail)
    prepared._compiled.cache_clear()
    try:
        assert torch.equal(prepared_from(model).forward_sequences(sequences), compiled)
    finally:
        prepared._compiled.cache_clear()
    (said,) = caplog.messages
    assert said.startswith(f"passes run in Python, which is slower: {type(error).__name__} at ")


def test_no_two_threads_change_the_filters_of_warnings_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    filters = list(warnings.filters)
    inside: list[int] = []
    seen: list[int] = []

    def slow(thing: int) -> int:
        inside.append(thing)
        time.sleep(0.02)
        seen.append(len(inside))
        inside.remove(thing)
        return thing

    monkeypatch.setattr(torch.jit, "script", slow)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(prepared._script, range(4))) == [0, 1, 2, 3]
    assert seen == [1] * 4
    assert list(warnings.filters) == filters


@pytest.mark.usefixtures("without_onednn")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_without_onednn_it_multiplies_as_torch_does(
    sequences: list[list[int]], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_arguments: object) -> Tensor:
        raise AssertionError("oneDNN is not there")

    for name in prepared.OPERATORS:
        monkeypatch.setattr(torch.ops.mkldnn, name, absent, raising=False)
    model = model_of(2, dtype)
    found = prepared_from(model).forward_sequences(sequences)
    assert prepared._compiled() is prepared._forward
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(found, model.forward_sequences(sequences), rtol=0, atol=tolerance)


@needs_onednn
@torch.inference_mode()
def test_a_user_can_turn_onednn_off(
    sequences: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)
    model = model_of(2)
    switched_off = prepared_from(model)
    assert not any(each.is_mkldnn for each in products_of(switched_off))
    torch.testing.assert_close(
        switched_off.forward_sequences(sequences),
        model.forward_sequences(sequences),
        rtol=0,
        atol=1e-5,
    )


def test_it_is_neither_moved_nor_cast() -> None:
    model = prepared_from(model_of(2))
    with pytest.raises(RuntimeError, match="cannot be moved or cast"):
        model.half()
    assert model.linear1.weight.dtype == torch.float32


@pytest.mark.parametrize("first_only", [True, False])
@torch.inference_mode()
def test_its_encoder_alone_says_that_it_has_no_layers(
    sequences: list[list[int]], first_only: bool
) -> None:
    model = prepared_from(model_of(2))
    with pytest.raises(RuntimeError, match="its encoder has no layers of its own"):
        model.model(PackedBatch.pack(sequences, 1, "cpu"), first_only)


def test_groups_with_padding_are_refused(
    sequences: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = prepared_from(model_of(2))
    one_group = [(0, len(sequences))]
    monkeypatch.setattr("hatespeech.model.packing.group_bounds", lambda *_: one_group)
    with pytest.raises(ValueError, match="without padding"):
        model(PackedBatch.pack(sequences, 1, "cpu"))
