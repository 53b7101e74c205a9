"""How much of a text a checkpoint can read: by the scripts of its languages, and its vocabulary.

A letter counts as unread if no language of the checkpoint is written in its script, or if the
tokenizer does not know it. Scripts decide where a vocabulary can't: a byte-level one knows every
byte and yet no Arabic. What is not a word of the text counts for nothing: digits, punctuation,
emoji, mentions, URLs and hashtags.

Letters in disguise (a Cyrillic а in a Latin word, full-width and mathematical letters) are read if
the tokenizer turns them into plain Latin letters. Otherwise the checkpoint reads the disguised word
no better than a Russian one. A disguise is not a language, so :attr:`Content.readable` leaves such
words out in any case.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import regex

# Half of the letters: a text that is mixed more evenly than that gets the benefit of the doubt.
UNREAD_SHARE: Final = 0.5
# A lone letter is a sign or part of a smiley, such as π or ツ.
LEAST_UNREAD_LETTERS: Final = 2

# What the normaliser leaves in place of mentions, URLs and emoji, and hashtags.
_NO_WORD: Final = regex.compile(r"(?<!\S)(?:[@#]\S+|HTTPURL|:[^\s:]+:)(?!\S)")

# Marks have the script of what they stand on; modifiers such as ʼ and ー belong to many scripts.
_ANY: Final = r"\p{Alphabetic}--\p{Script=Inherited}--[\p{Script=Common}&&\p{Lm}]"
_LETTER: Final = regex.compile(rf"[{_ANY}]", regex.V1)
_ASCII_WORD: Final = regex.compile(r"[A-Za-z]+")
_WORD: Final = regex.compile(r"\S+")

# The scripts of languages that are not written in Latin letters alone, by ISO 639 code.
_SCRIPTS: Final[dict[str, str]] = {
    "Arabic": "ar arz azb ckb fa ks ku lrc mzn pnb ps sd ug ur",
    "Armenian": "hy",
    "Bengali": "as bn bpy mni",
    "Cyrillic": "ab av ba be bg bxr ce cv kk krc kv ky lez mhr mk mn mrj myv os ru rue sah sr tg "
    "tt tyv uk xal",
    "Devanagari": "bh bho doi dty gom hi kok mai mr ne new sa",
    "Ethiopic": "am ti",
    "Georgian": "ka xmf",
    "Greek": "el",
    "Gujarati": "gu",
    "Gurmukhi": "pa",
    "Han": "ja ko wuu yue zh",
    "Hangul": "ko",
    "Hebrew": "he yi",
    "Hiragana": "ja",
    "Kannada": "kn",
    "Katakana": "ja",
    "Khmer": "km",
    "Lao": "lo",
    "Latin": "ku sr",
    "Malayalam": "ml",
    "Myanmar": "my",
    "Oriya": "or",
    "Sinhala": "si",
    "Syriac": "syr",
    "Tamil": "ta",
    "Telugu": "te",
    "Thaana": "dv",
    "Thai": "th",
    "Tibetan": "bo dz",
}


def scripts_of(languages: Iterable[str]) -> set[str]:
    """Return Unicode's names of the scripts that languages are written in.

    A language that is not in the table is taken to be written in Latin letters, as most are.
    """
    found: set[str] = set()
    for language in languages:
        written = {name for name, codes in _SCRIPTS.items() if language in codes.split()}
        found |= written or {"Latin"}
    return found


@dataclass(frozen=True)
class Content:
    """The words of a text, and how many of their letters are unread."""

    readable: str  # the words in the checkpoint's scripts
    letters: int
    foreign: int  # letters in other scripts, in disguise or not
    unread: int  # these if the tokenizer does not undo them, and letters that it does not know

    @property
    def is_foreign(self) -> bool:
        """Whether the scripts alone make the text unread."""
        return _too_many(self.foreign, self.letters)

    @property
    def is_unread(self) -> bool:
        """Whether too much of the text is unread."""
        return _too_many(self.unread, self.letters)


def _too_many(unread: int, letters: int) -> bool:
    return unread >= max(LEAST_UNREAD_LETTERS, UNREAD_SHARE * letters)


class ScriptReader:
    """Tells the letters that a checkpoint for these languages can read from those that it can't."""

    def __init__(self, languages: Iterable[str]) -> None:
        scripts = scripts_of(languages)
        known = "".join(rf"\p{{Script={name}}}" for name in sorted(scripts))
        # To Unicode full-width letters are Latin; to a tokenizer they are others.
        self._foreign = regex.compile(rf"[{_ANY}--[{known}--[Ａ-Ｚａ-ｚ]]]", regex.V1)
        self._reads_ascii = "Latin" in scripts

    def read(
        self,
        normalized: str,
        unknown: Sequence[tuple[int, int]] = (),
        plain: Sequence[tuple[int, int]] = (),
    ) -> Content:
        """Judge a normalised text.

        ``unknown`` holds start and end of each token that the vocabulary does not have, in code
        points of ``normalized``; ``plain`` those of each token in plain Latin letters. Takes time
        linear in the length of the text.
        """
        # As many spaces as before, so that the places of unknown tokens stay true.
        content = _NO_WORD.sub(lambda found: " " * len(found.group()), normalized)
        if self._reads_ascii and not unknown and content.isascii():
            return Content(content, sum(map(len, _ASCII_WORD.findall(content))), 0, 0)
        letters = len(_LETTER.findall(content))
        foreign = {found.start() for found in self._foreign.finditer(content)}
        unread = self._not_undone(foreign, plain) | {
            found.start()
            for start, end in unknown
            for found in _LETTER.finditer(content, start, end)
        }
        readable = [
            found.group()
            for found in _WORD.finditer(content)
            if foreign.isdisjoint(range(found.start(), found.end()))
        ]
        return Content(" ".join(readable), letters, len(foreign), len(unread))

    def _not_undone(self, foreign: set[int], plain: Sequence[tuple[int, int]]) -> set[int]:
        """Return the places of foreign letters that the tokenizer leaves foreign.

        A Russian word may consist of letters that look Latin, such as "как". So a text has all of
        its foreign letters if several of them can't be undone.
        """
        if not self._reads_ascii:
            return foreign
        left = foreign.difference(place for start, end in plain for place in range(start, end))
        return left if len(left) < LEAST_UNREAD_LETTERS else foreign
