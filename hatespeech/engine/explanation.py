"""How much of a score each word carries.

``shapley`` shares out the distance between a text's scores and those of the text without its words.
A word's share is its Shapley value (Shapley 1953): how far the word moves the scores when it joins
some of the others, averaged over all sets of them. So words that say the same share what they do
together, and the shares add up to the distance. A text of few words is read with every set of its
words. A longer one is read with sets drawn at random, each beside its complement, and the shares
are those of the additive function that fits these readings best (KernelSHAP, Lundberg and Lee 2017;
all sizes of sets are read equally often, as in Leverage SHAP, Musco and Witter 2025). The draw
depends on the number of words alone, so a text is explained in the same way each time.

A word that is away leaves :data:`PLACEHOLDER` behind. If the gap is closed instead, fragments arise
that no one writes, and a model judges them wildly: the embedded one calls "you are a and a" abusing
and so blames the articles of "you are a stupid idiot and a moron". The tokenizer's mask does not
help, because classifiers are not trained on it.

``leave_one_out`` is the score minus the score of the text with the word taken out. It is cheaper
for short texts, and wrong where several words say the same, because the others still say it.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Generator, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from hatespeech.contract import WordInfluence
from hatespeech.engine.spans import MAX_EXPLAINED_WORDS, Word, words_to_explain
from hatespeech.labels import LABELS, Explanation

# Says nothing of its own: a text of nothing else is neutral, however long.
PLACEHOLDER: Final = "something"

# How often a text is read at most beside the text itself: this often or so often for each word,
# whichever is more.
READINGS: Final = 255
READINGS_A_WORD: Final = 4

# After each part of a text's readings other callers' texts have their turn. A part has so many
# readings and so many code points at most, unless one reading has more.
READ_AT_ONCE: Final = 64
CHARS_AT_ONCE: Final = 64 * 1024

# To normalise and tokenise so many code points counts as much as to score a token. Ordinary texts
# have four or five for each token; white space and long numbers have any number.
CHARS_OF_A_TOKEN: Final = 16

# A set of a text's words: bit i is set if word i is in it.
WordSet = int
# Yields token sequences, is sent [len(sequences)][labels] probabilities, returns the influences.
Explaining = Generator[list[list[int]], list[list[float]], list[WordInfluence]]


def explain(
    text: str,
    span: tuple[int, int],
    method: Explanation,
    encode: Callable[[str], list[int]],
    whole: Sequence[float] | None,
) -> Explaining:
    """Explain the part of ``text`` between two code points, by the words in it.

    ``encode`` returns the token ids of a text, which may be empty. ``whole`` is the part's
    probabilities, ``[labels]``; if it is ``None``, the part is read on its own. Raises
    :class:`TooLargeError` for more than ``MAX_EXPLAINED_WORDS`` words.
    """
    words = words_to_explain(text, *span)
    every = (1 << len(words)) - 1
    pairs = []
    if method == "leave_one_out":
        filler = ""
        needed = [every ^ (1 << index) for index in range(len(words))]
    else:
        filler = PLACEHOLDER
        pairs = draw_pairs(len(words))
        needed = [0, *(kept for half, _ in pairs for kept in (half, every ^ half))]
    scores: dict[WordSet, NDArray[np.float64]] = {}
    if whole is None:
        needed.append(every)
    else:
        scores[every] = np.asarray(whole)
    at_once = max(1, min(READ_AT_ONCE, CHARS_AT_ONCE // max(1, span[1] - span[0])))
    for start in range(0, len(needed), at_once):
        part = needed[start : start + at_once]
        rows = yield [encode(_with_only(kept, text, span, words, filler)) for kept in part]
        scores.update(zip(part, map(np.asarray, rows), strict=True))
    if method == "leave_one_out":
        shares = np.array([scores[every] - scores[kept] for kept in needed[: len(words)]])
    else:
        shares = fit_shares(len(words), pairs, scores)
    return [
        WordInfluence(*word.bare(text), dict(zip(LABELS, moved, strict=True)))
        for word, moved in zip(words, shares.tolist(), strict=True)
    ]


def readings(words: int, method: Explanation) -> int:
    """Return how often a text of so many words is read to explain it, beside the text itself."""
    if method == "leave_one_out":
        return words
    return int(min(2**words - 1, max(READINGS, READINGS_A_WORD * words + 1)))


def count_readings(text: str, method: Explanation) -> int:
    """Return how often a text is read at most to explain it, the text itself included."""
    return 1 + readings(min(len(text.split()), MAX_EXPLAINED_WORDS), method)


def tokens_to_read(text: str, windows: Sequence[Sequence[int]], method: Explanation) -> int:
    """Return how many tokens at most are read to explain a text, given its windows' token ids.

    It is a bound for tokenizers that read :data:`PLACEHOLDER` as one token, and near it for others.
    A reading of few tokens but many code points counts by these: the reader needs time for them.
    """
    apart = len(windows) > 1  # the window that is explained is read on its own
    tokens = max(max(map(len, windows)), len(text) // CHARS_OF_A_TOKEN)
    return (count_readings(text, method) - 1 + apart) * tokens


def draw_pairs(words: int) -> list[tuple[WordSet, float]]:
    """Choose the pairs of a set and its complement to read, and their weights in the fit.

    Returns the half of each pair that is not the larger one. All pairs are chosen if there are
    readings for them. Otherwise each size gets its share, the smaller sizes first, because they
    have the fewest sets.
    """
    draw = random.Random(words)  # noqa: S311 - not a secret; the draw must repeat
    every = (1 << words) - 1
    left = (readings(words, "shapley") - 1) // 2
    chosen: list[tuple[WordSet, float]] = []
    for size in range(1, words // 2 + 1):
        # Two sizes make a pair, unless it is two halves; this many sizes are still to be served.
        sizes = 1 if 2 * size == words else 2
        unserved = words - 2 * size + 1
        pairs = math.comb(words, size) * sizes // 2
        count = min(pairs, round(left * sizes / unserved))
        left -= count
        found: set[WordSet] = set()
        while len(found) < count:
            half = sum(1 << word for word in draw.sample(range(words), size))
            found.add(min(half, every ^ half) if sizes == 1 else half)
        # The kernel's weight of this size, spread over the pairs that are read.
        weight = sizes / (size * (words - size) * count) if count else 0.0
        chosen += [(half, weight) for half in sorted(found)]
    return chosen


def fit_shares(
    words: int,
    pairs: Sequence[tuple[WordSet, float]],
    scores: dict[WordSet, NDArray[np.float64]],
) -> NDArray[np.float64]:
    """Fit an additive function of the words to the readings; return its ``[words][labels]``.

    ``scores`` holds the readings of both halves of each pair, of no words and of all. The shares
    add up to the difference of the last two. They are the Shapley values if all pairs are there.
    """
    every = (1 << words) - 1
    total = scores[every] - scores[0]
    # With both halves of a pair in the fit, only their difference tells anything about the words.
    signs = np.array([[1.0 if half >> i & 1 else -1.0 for i in range(words)] for half, _ in pairs])
    signs = signs.reshape(len(pairs), words)
    weights = np.array([weight for _, weight in pairs])
    moved = np.array([scores[half] - scores[every ^ half] for half, _ in pairs])
    moved = moved.reshape(len(pairs), len(total))
    # Least squares under the condition that the shares add up: Lagrange's equations.
    system = np.ones((words + 1, words + 1))
    system[:words, :words] = signs.T * weights @ signs
    system[words, words] = 0
    right = np.vstack([signs.T * weights @ moved, total])
    shares: NDArray[np.float64] = np.linalg.solve(system, right)[:words]
    return shares


def _with_only(
    kept: WordSet, text: str, span: tuple[int, int], words: Sequence[Word], filler: str
) -> str:
    """Return the part of ``text``, with ``filler`` for the words that are not kept."""
    at, end = span
    pieces = []
    for index, word in enumerate(words):
        if not kept >> index & 1:
            pieces += [text[at : word.start], filler]
            at = min(word.end, end)
    return "".join([*pieces, text[at:end]])
