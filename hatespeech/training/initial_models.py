"""The models that training starts from: fresh small weights, or a pre-trained RoBERTa or BERT."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from hatespeech.model.network import CustomModel, ModelConfig
from hatespeech.training import TrainingError
from hatespeech.training.vocabulary import BOS, EOS, MASK, PAD, UNK, wrap_in_sentence_marks

BERT_SPECIAL_TOKENS: Final = {
    "[CLS]": BOS,
    "[PAD]": PAD,
    "[SEP]": EOS,
    "[UNK]": UNK,
    "[MASK]": MASK,
}


def initialise(module: nn.Module) -> None:
    """Initialise weights as RoBERTa does: normal with a standard deviation of 0.02, zero biases."""
    for part in module.modules():
        if isinstance(part, nn.Linear | nn.Embedding):
            nn.init.normal_(part.weight, std=0.02)
        if isinstance(part, nn.Linear):
            nn.init.zeros_(part.bias)
        if isinstance(part, nn.Embedding) and part.padding_idx is not None:
            nn.init.zeros_(part.weight[part.padding_idx])


def fresh_model(vocab_size: int, hidden_size: int, layers: int) -> CustomModel:
    """Return an untrained model of the usual proportions.

    Attention heads are 64 wide, and the feed-forward layer is four times as wide as the hidden
    state. Raises :class:`TrainingError` for a hidden size that does not allow this.
    """
    if hidden_size % 64 and hidden_size > 64:
        raise TrainingError("--hidden-size must be a multiple of 64, or less than 64")
    model = CustomModel(
        ModelConfig(
            vocab_size=vocab_size,
            hidden_size=hidden_size,
            num_hidden_layers=layers,
            num_attention_heads=max(1, hidden_size // 64),
            intermediate_size=4 * hidden_size,
            classifier_size=hidden_size,
            attention_probs_dropout_prob=0.0,
        )
    )
    initialise(model)
    return model


def pretrained_model(encoder: str, option: str = "--encoder") -> tuple[CustomModel, Tokenizer]:
    """Load a RoBERTa or BERT and its tokenizer from the Hugging Face hub or a local folder.

    The classification head is untrained. Raises :class:`TrainingError`, which names the command
    line's ``option``, if the model can't be loaded or is of another kind.
    """
    # Imported here, because it takes seconds and not every training needs it.
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    # It warns about unused task heads and new poolers. Both are expected, and hide the bar.
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers leaves it so
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        source: Any
        source, loading = AutoModel.from_pretrained(
            encoder, dtype=torch.float32, output_loading_info=True
        )
        fast: Any = AutoTokenizer.from_pretrained(encoder)
    except (OSError, ValueError) as exc:
        reason = str(exc).strip().splitlines()[0]
        raise TrainingError(f"{option} {encoder}: cannot be loaded: {reason}") from exc
    config = source.config
    if config.model_type not in ("roberta", "bert") or config.hidden_act != "gelu":
        raise TrainingError(f"{option} {encoder}: not a RoBERTa or BERT with exact GELU")
    # transformers fills missing weights with random ones. The pooler's are not used here.
    if any(not key.startswith("pooler.") for key in loading["missing_keys"]):
        raise TrainingError(f"{option} {encoder}: lacks weights of its encoder")
    if not fast.is_fast:
        raise TrainingError(f"{option} {encoder}: its tokenizer has no tokenizer.json form")
    values = asdict(ModelConfig()) | {
        key: value for key, value in config.to_dict().items() if value is not None
    }
    # The published checkpoint's head is half as wide as its encoder.
    values |= {"classifier_size": max(4, config.hidden_size // 2), "num_labels": 4}
    state = source.state_dict()
    tokenizer = fast.backend_tokenizer.to_str()
    if config.model_type == "bert":
        values, state, tokenizer = bert_as_roberta(values, state, tokenizer)
    model = CustomModel(ModelConfig.from_dict(values))
    initialise(model)
    model.model.load_state_dict(state, strict=True)
    tokenizer = Tokenizer.from_str(tokenizer)
    wrap_in_sentence_marks(tokenizer)
    return model, tokenizer


def bert_as_roberta(
    values: Mapping[str, Any], state: Mapping[str, Tensor], tokenizer: str
) -> tuple[dict[str, Any], dict[str, Tensor], str]:
    """Return a BERT's configuration, weights and ``tokenizer.json`` in RoBERTa's form.

    The two differ in two ways. BERT's positions begin at 0, RoBERTa's after the padding's id. And
    the special tokens have other names. A single text has the first of BERT's two token types.
    """
    name = "embeddings.position_embeddings.weight"
    positions = state[name]
    skipped = positions.new_zeros(values["pad_token_id"] + 1, positions.shape[1])
    state = {**state, name: torch.cat([skipped, positions])}
    values = {**values, "max_position_embeddings": len(state[name])}
    for theirs, ours in BERT_SPECIAL_TOKENS.items():
        tokenizer = tokenizer.replace(json.dumps(theirs), json.dumps(ours))
    return values, state, tokenizer
