"""The linear layer against torch's own, and the shapes it lets oneDNN see."""

from __future__ import annotations

from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hatespeech.model import linear
from hatespeech.model.linear import ROW_STEP, ROWS_AT_ONCE, Linear, by_rows

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@pytest.fixture(scope="module")
def layer() -> Linear:
    torch.manual_seed(5)
    return Linear(48, 80).eval()


@pytest.fixture
def shapes() -> Iterator[list[int]]:
    """How many rows each of oneDNN's products had."""
    seen: list[int] = []
    product = torch.ops.mkldnn._linear_pointwise

    def watched(rows: Tensor, *rest: object) -> Tensor:
        seen.append(len(rows))
        result: Tensor = product(rows, *rest)
        return result

    with patch.object(torch.ops.mkldnn, "_linear_pointwise", watched):
        yield seen


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("count", [1, 7, 8, 9, 511, 512, 513, 1300])
@torch.inference_mode()
def test_products_equal_those_of_torch(count: int, dtype: torch.dtype) -> None:
    torch.manual_seed(count)
    layer = Linear(48, 80).to(dtype)
    rows = torch.randn(count, 48, dtype=dtype)
    expected = F.linear(rows.double(), layer.weight.double(), layer.bias.double())
    # A unit in the last place of what the dtype can hold at such magnitudes.
    tolerance = {torch.float32: 5e-6, torch.bfloat16: 2e-2, torch.float16: 2e-3}[dtype]
    torch.testing.assert_close(layer(rows).double(), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(layer.gelu(rows).double(), F.gelu(expected), rtol=0, atol=tolerance)
    assert layer(rows).shape == (count, 80)


@pytest.mark.skipif(not linear.onednn_dtypes(), reason="this build of torch has no oneDNN")
@torch.inference_mode()
def test_onednn_sees_few_shapes_whatever_comes(layer: Linear, shapes: list[int]) -> None:
    counts = [*range(1, 70), 505, 512, 513, 1023, 1025, 4099]
    for count in counts:
        layer(torch.zeros(count, 48))
        layer.gelu(torch.zeros(count, 48))
    assert len(shapes) >= 2 * len(counts)
    assert all(rows % ROW_STEP == 0 and rows <= ROWS_AT_ONCE for rows in shapes)


@pytest.mark.skipif(not linear.onednn_dtypes(), reason="this build of torch has no oneDNN")
def test_onednn_is_left_out_where_it_cannot_serve(layer: Linear, shapes: list[int]) -> None:
    rows = torch.randn(9, 48)
    layer(rows).sum().backward()  # it has no gradient
    assert layer.weight.grad is not None
    layer.zero_grad()
    with torch.inference_mode():
        with torch.autocast("cpu", torch.bfloat16):  # it casts nothing
            assert layer(rows).dtype == torch.bfloat16
        with pytest.MonkeyPatch.context() as switch:
            switch.setattr(torch.backends.mkldnn, "enabled", False)
            layer.gelu(rows)
        half = Linear(48, 80).half()
        half.gelu(rows.half())  # slower than torch's own
        assert not shapes
        layer(rows)
    assert shapes == [16]


@torch.inference_mode()
def test_a_function_of_rows_sees_the_same_rows_of_every_input() -> None:
    left, right = torch.randn(2, 1200, 3)
    seen: list[int] = []

    def add(a: Tensor, b: Tensor) -> Tensor:
        seen.append(len(a))
        return a + b

    torch.testing.assert_close(by_rows(add, left, right), left + right, rtol=0, atol=0)
    assert seen == [512, 512, 176]


def test_rows_are_not_parted_in_training() -> None:
    rows = torch.randn(1200, 3, requires_grad=True)
    seen: list[int] = []

    def double(part: Tensor) -> Tensor:
        seen.append(len(part))
        return part * 2

    by_rows(double, rows)
    assert seen == [1200]


def test_it_is_a_linear_layer_to_everybody_else(layer: Linear) -> None:
    assert isinstance(layer, nn.Linear)
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.skipif(not linear.onednn_dtypes(), reason="this build of torch has no oneDNN")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@torch.inference_mode()
def test_reordered_weights_give_the_same_products(dtype: torch.dtype) -> None:
    if dtype not in linear.onednn_dtypes():
        pytest.skip("this processor's oneDNN has no bfloat16")
    layer = Linear(48, 80).to(dtype).requires_grad_(False)
    rows = torch.randn(700, 48, dtype=dtype)
    plain, activated = layer(rows), layer.gelu(rows)
    layer.reorder()
    assert "weight" not in layer.state_dict()
    with pytest.raises(RuntimeError, match="cannot be moved or cast"):
        layer.half()
    torch.testing.assert_close(layer(rows), plain)
    torch.testing.assert_close(layer.gelu(rows), activated)


@torch.inference_mode()
def test_weights_that_onednn_does_not_serve_stay_as_they_are() -> None:
    half = Linear(48, 80).half().requires_grad_(False)
    half.reorder()
    assert half.weight.dtype == torch.float16
    with pytest.MonkeyPatch.context() as switch:
        switch.setattr(torch.backends.mkldnn, "enabled", False)
        plain = Linear(48, 80).requires_grad_(False)
        plain.reorder()
    assert plain.weight.shape == (80, 48)
