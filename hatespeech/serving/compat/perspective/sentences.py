"""Sentences of a comment, and places in it as Perspective counts them: in UTF-16 code units."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Final

import regex

MOST_SPANS: Final = 64  # in a comment of more sentences, a span holds several

# The end of a sentence: its last mark and what closes it, or a line's end. It takes linear time.
_END: Final = regex.compile(r"[.!?…][\p{Pe}\p{Pf}\"']*+\s+|[\r\n]\s*")
_WIDE: Final = regex.compile(r"[\U00010000-\U0010FFFF]")


def sentences(text: str) -> list[tuple[int, int]]:
    """Return start and end of each sentence, in code points, without the white space around it."""
    cuts = [0, *(found.end() for found in _END.finditer(text)), len(text)]
    found = []
    for start, end in itertools.pairwise(cuts):
        sentence = text[start:end]
        if words := sentence.strip():
            start += len(sentence) - len(sentence.lstrip())
            found.append((start, start + len(words)))
    each = math.ceil(len(found) / MOST_SPANS) or 1
    groups = [found[index : index + each] for index in range(0, len(found), each)]
    return [(group[0][0], group[-1][1]) for group in groups]


def utf16_places(text: str, places: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return places of a text, in order and in code points, as UTF-16 code units."""
    wide = [found.start() for found in _WIDE.finditer(text)]
    moved: list[int] = []
    before = 0
    for place in itertools.chain.from_iterable(places):
        while before < len(wide) and wide[before] < place:
            before += 1
        moved.append(place + before)
    return list(zip(moved[::2], moved[1::2], strict=True))
