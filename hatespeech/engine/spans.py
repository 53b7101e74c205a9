"""Places in the text that was sent: its words, and the part that a window of tokens covers."""

from __future__ import annotations

import re
from typing import Final

from hatespeech.errors import TooLargeError
from hatespeech.text.normalizer import normalize_tweet

MAX_EXPLAINED_WORDS: Final = 256

_WORD = re.compile(r"\S+")


def words_to_explain(text: str, start: int, end: int) -> list[re.Match[str]]:
    """Find the words of ``text`` that overlap code points ``[start, end)``.

    Words are separated by white space. Raises :class:`TooLargeError` for more than
    ``MAX_EXPLAINED_WORDS`` words.
    """
    words = [word for word in _WORD.finditer(text) if word.start() < end and word.end() > start]
    if len(words) > MAX_EXPLAINED_WORDS:
        raise TooLargeError(
            f"has {len(words)} words to explain, the limit is {MAX_EXPLAINED_WORDS}"
        )
    return words


def locate(text: str, normalized: str, start: int, end: int) -> tuple[int, int]:
    """Map code points ``[start, end)`` of the normalised text back to the text as sent.

    Normalising keeps the order of what it keeps, so bisection finds the place: the shortest prefix
    of the text that normalises to the same number of characters, not counting white space, which
    the normaliser moves. A prefix may end inside a token and normalise slightly differently, so a
    bound can be off by part of a token.
    """
    before = _dense_length(normalized[:start])
    until = _dense_length(normalized[:end])
    first = 0 if before == 0 else _shortest_prefix(text, before + 1) - 1
    last = len(text)
    if until < _dense_length(normalized):
        last = _shortest_prefix(text, until)
    return first, max(last, first + 1)


def _dense_length(text: str) -> int:
    return sum(map(len, text.split()))


def _shortest_prefix(text: str, length: int) -> int:
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        if _dense_length(normalize_tweet(text[:middle])) >= length:
            high = middle
        else:
            low = middle + 1
    return low
