"""From a corpus to one epoch's sequences of token ids, and from those to batches.

Why texts are joined into long ones: nearly every text has fewer than 150 tokens, but the service
reads windows of 512. RoBERTa learns a vector for each position. A position that no text reaches
would keep its random vector, which adds noise to a long window. So a part of each epoch is texts
joined to random lengths of up to 512 tokens. Pre-training joins any texts. Fine-tuning must keep
the labels true: a joined text is as hateful, abusive or spammy as its worst part, so its parts have
its label or are neutral.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from tokenizers import Tokenizer

from hatespeech.labels import LABELS
from hatespeech.training.corpus import Corpus
from hatespeech.training.disguise import disguise, with_unknown_words
from hatespeech.training.foreign import foreign_corpus
from hatespeech.training.functional import functional_corpus, vary
from hatespeech.training.recipe import MAX_TOKENS, Recipe

NEUTRAL: Final = LABELS.index("neutral")
CHARS_PER_TOKEN: Final = 4.0  # roughly; only the length of joined texts depends on it
JOINED_MIN_TOKENS: Final = 64
POOL_BATCHES: Final = 50  # so many batches of texts are sorted by length together


@dataclass(frozen=True)
class Sample:
    """One sequence of token ids, the index of its label, and a teacher's logits, if any."""

    ids: list[int]
    label: int
    target: tuple[float, ...] | None = None


def encode(tokenizer: Tokenizer, texts: Sequence[str]) -> list[list[int]]:
    """Tokenise texts; a sequence of more than 512 tokens loses its end, but keeps ``</s>``."""
    encodings = tokenizer.encode_batch(list(texts))
    return [
        ids if len(ids) <= MAX_TOKENS else [*ids[: MAX_TOKENS - 1], ids[-1]]
        for ids in (encoding.ids for encoding in encodings)
    ]


def pretraining_samples(
    corpus: Corpus, tokenizer: Tokenizer, joined_share: float, rng: np.random.Generator
) -> list[Sample]:
    """Return every text once, a ``joined_share`` of them joined with others."""
    order = rng.permutation(len(corpus))
    cut = round(len(corpus) * joined_share)
    texts = [corpus.texts[i] for i in order[cut:]]
    parts: list[str] = []
    goal = _joined_chars(rng)
    for i in order[:cut]:
        parts.append(corpus.texts[i])
        if sum(map(len, parts)) >= goal:
            texts.append(" ".join(parts))
            parts, goal = [], _joined_chars(rng)
    if parts:
        texts.append(" ".join(parts))
    return [Sample(ids, 0) for ids in encode(tokenizer, texts)]


def finetuning_samples(
    corpus: Corpus,
    tokenizer: Tokenizer,
    recipe: Recipe,
    rng: np.random.Generator,
    targets: Sequence[tuple[float, ...]] | None = None,
) -> list[Sample]:
    """Return every text, some of them changed, and the texts that the recipe adds.

    It adds joined long texts, whose labels are as frequent as in the corpus, invented texts, and
    texts in other languages. Texts of all kinds and labels may have hidden or unknown words.
    ``targets`` are a teacher's logits for the corpus; a changed text keeps those of the original.
    """
    texts = [hide(vary(text, recipe.changed_share, rng), recipe, rng) for text in corpus.texts]
    samples = [
        Sample(ids, label, target)
        for ids, label, target in zip(
            encode(tokenizer, texts),
            corpus.labels,
            targets or itertools.repeat(None, len(texts)),
            strict=True,
        )
    ]
    for added in (
        long_corpus(corpus, round(len(corpus) * recipe.long_share), rng),
        functional_corpus(recipe.functional_texts, rng),
        foreign_corpus(recipe.foreign_texts, rng),
    ):
        encoded = encode(tokenizer, [hide(text, recipe, rng) for text in added.texts])
        samples += [Sample(ids, label) for ids, label in zip(encoded, added.labels, strict=True)]
    return samples


def hide(text: str, recipe: Recipe, rng: np.random.Generator) -> str:
    """Return the text with its words hidden or some unknown, if it is one of the recipe's share."""
    drawn = float(rng.random())
    if drawn < recipe.disguised_share:
        return disguise(text, rng)
    if drawn < recipe.disguised_share + recipe.unknown_share:
        return with_unknown_words(text, rng)
    return text


def long_corpus(corpus: Corpus, count: int, rng: np.random.Generator) -> Corpus:
    """Return ``count`` joined texts, each made from a different text of the corpus."""
    chosen = [int(i) for i in rng.permutation(len(corpus))[:count]]
    return Corpus(
        [joined_text(corpus, i, _joined_chars(rng), rng) for i in chosen],
        [corpus.labels[i] for i in chosen],
        [corpus.sources[i] for i in chosen],
    )


def joined_text(corpus: Corpus, index: int, chars: float, rng: np.random.Generator) -> str:
    """Join a text with others of its label or neutral ones, in random order, to about ``chars``."""
    label = corpus.labels[index]
    parts = [corpus.texts[index]]
    length = len(parts[0])
    while length < chars:
        other = int(rng.integers(len(corpus)))
        if corpus.labels[other] in (label, NEUTRAL):
            parts.append(corpus.texts[other])
            length += len(parts[-1]) + 1
    rng.shuffle(parts)
    return " ".join(parts)


def _joined_chars(rng: np.random.Generator) -> float:
    return float(rng.uniform(JOINED_MIN_TOKENS, MAX_TOKENS * 1.1)) * CHARS_PER_TOKEN


def batches(
    samples: Sequence[Sample], batch_size: int, rng: np.random.Generator
) -> list[list[Sample]]:
    """Return the samples in batches of similar length, the batches in random order."""
    order = rng.permutation(len(samples))
    pool = batch_size * POOL_BATCHES
    cut: list[list[Sample]] = []
    for start in range(0, len(order), pool):
        drawn = sorted((samples[i] for i in order[start : start + pool]), key=_length)
        cut.extend(drawn[at : at + batch_size] for at in range(0, len(drawn), batch_size))
    return [cut[i] for i in rng.permutation(len(cut))]


def parts_by_tokens(batch: Sequence[Sample], budget: int) -> list[list[Sample]]:
    """Split a batch into parts of at most ``budget`` tokens; a single longer text is a part."""
    parts: list[list[Sample]] = []
    tokens = 0
    for sample in batch:
        if not parts or tokens + _length(sample) > budget:
            parts.append([])
            tokens = 0
        parts[-1].append(sample)
        tokens += _length(sample)
    return parts


def _length(sample: Sample) -> int:
    return len(sample.ids)
