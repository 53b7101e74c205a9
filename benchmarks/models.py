"""Models of a real model's shape with random weights, to measure speed only, and texts for them.

The shapes are RoBERTa-base's and BERTweet-large's. Vocabulary and tokenizer are the embedded
checkpoint's, so both sides of a comparison read the same tokens.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor

from hatespeech import paths
from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.errors import ServiceError
from hatespeech.model import checkpoint as checkpoints
from hatespeech.model import prepared
from hatespeech.model.checkpoint import Checkpoint
from hatespeech.model.network import CustomModel, ModelConfig
from hatespeech.settings import EngineSettings
from hatespeech.text.normalizer import normalize_tweet

SAMPLE: Final = Path(__file__).resolve().parent / "data" / "sample.tsv"
LARGE: Final = ModelConfig()
BASE: Final = ModelConfig(
    hidden_size=768, num_hidden_layers=12, num_attention_heads=12, intermediate_size=3072
)


def embedded() -> Checkpoint:
    """Return the embedded checkpoint."""
    return checkpoints.describe(paths.EMBEDDED)


def load(folder: Path = paths.EMBEDDED, dtype: str = "float32") -> Predictor:
    """Load a checkpoint on the CPU, as the service does."""
    settings = {"model_dir": folder, "device": "cpu", "dtype": dtype}
    return Predictor.from_settings(EngineSettings.model_validate(settings))


def rows(path: Path = SAMPLE) -> list[dict[str, str]]:
    """Return the rows of a tab-separated file; a quotation mark is part of a field."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def sample_texts(path: Path = SAMPLE) -> list[str]:
    """Return the ``text`` column of a file."""
    return [row["text"] for row in rows(path)]


def scores(outcomes: Sequence[Prediction | ServiceError]) -> Tensor:
    """Return ``[texts, labels]``; raise the first text's error if there is one."""
    rows = []
    for outcome in outcomes:
        if isinstance(outcome, ServiceError):
            raise outcome
        rows.append(outcome.scores)
    return torch.tensor(rows)


def write_checkpoint(path: Path, shape: ModelConfig = BASE) -> Checkpoint:
    """Write a folder with random weights and the embedded checkpoint's tokenizer."""
    mini = embedded()
    config = dataclasses.replace(shape, vocab_size=mini.model.vocab_size)
    return checkpoints.save(
        path,
        random_model(config).state_dict(),
        config,
        checkpoints.load_tokenizer(mini),
        name="random",
        provenance={"source": "random weights, for benchmarks"},
        dtype=torch.float32,
    )


def random_model(config: ModelConfig) -> CustomModel:
    """Return a model with the random weights that training starts from."""
    generator = torch.Generator().manual_seed(7)
    model = CustomModel(config).eval().requires_grad_(False)
    for weight in model.parameters():
        if weight.dim() == 2:
            weight.normal_(std=0.02, generator=generator)
    return model


def random_predictor(dtype: torch.dtype, shape: ModelConfig = BASE) -> Predictor:
    """Return the predictor of a random model on the CPU."""
    mini = embedded()
    config = dataclasses.replace(shape, vocab_size=mini.model.vocab_size)
    int8 = dtype == torch.int8
    model = random_model(config).to(torch.float32 if int8 else dtype)
    prepared.prepare(model, quantized=int8)  # as it is loaded on a CPU
    checkpoint = dataclasses.replace(mini, model=config)
    return Predictor(checkpoint, model, checkpoints.load_tokenizer(mini), max_windows=32)


def transformers_model(dtype: torch.dtype) -> Any:
    """Return transformers' own classifier of RoBERTa-base's shape."""
    import transformers

    library: Any = transformers  # partly without types
    sizes = dataclasses.replace(BASE, vocab_size=embedded().model.vocab_size)
    config = roberta_config(sizes)
    return library.RobertaForSequenceClassification(config).eval().to(dtype)


def roberta_config(sizes: ModelConfig) -> Any:
    """Return transformers' configuration of these sizes."""
    import transformers

    library: Any = transformers
    return library.RobertaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=sizes.num_attention_heads,
        intermediate_size=sizes.intermediate_size,
        max_position_embeddings=sizes.max_position_embeddings,
        type_vocab_size=sizes.type_vocab_size,
        pad_token_id=sizes.pad_token_id,
        layer_norm_eps=sizes.layer_norm_eps,
        num_labels=sizes.num_labels,
    )


def transformers_tokenizer() -> Any:
    """Return transformers' wrapper around the same ``tokenizer.json``."""
    import transformers

    library: Any = transformers
    return library.PreTrainedTokenizerFast(
        tokenizer_file=str(paths.EMBEDDED / checkpoints.TOKENIZER),
        pad_token="<pad>",
        model_max_length=512,
    )


def normalized(texts: list[str]) -> list[str]:
    """Return the texts as the model reads them."""
    return [normalize_tweet(text) for text in texts]
