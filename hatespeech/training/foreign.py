"""Harmless texts in other languages, from the sentences of ``foreign.toml``.

An English model that has never seen them gives their words a meaning at random. These texts teach
it that a text which it can't read is no reason for alarm. They are no ability to read it: insults
in these languages stay unknown, and the reply's warnings say so.
"""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np

from hatespeech.labels import LABELS
from hatespeech.text.normalizer import normalize_tweet
from hatespeech.training.corpus import Corpus, draw

SENTENCES: Final = Path(__file__).with_suffix(".toml")
SOURCE: Final = "foreign"
ENDINGS: Final = ("", "", "", "", " 😊", " ❤️", " 👋", " HTTPURL", " !", " ...", " 😂", " ?")
MENTIONS: Final = ("", "", "", "@USER ", "@USER @USER ", "RT @USER : ")


@functools.cache
def read_sentences() -> list[list[str]]:
    """Return the sentences, in one list for each language."""
    return list(tomllib.loads(SENTENCES.read_text(encoding="utf-8"))["sentences"].values())


def foreign_corpus(count: int, rng: np.random.Generator) -> Corpus:
    """Return ``count`` neutral texts, each in one language."""
    texts = [
        normalize_tweet(draw(MENTIONS, rng) + foreign_text(rng) + draw(ENDINGS, rng))
        for _ in range(count)
    ]
    return Corpus(texts, [LABELS.index("neutral")] * count, [SOURCE] * count)


def foreign_text(rng: np.random.Generator) -> str:
    """Return one or two sentences of a language, or a few of its words in random order."""
    sentences = draw(read_sentences(), rng)
    drawn = [sentences[int(i)] for i in rng.integers(len(sentences), size=1 + rng.integers(2))]
    way = rng.random()
    if way < 0.5:
        text = " ".join(drawn)
    elif way < 0.8:
        words = " ".join(sentences).split()
        text = " ".join(words[int(i)] for i in rng.integers(len(words), size=rng.integers(1, 12)))
    else:
        text = _without_ends(drawn[0].split(), rng)
    return text.lower() if rng.random() < 0.3 else text


def _without_ends(words: Sequence[str], rng: np.random.Generator) -> str:
    start = int(rng.integers(len(words)))
    return " ".join(words[start : start + 1 + int(rng.integers(5))])
