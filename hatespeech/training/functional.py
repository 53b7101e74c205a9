"""Invented texts about groups of people: hate, what only looks like it, and its opposite.

In the labelled data sets the name of a group nearly always stands in hate, so a small model learns
the name. These texts say the same words both ways. The templates are in ``functional.toml``; those
held out, and the groups held out, are never trained on and measure what was learnt.
"""

from __future__ import annotations

import functools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import numpy as np

from hatespeech.labels import LABELS
from hatespeech.text.normalizer import normalize_tweet
from hatespeech.training.corpus import Corpus

TEMPLATES: Final = Path(__file__).with_suffix(".toml")
SOURCE: Final = "functional"
# Colours, names and everyday words as often as they name a group.
AMBIGUOUS: Final = {"white", "black", "girl", "girls", "man", "men", "male", "foreign", "christian"}

T = TypeVar("T")

_PLACE: Final = re.compile(r"\{(\w+)\}")


@dataclass(frozen=True)
class Grammar:
    """Templates by label, with what their places are filled from."""

    groups: Sequence[Sequence[str]]  # plural, singular, adjective
    words: Mapping[str, Sequence[str]]
    templates: Mapping[str, Sequence[str]]

    def fill(self, template: str, rng: np.random.Generator) -> str:
        """Return the template with its places filled; one group throughout."""
        group = dict(zip(("groups", "group", "adj"), _draw(self.groups, rng), strict=True))

        def filling(place: re.Match[str]) -> str:
            name = place[1]
            if name in group:
                return group[name]
            if name == "quote":
                return self.fill(_draw(self.templates["hate"], rng), rng)
            return _draw(self.words[name], rng)

        return _PLACE.sub(filling, template)


@functools.cache
def read_grammars() -> tuple[Grammar, Grammar]:
    """Return the grammar to train on and the one held out."""
    data = tomllib.loads(TEMPLATES.read_text(encoding="utf-8"))
    grammars = []
    for kind, held_out in (("train", False), ("held_out", True)):
        groups = [g["names"] for g in data["groups"] if g.get("held_out", False) == held_out]
        grammars.append(Grammar(groups, data["words"], data[kind]))
    return grammars[0], grammars[1]


def functional_corpus(count: int, rng: np.random.Generator) -> Corpus:
    """Return ``count`` texts to train on: as many hateful as all others, in a tweet's spelling."""
    grammar, _ = read_grammars()
    texts, labels = [], []
    for _ in range(count):
        label = _draw(("hate", "hate", "hate", "neutral", "neutral", "abusing"), rng)
        text = grammar.fill(_draw(grammar.templates[label], rng), rng)
        text = _draw(grammar.words["opener"], rng) + text + _draw(grammar.words["closer"], rng)
        texts.append(respell(normalize_tweet(text), rng))
        labels.append(LABELS.index(label))
    return Corpus(texts, labels, [SOURCE] * count)


def held_out_corpus(per_template: int = 8) -> Corpus:
    """Return the texts that measure, always the same and each once: all templates filled."""
    _, grammar = read_grammars()
    rng = np.random.default_rng(0)
    rows: dict[str, str] = {}
    for label, templates in grammar.templates.items():
        for template in templates:
            for _ in range(per_template):
                rows.setdefault(normalize_tweet(grammar.fill(template, rng)), label)
    labels = [LABELS.index(label) for label in rows.values()]
    return Corpus(list(rows), labels, [SOURCE] * len(rows))


def respell(text: str, rng: np.random.Generator) -> str:
    """Give a normalised text one of the ways people write: points, capitals, none, slips."""
    way = rng.random()
    if way < 0.3:
        return text[:1].upper() + text[1:] + " ."
    if way < 0.55:
        return text.lower()
    if way < 0.6:
        return text.upper()
    if way < 0.7 and '"' not in text:  # else what is quoted would be said
        return without_punctuation(text.lower())
    if way < 0.85:
        return misspell(text, rng)
    return text


def without_punctuation(text: str) -> str:
    """Remove a normalised text's punctuation; ``@USER``, hashtags and emoji names stay."""
    return " ".join(re.sub(r"(?<!\w)[^\w\s@#:]+|[^\w\s@#:]+(?!\w)", " ", text).split())


def misspell(text: str, rng: np.random.Generator) -> str:
    """Change one or two words: a letter lost, doubled, swapped, drawn out, or a digit for it."""
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


def _draw(choices: Sequence[T], rng: np.random.Generator) -> T:
    return choices[int(rng.integers(len(choices)))]


def vary(text: str, share: float, rng: np.random.Generator) -> str:
    """Change a ``share`` of texts, each in one way, if it has what that changes; labels stay.

    The sources differ in case, punctuation and the groups they speak of: a model learns from these
    what source a text is of, and so its most likely label.
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
    """Put another group's name for each that the text holds; what is said of it stays."""
    pattern, forms = _group_names()
    found = pattern.search(text)
    if not found:
        return text
    other = _draw(read_grammars()[0].groups, rng)
    return pattern.sub(lambda name: _like(name[0], other[forms[name[0].lower()]]), text)


def _like(model: str, word: str) -> str:
    return word.lower() if model.islower() else word.upper() if model.isupper() else word


@functools.cache
def _group_names() -> tuple[re.Pattern[str], Mapping[str, int]]:
    """Return a pattern of all names, and each name's form: plural, singular, adjective.

    A word that is singular and adjective is mostly the latter. Emoji names hold names, too.
    """
    forms: dict[str, int] = {}
    for names in read_grammars()[0].groups:
        forms |= {name.lower(): form for form, name in enumerate(names)}
    longest_first = sorted(forms.keys() - AMBIGUOUS, key=len, reverse=True)
    names = "|".join(map(re.escape, longest_first))
    return re.compile(rf"\b(?:{names})\b(?!:)", re.IGNORECASE), forms
