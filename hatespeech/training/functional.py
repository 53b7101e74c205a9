"""Invented texts about groups of people: hate, texts that only look like it, and the opposite.

In the labelled data sets a group's name occurs almost only in hate, so a small model learns the
name itself. These texts use the same words in hateful and in harmless sentences. The templates are
in ``functional.toml``. The held-out templates and groups are never trained on; they measure what
the model has learnt.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from hatespeech.labels import LABELS
from hatespeech.text.normalizer import normalize_tweet
from hatespeech.training.corpus import Corpus, draw

TEMPLATES: Final = Path(__file__).with_suffix(".toml")
SOURCE: Final = "functional"
HELD_OUT_TEXTS: Final = 8  # of each template
# Words that are as often colours, names or everyday words as names of a group.
AMBIGUOUS: Final = {"white", "black", "girl", "girls", "man", "men", "male", "foreign", "christian"}

# Kinds of templates that are not named after their label, and how often each kind is drawn.
SPECIAL_KINDS: Final = {"denied": "hate", "negated": "neutral", "countered": "neutral"}
DRAWN: Final = (
    *("hate",) * 6, *("denied",) * 2, *("neutral",) * 4, *("negated",) * 4, *("countered",) * 2,
    *("abusing",) * 2,
)  # fmt: skip

_PLACE: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Grammar:
    """Templates by label, and the words that fill their places."""

    groups: Sequence[Sequence[str]]  # plural, singular, adjective
    words: Mapping[str, Sequence[str]]
    templates: Mapping[str, Sequence[str]]

    def fill(self, template: str, rng: np.random.Generator) -> str:
        """Return the template with its places filled, with the same group in all of them."""
        group = dict(zip(("groups", "group", "adj"), draw(self.groups, rng), strict=True))

        def filling(place: re.Match[str]) -> str:
            name = place[1]
            if name in group:
                return group[name]
            if name == "quote":
                return self.fill(draw(self.templates["hate"], rng), rng)
            return draw(self.words[name], rng)

        return _PLACE.sub(filling, template)


@functools.cache
def read_grammars() -> tuple[Grammar, Grammar]:
    """Return the grammar to train on and the held-out one."""
    data = tomllib.loads(TEMPLATES.read_text(encoding="utf-8"))
    grammars = []
    for kind, held_out in (("train", False), ("held_out", True)):
        groups = [g["names"] for g in data["groups"] if g.get("held_out", False) == held_out]
        grammars.append(Grammar(groups, data["words"], data[kind]))
    return grammars[0], grammars[1]


def functional_corpus(count: int, rng: np.random.Generator) -> Corpus:
    """Return ``count`` texts to train on, 4 of 10 of them hateful, in the spelling of tweets."""
    grammar, _ = read_grammars()
    texts, labels = [], []
    for _ in range(count):
        kind = draw(DRAWN, rng)
        text = grammar.fill(draw(grammar.templates[kind], rng), rng)
        text = draw(grammar.words["opener"], rng) + text + draw(grammar.words["closer"], rng)
        texts.append(respell(normalize_tweet(text), rng))
        labels.append(LABELS.index(SPECIAL_KINDS.get(kind, kind)))
    return Corpus(texts, labels, [SOURCE] * count)


def held_out_corpus() -> Corpus:
    """Return the held-out texts: all templates filled, always the same texts, each once."""
    _, grammar = read_grammars()
    rng = np.random.default_rng(0)
    rows: dict[str, str] = {}
    for label, templates in grammar.templates.items():
        for template in templates:
            for _ in range(HELD_OUT_TEXTS):
                rows.setdefault(normalize_tweet(grammar.fill(template, rng)), label)
    labels = [LABELS.index(label) for label in rows.values()]
    return Corpus(list(rows), labels, [SOURCE] * len(rows))


def respell(text: str, rng: np.random.Generator) -> str:
    """Return a normalised text in one of the ways people write.

    It gets a capital and a full stop, lower case, capitals only, no punctuation or a misspelling,
    or stays as it is.
    """
    way = rng.random()
    if way < 0.3:
        return text[:1].upper() + text[1:] + " ."
    if way < 0.55:
        return text.lower()
    if way < 0.6:
        return text.upper()
    if way < 0.7 and '"' not in text:  # without its marks, a quotation becomes a statement
        return without_punctuation(text.lower())
    if way < 0.85:
        return misspell(text, rng)
    return text


def without_punctuation(text: str) -> str:
    """Remove a normalised text's punctuation, but not that of ``@USER``, hashtags, emoji names."""
    return " ".join(re.sub(r"(?<!\w)[^\w\s@#:]+|[^\w\s@#:]+(?!\w)", " ", text).split())


def misspell(text: str, rng: np.random.Generator) -> str:
    """Misspell one or two words: drop, double, swap or draw out a letter, or use digits."""
    words = text.split(" ")
    for _ in range(1 + int(rng.integers(2))):
        at = int(rng.integers(len(words)))
        word = words[at]
        if at and rng.random() < 0.1:
            words[at - 1 : at + 1] = [words[at - 1] + word]
            continue
        if len(word) < 4 or not word.isalpha() or word in ("USER", "HTTPURL"):
            continue
        place = int(rng.integers(1, len(word) - 1))
        match int(rng.integers(5)):
            case 0:
                word = word[:place] + word[place + 1 :]
            case 1:
                word = word[:place] + word[place] * 2 + word[place + 1 :]
            case 2:
                word = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
            case 3:
                word = word.translate(str.maketrans("aeios", "43105"))
            case _:
                word = " ".join(word) if rng.random() < 0.3 else word + word[-1] * 3
        words[at] = word
    return " ".join(words)


def vary(text: str, share: float, rng: np.random.Generator) -> str:
    """Change a ``share`` of the texts, each in one way, if that applies to it; the label stays.

    The sources differ in case, in punctuation, and in the groups that they mention. From these a
    model could learn a text's source, and from the source its most likely label.
    """
    drawn = rng.random() / share if share else 1.0
    if drawn < 0.5:
        return swap_groups(text, rng)
    if drawn < 0.6:
        return text.lower()
    if drawn < 0.8:
        return without_punctuation(text)
    return misspell(text, rng) if drawn < 1 else text


def swap_groups(text: str, rng: np.random.Generator) -> str:
    """Replace the names of groups in a text by those of one other group; the rest stays."""
    pattern, forms = _group_names()
    found = pattern.search(text)
    if not found:
        return text
    other = draw(read_grammars()[0].groups, rng)
    return pattern.sub(lambda name: _like(name[0], other[forms[name[0].lower()]]), text)


def _like(model: str, word: str) -> str:
    return word.lower() if model.islower() else word.upper() if model.isupper() else word


@functools.cache
def _group_names() -> tuple[re.Pattern[str], Mapping[str, int]]:
    """Return a pattern of all names, and each name's form: plural, singular or adjective.

    A word that is both singular and adjective is mostly an adjective. The pattern skips names
    within emoji names.
    """
    forms: dict[str, int] = {}
    for names in read_grammars()[0].groups:
        forms |= {name.lower(): form for form, name in enumerate(names)}
    longest_first = sorted(forms.keys() - AMBIGUOUS, key=len, reverse=True)
    names = "|".join(map(re.escape, longest_first))
    return re.compile(rf"\b(?:{names})\b(?!:)", re.IGNORECASE), forms
