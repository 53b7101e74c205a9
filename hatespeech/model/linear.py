"""Linear layers over packed rows; on a CPU, oneDNN's product with GELU fused into it.

``torch.nn.functional.linear`` computes float32 with MKL, which does not use AVX-512 on processors
not made by Intel. oneDNN, which torch includes and its compiler uses, took half the time
there (``benchmarks/useful_work.py``). Its operators are not a documented interface, so they are
used only if they exist, and only for inference. ``torch.backends.mkldnn.enabled = False`` turns
them off.

oneDNN builds a primitive for every new shape, which takes about as long as scoring a short text.
So the number of rows is rounded up to a multiple of ``ROW_STEP``, and at most ``ROWS_AT_ONCE`` rows
go in one call. That makes at most 64 shapes for each layer.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from functools import cache
from typing import Final, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from hatespeech.model.int8 import Int8Weight

OPERATORS: Final = [
    "_linear_pointwise",
    "_reorder_linear_weight",
    "_is_mkldnn_bf16_supported",
]
ROW_STEP: Final = 8
# This also keeps a layer's widest intermediate result within a processor's caches.
ROWS_AT_ONCE: Final = 512


class Linear(nn.Linear):
    """``nn.Linear`` for ``[rows, features]``, with faster inference on a CPU."""

    _reordered: Tensor | None = None
    _int8: Int8Weight | None = None

    def reorder(self) -> None:
        """Replace the weights by a copy in the order that oneDNN multiplies fastest.

        This saves reordering them on every call. Afterwards the layer is inference-only and has no
        ``weight``. Does nothing if oneDNN is not used.
        """
        if _may_serve(self.weight):
            self._reordered = torch.ops.mkldnn._reorder_linear_weight(
                self.weight.detach(), ROWS_AT_ONCE
            )
            del self.weight

    @classmethod
    def join(cls, layers: Sequence[Linear]) -> Self:
        """Return a layer for inference whose output is theirs, side by side."""
        first = layers[0]
        with torch.device("meta"):
            joined = cls(first.in_features, sum(layer.out_features for layer in layers))
        joined.weight = nn.Parameter(torch.cat([layer.weight for layer in layers]), False)
        joined.bias = nn.Parameter(torch.cat([layer.bias for layer in layers]), False)
        return joined.eval()

    def quantize(self) -> None:
        """Replace the weights by int8 in oneDNN's order; see :mod:`hatespeech.model.int8`.

        Afterwards the layer is inference-only, takes float32 and has no ``weight``.
        """
        self._int8 = Int8Weight(self.weight.detach())
        del self.weight

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        if self._reordered is not None or self._int8 is not None:
            raise RuntimeError("a layer in oneDNN's order cannot be moved or cast")
        moved: Self = super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's
        return moved

    @override
    def forward(self, rows: Tensor) -> Tensor:
        """Return ``[rows, out_features]``."""
        if not self._served_by_onednn(rows):
            return super().forward(rows)
        return by_rows(lambda part: self._product(part, "none"), rows)

    def gelu(self, rows: Tensor) -> Tensor:
        """Return the exact GELU of ``forward(rows)``."""
        if not self._served_by_onednn(rows):
            return F.gelu(super().forward(rows))
        return by_rows(lambda part: self._product(part, "gelu"), rows)

    def _served_by_onednn(self, rows: Tensor) -> bool:
        """Return whether oneDNN can replace torch here: no gradient and nothing to cast."""
        if self._reordered is not None or self._int8 is not None:
            return True
        return (
            rows.dtype == self.weight.dtype
            and _may_serve(rows)
            and not torch.is_grad_enabled()
            and not torch.is_autocast_enabled("cpu")
        )

    def _product(self, rows: Tensor, activation: str) -> Tensor:
        count = rows.shape[0]
        missing = -count % ROW_STEP
        if missing:
            rows = F.pad(rows, (0, 0, 0, missing))
        if self._int8 is not None:
            return self._int8.product(rows, self.bias, activation)[:count]
        product: Tensor = torch.ops.mkldnn._linear_pointwise(
            rows,
            self.weight if self._reordered is None else self._reordered,
            self.bias,
            activation,
            [],
            "none",
        )
        return product[:count] if missing else product


def by_rows(function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    """Apply a function to ``ROWS_AT_ONCE`` rows at a time on a CPU, else to all rows at once.

    All ``inputs`` have the same number of rows; each call gets the same rows of each.
    """
    first = inputs[0]
    if len(first) <= ROWS_AT_ONCE or first.is_cuda or torch.is_grad_enabled():
        return function(*inputs)
    parts = zip(*(torch.split(each, ROWS_AT_ONCE) for each in inputs), strict=True)
    return torch.cat([function(*part) for part in parts])


def _may_serve(tensor: Tensor) -> bool:
    return (
        tensor.device.type == "cpu"
        and tensor.dtype in onednn_dtypes()
        and bool(torch.backends.mkldnn.enabled)
    )


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
