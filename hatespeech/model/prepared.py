"""The encoder's layers, prepared for inference on a CPU.

Their weights are in oneDNN's order or in int8, and query, key and value are one product. All layers
run in one call of TorchScript, which lets go of Python: neither Python's speed nor its other
threads hold up a product. With Python between the operators a lone tweet took up to a sixth longer,
and two passes beside each other an eighth.

``torch.nn.functional.linear`` computes float32 with MKL, which does not use AVX-512 on processors
not made by Intel. oneDNN, which torch includes and its compiler uses, took half the time
there (``benchmarks/useful_work.py``). Its operators are not a documented interface, so they are
used only if they exist. ``torch.backends.mkldnn.enabled = False`` turns them off.
"""

from __future__ import annotations

import platform
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from hatespeech.model import int8
from hatespeech.model.network import CustomModel, Layer, ModelConfig
from hatespeech.model.packing import ROWS_AT_ONCE, PackedBatch

OPERATORS: Final = [
    "_linear_pointwise",
    "_reorder_linear_weight",
    "_is_mkldnn_bf16_supported",
]
# A layer's weights in this order: the products of attention's input and output, of widening and
# of narrowing, each as :func:`_product` reads it, then weight and bias of both normalisations. The
# last layer, of which only first tokens are asked, has its query first, and last a product of key
# and value.
Weights = list[list[Tensor]]


def prepare(model: CustomModel, *, quantized: bool = False) -> None:
    """Prepare all layers of a model; with ``quantized`` they multiply in int8."""
    prepared = PreparedLayers(model.config)
    for index in range(model.config.num_hidden_layers):
        prepared.take(model, index, quantized=quantized)
    model.model.add_module("encoder", prepared.finish())


class PreparedLayers(nn.Module):
    """Takes the place of the encoder's layers. It cannot be moved, cast, trained or saved."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._heads = config.num_attention_heads
        self._eps = config.layer_norm_eps
        self._weights: list[Weights] = [[] for _ in range(config.num_hidden_layers)]
        self._held: Any = None

    @torch.no_grad()
    def take(self, model: CustomModel, index: int, *, quantized: bool) -> None:
        """Prepare a layer of the model, which loses it; with ``quantized`` it becomes int8."""
        last = index == len(self._weights) - 1
        layers = model.model.encoder.layer
        self._weights[index] = _weights_of(cast(Layer, layers[index]), last, quantized)
        layers[index] = nn.Identity()

    def finish(self) -> PreparedLayers:
        """Hold the weights where TorchScript need not convert them for each call."""
        self._held = _script(self._weights) if onednn_dtypes() else self._weights
        _encoder()  # the first text need not wait until it is compiled
        return self

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PreparedLayers:
        raise RuntimeError("prepared layers cannot be moved or cast")

    @override
    def forward(self, hidden: Tensor, batch: PackedBatch, first_only: bool) -> Tensor:
        """Return ``[sequences, hidden]`` of the first tokens; others are not computed to the end.

        Raises :class:`ValueError` without ``first_only``, and for a batch whose groups are padded.
        """
        if not first_only or any(group.present is not None for group in batch.groups):
            raise ValueError("prepared layers compute first tokens, without padding")
        groups = [[group.start, group.end, group.count] for group in batch.groups]
        # In bfloat16 oneDNN multiplies batches of matrices, too. For a tweet that takes a third of
        # the time of torch's own attention.
        by_product = hidden.dtype == torch.bfloat16 and hidden.dtype in onednn_dtypes()
        encoded: Tensor = _encoder()(
            hidden, batch.first, groups, self._heads, self._eps, by_product, self._held
        )
        return encoded


def _weights_of(layer: Layer, last: bool, quantized: bool) -> Weights:
    own, output = layer.attention.self, layer.attention.output
    pack = int8.pack if quantized else _pack
    return [
        pack(*_joined([own.query] if last else [own.query, own.key, own.value])),
        pack(*_joined([output.dense])),
        pack(*_joined([layer.intermediate.dense])),
        pack(*_joined([layer.output.dense])),
        [
            each.detach()
            for norm in (output.LayerNorm, layer.output.LayerNorm)
            for each in (norm.weight, norm.bias)
        ],
        *([pack(*_joined([own.key, own.value]))] if last else []),
    ]


def _joined(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a product whose output is theirs, side by side."""
    if len(layers) == 1:
        return layers[0].weight.detach(), layers[0].bias.detach()
    return torch.cat([each.weight for each in layers]), torch.cat([each.bias for each in layers])


def _pack(weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Return what :func:`_product` reads, the weight in oneDNN's order where that is used."""
    if weight.dtype in onednn_dtypes() and torch.backends.mkldnn.enabled:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS_AT_ONCE)
    return [weight, bias]


@cache
def onednn_dtypes() -> frozenset[torch.dtype]:
    """Return the dtypes that this build's oneDNN multiplies on this processor."""
    # On other processors oneDNN uses other kernels, which have not been measured.
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return frozenset()
    if not torch._C._has_mkldnn or not all(hasattr(torch.ops.mkldnn, name) for name in OPERATORS):
        return frozenset()
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return frozenset({torch.float32, torch.bfloat16})
    return frozenset({torch.float32})


@cache
def _encoder() -> Callable[..., Any]:
    """Return :func:`_encode`, compiled where its operators exist."""
    compiled: Callable[..., Any] = _script(_encode) if onednn_dtypes() else _encode
    return compiled


def _script(thing: Any) -> Any:
    with warnings.catch_warnings():
        # torch advises torch.compile or torch.export instead. The one needs a C++ compiler where
        # the service runs, the other leaves the loop over operators to Python.
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        return torch.jit.script(thing)


# TorchScript compiles what follows, and :func:`hatespeech.model.int8.product`.


def _encode(
    hidden: Tensor,
    first: Tensor,
    groups: list[list[int]],
    heads: int,
    eps: float,
    by_product: bool,
    layers: list[list[list[Tensor]]],
) -> Tensor:
    """Return ``[len(first), hidden]`` for ``[tokens, hidden]``.

    A group is its first token, one past its last, and its number of sequences.
    Attention over few tokens is computed ``by_product``, not by torch's own operator.
    """
    for weights in layers[:-1]:
        projected = _product(hidden, weights[0], False)
        contexts: list[Tensor] = []
        for group in groups:
            query, key, value = _by_head(projected[group[0] : group[1]], group[2], 3, heads)
            contexts.append(_attend(query, key, value, by_product))
        contexts.append(hidden[groups[-1][1] :])  # rows behind the last sequence hold anything
        hidden = _after_attention(torch.cat(contexts), hidden, weights, eps)
    weights = layers[-1]
    residual = hidden[first]
    asked = _product(residual, weights[0], False)
    projected = _product(hidden, weights[5], False)
    contexts = []
    begin = 0
    for group in groups:
        end = begin + group[2]
        query = _by_head(asked[begin:end], group[2], 1, heads)[0]
        key, value = _by_head(projected[group[0] : group[1]], group[2], 2, heads)
        contexts.append(_attend(query, key, value, by_product))
        begin = end
    contexts.append(residual[begin:])
    return _after_attention(torch.cat(contexts), residual, weights, eps)


def _after_attention(
    context: Tensor, residual: Tensor, weights: list[list[Tensor]], eps: float
) -> Tensor:
    """Return what a layer makes of its attention's context: ``[rows, hidden]``."""
    norms = weights[4]
    width = [residual.size(1)]
    attended = _product(context, weights[1], False).add_(residual)
    attended = torch.layer_norm(attended, width, norms[0], norms[1], eps)
    widened = _product(attended, weights[2], True)
    narrowed = _product(widened, weights[3], False).add_(attended)
    return torch.layer_norm(narrowed, width, norms[2], norms[3], eps)


def _product(rows: Tensor, weights: list[Tensor], gelu: bool) -> Tensor:
    """Return ``[rows, outputs]``, or the exact GELU of it."""
    if len(weights) > 2:
        return int8.product(rows, weights, gelu)
    if weights[0].is_mkldnn:
        activation = "gelu" if gelu else "none"
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows, weights[0], weights[1], activation, [], "none"
        )
        return product
    product = F.linear(rows, weights[0], weights[1])
    return F.gelu(product) if gelu else product


def _by_head(projected: Tensor, count: int, parts: int, heads: int) -> list[Tensor]:
    """Part the rows of ``count`` sequences into ``[count, heads, length, head size]`` each."""
    shape = [count, projected.size(0) // count, parts, heads, projected.size(1) // parts // heads]
    return list(projected.view(shape).permute(2, 0, 3, 1, 4).unbind(0))


def _attend(query: Tensor, key: Tensor, value: Tensor, by_product: bool) -> Tensor:
    """Return the context of each query's token, ``[tokens, hidden]``."""
    # For longer keys, whose scores leave the caches, torch's own attention is faster.
    if by_product and key.size(2) < 200:
        scores = torch.matmul(query, key.transpose(2, 3)).float()
        scores = torch.softmax(scores.mul_(query.size(3) ** -0.5), 3)
        context = torch.matmul(scores.to(value.dtype), value)
    else:
        context = F.scaled_dot_product_attention(query, key, value)
    return context.transpose(1, 2).flatten(2).flatten(0, 1)
