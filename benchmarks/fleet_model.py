"""A model, not a measurement: what a worker on a GPU should score, and what a million tweets cost.

No GPU was at hand. The model takes the arithmetic that BERTweet-large needs for a tweet, a GPU's
published peak, and the share of the peak that such an encoder reaches. That share is an assumption;
replace it with a measurement of yours. Two limits of the host cap the result, both as measured
(results.json): the normalising and tokenising of one thread, and the jobs a second of a queue's
worker whose model costs next to nothing.

    python -m benchmarks.fleet_model [--texts-per-job 64] [--price-per-hour 0.7]
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Final

from benchmarks import models, report, sdk_loop
from benchmarks.run_all import RESULTS
from benchmarks.useful_work import operations
from hatespeech.cli import make_parser

TOKENS: Final = 30  # of a tweet, as in the sample
# Dense half-precision tensor peaks with 32-bit sums, from the makers' data sheets, in TFLOP/s.
PEAKS: Final[Mapping[str, float]] = {
    "RTX A4000, 16 GB": 77,
    "L4, 24 GB": 121,
    "RTX 4090, 24 GB": 165,
    "A100, 80 GB": 312,
    "H100 SXM, 80 GB": 989,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = make_parser(None, __doc__)
    parser.add_argument(
        "--share", type=float, default=0.35, help="of the peak that is reached (%(default)s)"
    )
    parser.add_argument(
        "--busy", type=float, default=0.6, help="of the paid time that is work (%(default)s)"
    )
    parser.add_argument("--texts-per-job", type=report.positive, default=64, help="(%(default)s)")
    parser.add_argument("--price-per-hour", type=float, help="of one worker, in your currency")
    options = parser.parse_args(arguments)
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    reading = min(float(figure["raw"]["theirs"]) for figure in results["reading"]["figures"])
    (jobs,) = (
        float(figure["raw"]["ours"]) * options.texts_per_job
        for figure in results["sdk_loop"]["figures"]
        if figure["name"].endswith(sdk_loop.TINY_NAME)
    )
    print("| GPU | tweets/s, a busy worker | limited by | paid GPU hours a million tweets |")
    print("| --- | ---: | --- | ---: |")
    for name, peak in PEAKS.items():
        device = options.share * peak * 1e12 / operations(models.LARGE, TOKENS, 1)
        rate, limit = min((device, "the GPU"), (reading, "reading"), (jobs, "jobs"))
        hours = 1e6 / rate / 3600 / options.busy
        cost = "" if options.price_per_hour is None else f" ({hours * options.price_per_hour:.2f})"
        print(f"| {name} | {rate:,.0f} | {limit} | {hours:.2f}{cost} |")


if __name__ == "__main__":
    main()
