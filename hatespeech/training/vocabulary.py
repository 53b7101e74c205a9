"""Trains the tokenizer of a small encoder: byte-level BPE with RoBERTa's conventions."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from hatespeech.training import TrainingError

BOS: Final = "<s>"
PAD: Final = "<pad>"
EOS: Final = "</s>"
UNK: Final = "<unk>"
MASK: Final = "<mask>"
SPECIAL_TOKENS: Final = (BOS, PAD, EOS, UNK, MASK)


def train_tokenizer(texts: Iterable[str], size: int) -> Tokenizer:
    """Learn a vocabulary of at most ``size`` tokens.

    It holds all 256 bytes, so that no text is unknown. The special tokens' ids are their positions
    in ``SPECIAL_TOKENS``. As in RoBERTa, ``<mask>`` includes the space before it.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=2,
        show_progress=False,
        special_tokens=[
            AddedToken(name, lstrip=name == MASK, normalized=False, special=True)
            for name in SPECIAL_TOKENS
        ],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrap_in_sentence_marks(tokenizer)
    return tokenizer


def wrap_in_sentence_marks(tokenizer: Tokenizer) -> None:
    """Make the tokenizer add ``<s>`` and ``</s>``, and neither cut nor pad."""
    bos, eos = special_id(tokenizer, BOS), special_id(tokenizer, EOS)
    tokenizer.post_processor = processors.RobertaProcessing(
        (EOS, eos), (BOS, bos), trim_offsets=True, add_prefix_space=False
    )
    tokenizer.no_truncation()
    tokenizer.no_padding()


def special_id(tokenizer: Tokenizer, name: str) -> int:
    """Return a special token's id; raise :class:`TrainingError` if the tokenizer lacks it."""
    token_id = tokenizer.token_to_id(name)
    if token_id is None:
        raise TrainingError(f"the tokenizer has no {name}")
    return token_id
