"""Which word an odd spelling stands for: digits for letters, stretched and run-together words.

A spelling is changed only if the result is a word. The words are those of the embedded checkpoint's
training texts, the most frequent first; :mod:`hatespeech.training.words` lists them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

# Bounds on the work for one word, whatever it is.
LONGEST_WORD: Final = 24
_STEPS: Final = 300

# Letters of the shortest word that an odd spelling stands for.
_SHORTEST: Final = 3
_UNKNOWN_LETTER_COST: Final = 14.0


@dataclass(frozen=True)
class _Vocabulary:
    costs: Mapping[str, float]  # of each word: the rarer, the higher
    beginnings: frozenset[str]  # every beginning of every word


@cache
def _vocabulary() -> _Vocabulary:
    lines = Path(__file__).with_name("words.txt").read_text(encoding="ascii").split()
    spread = math.log(len(lines))
    costs = {word: math.log((rank + 1) * spread) for rank, word in enumerate(lines)}
    return _Vocabulary(costs, frozenset(w[:end] for w in lines for end in range(len(w) + 1)))


def is_word(text: str) -> bool:
    """Return whether this is a word or the plural of one, whatever its case."""
    return _cost(text.lower()) < math.inf


def _cost(word: str) -> float:
    """Return a word's cost, that of the singular for a plural; infinity if it is not a word."""
    costs = _vocabulary().costs
    if len(word) > _SHORTEST and word[-1] == "s":
        return min(costs.get(word, math.inf), costs.get(word[:-1], math.inf))
    return costs.get(word, math.inf)


def solve(choices: Sequence[Sequence[str]]) -> list[str] | None:
    """Choose one string for each place, so that together they are a word; ``None`` if none is.

    ``choices`` are in lower case. Of several words of three letters and more it is the most
    frequent. The search goes back where no word begins as it does, and ends after a bounded number
    of steps.
    """
    beginnings = _vocabulary().beginnings
    best: list[str] | None = None
    least = math.inf
    waiting: list[tuple[str, list[str]]] = [("", [])]  # beginnings, and the choices that make them
    for _ in range(_STEPS):
        if not waiting:
            break
        written, chosen = waiting.pop()
        if len(chosen) == len(choices):
            cost = _cost(written)
            if len(written) >= _SHORTEST and cost < least:
                best, least = chosen, cost
            continue
        for each in reversed(choices[len(chosen)]):
            longer = written + each
            if longer in beginnings or _cost(longer) < math.inf:
                waiting.append((longer, [*chosen, each]))
    return best


def split(letters: str) -> list[str]:
    """Cut letters that were run together into words, the likeliest way."""
    costs = _vocabulary().costs
    lowered = letters.lower()
    best = [0.0]
    lengths = [0]
    for end in range(1, len(letters) + 1):
        options = [(best[end - 1] + _UNKNOWN_LETTER_COST, 1)]
        for start in range(max(0, end - LONGEST_WORD), end):
            cost = costs.get(lowered[start:end])
            if cost is not None:
                options.append((best[start] + cost, end - start))
        cost, length = min(options)
        best.append(cost)
        lengths.append(length)
    words: list[str] = []
    end = len(letters)
    while end:
        words.append(letters[end - lengths[end] : end])
        end -= lengths[end]
    return words[::-1]
