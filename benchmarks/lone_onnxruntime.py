"""ONNX Runtime's side of ``lone_tweets``, run by the interpreter of its own environment.

It writes a checkpoint folder as the graph that exporters write, one operator of the standard for
each step, and lets ONNX Runtime fuse what it fuses. Then it answers requests; see ``lone_tweets``.
With a second argument it only writes the graph to that file.

    python benchmarks/lone_onnxruntime.py FOLDER [GRAPH]
"""

from __future__ import annotations

import importlib
import json
import sys
import time
from pathlib import Path
from typing import Any

# Installed only in the environment of this side.
np: Any = importlib.import_module("numpy")
onnx: Any = importlib.import_module("onnx")
onnxruntime: Any = importlib.import_module("onnxruntime")
safetensors: Any = importlib.import_module("safetensors.numpy")


def main() -> None:
    """Load, then answer each line of the input."""
    graph = Graph(Path(sys.argv[1])).serialized()
    if sys.argv[2:]:
        Path(sys.argv[2]).write_bytes(graph)
        return
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    for line in sys.stdin:
        tokens, calls = json.loads(line)
        feed = {"ids": np.array([tokens]), "positions": np.arange(2, 2 + len(tokens))[None]}
        times = []
        for _ in range(calls):
            started = time.perf_counter()
            (logits,) = session.run(None, feed)
            times.append((time.perf_counter() - started) * 1e3)
        powers = np.exp(logits[0] - logits[0].max())
        print(json.dumps([times, (powers / powers.sum()).tolist()]), flush=True)


class Graph:
    """A checkpoint as a graph of ONNX: ``ids`` and ``positions`` to ``logits``."""

    def __init__(self, folder: Path) -> None:
        self._config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        self._weights = safetensors.load_file(folder / "model.safetensors")
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def serialized(self) -> bytes:
        """Return the model file's bytes."""
        words, types, places = (
            self._weights[f"model.embeddings.{kind}_embeddings.weight"].astype(np.float32)
            for kind in ("word", "token_type", "position")
        )
        embedded = self._add(
            "Add",
            self._add("Gather", self._constant(words + types[0]), "ids"),
            self._add("Gather", self._constant(places), "positions"),
        )
        hidden = self._norm(embedded, "model.embeddings.LayerNorm")
        for index in range(self._config["num_hidden_layers"]):
            hidden = self._layer(hidden, f"model.encoder.layer.{index}.")
        first = self._add("Gather", hidden, self._constant(np.array(0)), axis=1)
        logits = self._linear(self._add("Relu", self._linear(first, "linear1")), "linear2")
        self._nodes.append(onnx.helper.make_node("Identity", [logits], ["logits"]))
        info, kinds = onnx.helper.make_tensor_value_info, onnx.TensorProto
        graph = onnx.helper.make_graph(
            self._nodes,
            "roberta",
            [info(name, kinds.INT64, [None, None]) for name in ("ids", "positions")],
            [info("logits", kinds.FLOAT, [None, None])],
            self._constants,
        )
        standard = onnx.helper.make_opsetid("", 17)
        model = onnx.helper.make_model(graph, opset_imports=[standard], ir_version=9)
        serialized: bytes = model.SerializeToString()
        return serialized

    def _layer(self, hidden: str, prefix: str) -> str:
        heads, width = self._config["num_attention_heads"], self._config["hidden_size"]
        split = self._constant(np.array([0, 0, heads, width // heads]))
        query, key, value = (
            self._add(
                "Transpose",
                self._add("Reshape", self._linear(hidden, f"{prefix}attention.self.{name}"), split),
                perm=order,
            )
            for name, order in (
                ("query", [0, 2, 1, 3]),
                ("key", [0, 2, 3, 1]),
                ("value", [0, 2, 1, 3]),
            )
        )
        scale = self._number((width // heads) ** -0.5)
        scores = self._add("Mul", self._add("MatMul", query, key), scale)
        context = self._add("MatMul", self._add("Softmax", scores, axis=-1), value)
        context = self._add("Transpose", context, perm=[0, 2, 1, 3])
        context = self._add("Reshape", context, self._constant(np.array([0, 0, width])))
        attended = self._linear(context, f"{prefix}attention.output.dense")
        attended = self._norm(
            self._add("Add", attended, hidden), f"{prefix}attention.output.LayerNorm"
        )
        wide = self._linear(attended, f"{prefix}intermediate.dense")
        erf = self._add("Erf", self._add("Div", wide, self._number(2**0.5)))
        gelu = self._add("Mul", wide, self._add("Add", erf, self._number(1.0)))
        gelu = self._add("Mul", gelu, self._number(0.5))
        output = self._linear(gelu, f"{prefix}output.dense")
        return self._norm(self._add("Add", output, attended), f"{prefix}output.LayerNorm")

    def _linear(self, rows: str, name: str) -> str:
        weight = self._constant(self._weights[f"{name}.weight"].astype(np.float32).T)
        bias = self._constant(self._weights[f"{name}.bias"].astype(np.float32))
        return self._add("Add", self._add("MatMul", rows, weight), bias)

    def _norm(self, rows: str, name: str) -> str:
        parts = (
            self._constant(self._weights[f"{name}.{part}"].astype(np.float32))
            for part in ("weight", "bias")
        )
        epsilon = self._config["layer_norm_eps"]
        return self._add("LayerNormalization", rows, *parts, epsilon=epsilon, axis=-1)

    def _number(self, value: float) -> str:
        return self._constant(np.array(value, np.float32))

    def _constant(self, values: Any) -> str:
        name = f"constant{len(self._constants)}"
        values = np.asarray(values, order="C")
        self._constants.append(onnx.numpy_helper.from_array(values, name))
        return name

    def _add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"node{len(self._nodes)}"
        node = onnx.helper.make_node(operator, list(inputs), [output], **attributes)
        self._nodes.append(node)
        return output


if __name__ == "__main__":
    main()
