"""Cuts a small student out of a large teacher: some layers, fewer neurons, fewer tokens.

So the student starts from the teacher's weights instead of random ones, and distillation then
repairs the damage of the cuts. The hidden state keeps its width, so that every weight that stays
keeps its meaning.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from tokenizers import Tokenizer, models
from torch import Tensor, nn

from hatespeech.model.network import CustomModel, ModelConfig
from hatespeech.model.packing import PackedBatch
from hatespeech.training import TrainingError
from hatespeech.training.sequences import encode
from hatespeech.training.undisguise import undisguised
from hatespeech.training.vocabulary import PAD, SPECIAL_TOKENS, wrap_in_sentence_marks

CONTINUATION: Final = "##"  # prefix of a WordPiece token that continues a word
SAMPLE: Final = 2000  # number of texts on which neurons are compared
BATCH: Final = 64


def cut_student(
    teacher: CustomModel,
    tokenizer: Tokenizer,
    texts: Sequence[str],
    vocab_size: int,
    layers: Sequence[int],
    intermediate_size: int,
) -> tuple[CustomModel, Tokenizer]:
    """Return a student with the teacher's ``layers`` and its most important tokens and neurons.

    The ``texts`` decide which are important. Raises as :func:`require_cuttable` does.
    """
    require_cuttable(teacher, tokenizer, layers)
    config = teacher.config
    neurons = min(intermediate_size, config.intermediate_size)
    small_tokenizer, tokens = prune_vocabulary(tokenizer, texts, vocab_size)
    pad_token_id = SPECIAL_TOKENS.index(PAD)
    sizes = {
        "vocab_size": len(tokens),
        "num_hidden_layers": len(layers),
        "intermediate_size": neurons,
        "pad_token_id": pad_token_id,
        "type_vocab_size": 1,
        # RoBERTa's positions begin after the padding's id.
        "max_position_embeddings": config.max_tokens + pad_token_id + 1,
    }
    student = CustomModel(ModelConfig(**dataclasses.asdict(config) | sizes))
    rng = np.random.default_rng(0)
    sample = [texts[i] for i in rng.permutation(len(texts))[:SAMPLE]]
    strongest = {
        place: importance.topk(neurons).indices.sort().values
        for place, importance in _neuron_importance(
            teacher, encode(tokenizer, sample), layers
        ).items()
    }
    source = teacher.state_dict()
    words, types, places = (
        f"model.embeddings.{kind}_embeddings.weight" for kind in ("word", "token_type", "position")
    )
    state = {key: value for key, value in source.items() if ".layer." not in key}
    state[words], state[types] = state[words][tokens], state[types][:1]
    positions = state[places][-config.max_tokens :]
    unused = positions.new_zeros(pad_token_id + 1, positions.shape[1])
    state[places] = torch.cat([unused, positions])
    for place, layer in enumerate(layers):
        prefix = f"model.encoder.layer.{layer}."
        for key, value in source.items():
            if key.startswith(prefix):
                name = key.removeprefix(prefix)
                state[f"model.encoder.layer.{place}.{name}"] = _cut(name, value, strongest[layer])
    student.load_state_dict({key: value.clone() for key, value in state.items()}, strict=True)
    return student, small_tokenizer


def require_cuttable(teacher: CustomModel, tokenizer: Tokenizer, layers: Sequence[int]) -> None:
    """Raise :class:`TrainingError` if a layer is missing or the tokenizer is not a WordPiece."""
    count = teacher.config.num_hidden_layers
    if not layers or max(layers) >= count:
        raise TrainingError(f"--teacher-layers: the teacher has layers 0 to {count - 1}")
    if not isinstance(tokenizer.model, models.WordPiece):
        raise TrainingError("--teacher: its tokenizer is not a WordPiece, and can't be cut")


def _cut(name: str, weight: Tensor, neurons: Tensor) -> Tensor:
    if name.startswith("intermediate."):
        return weight[neurons]
    return weight[:, neurons] if name == "output.dense.weight" else weight


@torch.inference_mode()
def _neuron_importance(
    model: CustomModel, sequences: Sequence[Sequence[int]], layers: Sequence[int]
) -> Mapping[int, Tensor]:
    """Return, by layer, how much each feed-forward neuron adds to the hidden state.

    This is the sum of its absolute activations times the norm of its outgoing weights.
    """
    sums: dict[int, Tensor] = {}
    hooks = []
    for layer in layers:

        def note(_module: nn.Module, inputs: tuple[Tensor], layer: int = layer) -> None:
            total = inputs[0].abs().sum(0)
            sums[layer] = sums[layer] + total if layer in sums else total

        dense = model.get_submodule(f"model.encoder.layer.{layer}.output.dense")
        hooks.append(dense.register_forward_pre_hook(note))
    model.eval()
    device = model.linear1.weight.device
    for start in range(0, len(sequences), BATCH):
        part = sequences[start : start + BATCH]
        model.model(PackedBatch.pack(part, model.config.pad_token_id, device))
    for hook in hooks:
        hook.remove()
    weights = model.state_dict()
    return {
        layer: total * weights[f"model.encoder.layer.{layer}.output.dense.weight"].norm(dim=0)
        for layer, total in sums.items()
    }


def prune_vocabulary(
    tokenizer: Tokenizer, texts: Sequence[str], size: int
) -> tuple[Tokenizer, list[int]]:
    """Return a WordPiece tokenizer of about ``size`` tokens, and the old id of each token.

    It keeps the special tokens (under RoBERTa's ids), every single character that is ASCII or in
    the texts, and the most frequent tokens. A word that is dropped is split into smaller tokens.
    Before it looks words up it undoes disguises (:mod:`hatespeech.training.undisguise`).
    """
    reading = Tokenizer.from_str(tokenizer.to_str())
    reading.normalizer = undisguised(tokenizer)
    document = json.loads(reading.to_str())
    vocabulary = tokenizer.get_vocab()
    counts: Counter[int] = Counter()
    for ids in encode(reading, texts):
        counts.update(ids)
    characters = [
        token_id
        for token, token_id in vocabulary.items()
        if len(token.removeprefix(CONTINUATION)) == 1 and (token.isascii() or counts[token_id])
    ]
    kept = dict.fromkeys([vocabulary[name] for name in SPECIAL_TOKENS] + sorted(characters))
    # Equal counts are ordered by id, so that the same texts always give the same vocabulary.
    for token_id, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        if len(kept) >= size:
            break
        kept.setdefault(token_id)
    names = {token_id: token for token, token_id in vocabulary.items()}
    renumbered = {names[token_id]: place for place, token_id in enumerate(kept)}
    document["model"]["vocab"] = renumbered
    for token in document["added_tokens"]:
        token["id"] = renumbered[token["content"]]
    document["post_processor"] = None
    small = Tokenizer.from_str(json.dumps(document))
    wrap_in_sentence_marks(small)
    return small, list(kept)
