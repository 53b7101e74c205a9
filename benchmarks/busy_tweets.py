"""Score sixteen tweets at a time for some seconds; print the mean time of a call in milliseconds.

Run it as a file, with nothing of OpenMP's in the environment. Then importing the package sets what
torch's threads do, as for anyone who uses it as a library, unless ``--torch-first`` loads torch
before:

    python benchmarks/busy_tweets.py [--torch-first] [--seconds 4]
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path
from statistics import mean

HERE = Path(__file__).resolve().parent
TWEETS = 16  # a single one runs in one thread
sys.path.insert(0, str(HERE.parent))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--torch-first", action="store_true", help="import torch before this package"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="(%(default)s)")
    options = parser.parse_args()
    if options.torch_first:
        import torch  # noqa: F401 - its OpenMP reads the environment now

    from hatespeech.engine.predictor import Predictor
    from hatespeech.settings import EngineSettings

    classifier = Predictor.from_settings(EngineSettings.from_environment({"DEVICE": "cpu"}))
    with (HERE / "data" / "sample.tsv").open(encoding="utf-8", newline="") as file:
        texts = [
            row["text"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]
    classifier.warm_up(4096)
    times: list[float] = []
    began = time.perf_counter()
    while (started := time.perf_counter()) - began < options.seconds:
        first = len(times) * TWEETS % (len(texts) - TWEETS)
        classifier.score(texts[first : first + TWEETS])
        times.append((time.perf_counter() - started) * 1e3)
    print(mean(times))


if __name__ == "__main__":
    main()
