"""Products in int8: weights quantised once, by output; activations as they come, by token.

A weight is a whole number from -127 to 127 times the scale of its output. An activation is the
lowest value of its token plus a whole number from 0 to 255 times the scale of its token. So a
token's products depend on that token alone, not on the texts that share its batch, and nothing is
calibrated.

oneDNN adds up the products of bytes exactly where the processor has VNNI, AVX-512's instructions
for them, or AMX. On older processors the sums of neighbours overflow 16 bits, so :func:`is_exact`
tries it. torch's operators for all this are not a documented interface. They are used only if they
exist, and only for inference.
"""

from __future__ import annotations

import platform
from functools import cache
from typing import Final

import torch
from torch import Tensor, nn
from typing_extensions import override

LARGEST: Final = 127
# A row of zeros keeps a scale that can be divided by.
SMALLEST_SCALE: Final = 1e-30


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return a matrix ``[rows, columns]`` as int8, and the float32 scale of each row, ``[rows]``.

    Quantising what :func:`dequantize` returns gives the same numbers and scales again. Raises
    :class:`ValueError` for a value that is not finite, which int8 could not show.
    """
    weight = weight.float()
    largest = torch.maximum(weight.amax(1), -weight.amin(1)).clamp_min(SMALLEST_SCALE * LARGEST)
    if not torch.isfinite(largest).all():
        raise ValueError("a weight is not finite")
    scales = largest / LARGEST  # for every float32, 127 times this, divided by 127, is this again
    return torch.round(weight / scales[:, None]).to(torch.int8), scales


def dequantize(numbers: Tensor, scales: Tensor) -> Tensor:
    """Return ``[rows, columns]`` in float32 for what :func:`quantize` returned."""
    return numbers * scales[:, None]


class Int8Embedding(nn.Module):
    """A table of embeddings in int8, of which only the rows that are looked up become float32."""

    def __init__(self, numbers: Tensor, scales: Tensor) -> None:
        super().__init__()
        self.numbers, self.scales = numbers, scales

    @override
    def forward(self, ids: Tensor) -> Tensor:
        """Return ``[tokens, columns]`` for ``[tokens]`` ids."""
        return dequantize(self.numbers[ids], self.scales[ids])


def pack(weight: Tensor, bias: Tensor) -> list[Tensor]:
    """Return what :func:`product` reads for a weight ``[outputs, inputs]`` and its bias.

    These are the weight in int8 in the order that oneDNN multiplies, the scale and the zero point
    of each output, the bias, and the sum of each output's weights.
    """
    numbers, scales = quantize(weight)
    packed: Tensor = torch.ops.onednn.qlinear_prepack(numbers, None)
    zero_points = torch.zeros(len(numbers), dtype=torch.int32)
    return [packed, scales, zero_points, bias, numbers.sum(1, dtype=torch.int32) * scales]


def product(rows: Tensor, weights: list[Tensor], gelu: bool) -> Tensor:
    """Return float32 ``[rows, outputs]`` for float32 ``[rows, inputs]``, or the GELU of it.

    TorchScript compiles this, :func:`dequantize` and what they call.
    """
    # Made for tables of embeddings, and the only operator that quantises by row in one go:
    # behind a row's bytes stand its scale and its lowest value.
    quantized = torch.ops.quantized.embedding_bag_byte_prepack(rows)
    width = rows.size(1)
    steps = quantized[:, width:]
    if width % 4:  # no float32 may begin there
        steps = steps.clone(memory_format=torch.contiguous_format)
    steps = torch.view_copy(steps, dtype=torch.float32)
    result = _multiply(quantized[:, :width].contiguous(), weights[0], weights[1], weights[2])
    torch.addcmul(weights[3], result, steps[:, :1], out=result).addr_(steps[:, 1], weights[4])
    # In place: a second matrix of this size leaves less of the caches to the next product.
    return torch.ops.aten.gelu_(result) if gelu else result


def _multiply(rows: Tensor, packed: Tensor, scales: Tensor, zero_points: Tensor) -> Tensor:
    """Return uint8 rows times a packed matrix times the scale of each output, in float32."""
    # Scale and zero point of the rows follow later, as does the bias; nothing is fused.
    result: Tensor = torch.ops.onednn.qlinear_pointwise(
        rows, 1.0, 0, packed, scales, zero_points, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return result


@cache
def is_exact() -> bool:
    """Return whether this processor and this build of torch multiply int8 exactly."""
    # On other processors oneDNN uses other kernels, which have not been measured.
    if platform.machine().lower() not in ("x86_64", "amd64") or not torch._C._has_mkldnn:
        return False
    operators = [
        (torch.ops.onednn, "qlinear_pointwise"),
        (torch.ops.onednn, "qlinear_prepack"),
        (torch.ops.quantized, "embedding_bag_byte_prepack"),
    ]
    if not all(hasattr(library, name) for library, name in operators):
        return False
    packed = torch.ops.onednn.qlinear_prepack(torch.full((64, 64), 127, dtype=torch.int8), None)
    rows = torch.full((8, 64), 255, dtype=torch.uint8)
    found = _multiply(rows, packed, torch.ones(64), torch.zeros(64, dtype=torch.int32))
    return torch.equal(found, torch.full((8, 64), 255.0 * 127 * 64))
