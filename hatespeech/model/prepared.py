"""A model prepared for inference on a CPU.

Its layers' weights are in oneDNN's order or in int8. Query, key and value are one product, except
in the last layer. The forward pass is one call of TorchScript, which lets go of Python: beside a
busy thread of Python a lone tweet takes a tenth of the time that the same function takes in Python.
In int8, which has the most operators, it takes less everywhere (``benchmarks/compiled_pass.py``).
Where TorchScript cannot compile the pass, it runs in Python and gives the same.

``torch.nn.functional.linear`` computes float32 with MKL, which does not use AVX-512 on processors
not made by Intel. oneDNN, which torch includes and its compiler uses, took half the time
there (``benchmarks/useful_work.py``). Its operators are not a documented interface, so they are
used only if they exist. ``torch.backends.mkldnn.enabled = False`` turns them off.
"""

from __future__ import annotations

import logging
import platform
import threading
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from hatespeech.errors import describe_exception
from hatespeech.model import int8
from hatespeech.model.network import CustomModel, Layer, ModelConfig
from hatespeech.model.packing import ROWS_AT_ONCE, PackedBatch

log = logging.getLogger(__name__)

OPERATORS: Final = [
    "_linear_pointwise",
    "_reorder_linear_weight",
    "_is_mkldnn_bf16_supported",
]
# Held while the filters of warnings change, which all threads share.
_scripting: Final = threading.Lock()
# The tensors of a layer, in this order: the products of attention's input and output, of widening
# and of narrowing, each as :func:`_product` reads it, then weight and bias of both normalisations.
# The last layer, of which only first tokens are asked, has its query first, and last a product of
# key and value.
Layered = list[list[Tensor]]


def prepare(model: CustomModel, *, quantized: bool = False) -> None:
    """Prepare a model; with ``quantized`` its layers multiply in int8."""
    prepared = PreparedModel(model.config)
    for index in range(model.config.num_hidden_layers):
        prepared.take_layer(model, index, quantized=quantized)
    prepared.finish(model)


class PreparedModel(nn.Module):
    """Computes a model's logits in its place, without gradients. It has no state to save."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self._heads = config.num_attention_heads
        self._eps = config.layer_norm_eps
        self._layers: list[Layered] = [[] for _ in range(config.num_hidden_layers)]
        self._by_product = False
        self._tensors: Any = None

    @torch.no_grad()
    def take_layer(self, model: CustomModel, index: int, *, quantized: bool) -> None:
        """Prepare a layer of the model, which loses it; with ``quantized`` it becomes int8."""
        last = index == len(self._layers) - 1
        layers = model.model.encoder.layer
        self._layers[index] = _tensors_of(cast(Layer, layers[index]), last, quantized)
        layers[index] = _Taken()

    def finish(self, model: CustomModel) -> None:
        """Take the place of a model of which all layers are taken."""
        # In bfloat16 oneDNN multiplies batches of matrices, too. For a tweet that takes a third of
        # the time of torch's own attention.
        dtype = model.linear1.weight.dtype
        self._by_product = dtype == torch.bfloat16 and _by_onednn(dtype)
        embeddings = model.model.embeddings
        words: Any = embeddings.word_embeddings
        in_int8 = isinstance(words, int8.Int8Embedding)
        norm = embeddings.LayerNorm
        tensors = [
            [
                [words.numbers, words.scales] if in_int8 else [words.weight],
                [embeddings.token_type_embeddings.weight[0], embeddings.position_embeddings.weight],
                [norm.weight, norm.bias],
            ],
            *self._layers,
            [list(each.parameters()) for each in (model.linear1, model.linear2)],
        ]
        tensors = [[[t.detach() for t in group] for group in layer] for layer in tensors]
        self._layers = []
        # A list of Python's would be converted for each call.
        self._tensors = tensors if _compiled() is _forward else _script(tensors)
        model.prepared = self

    @override
    def forward(self, batch: PackedBatch) -> Tensor:
        """Return logits ``[sequences, labels]``, in the order in which the caller packed them.

        Raises :class:`ValueError` for a batch whose groups are padded, as for a GPU.
        """
        if any(group.present is not None for group in batch.groups):
            raise ValueError("a prepared model reads groups without padding")
        groups = [[group.start, group.end, group.count] for group in batch.groups]
        # Optimising fuses nothing on a CPU, and would cost the first two passes 50 ms.
        with torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # not in its stubs
            logits: Tensor = _compiled()(
                *(batch.input_ids, batch.position_ids, batch.first, batch.places, groups),
                *(self._heads, self._eps, self._by_product, self._tensors),
            )
        return logits


class _Taken(nn.Module):
    """Stands where a layer was."""

    @override
    def forward(self, *_: object) -> Tensor:
        raise RuntimeError(
            "a prepared model computes logits, model(batch): its encoder has no layers of its own"
        )


def _tensors_of(layer: Layer, last: bool, quantized: bool) -> Layered:
    own, output = layer.attention.self, layer.attention.output
    pack = int8.pack if quantized else _pack
    return [
        pack(*_joined([own.query] if last else [own.query, own.key, own.value])),
        pack(*_joined([output.dense])),
        pack(*_joined([layer.intermediate.dense])),
        pack(*_joined([layer.output.dense])),
        [*output.LayerNorm.parameters(), *layer.output.LayerNorm.parameters()],
        *([pack(*_joined([own.key, own.value]))] if last else []),
    ]


def _joined(layers: Sequence[nn.Linear]) -> tuple[Tensor, Tensor]:
    """Return the weight and the bias of a product whose output is theirs, side by side."""
    if len(layers) == 1:
        return layers[0].weight.detach(), layers[0].bias.detach()
    return torch.cat([each.weight for each in layers]), torch.cat([each.bias for each in layers])


def _pack(weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Return what :func:`_product` reads, the weight in oneDNN's order where that is used."""
    if _by_onednn(weight.dtype):
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


def _by_onednn(dtype: torch.dtype) -> bool:
    return dtype in onednn_dtypes() and bool(torch.backends.mkldnn.enabled)


@cache
def _compiled() -> Callable[..., Any]:
    """Return :func:`_forward`, compiled where its operators exist."""
    if not onednn_dtypes():
        return _forward
    try:
        compiled: Callable[..., Any] = _script(_forward)
    except (OSError, RuntimeError) as exc:  # no sources, as in a frozen program; another torch
        log.warning("passes run in Python, which is slower: %s", describe_exception(exc))
        return _forward
    return compiled


def _script(thing: Any) -> Any:
    with _scripting, warnings.catch_warnings():
        # torch advises torch.compile or torch.export instead. The one needs a C++ compiler where
        # the service runs, the other leaves the loop over operators to Python.
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=DeprecationWarning)
        return torch.jit.script(thing)


# TorchScript compiles what follows, and what it calls of :mod:`hatespeech.model.int8`.


def _forward(
    ids: Tensor,
    positions: Tensor,
    first: Tensor,
    places: Tensor,
    groups: list[list[int]],
    heads: int,
    eps: float,
    by_product: bool,
    tensors: list[list[list[Tensor]]],
) -> Tensor:
    """Return logits ``[len(places), labels]``.

    A group is its first token, one past its last, and its number of sequences. Attention over few
    tokens is computed ``by_product``, not by torch's own operator. ``tensors`` are those of the
    embeddings, of each layer, and of the head.
    """
    words, others, norm = tensors[0]
    if len(words) > 1:
        hidden = int8.dequantize(words[0][ids], words[1][ids])
    else:
        hidden = torch.embedding(words[0], ids)
    hidden = hidden + others[0] + torch.embedding(others[1], positions)
    hidden = torch.layer_norm(hidden, [hidden.size(1)], norm[0], norm[1], eps)
    encoded = _encode(hidden, first, groups, heads, eps, by_product, tensors[1:-1])
    wide, narrow = tensors[-1]
    logits = F.linear(F.relu(F.linear(encoded, wide[0], wide[1])), narrow[0], narrow[1])
    return logits[places]


def _encode(
    hidden: Tensor,
    first: Tensor,
    groups: list[list[int]],
    heads: int,
    eps: float,
    by_product: bool,
    layers: list[list[list[Tensor]]],
) -> Tensor:
    """Return the states of the first tokens, ``[len(first), hidden]``."""
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
