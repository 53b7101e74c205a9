"""Places in the text that was sent: its words, and the part that a window of tokens covers."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import Final

from hatespeech.errors import TooLargeError
from hatespeech.text.normalizer import normalize_tweet
from hatespeech.text.tokens import EMOTICON

MAX_EXPLAINED_WORDS: Final = 256

_WORD = re.compile(r"\S+")

# Punctuation that says something: signs of hashtags, mentions, censored letters, URLs and numbers.
_TELLING: Final = frozenset("#@*%&/_")


@dataclass(frozen=True)
class Word:
    """What stands between white space: its start and end, in code points of the text."""

    start: int
    end: int

    def bare(self, text: str) -> tuple[str, int, int]:
        """Return the word without the punctuation around it, its start and its end.

        Signs that belong to a word stay: those of ``#tag``, ``@name`` and ``f***``. An emoticon, or
        a word of punctuation alone, is returned whole.
        """
        start, end = self.start, self.end
        if EMOTICON.fullmatch(text, start, end):
            return text[start:end], start, end
        while start < end and _is_bare_punctuation(text[start]):
            start += 1
        while start < end and _is_bare_punctuation(text[end - 1]):
            end -= 1
        if start == end:
            start, end = self.start, self.end
        return text[start:end], start, end


def _is_bare_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P") and character not in _TELLING


def words_to_explain(text: str, start: int, end: int) -> list[Word]:
    """Find the words of ``text`` that overlap code points ``[start, end)``.

    Raises :class:`TooLargeError` for more than ``MAX_EXPLAINED_WORDS`` words.
    """
    found = [Word(*match.span()) for match in _WORD.finditer(text)]
    words = [word for word in found if word.start < end and word.end > start]
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
