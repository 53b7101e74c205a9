"""Score sixteen tweets at a time for some seconds; print the mean time of a call in milliseconds.

Run it as a file, so that the libraries see only the settings of the environment and of ``--ours``:

    python benchmarks/busy_tweets.py [--ours] [--seconds 4]
"""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from pathlib import Path
from statistics import mean

HERE = Path(__file__).resolve().parent
TWEETS = 16  # a single one runs in one thread
sys.path.insert(0, str(HERE.parent))

from hatespeech.libraries import set_library_defaults  # noqa: E402 - found by the line above


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ours", action="store_true", help="with this engine's library settings")
    parser.add_argument("--seconds", type=float, default=4.0, help="(%(default)s)")
    options = parser.parse_args()
    if options.ours:
        set_library_defaults(os.environ)

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
