"""Spellings that hide words from a model, for texts of all labels.

What :mod:`hatespeech.training.undisguise` undoes needs no learning. The rest does: words that are
censored, split, joined, stretched or spelt by ear, and disguises that are undone in part. A
disguise is no sign of hate, so texts of every label get the same.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from hatespeech.text.normalizer import normalize_tweet
from hatespeech.training.corpus import draw

SEPARATORS: Final = (" ", " ", ".", "-", "_", "*", "/", "~", "🔥", "💀", "❤️", "\u200b", "\u00ad")
CENSORS: Final = ("*", "*", "#", "-", ".", "_", "x", "%", "?")
SYMBOLS: Final = str.maketrans(
    {"a": "@4", "e": "3€", "i": "1!", "o": "0", "s": "5$", "t": "7+", "l": "1|", "b": "8", "g": "9"}
)
BY_EAR: Final = (
    ("ck", "k"), ("c", "k"), ("ph", "f"), ("f", "ph"), ("s", "z"), ("oo", "u"), ("ee", "i"),
    ("er", "a"), ("you", "u"), ("are", "r"), ("th", "d"), ("ing", "in"), ("u", "oo"), ("i", "y"),
)  # fmt: skip
VOWELS: Final = re.compile(r"(?<=\w)[aeiou](?=\w)")
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
STARTS: Final = (
    "b", "br", "d", "dr", "f", "g", "gl", "h", "j", "k", "l", "m", "n", "p", "r", "s", "t", "v",
    "w", "z", "",
)  # fmt: skip
VOWEL_SOUNDS: Final = ("a", "e", "i", "o", "u", "ai", "ou", "ö", "é")
ENDS: Final = ("", "", "n", "r", "s", "t", "x", "sk", "ł", "м", "λ")


def disguise(text: str, rng: np.random.Generator) -> str:
    """Return a normalised text with words in one disguise, all or some; these normalised again."""
    words = text.split(" ")
    places = [at for at, word in enumerate(words) if _can_hide(word)]
    if not places:
        return text
    way = draw(WAYS, rng)
    share = float(rng.choice([0.2, 0.5, 1.0]))
    chosen = {at for at in places if rng.random() < share}
    chosen.add(draw(places, rng))
    hidden = {at: way(words[at], rng) for at in sorted(chosen)}
    return " ".join(
        normalize_tweet(hidden[at]) if at in hidden else word for at, word in enumerate(words)
    )


def with_unknown_words(text: str, rng: np.random.Generator) -> str:
    """Return a normalised text with about a tenth of its words replaced by invented ones."""
    return " ".join(
        invented(rng) if _can_hide(word) and rng.random() < 0.15 else word
        for word in text.split(" ")
    )


def invented(rng: np.random.Generator) -> str:
    """Return a word of no language, of two to four syllables."""
    syllables = [draw(STARTS, rng) + draw(VOWEL_SOUNDS, rng) for _ in range(rng.integers(2, 5))]
    return "".join(syllables) + draw(ENDS, rng)


def _can_hide(word: str) -> bool:
    return len(word) > 2 and word.isalpha() and word != "HTTPURL"


def separate(word: str, _rng: np.random.Generator) -> str:
    """Set spaces between the letters, where it can't be seen which of them end a word."""
    return " ".join(word)


def split(word: str, rng: np.random.Generator) -> str:
    """Set a separator at one place."""
    at = int(rng.integers(1, len(word)))
    return word[:at] + draw(SEPARATORS, rng) + word[at:]


def symbols(word: str, rng: np.random.Generator) -> str:
    """Write digits and signs for letters."""
    share = rng.choice([0.5, 1.0])
    return "".join(
        draw(choices, rng)
        if (choices := SYMBOLS.get(ord(letter.lower()[0]))) and rng.random() < share
        else letter
        for letter in word
    )


def censor(word: str, rng: np.random.Generator) -> str:
    """Hide one letter, or all but the ends."""
    sign = draw(CENSORS, rng)
    if rng.random() < 0.3:
        return word[0] + sign * (len(word) - 2) + word[-1]
    at = int(rng.integers(1, len(word) - 1))
    return word[:at] + sign + word[at + 1 :]


def stretch(word: str, rng: np.random.Generator) -> str:
    """Repeat one letter, or each."""
    times = 2 + int(rng.integers(4))
    if rng.random() < 0.2:
        return "".join(letter * times for letter in word)
    at = int(rng.integers(len(word)))
    return word[:at] + word[at] * times + word[at + 1 :]


def without_vowels(word: str, _rng: np.random.Generator) -> str:
    """Drop the vowels within the word."""
    return VOWELS.sub("", word)


def by_ear(word: str, rng: np.random.Generator) -> str:
    """Spell the word as it sounds."""
    word = word.lower()
    for written, heard in BY_EAR:
        if rng.random() < 0.5:
            word = word.replace(written, heard)
    return word


def shuffle(word: str, rng: np.random.Generator) -> str:
    """Swap two neighbours, or shuffle what is between the ends."""
    if rng.random() < 0.3:
        inner = list(word[1:-1])
        rng.shuffle(inner)
        return word[0] + "".join(inner) + word[-1]
    at = int(rng.integers(len(word) - 1))
    return word[:at] + word[at + 1] + word[at] + word[at + 2 :]


def mistype(word: str, rng: np.random.Generator) -> str:
    """Drop, add or replace a letter."""
    at = int(rng.integers(len(word)))
    other = draw(LETTERS, rng)
    return word[:at] + draw(("", other, other + word[at]), rng) + word[at + 1 :]


def attach(word: str, rng: np.random.Generator) -> str:
    """Glue letters or a sign to the word."""
    glued = draw(LETTERS, rng) + draw(LETTERS, rng)
    return draw((word + glued, glued + word, "#" + word, "_" + word + "_"), rng)


Way = Callable[[str, np.random.Generator], str]
WAYS: Final[Sequence[Way]] = (
    separate, separate, split, symbols, symbols, censor, censor, stretch, without_vowels, by_ear,
    shuffle, mistype, attach,
)  # fmt: skip
