"""Score sixteen tweets at a time for some seconds; print the mean time of a call in milliseconds.

Run it as a file, with nothing of OpenMP's in the environment. Then importing the package sets what
torch's threads do, as for anyone who uses it as a library, unless ``--torch-first`` loads torch
before. With ``--beside`` another thread of the process scores the same lengths of text meanwhile,
with ONNX Runtime or OpenVINO, whose packages are taken from the folder that is named:

    python benchmarks/busy_tweets.py [--torch-first] [--seconds 4] [--beside onnxruntime PACKAGES]
"""

from __future__ import annotations

import argparse
import csv
import importlib
import os
import sys
import threading
import time
from pathlib import Path
from statistics import mean
from typing import Any

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
    parser.add_argument("--beside", nargs=2, metavar=("RUNTIME", "PACKAGES"), help="also run this")
    parser.add_argument("--graph", type=Path, help="of the model that the other runtime reads")
    options = parser.parse_args()
    if options.torch_first:
        import torch  # noqa: F401 - its OpenMP reads the environment now

    from hatespeech.engine.predictor import Predictor
    from hatespeech.settings import EngineSettings

    predictor = Predictor.from_settings(EngineSettings.from_environment({"DEVICE": "cpu"}))
    with (HERE / "data" / "sample.tsv").open(encoding="utf-8", newline="") as file:
        texts = [
            row["text"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        ]
    predictor.warm_up(4096)
    if options.beside:
        runtime, packages = options.beside
        sys.path.append(packages)  # behind this project's own
        threading.Thread(target=keep_busy, args=(runtime, options.graph), daemon=True).start()
    times: list[float] = []
    began = time.perf_counter()
    while (started := time.perf_counter()) - began < options.seconds:
        first = len(times) * TWEETS % (len(texts) - TWEETS)
        predictor.score(texts[first : first + TWEETS])
        times.append((time.perf_counter() - started) * 1e3)
    print(mean(times), flush=True)
    os._exit(0)  # the other runtime's threads do not let a process end


def keep_busy(runtime: str, graph: Path) -> None:
    """Score with another runtime, endlessly, on as many threads as it takes by itself."""
    numpy: Any = importlib.import_module("numpy")
    batch = {
        "ids": numpy.full((TWEETS, 32), 5),
        "positions": numpy.tile(numpy.arange(2, 34), (TWEETS, 1)),
    }
    library: Any = importlib.import_module(runtime)
    if runtime == "onnxruntime":
        session = library.InferenceSession(graph, providers=["CPUExecutionProvider"])
        while True:
            session.run(None, batch)
    request = library.Core().compile_model(graph, "CPU").create_infer_request()
    while True:
        request.infer(batch)


if __name__ == "__main__":
    main()
