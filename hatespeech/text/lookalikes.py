"""The Latin letters and digits that other characters look like.

The table is Unicode's own: TR39's confusables, in the reduction to Latin of the package
``disarm``; compatibility decompositions; and the names of characters, which say which letter a
small capital, a turned or a crossed one is.
"""

from __future__ import annotations

import unicodedata
from enum import Enum, auto
from functools import lru_cache
from typing import Final

import disarm
import regex

CACHED: Final = 8192  # characters: more than any text in one script has

IGNORABLE: Final = regex.compile(r"[\p{Default_Ignorable_Code_Point}\p{Cf}\p{Cc}--\s]", regex.V1)
_LATIN_OR_COMMON: Final = regex.compile(r"[\p{Script=Latin}\p{Script=Common}]")
_NAMED: Final = regex.compile(
    r"(?:NEGATIVE |REVERSED |COMBINING )?(?:\w+ )??(?:LATIN|REGIONAL INDICATOR SYMBOL)"
    r"(?: (?P<case>SMALL|CAPITAL))? LETTER"
    r"(?: (?:SMALL CAPITAL|TURNED|REVERSED|INVERTED|SIDEWAYS|SCRIPT|BARRED|LONG|DOTLESS|OPEN))*"
    r" (?P<letter>[A-Z])(?: WITH [A-Z -]+)?"
)
_FIRST_INDICATOR, _LAST_INDICATOR = "\U0001f1e6", "\U0001f1ff"

# Signs that people write as themselves, although they are made of letters.
_SIGNS: Final = frozenset("™℠℗№℃℉")

# Braille, and look-alikes that Unicode does not list, of the alphabets that web pages make of other
# scripts.
_UNLISTED: Final = dict(
    zip(
        "χʊ∂£§×†©®₴₱₲₳₵ЯяИиЦцֆք卂乃匚刀乇下厶卄工丁长乚爪口尸尺丂丅凵山乂丫乙ㄒㄩ卩丨ᔕᗴᖴᘜᛕᖇ"
        "ค๒๔ђเן๓ภ๏קรยשฬץא⠁⠃⠉⠙⠑⠋⠛⠓⠊⠚⠅⠇⠍⠝⠕⠏⠟⠗⠎⠞⠥⠧⠺⠭⠽⠵",
        "xudlsxtcrSPGACRrNnUuspabcdefghijklmoprstuwxyztupisefgkr"
        "abdhilmnopsuwwyxabcdefghijklmnopqrstuvwxyz",
        strict=True,
    )
)

# What else a letter stands for: another one that it looks like, or the one that it sounds like.
_ALSO: Final = {
    **dict(zip("μµνηγωдгпвзцручи", "mmnhgodgpvzcruau", strict=True)),
    **dict(zip("ΜΝΗΡДГПВЗЦРУЧ", "mnhrdgpvzcrua", strict=True)),
}

# What a letter looks like when the page is turned, where its name does not say so.
_ROTATED: Final = {
    **dict(zip("bdnpqu()[]", "qpudbn)(][", strict=True)),
    **dict.fromkeys("losxzIHNOSXZ", ""),  # themselves
    **dict(
        zip(
            "ıɔƆɟƃɓɾſ⅂Ԁᴚ⊥∩Λ⅄Ǝᗡᘔɐǝᴉᵷꞁʌʍɥɯɹʇʎʞꓤ˙¡¿",
            "icCfggjtLPRTUVYEDZaeiglvwhmrtykR.!?",
            strict=True,
        )
    ),
}


class Kind(Enum):
    """What a character is to the fold."""

    LATIN = auto()  # a letter or digit, in whatever style or enclosure
    FOREIGN = auto()  # a letter or digit of another script
    FLAG = auto()  # a regional indicator
    WEAK = auto()  # a sign that looks like a letter
    MARK = auto()  # combines with the character before it
    HIDDEN = auto()  # not shown
    OTHER = auto()


@lru_cache(CACHED)
def latin(character: str) -> str:
    """Return the one to three ASCII letters or digits that a character looks like, else ``""``."""
    if character.isascii():
        return character if character.isalnum() else ""
    if character in _SIGNS:
        return ""
    if character in _UNLISTED:
        return _UNLISTED[character]
    decomposed = unicodedata.normalize("NFKD", character).strip("()")
    found = "".join(_base(each) for each in decomposed if not unicodedata.combining(each))
    if found.isascii() and found.isalnum() and len(found) <= 3:
        return found
    small = character.lower()
    return "" if small == character or len(small) > 1 else latin(small).upper()


def readings(character: str) -> tuple[str, ...]:
    """Return what a character may stand for in a word, in lower case, the likeliest first."""
    found = (latin(character).lower(), _ALSO.get(character, ""))
    return tuple(each for each in found if each) or (character,)


def _base(character: str) -> str:
    if character.isascii():
        return character
    name = _NAMED.fullmatch(unicodedata.name(character, ""))
    similar = disarm.normalize_confusables(character)
    if similar.isascii() and similar.isalnum() and not (name and len(similar) > 1):
        return similar
    if name is None:
        return character
    letter: str = name["letter"]
    return letter if name["case"] == "CAPITAL" else letter.lower()


@lru_cache(CACHED)
def rotated(character: str) -> str:
    """Return what a character looks like upside down, else ``""``."""
    return _ROTATED[character] or character if character in _ROTATED else ""


@lru_cache(CACHED)
def kind(character: str) -> Kind:
    """Return what a character is to the fold."""
    if character.isascii():
        return Kind.LATIN if character.isalnum() else Kind.OTHER
    if _FIRST_INDICATOR <= character <= _LAST_INDICATOR:
        return Kind.FLAG
    if IGNORABLE.match(character):
        return Kind.HIDDEN
    category = unicodedata.category(character)
    if category[0] == "M":
        return Kind.MARK
    if category[0] == "L" or category in ("Nd", "Nl"):
        return Kind.LATIN if _LATIN_OR_COMMON.match(character) else Kind.FOREIGN
    if not latin(character):
        return Kind.OTHER
    if "\u2800" <= character <= "\u28ff":
        return Kind.FOREIGN
    if "LATIN" in unicodedata.name(character, "") or category == "No":
        return Kind.LATIN
    return Kind.WEAK


def script(character: str) -> str:
    """Return the first word of a character's name, such as ``CYRILLIC``: the script of a letter."""
    return unicodedata.name(character, "").partition(" ")[0]


def is_flag(indicators: str) -> bool:
    """Return whether two regional indicators are a flag."""
    return "[?]" not in disarm.demojize(indicators)
