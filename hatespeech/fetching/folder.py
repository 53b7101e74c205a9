"""The checkpoint folder: made from a pickle and a tokenizer, checked, recognised later."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import torch
from tokenizers import Tokenizer

from hatespeech.engine.predictor import Predictor
from hatespeech.errors import CheckpointError, ServiceError
from hatespeech.fetching import FetchError
from hatespeech.fetching.pickle.module import (
    POSITION_IDS,
    UnsafePickleError,
    check_state_dict,
    read_pickled_module,
)
from hatespeech.fetching.tokenizer import PAD
from hatespeech.labels import LABELS
from hatespeech.model import checkpoint as checkpoints
from hatespeech.model.network import ModelConfig
from hatespeech.settings import EngineSettings

# How far a score may be from the expected one.
TOLERANCE: Final = 0.02

_VERSIONS_OF: Final = ("torch", "safetensors", "tokenizers", "huggingface_hub")


@dataclass(frozen=True)
class Expectation:
    """The scores that a checkpoint must give to a text."""

    text: str
    scores: Mapping[str, float]


def convert(
    pickle: Path,
    tokenizer: Tokenizer,
    folder: Path,
    *,
    name: str,
    dtype: str,
    provenance: Mapping[str, Any],
    require_room: Callable[[int], object],
) -> None:
    """Read a pickled module without running it, and write it as a checkpoint folder.

    ``require_room`` is called with the bytes that the weights need on disk. Raises
    :class:`UnsafePickleError` for a file that is refused, and :class:`FetchError` or
    :class:`CheckpointError` if model and tokenizer do not fit together.
    """
    module = read_pickled_module(pickle)
    state = module.state_dict
    check_state_dict(state, module.config)
    state.pop(POSITION_IDS, None)
    model = ModelConfig.from_dict(module.config)
    if model.num_labels != len(LABELS):
        raise UnsafePickleError(f"the model has {model.num_labels} labels, not {len(LABELS)}")
    if tokenizer.token_to_id(PAD) != model.pad_token_id:
        raise FetchError(
            f"the tokenizer and the model have different ids for {PAD}: they do not fit together"
        )
    if tokenizer.get_vocab_size() > model.vocab_size:
        raise FetchError(
            f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model {model.vocab_size}: "
            "they do not fit together"
        )
    target: torch.dtype = getattr(torch, dtype)
    require_room(
        sum(
            tensor.numel() * checkpoints.stored_dtype(key, target).itemsize
            for key, tensor in state.items()
        )
    )
    provenance = {
        **provenance,
        "dtype": dtype,
        "converted": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": {
            "python": platform.python_version(),
            **{package: importlib.metadata.version(package) for package in _VERSIONS_OF},
        },
    }
    checkpoints.save(
        folder, state, model, tokenizer, name=name, provenance=provenance, dtype=target
    )


def check_sound(folder: Path) -> None:
    """Check a folder's hashes, weights and tokenizer; raise :class:`CheckpointError`."""
    try:
        checkpoints.verify(folder)
    except CheckpointError as exc:
        # Without the temporary folder's path, which is removed before anybody reads this.
        reason = str(exc).removeprefix(f"{folder}: ")
        raise CheckpointError(f"the converted checkpoint is damaged: {reason}") from exc


def check_figures(
    folder: Path, expectations: Sequence[Expectation]
) -> list[tuple[Expectation, dict[str, float]]]:
    """Score each expectation's text as the service would; return each with its scores.

    Raises :class:`FetchError` if a score differs by more than ``TOLERANCE``.
    """
    if not expectations:
        return []
    classifier = Predictor.from_settings(
        EngineSettings(model_dir=folder, device="cpu", dtype="float32")
    )
    found = []
    for expectation, score in zip(
        expectations, classifier.score([e.text for e in expectations]), strict=True
    ):
        if isinstance(score, ServiceError):
            raise FetchError(f"self-check: the text expected something of {score.message}")
        scores: dict[str, float] = dict(zip(LABELS, score.scores, strict=True))
        for label, expected in expectation.scores.items():
            if abs(scores[label] - expected) > TOLERANCE:
                raise FetchError(
                    f"self-check: {expectation.text!r} scores {label} {scores[label]:.4f}, but "
                    f"{expected:.4f} was expected; the model or its tokenizer is another one"
                )
        found.append((expectation, scores))
    return found


def describe_difference(
    recorded: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = ""
) -> str | None:
    """Describe the first of the ``wanted`` values that differs from the recorded one.

    Both are nested alike. Returns ``None`` if all are equal.
    """
    for key, value in wanted.items():
        was = recorded.get(key)
        if isinstance(value, Mapping):
            inner = was if isinstance(was, Mapping) else {}
            difference = describe_difference(inner, value, f"{prefix}{key} ")
            if difference:
                return difference
        elif was != value:
            return f"{prefix}{key} is {was or 'not recorded'}, not {value}"
    return None


def write_card(
    folder: Path,
    name: str,
    provenance: Mapping[str, Any],
    dtype: str,
    found: Sequence[tuple[Expectation, Mapping[str, float]]],
) -> None:
    """Write the folder's model card."""
    source, tokenizer = provenance["source"], provenance["tokenizer"]
    lines = [
        f"# {name}",
        "",
        "Scores tweets: " + ", ".join(LABELS) + ". RoBERTa encoder, two linear layers, softmax.",
        "",
        f"- Converted from `{source.get('url') or source['file']}`",
        f"- SHA-256 of that file: `{source['sha256']}` ({source['size']:,} bytes)",
        f"- Tokenizer: `{tokenizer['source']}`, revision `{tokenizer.get('commit') or 'local'}`",
        f"- Converted by torch {torch.__version__} on Python {sys.version.split()[0]}",
        f"- Weights in {dtype}"
        + (", linear layers and word embeddings quantised by row" if dtype == "int8" else ""),
        "",
        "The weights and their names are those of the source file; nothing was trained. "
        "`python -m hatespeech.model.checkpoint` checks the folder against the hashes in "
        "`config.json`.",
    ]
    if found:
        lines += ["", "| text | label | expected | measured |", "| --- | --- | --- | --- |"]
        lines += [
            f"| {expectation.text!r} | {label} | {expected:.6f} | {scores[label]:.6f} |"
            for expectation, scores in found
            for label, expected in expectation.scores.items()
        ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
