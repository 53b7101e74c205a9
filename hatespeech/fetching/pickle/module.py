"""Reads the published checkpoint, a pickled ``CustomModel``, without running what it names.

``torch.load`` executes such a file. Here ``reader`` interprets its pickle as inert data,
``container`` checks its tensors against the file before it reserves memory for them, and this
module walks the tree of modules as ``Module.state_dict`` does.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from io import FileIO
from pathlib import Path
from typing import Any, Final

import torch

from hatespeech.fetching.pickle.container import open_torch_file, read_storages
from hatespeech.fetching.pickle.values import (
    CONFIG_CLASS,
    DATA_PARALLEL_CLASS,
    MODULE_CLASSES,
    ONLY_WEIGHTS,
    ROOT_CLASS,
    Instance,
    PickledSet,
    TensorView,
    UnsafePickleError,
    quoted,
    refuse,
)
from hatespeech.model.network import CustomModel, ModelConfig

__all__ = ["UnpickledModule", "UnsafePickleError", "check_state_dict", "read_pickled_module"]

MAX_TENSORS: Final = 4096
MAX_SET: Final = 64
MAX_DIMENSION: Final = 1 << 24
TENSORS_PER_LAYER: Final = 16

# transformers up to 4.30 stores these in the encoder; they follow from max_position_embeddings.
POSITION_IDS: Final = "model.embeddings.position_ids"

_NAME: Final = re.compile(r"[A-Za-z0-9_]{1,128}")
_CONFIG_FIELDS: Final[Mapping[str, type]] = {
    "vocab_size": int,
    "hidden_size": int,
    "num_hidden_layers": int,
    "num_attention_heads": int,
    "intermediate_size": int,
    "max_position_embeddings": int,
    "type_vocab_size": int,
    "pad_token_id": int,
    "bos_token_id": int,
    "eos_token_id": int,
    "layer_norm_eps": float,
    "hidden_dropout_prob": float,
    "attention_probs_dropout_prob": float,
    "initializer_range": float,
    "hidden_act": str,
}
# Sizes that a tensor's shape shows: field -> (key, dimension).
_SHOWN_BY_TENSOR: Final = {
    "vocab_size": ("model.embeddings.word_embeddings.weight", 0),
    "hidden_size": ("model.embeddings.word_embeddings.weight", 1),
    "max_position_embeddings": ("model.embeddings.position_embeddings.weight", 0),
    "type_vocab_size": ("model.embeddings.token_type_embeddings.weight", 0),
    "intermediate_size": ("model.encoder.layer.0.intermediate.dense.weight", 0),
    "classifier_size": ("linear1.weight", 0),
    "num_labels": ("linear2.weight", 0),
}
# Values that only the modules hold: (class, attribute) -> field.
_SHOWN_BY_MODULE: Final = {
    ("RobertaSelfAttention", "num_attention_heads"): "num_attention_heads",
    ("RobertaSdpaSelfAttention", "num_attention_heads"): "num_attention_heads",
    ("RobertaEmbeddings", "padding_idx"): "pad_token_id",
    ("LayerNorm", "eps"): "layer_norm_eps",
}


@dataclass(frozen=True)
class UnpickledModule:
    """A pickled ``CustomModel``: its tensors under their own names, in order, and its sizes.

    ``config`` has RoBERTa's Hugging Face field names, plus ``classifier_size``, ``num_labels`` and
    ``model_type``. The file does not hold the names of the labels.
    """

    state_dict: dict[str, torch.Tensor]
    config: dict[str, Any]


def read_pickled_module(path: str | Path) -> UnpickledModule:
    """Read a whole ``CustomModel``, saved by torch 1.11 to 2.13 in the zip or the legacy format.

    The state dict has the keys, order, values and strides of the module's own ``state_dict()``, but
    is on the CPU. The prefix ``module.`` of ``DataParallel`` is dropped. Tensors that shared a
    storage still do. It takes the memory of the storages, plus a few megabytes.

    Raises :class:`UnsafePickleError` for any other file, and :class:`OSError` if there is no file
    or it can't be read.
    """
    with _open(path) as file:
        content = open_torch_file(file)
        root = content.value
        if isinstance(root, Instance) and root.class_name == DATA_PARALLEL_CLASS:
            root = _members(root, "_modules").get("module")
        if type(root) is dict:
            refuse(ONLY_WEIGHTS)
        if not isinstance(root, Instance) or root.class_name != ROOT_CLASS:
            refuse("the file does not hold a CustomModel")
        views = _tensors(root)
        config = _config(root, views)
        storages = read_storages(file, content, {v.storage.key for v in views.values()})
    tensors = {
        key: storages[view.storage.key].as_strided(view.shape, view.stride, view.offset)
        for key, view in views.items()
    }
    return UnpickledModule(tensors, config)


def _open(path: str | Path) -> FileIO:
    """Open a file unbuffered, without following a symbolic link or waiting for a pipe."""

    def opener(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)

    try:
        return FileIO(path, opener=opener)
    except OSError as exc:
        if exc.errno in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            refuse("the path is not a regular file")
        raise


def check_state_dict(state_dict: Mapping[str, torch.Tensor], config: Mapping[str, Any]) -> None:
    """Check that a state dict is a complete ``CustomModel`` of these sizes, with finite values.

    Keys and shapes must be exactly the model's, except that older files also hold position ids. All
    floating-point tensors must have one type. Raises :class:`UnsafePickleError`.
    """
    for field in fields(ModelConfig):
        if field.name not in config:
            refuse(f"the configuration lacks {field.name}")
    try:
        sizes = ModelConfig.from_dict(config)
    except ValueError as exc:
        refuse(f"the configuration is impossible: {exc}")
    if config.get("hidden_act", "gelu") != "gelu":
        refuse("the configuration's hidden_act is not gelu")
    # Sizes with which building the model would fail, or take very long.
    if max(getattr(sizes, name) for name in _SHOWN_BY_TENSOR) > MAX_DIMENSION:
        refuse("the configuration is impossible: a size is too large")
    if sizes.pad_token_id >= sizes.vocab_size:
        refuse("the configuration is impossible: pad_token_id is outside the vocabulary")
    if sizes.num_hidden_layers * TENSORS_PER_LAYER > len(state_dict):
        refuse("the state dict lacks layers")
    with torch.device("meta"):
        expected = {key: tuple(t.shape) for key, t in CustomModel(sizes).state_dict().items()}
    if POSITION_IDS in state_dict:
        expected[POSITION_IDS] = (1, sizes.max_position_embeddings)
    if missing := expected.keys() - state_dict.keys():
        refuse(f"the state dict lacks {min(missing)}")
    if unexpected := state_dict.keys() - expected.keys():
        refuse(f"the state dict holds an unexpected key: {quoted(min(unexpected))}")
    dtype = state_dict["linear1.weight"].dtype
    if dtype not in (torch.float32, torch.float16, torch.bfloat16):
        refuse("the state dict's weights are not floating point")
    for key, tensor in state_dict.items():
        if tuple(tensor.shape) != expected[key]:
            refuse(f"{key} has shape {tuple(tensor.shape)}, not {expected[key]}")
        if tensor.dtype != (torch.int64 if key == POSITION_IDS else dtype):
            refuse(f"{key} has type {tensor.dtype}")
        # If any value is NaN, so are minimum and maximum; unlike isfinite, this takes no memory.
        if dtype == tensor.dtype and not all(x.isfinite() for x in torch.aminmax(tensor)):
            refuse(f"{key} holds values that are not finite")


def _members(module: Instance, kind: str) -> dict[str, object]:
    """Return a module's ``_parameters``, ``_buffers`` or ``_modules``, without None values."""
    if module.class_name not in MODULE_CLASSES or module.state is None:
        refuse("the module tree holds something that is not a module")
    held = module.state.get(kind)
    if type(held) is not dict:
        refuse(f"a module lacks its {kind}")
    members: dict[str, object] = {}
    for name, value in held.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            refuse("a module holds a member with an impossible name")
        if value is not None:
            members[name] = value
    return members


def _modules(module: Instance, prefix: str = "") -> Iterator[tuple[str, Instance]]:
    """Yield each module with its prefix, depth first; the reader has bounded the depth."""
    children = _members(module, "_modules")
    yield prefix, module
    for name, child in children.items():
        if not isinstance(child, Instance):
            refuse("the module tree holds something that is not a module")
        yield from _modules(child, f"{prefix}{name}.")


def _tensors(root: Instance) -> dict[str, TensorView]:
    """Collect parameters and persistent buffers, in the order of ``Module.state_dict``."""
    views: dict[str, TensorView] = {}
    for prefix, module in _modules(root):
        hidden = (module.state or {}).get("_non_persistent_buffers_set")
        if not isinstance(hidden, PickledSet) or len(hidden.items) > MAX_SET:
            refuse("a module lacks its set of non-persistent buffers")
        tensors = list(_members(module, "_parameters").items())
        tensors += [
            (name, buffer)
            for name, buffer in _members(module, "_buffers").items()
            if name not in hidden.items
        ]
        for name, view in tensors:
            if not isinstance(view, TensorView) or prefix + name in views:
                refuse("a module's parameter or buffer is not a tensor, or two have one name")
            views[prefix + name] = view
            if len(views) > MAX_TENSORS:
                refuse(f"the module holds more than {MAX_TENSORS} tensors")
    return views


def _config(root: Instance, views: Mapping[str, TensorView]) -> dict[str, Any]:
    """Gather the sizes from the encoder's configuration, the modules and the tensors.

    Refuses a file in which they disagree.
    """
    config: dict[str, Any] = {"model_type": "roberta"}

    def agree(field: str, value: object) -> None:
        if type(value) not in (int, float) or config.setdefault(field, value) != value:
            refuse(f"the file contradicts itself about {field}")

    encoder = _members(root, "_modules").get("model")
    source = (
        encoder.state.get("config") if isinstance(encoder, Instance) and encoder.state else None
    )
    if isinstance(source, Instance) and source.class_name == CONFIG_CLASS and source.state:
        for field, kind in _CONFIG_FIELDS.items():
            value = source.state.get(field)
            if value is None:
                continue
            # A probability of 0 may have been written as an integer.
            if type(value) is not kind and (kind, type(value)) != (float, int):
                refuse(f"the configuration's {field} is not of type {kind.__name__}")
            config[field] = value
    for _, module in _modules(root):
        state = module.state or {}
        for (class_name, attribute), field in _SHOWN_BY_MODULE.items():
            if module.class_name.endswith(f" {class_name}") and attribute in state:
                agree(field, state[attribute])
    for field, (key, dimension) in _SHOWN_BY_TENSOR.items():
        if key in views:
            if len(views[key].shape) != 2:
                refuse(f"{key} is not a matrix")
            agree(field, views[key].shape[dimension])
    layers = {key.split(".")[3] for key in views if key.startswith("model.encoder.layer.")}
    if layers:
        agree("num_hidden_layers", len(layers))
    return config
