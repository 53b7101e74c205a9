"""The other runtimes' side of ``int8_runtimes``, run by the interpreter of its own environment.

It reads batches of token ids, each of texts of one length. For each line of the input it scores
them all and prints how many seconds that took.

    python benchmarks/int8_side.py onnxruntime|openvino FOLDER BATCHES THREADS

ONNX Runtime writes the graph of ``lone_onnxruntime`` and quantises it dynamically, weights by
output. OpenVINO reads that graph; NNCF quantises it with the scales that some batches give.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALIBRATED: int = 24  # batches

# Installed only in the environment of this side.
np: Any = importlib.import_module("numpy")


def main() -> None:
    """Load, then answer each line of the input."""
    name, folder, batches, threads = sys.argv[1:]
    feeds = [
        {
            "ids": np.array(rows),
            "positions": np.tile(np.arange(2, 2 + len(rows[0])), (len(rows), 1)),
        }
        for rows in json.loads(Path(batches).read_text(encoding="utf-8"))
    ]
    load = {"onnxruntime": onnxruntime_session, "openvino": openvino_session}[name]
    score = load(Path(folder), feeds, int(threads))
    for _ in sys.stdin:
        started = time.perf_counter()
        for feed in feeds:
            score(feed)
        print(time.perf_counter() - started, flush=True)


def onnxruntime_session(
    folder: Path, _feeds: list[dict[str, Any]], threads: int
) -> Callable[[Any], Any]:
    """Return what scores a batch."""
    graphs: Any = importlib.import_module("lone_onnxruntime")  # beside this file
    runtime: Any = importlib.import_module("onnxruntime")
    quantization: Any = importlib.import_module("onnxruntime.quantization")
    graph, quantized = folder / "model.onnx", folder / "int8.onnx"
    graph.write_bytes(graphs.Graph(folder).serialized())
    quantization.quantize_dynamic(
        graph, quantized, per_channel=True, weight_type=quantization.QuantType.QInt8
    )
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait for work would take the other sides' turns.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = runtime.InferenceSession(quantized, options, providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, feed)


def openvino_session(
    folder: Path, feeds: list[dict[str, Any]], threads: int
) -> Callable[[Any], Any]:
    """Return what scores a batch."""
    openvino: Any = importlib.import_module("openvino")
    nncf: Any = importlib.import_module("nncf")
    core = openvino.Core()
    step = max(1, len(feeds) // CALIBRATED)
    model = nncf.quantize(
        core.read_model(folder / "model.onnx"),
        nncf.Dataset(feeds[::step]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=CALIBRATED,
    )
    settings = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda feed: request.infer(feed)


if __name__ == "__main__":
    main()
