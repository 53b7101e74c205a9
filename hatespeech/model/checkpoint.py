"""The checkpoint folder: describe it, load it, save it, verify it.

A folder holds ``model.safetensors`` (weights, under the published checkpoint's key names),
``config.json`` (Hugging Face's RoBERTa field names plus ``labels``, ``classifier_size``, ``name``,
``languages``, ``sha256`` of the two large files and ``provenance``), ``tokenizer.json`` (for
``tokenizers``) and ``README.md``, its model card.

Weights are float32, float16 or bfloat16. In an int8 folder the encoder's linear layers and the word
embeddings are int8, with the float32 scale of each row under ``…weight_scale``, and everything else
is float32. A folder of any of these can be loaded as any dtype: int8 weights are then multiplied
out, and a folder's ``sha256`` and model id are those of what it holds, whatever it is loaded as.

The hashes are recorded when a folder is written. ``python -m hatespeech.model.checkpoint DIR``
checks them, and that every weight is finite. Loading a model does not, because it takes seconds.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from hatespeech.errors import CheckpointError
from hatespeech.labels import LABELS
from hatespeech.model.identity import CONFIG as CONFIG  # these names belong to the folder, too
from hatespeech.model.identity import TOKENIZER as TOKENIZER
from hatespeech.model.identity import WEIGHTS as WEIGHTS
from hatespeech.model.identity import model_id_of, thresholds_of
from hatespeech.model.int8 import Int8Embedding, dequantize, quantize
from hatespeech.model.network import CustomModel, ModelConfig
from hatespeech.model.prepared import PreparedModel
from hatespeech.paths import file_sha256

# What the published model was trained on, and a checkpoint whose file does not say.
LANGUAGES: Final = ("en",)

WORD_EMBEDDINGS: Final = "model.embeddings.word_embeddings.weight"
SCALE: Final = "_scale"  # what the key of an int8 weight's scales adds


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint folder whose configuration is read and consistent."""

    path: Path
    name: str
    model: ModelConfig
    sha256: Mapping[str, str]  # file name -> hex digest recorded when the folder was written
    provenance: Mapping[str, Any]
    thresholds: Mapping[str, Mapping[str, float]]  # name -> label or toxic -> recommended
    languages: tuple[str, ...]  # ISO 639 codes of what it was trained on

    @property
    def digits(self) -> str:
        """12 hex digits over weights and tokenizer."""
        parts = "\n".join((self.sha256[WEIGHTS], self.sha256[TOKENIZER]))
        return hashlib.sha256(parts.encode()).hexdigest()[:12]

    @property
    def model_id(self) -> str:
        """``name@`` and 12 hex digits over weights, tokenizer and the normaliser's version."""
        return model_id_of(self.name, self.sha256)


def describe(path: Path) -> Checkpoint:
    """Read a folder's ``config.json``.

    Raises :class:`CheckpointError` if a file or a field is missing, or a field's value is invalid.
    """
    for file in (CONFIG, WEIGHTS, TOKENIZER):
        if not (path / file).is_file():
            raise CheckpointError(f"{path}: {file} is missing")
    try:
        config = json.loads((path / CONFIG).read_text(encoding="utf-8"))
        if not isinstance(config, dict):
            raise TypeError("it is not a JSON object")
        model = ModelConfig.from_dict(config)
        checkpoint = Checkpoint(
            path,
            config["name"],
            model,
            config["sha256"],
            config.get("provenance", {}),
            thresholds_of(config.get("thresholds", {})),
            _languages(config.get("languages", list(LANGUAGES))),
        )
        digests = [checkpoint.sha256[file] for file in (WEIGHTS, TOKENIZER)]
        labels = tuple(config["labels"])
    except KeyError as exc:
        raise CheckpointError(f"{path}: {CONFIG} lacks {exc.args[0]}") from exc
    except (OSError, ValueError, TypeError) as exc:
        raise CheckpointError(f"{path}: {CONFIG} cannot be read: {exc}") from exc
    if labels != LABELS or model.num_labels != len(LABELS):
        raise CheckpointError(f"{path}: labels must be {', '.join(LABELS)}, in this order")
    if not isinstance(checkpoint.name, str) or not all(isinstance(d, str) for d in digests):
        raise CheckpointError(f"{path}: name and sha256 in {CONFIG} must be strings")
    return checkpoint


def _languages(values: object) -> tuple[str, ...]:
    """Return language codes; raise :class:`ValueError` for anything but a list of at least one."""
    codes = values if isinstance(values, list) else []
    if not codes or not all(isinstance(c, str) and re.fullmatch("[a-z]{2,3}", c) for c in codes):
        raise ValueError("languages must be a list of ISO 639 codes, such as en")
    return tuple(codes)


def load_model(
    checkpoint: Checkpoint,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    *,
    reorder: bool = False,
) -> CustomModel:
    """Load the weights strictly, straight to ``device`` and ``dtype``, in evaluation mode.

    The file is mapped into memory. With ``reorder`` the model is prepared for inference (see
    :mod:`hatespeech.model.prepared`): its layers keep a copy of their weights. The file is then
    mapped again for each layer, so that only one layer at a time is in memory twice. With
    ``torch.int8``, which needs ``reorder``, these layers and the word embeddings become int8,
    everything else float32; scores do not depend on whether the folder was int8. Raises
    :class:`CheckpointError` for a file that is damaged or does not fit its configuration.
    """
    kept = torch.float32 if dtype == torch.int8 else dtype
    with torch.device("meta"):
        model = CustomModel(checkpoint.model)
    prepared = PreparedModel(checkpoint.model) if reorder else None
    path = checkpoint.path / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            stored = set(file.keys())
        found = stored - {key + SCALE for key in stored}
        expected = model.state_dict().keys()
        for fault, names in (
            ("lacks", expected - found),
            ("has the unknown key", found - expected),
        ):
            if names:
                raise RuntimeError(f"it {fault} {min(names)}")
        for layer, keys in _by_layer(sorted(found)):
            with safe_open(path, framework="pt") as file:
                if dtype == torch.int8 and WORD_EMBEDDINGS in keys:
                    keys.remove(WORD_EMBEDDINGS)
                    table = Int8Embedding(*_read_int8(file, WORD_EMBEDDINGS))
                    model.model.embeddings.add_module("word_embeddings", table)
                state = {key: _read(file, key).to(device, kept) for key in keys}
            if prepared and layer:
                # Small tensors would keep their layer's part of the file mapped.
                state = {k: t.clone() if t.dim() == 1 else t for k, t in state.items()}
            model.load_state_dict(state, strict=False, assign=True)
            if prepared and layer:
                index = int(layer.rpartition(".")[2])
                prepared.take_layer(model, index, quantized=dtype == torch.int8)
            del state  # before the next layer is read
            give_back()
    except (OSError, SafetensorError, RuntimeError, ValueError) as exc:
        reason = str(exc).splitlines()[0]
        raise CheckpointError(f"{checkpoint.path}: {WEIGHTS} does not load: {reason}") from exc
    if prepared:
        prepared.finish(model)
    return model.requires_grad_(False).eval()


def give_back() -> None:
    """Return freed memory to the system, where the C library can.

    glibc keeps what the copies of several layers took: a ninth of a large model's file.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def dtype_name(model: CustomModel) -> str:
    """Return the name of the number format that a loaded model multiplies."""
    if isinstance(model.model.embeddings.word_embeddings, Int8Embedding):
        return "int8"
    return str(model.linear1.weight.dtype).removeprefix("torch.")


def _read(file: Any, key: str) -> Tensor:
    """Return a weight of an open file; one in int8 is multiplied out, to float32."""
    tensor: Tensor = file.get_tensor(key)
    return dequantize(tensor, file.get_tensor(key + SCALE)) if _is_int8(tensor) else tensor


def _read_int8(file: Any, key: str) -> tuple[Tensor, Tensor]:
    """Return a weight of an open file as int8, and its scales; int8 stays mapped."""
    tensor: Tensor = file.get_tensor(key)
    return (tensor, file.get_tensor(key + SCALE)) if _is_int8(tensor) else quantize(tensor)


def _is_int8(tensor: Tensor) -> bool:
    return tensor.dtype == torch.int8


def _by_layer(keys: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Group sorted keys by the encoder layer they belong to, or by ``""`` if they do not."""

    def layer(key: str) -> str:
        found = re.match(r"model\.encoder\.layer\.\d+(?=\.)", key)
        return found.group() if found else ""

    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(layer(key), []).append(key)
    return list(groups.items())


def load_tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    """Load ``tokenizer.json``, which must wrap a text in ``<s> … </s>``, to neither cut nor pad.

    Raises :class:`CheckpointError` for a file that does not parse or does not fit the model.
    """
    try:
        tokenizer = Tokenizer.from_file(str(checkpoint.path / TOKENIZER))
    except Exception as exc:  # tokenizers raises bare Exception, its only class
        reason = str(exc).splitlines()[0]
        raise CheckpointError(f"{checkpoint.path}: {TOKENIZER} does not load: {reason}") from exc
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if tokenizer.get_vocab_size() > checkpoint.model.vocab_size:
        raise CheckpointError(f"{checkpoint.path}: {TOKENIZER} has more tokens than the model")
    if tokenizer.num_special_tokens_to_add(is_pair=False) != 2:
        raise CheckpointError(f"{checkpoint.path}: {TOKENIZER} does not add <s> and </s>")
    return tokenizer


def save(
    path: Path,
    state: Mapping[str, Tensor],
    model: ModelConfig,
    tokenizer: Tokenizer,
    *,
    name: str,
    provenance: Mapping[str, Any],
    dtype: torch.dtype,
    thresholds: Mapping[str, Any] | None = None,
    languages: Sequence[str] = LANGUAGES,
) -> Checkpoint:
    """Write weights, tokenizer, configuration and hashes into ``path``.

    ``thresholds`` holds a ``version`` and, for each name, a threshold for each label, or
    ``toxic``, that it flags.
    """
    path.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for key, value in state.items():
        stored = stored_dtype(key, dtype)
        if stored == torch.int8:
            tensors[key], tensors[key + SCALE] = quantize(value.detach().cpu())
        else:
            tensors[key] = value.detach().to("cpu", stored).contiguous()
    save_file(tensors, path / WEIGHTS)
    tokenizer.save(str(path / TOKENIZER), pretty=False)
    config = {
        "model_type": "roberta",
        **asdict(model),
        "hidden_act": "gelu",
        "position_embedding_type": "absolute",
        "torch_dtype": str(dtype).removeprefix("torch."),
        "labels": LABELS,
        "name": name,
        "languages": list(languages),
        "sha256": {file: file_sha256(path / file) for file in (WEIGHTS, TOKENIZER)},
        **({"thresholds": thresholds} if thresholds else {}),
        "provenance": provenance,
    }
    (path / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    return describe(path)


def stored_dtype(key: str, dtype: torch.dtype) -> torch.dtype:
    """Return the dtype that a folder of ``dtype`` stores a weight in."""
    multiplied = r"model\.encoder\.layer\.\d+\..*\.(query|key|value|dense)\.weight"
    if dtype == torch.int8 and key != WORD_EMBEDDINGS and not re.fullmatch(multiplied, key):
        return torch.float32
    return dtype


def verify(path: Path) -> Checkpoint:
    """Check a whole folder: hashes, strict load, every weight finite, tokenizer.

    Raises :class:`CheckpointError` for the first error that it finds.
    """
    checkpoint = describe(path)
    for file in (WEIGHTS, TOKENIZER):
        if file_sha256(path / file) != checkpoint.sha256[file]:
            raise CheckpointError(f"{path}: {file} does not have the SHA-256 that {CONFIG} records")
    with safe_open(path / WEIGHTS, framework="pt") as file:
        for key in file.keys():  # noqa: SIM118 - safe_open is not a mapping
            if not torch.isfinite(file.get_tensor(key)).all():
                raise CheckpointError(f"{path}: {key} holds a value that is not finite")
    load_model(checkpoint)
    load_tokenizer(checkpoint)
    return checkpoint


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a checkpoint folder from the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m hatespeech.model.checkpoint",
        description="Check a checkpoint folder: hashes, keys, shapes, finite weights, tokenizer.",
    )
    parser.add_argument("folder", type=Path, help="a folder, such as checkpoints/bertweet-large")
    folder = parser.parse_args(arguments).folder
    try:
        checkpoint = verify(folder)
    except CheckpointError as exc:
        sys.stderr.write(f"error: {exc}\n")
        return 1
    sys.stdout.write(f"{checkpoint.model_id}: OK\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
