"""What the student's tokenizer undoes before it looks words up: look-alikes, and letters apart.

A word in Cyrillic look-alikes, in full-width letters or with a zero-width character in it is
unknown to a WordPiece, and a word in single letters is only letters to it. Both are undone by
``tokenizer.json`` itself, after :func:`~hatespeech.text.normalizer.normalize_tweet`, in one pass
over the text and a few searches.

The look-alikes are those of :mod:`hatespeech.text.lookalikes`.
"""

from __future__ import annotations

import struct
import sys
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from tokenizers import Regex, Tokenizer, normalizers

from hatespeech.text.lookalikes import Kind, kind, latin, script

# Scripts of which every letter that looks Latin is read as that letter. Others have a few, too, but
# what they write would become unreadable.
SCRIPTS: Final = ("CYRILLIC", "GREEK", "CHEROKEE", "LISU")
# A Cyrillic or Greek word with a letter that looks Latin only from afar is a word, not a disguise.
# It becomes one letter that no student knows.
WORD: Final = (
    r"(?=[Ͱ-ӿ])(?<![\p{L}\p{M}])(?=[\p{L}\p{M}]*[бгджзийлпфцчшщъыьэюяєґђљњћџёїғқңөүұәβγδζηθλμξπσςφψω"
    r"БГДЖЗИЙЛПФЦЧШЩЪЫЬЭЮЯЄҐЂЉЊЋЏЁЇҒҚҢӨҮҰӘΓΔΘΛΞΠΣΦΨΩ])[\p{Cyrillic}\p{Greek}\p{M}]+(?!\p{L})"
)
UNKNOWN_LETTER: Final = "\ua000"  # a syllable of Yi
# Default-ignorable characters that stand between letters: the normaliser sets spaces around some.
HIDDEN: Final = (
    r" ?[\x{AD}\x{34F}\x{61C}\x{180B}-\x{180E}\x{200B}-\x{200F}\x{202A}-\x{202E}\x{2060}-\x{206F}"
    r"\x{3164}\x{FE00}-\x{FE0F}\x{FEFF}\x{FFA0}]+ ?"
)
# What stands between the letters of a word that is written in single letters. Signs come first:
# if they separate letters, then spaces separate words.
GAPS: Final = (r"(?: ?[.\-_*/|~+•·] ?| :[a-z0-9_]++: ?)", " ")
LETTER_BEFORE: Final = r"(?<=^[a-z]|[^a-z0-9'\x{E000}][a-z]|\x{E000}[a-z])"
KEYCAP: Final = "\u20e3"
JOINT: Final = "\ue000"  # a private character: where a gap was
DIGITS: Final = {"0": "o", "1": "i", "3": "e", "4": "a", "5": "s", "7": "t"}
# A digit within a word, or before one: "1st", "4th" and "mp3" stay as they are.
WITHIN_WORD: Final = (
    "(?<=[a-z]|[a-z][0-9]|[a-z][0-9]{{2}}){0}(?=[0-9]*[a-z])|(?<![a-z0-9]){0}(?=[a-z][a-z0-9]{{2}})"
)


def undisguised(tokenizer: Tokenizer) -> normalizers.Normalizer:
    """Return the tokenizer's normaliser with these steps around it; it must lower-case."""
    return normalizers.Sequence(
        [
            normalizers.Replace(Regex(HIDDEN), ""),
            normalizers.Replace(Regex(WORD), UNKNOWN_LETTER),
            normalizers.Precompiled(characters_map(look_alikes())),
            tokenizer.normalizer or normalizers.Sequence([]),
            *(step for gap in GAPS for step in _join(gap)),
            *(
                normalizers.Replace(Regex(WITHIN_WORD.format(digit)), letter)
                for digit, letter in DIGITS.items()
            ),
            normalizers.Replace(Regex(r"([a-z])(?=\1\1)"), ""),  # two of a stretched letter stay
        ]
    )


def _join(gap: str) -> list[normalizers.Normalizer]:
    """Return the steps that join single letters; only three and more are a word."""
    last = r"[a-z](?![a-z0-9'])"
    return [
        # First every gap before two more letters, then the last one.
        # The first condition repeats a part of the second: it is cheaper to test.
        normalizers.Replace(
            Regex(f"(?={gap}[a-z]{gap}){LETTER_BEFORE}{gap}(?=[a-z]{gap}{last})"), JOINT
        ),
        normalizers.Replace(Regex(f"(?<={JOINT}[a-z]){gap}(?={last})"), JOINT),
        normalizers.Replace(JOINT, ""),
    ]


def look_alikes() -> dict[str, str]:
    """Return what each look-alike character stands for, in ASCII and lower case.

    Latin letters with marks are left to BERT's normaliser. It does not strip marks that enclose a
    letter: these stand for nothing. A keycap stays, since it makes a digit an emoji.
    """
    found = {}
    for character in map(chr, range(0x80, sys.maxunicode + 1)):
        name = unicodedata.name(character, "")
        base = unicodedata.normalize("NFD", character)[0]
        if not name or base.isascii() or unicodedata.category(character) in ("Mn", "Zs"):
            continue
        if unicodedata.category(character) == "Me" and character != KEYCAP:
            found[character] = ""
            continue
        compatible = unicodedata.normalize("NFKC", character)
        if kind(character) is Kind.LATIN or script(character) in SCRIPTS:
            plain = latin(character).lower()
        else:  # such as a full-width full stop
            plain = compatible if compatible.isascii() and len(compatible) == 1 else ""
        if plain:
            found[character] = plain
    return found


def characters_map(table: Mapping[str, str]) -> bytes:
    """Return a table of single characters in the form of SentencePiece's ``precompiled_charsmap``.

    That is the size of a trie in bytes, the trie, and the replacements, each ended by a zero. The
    trie is a double array as Darts-clone writes it: a unit of 32 bits holds the offset to its
    children from bit 10, whether one of them is the end of a key (bit 8), and its own byte. The
    unit at an end holds the place of the replacement.
    """
    root = _Node()
    replacements = bytearray()
    places: dict[str, int] = {}
    for character, plain in table.items():
        if plain not in places:
            places[plain] = len(replacements)
            replacements += plain.encode() + b"\0"
        node = root
        for byte in character.encode():
            node = node.children.setdefault(byte, _Node())
        node.place = places[plain]
    units = _double_array(root)
    body = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(body)) + body + bytes(replacements)


@dataclass
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)  # by byte
    place: int | None = None  # of the replacement, where a key ends


def _double_array(root: _Node) -> list[int]:
    # No two nodes have one base: otherwise the child of one would be found from the other.
    units, taken, bases = [0], {0}, set[int]()
    waiting = [(0, root)]
    start = 1
    while waiting:
        at, node = waiting.pop()
        # The end of a key is a child with the byte 0.
        labels = [*node.children, *([] if node.place is None else [0])]
        base = start
        while base in bases or any(base ^ label in taken for label in labels):
            base += 1
        bases.add(base)
        taken.update(base ^ label for label in labels)
        while start in taken:
            start += 1
        units.extend([0] * ((base | 0xFF) + 1 - len(units)))
        units[at] |= (base ^ at) << 10
        if node.place is not None:
            units[at] |= 0x100
            units[base] = 0x80000000 | node.place
        for byte, child in node.children.items():
            units[base ^ byte] = byte
            waiting.append((base ^ byte, child))
    return units
