"""Builds a small checkpoint folder with random weights: real files, quick to load and to run."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from hatespeech.model import checkpoint as checkpoints
from hatespeech.model.checkpoint import Checkpoint
from hatespeech.model.network import CustomModel, ModelConfig

SENTENCES: Final = (
    "good morning everyone, what a lovely day to walk the dog",
    "the train was late again and nobody told us why",
    "you are the worst driver I have ever seen, stay off the road",
    "win a free phone now, click the link and claim your prize",
    "nobody asked for your opinion, go back to sleep",
    "our new album is out today, thank you all for listening",
    "I can't believe they cancelled the show after one season",
    "cheap watches, best prices, limited offer, order today",
    "these people ruin everything they touch",
    "happy birthday to my favourite sister, see you at dinner",
    "@USER thanks for the help yesterday HTTPURL",
    "the match starts at eight, bring snacks and friends",
)

THRESHOLDS: Final = {
    "version": 2,
    "balanced": {"hate": 0.2, "abusing": 0.3, "spam": 0.25, "toxic": 0.4},
    "strict": {"abusing": 0.6, "spam": 0.75, "toxic": 0.7},  # hate has no strict threshold
}
SPECIAL_TOKENS: Final = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def train_tokenizer(vocab_size: int = 600) -> Tokenizer:
    """Train a byte-level BPE on ``SENTENCES``, wrapped in ``<s> … </s>`` as BERTweet-large's is."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", SPECIAL_TOKENS.index("</s>")),
        ("<s>", SPECIAL_TOKENS.index("<s>")),
        trim_offsets=True,
        add_prefix_space=False,
    )
    return tokenizer


def random_model(config: ModelConfig, seed: int = 7) -> CustomModel:
    """Return a model whose scores differ clearly between texts, unlike a freshly made one's."""
    model = CustomModel(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "LayerNorm" in name:
                continue
            if "embeddings" in name:
                weight.normal_(generator=generator)
            elif weight.dim() == 2:
                gain = 4.0 if name.startswith("linear2") else 1.5
                weight.normal_(std=gain * weight.shape[1] ** -0.5, generator=generator)
            else:
                weight.normal_(std=0.1, generator=generator)
    return model


def build_checkpoint(
    path: Path, *, name: str = "small-random", hidden_size: int = 64, layers: int = 2, seed: int = 7
) -> Checkpoint:
    """Write a checkpoint folder of random weights that reads 512 tokens, like the real ones."""
    tokenizer = train_tokenizer()
    config = ModelConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=2 * hidden_size,
        classifier_size=hidden_size,
    )
    return checkpoints.save(
        path,
        random_model(config, seed).state_dict(),
        config,
        tokenizer,
        name=name,
        provenance={"source": "random weights, for tests"},
        dtype=torch.float32,
        thresholds=THRESHOLDS,
    )
