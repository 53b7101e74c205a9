"""A list of tweets, scored offline: this engine against transformers with padding.

RoBERTa-base's shape with random weights; the texts are in the order of the file. This engine gets
raw texts. transformers gets them normalised already, tokenises them, and pads batches of 32.

    python -m benchmarks.offline_throughput [--dtype bfloat16]
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

import torch

from benchmarks import models, report

BATCH = 32
TARGET = 2.2


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = report.parser(__doc__, rounds=3)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), action="append", help="(default: both)"
    )
    parser.add_argument("--texts", type=report.positive, default=256, help="(%(default)s)")
    options = parser.parse_args(arguments)
    texts = models.sample_texts()[: options.texts]
    figures = [
        compare(texts, dtype, options.rounds) for dtype in options.dtype or ("float32", "bfloat16")
    ]
    report.publish(figures, options.json)


def compare(texts: list[str], dtype: str, rounds: int) -> report.Figure:
    """Measure texts per second of both."""
    predictor = models.random_predictor(getattr(torch, dtype))
    theirs = models.transformers_model(getattr(torch, dtype))
    tokenizer = models.transformers_tokenizer()
    prepared = models.normalized(texts)

    def engine() -> float:
        return len(texts) / report.seconds(partial(predictor.score, texts))

    @torch.inference_mode()
    def padded() -> float:
        started = time.perf_counter()
        for start in range(0, len(prepared), BATCH):
            batch = tokenizer(
                prepared[start : start + BATCH],
                padding=True,
                truncation=True,
                return_tensors="pt",
                return_token_type_ids=False,
            )
            torch.softmax(theirs(**batch).logits.float(), dim=-1).tolist()
        return len(texts) / (time.perf_counter() - started)

    engine(), padded()
    return report.at_least(
        f"offline throughput, base shape, {dtype}, texts/s",
        f"transformers, padded, batches of {BATCH}",
        report.in_turn(engine, padded, rounds),
        TARGET,
        texts=len(texts),
    )


if __name__ == "__main__":
    main()
