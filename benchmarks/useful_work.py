"""How much of the machine's arithmetic reaches the model: useful work against bare products.

Useful work is the multiply-adds of the encoder's linear layers on real tokens, while the engine
scores the sample from raw text to scores. The time includes normalising, tokenising, attention and
everything else; the work does not. The last layer counts only what it computes: keys and values of
all tokens, and everything else for the first token of each text.

The bare products have the shapes of the layers at ``ROWS`` rows, weighted as the model weights
them. Each takes the fastest of torch's ways: ``linear``, ``matmul``, and oneDNN's product with
weights reordered beforehand, as the engine's are.

    python -m benchmarks.useful_work [--dtype bfloat16]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks import models, report
from hatespeech.model.network import ModelConfig

ROWS = 2048
REPEATS = 5
TARGETS = {"float32": 0.85, "bfloat16": 0.8}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=5)
    parser.add_argument("--dtype", choices=list(TARGETS), action="append", help="(default: both)")
    parser.add_argument("--texts", type=report.positive, default=256, help="(%(default)s)")
    options = parser.parse_args(arguments)
    texts = models.sample_texts()[: options.texts]
    figures: list[report.Figure] = []
    for dtype in options.dtype or TARGETS:
        figures += compare(texts, dtype, options.rounds)
    report.publish(figures, options.json)


def compare(texts: list[str], dtype: str, rounds: int) -> list[report.Figure]:
    """Measure billions of operations per second of both, two for each multiply-add."""
    shape = models.BASE
    predictor = models.random_predictor(getattr(torch, dtype), shape)
    lengths = [sum(map(len, predictor.encode(text).windows)) for text in texts]
    work = operations(shape, sum(lengths), len(texts)) / 1e9
    candidates = products(shape, getattr(torch, dtype))
    speeds: dict[str, list[float]] = {name: [] for name in candidates}

    def engine() -> float:
        return work / report.seconds(partial(predictor.score, texts))

    def bare() -> float:
        for name, product in candidates.items():
            speeds[name].append(product())
        return max(values[-1] for values in speeds.values())

    engine(), bare()
    for values in speeds.values():
        values.clear()
    ours, best = report.in_turn(engine, bare, rounds)
    public = [max(pair) for pair in zip(speeds["linear"], speeds["matmul"], strict=True)]
    medians = {name: round(median(values), 1) for name, values in speeds.items()}
    return [
        report.at_least(
            f"useful work, base shape, {dtype}, GFLOP/s",
            "the fastest product in torch, oneDNN's with reordered weights included",
            (ours, best),
            TARGETS[dtype],
            tokens=sum(lengths),
            products=medians,
        ),
        report.at_least(
            f"useful work, base shape, {dtype}, GFLOP/s",
            "the faster of torch's linear and matmul",
            (ours, public),
            TARGETS[dtype],
        ),
    ]


def operations(shape: ModelConfig, tokens: int, texts: int) -> int:
    """Return the floating-point operations of the encoder's linear layers."""
    square = shape.hidden_size**2
    feed_forward = 2 * shape.hidden_size * shape.intermediate_size
    full = (shape.num_hidden_layers - 1) * (4 * square + feed_forward) * tokens
    last = 2 * square * tokens + (2 * square + feed_forward) * texts
    return 2 * (full + last)


@torch.inference_mode()
def products(shape: ModelConfig, dtype: torch.dtype) -> dict[str, Callable[[], float]]:
    """Return what measures each product over one layer's shapes, in GFLOP/s."""
    hidden, wide = shape.hidden_size, shape.intermediate_size
    sizes = [(hidden, hidden)] * 4 + [(hidden, wide), (wide, hidden)]
    rows = {size: torch.randn(ROWS, size, dtype=dtype) for size in (hidden, wide)}
    weights = [torch.randn(after, before, dtype=dtype) for before, after in sizes]
    biases = [torch.randn(after, dtype=dtype) for _, after in sizes]
    work = sum(2 * ROWS * before * after for before, after in sizes) / 1e9

    def measure(product: Callable[[Tensor, int], object]) -> Callable[[], float]:
        @torch.inference_mode()
        def layer() -> None:
            for index, (before, _) in enumerate(sizes):
                product(rows[before], index)

        return lambda: work / min(report.seconds(layer) for _ in range(REPEATS))

    found = {
        "linear": measure(lambda x, i: F.linear(x, weights[i], biases[i])),
        "matmul": measure(lambda x, i: x @ weights[i].t()),
    }
    if torch._C._has_mkldnn:
        onednn = torch.ops.mkldnn
        reordered = [onednn._reorder_linear_weight(weight, ROWS) for weight in weights]
        found["onednn, reordered"] = measure(
            lambda x, i: onednn._linear_pointwise(x, reordered[i], biases[i], "none", [], "")
        )
    return found


if __name__ == "__main__":
    main()
