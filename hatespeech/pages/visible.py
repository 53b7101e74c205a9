"""Characters that a page must not hold raw: a reader sees a mark for each of them.

A control character or a bidi override can hide a text, or show it in another order. A joiner
between Latin letters can only hide what they spell.
"""

from __future__ import annotations

import unicodedata
from typing import Final

# Controls, format characters such as bidi overrides, surrogates, private use, line separators.
_MARKED: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
_PICTURES: Final = 0x2400  # where Unicode has a picture of each control character
_JOINERS: Final = "\u200c\u200d"
_LAST_LATIN: Final = "\u024f"


def visible(text: str) -> str:
    """Return a text with a mark for each character that has no shape of its own.

    A joiner after a character beyond Latin stays: it is part of an emoji or of a word.
    """
    shown = []
    before = ""
    for each in text:
        joins = each in _JOINERS and before > _LAST_LATIN
        marked = unicodedata.category(each) in _MARKED and not joins
        shown.append(_mark(each) if marked else each)
        before = each
    return "".join(shown)


def _mark(character: str) -> str:
    code = ord(character)
    if code < 0x20:
        return chr(_PICTURES + code)
    return "\u2421" if code == 0x7F else f"⟨U+{code:04X}⟩"
