"""Places in the text as it was sent: its words, and what a window of its tokens covers."""

from __future__ import annotations

import re
from typing import Final

from hatespeech.errors import TooLargeError
from hatespeech.text.normalizer import normalize_tweet

MAX_EXPLAINED_WORDS: Final = 256

_WORD = re.compile(r"\S+")


def words_to_explain(text: str, start: int, end: int) -> list[re.Match[str]]:
    """Find the white-space separated runs of ``text`` that reach into code points ``[start, end)``.

    Raises :class:`TooLargeError` for more than ``MAX_EXPLAINED_WORDS`` of them.
    """
    words = [word for word in _WORD.finditer(text) if word.start() < end and word.end() > start]
    if len(words) > MAX_EXPLAINED_WORDS:
        raise TooLargeError(
            f"has {len(words)} words to explain, the limit is {MAX_EXPLAINED_WORDS}"
        )
    return words


def locate(text: str, normalized: str, start: int, end: int) -> tuple[int, int]:
    """Map code points ``[start, end)`` of the normalised text back to the text as sent.

    Normalising keeps the order of what it keeps, so the place is found by bisection: the shortest
    prefix of the text that normalises to as many characters, white space apart (the normaliser
    moves it). A prefix may end inside a token and normalise a little differently, so a bound can
    be off by part of a token.
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
