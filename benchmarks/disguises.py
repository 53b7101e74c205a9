"""How far disguised spellings lower the scores of hateful texts, as sent and read with `robust`.

The disguises are made here from lists of their own, not from the fold's. Each changes the words of
three letters and more in the hateful and abusive texts of a labelled file and in a few insults. The
figure is the mean of hate + abusing over these texts. Below the table stands the share of the
neutral texts of the file whose label `robust` changes.

    python -m benchmarks.disguises [--data test.tsv] [--model-dir FOLDER] [--write]
"""

from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from benchmarks import models
from hatespeech.cli import make_parser
from hatespeech.engine.predictor import Predictor
from hatespeech.paths import EMBEDDED

PAGE: Final = Path(__file__).parent.parent / "docs" / "contract.md"
BEGIN, END = "<!-- disguises -->", "<!-- /disguises -->"
TEXTS: Final = 72  # hateful and abusive ones of the file
# The most that robust reading may lose of hate + abusing, by kind of disguise.
AIMS: Final[Mapping[str, float]] = {"Unicode": 0.05, "separated": 0.10, "digits": 0.20}
INSULTS: Final = (
    "you are a stupid idiot and a moron",
    "shut up you worthless piece of shit",
    "those people are vermin and should be shot",
    "all of them are filthy criminals, deport them",
    "what a pathetic ugly bitch",
    "go kill yourself you disgusting pig",
    "women are too dumb to vote",
    "your family are scum and so are you",
)
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"

# By shape, as found in a table of fonts.
CYRILLIC: Final = dict(zip("acdehijklmnopqrstuvwxy", "асԁеһіјкӏмпорԛгѕтцѵшху", strict=True))
GREEK: Final = dict(zip("abeikmnoprtuvwxy", "αβεικμηορгτυνωχγ", strict=True))
DIGITS: Final = dict(zip("aegiostb", "43910578", strict=True))
DIGITS_AND_SIGNS: Final = DIGITS | {"a": "@", "i": "!", "s": "$"}
UPSIDE_DOWN: Final = dict(zip(LETTERS, "ɐqɔpǝɟƃɥᴉɾʞꞁɯuodbɹsʇnʌʍxʎz", strict=True))
ABOVE_AND_BELOW: Final = tuple(map(chr, (0x300, 0x307, 0x316, 0x323, 0x334, 0x34F, 0x35C, 0x489)))
UNSEEN: Final = tuple(map(chr, (0x200B, 0x200C, 0x200D, 0x2060, 0x2063, 0xFEFF, 0x34F, 0x180E)))
EMOJI: Final = ("🔥", "💩", "😂", "🤡", "❤️", "👏")

Spelling = Callable[[str], str]  # of one word


@dataclass(frozen=True)
class Disguise:
    """A way to spell."""

    kind: str  # which aim applies
    name: str
    spell: Spelling
    between: str = " "  # words


@dataclass(frozen=True)
class Row:
    """One line of the table: the mean of hate + abusing."""

    kind: str
    name: str
    plain: float
    disguised: float
    robust: float


def named(pattern: str) -> dict[str, str]:
    """Return for each letter the first character whose Unicode name is ``pattern`` with it."""
    found = {}
    for letter in LETTERS:
        try:
            found[letter] = unicodedata.lookup(pattern.format(letter.upper()))
        except KeyError:
            continue
    return found


def with_marks(letter: str, chance: random.Random) -> str:
    """Return a letter that Unicode names as this one ``WITH`` something, in one character."""
    kinds = ("ACUTE", "DIAERESIS", "GRAVE", "STROKE", "DOT BELOW", "CARON", "TILDE", "HOOK")
    names = [f"LATIN SMALL LETTER {letter.upper()} WITH {kind}" for kind in kinds]
    found = []
    for name in names:
        try:
            found.append(unicodedata.lookup(name))
        except KeyError:
            continue
    return chance.choice(found) if found else letter


def replaced(letters: Mapping[str, str], word: str) -> str:
    """Replace each letter that is in the table."""
    return "".join(letters.get(each.lower(), each) for each in word)


def shifted(first: int, word: str) -> str:
    """Replace each small letter by the one of an alphabet that starts at a code point."""
    return "".join(chr(first + LETTERS.index(c)) if c in LETTERS else c for c in word.lower())


def joined(separators: Sequence[str], chance: random.Random, word: str) -> str:
    """Put one of the separators between all letters."""
    separator = chance.choice(separators)
    return separator.join(word)


def mixed(separators: Sequence[str], chance: random.Random, word: str) -> str:
    """Put a separator between all letters, each time another one."""
    return word[0] + "".join(chance.choice(separators) + each for each in word[1:])


def stretched(chance: random.Random, word: str) -> str:
    """Write one vowel three to six times."""
    vowels = [at for at, each in enumerate(word) if each in "aeiou"]
    if not vowels:
        return word
    at = chance.choice(vowels)
    return word[:at] + word[at] * chance.randint(3, 6) + word[at + 1 :]


def disguises() -> list[Disguise]:
    """Return every disguise, seeded."""
    chance = random.Random(16)
    capitals = named("LATIN LETTER SMALL CAPITAL {}")
    circled = named("CIRCLED LATIN SMALL LETTER {}")
    negative = named("NEGATIVE SQUARED LATIN CAPITAL LETTER {}")
    raised = named("MODIFIER LETTER SMALL {}")
    flags = named("REGIONAL INDICATOR SYMBOL LETTER {}")
    fonts = (0x1D41A, 0x1D4EA, 0x1D51E, 0x1D5BA, 0x1D68A)

    def marked(word: str) -> str:
        return "".join(with_marks(each, chance) if each in LETTERS else each for each in word)

    def piled(word: str) -> str:
        return "".join(each + "".join(chance.sample(ABOVE_AND_BELOW, 3)) for each in word)

    def overridden(word: str) -> str:
        return f"\u202e{word[::-1]}\u202c"

    def turned(word: str) -> str:
        return replaced(UPSIDE_DOWN, word)[::-1]

    def small_capitals_and_dots(word: str) -> str:
        return ".".join(replaced(capitals, word))

    def marks_and_digits(word: str) -> str:
        return piled(replaced(DIGITS, word))

    def digits_and_spaces(word: str) -> str:
        return " ".join(replaced(DIGITS, word))

    return [
        Disguise("Unicode", "Cyrillic look-alikes", partial(replaced, CYRILLIC)),
        Disguise("Unicode", "Greek look-alikes", partial(replaced, GREEK)),
        Disguise("Unicode", "full-width letters", partial(shifted, 0xFF41)),
        Disguise(
            "Unicode", "mathematical letters", lambda word: shifted(chance.choice(fonts), word)
        ),
        Disguise("Unicode", "circled letters", partial(replaced, circled)),
        Disguise("Unicode", "negative squares", partial(replaced, negative)),
        Disguise("Unicode", "small capitals", partial(replaced, capitals)),
        Disguise("Unicode", "raised letters", partial(replaced, raised)),
        Disguise("Unicode", "regional indicators", partial(replaced, flags)),
        Disguise("Unicode", "letters with accents, strokes and hooks", marked),
        Disguise("Unicode", "piles of combining marks", piled),
        Disguise("Unicode", "zero-width characters", partial(mixed, UNSEEN, chance)),
        Disguise("Unicode", "soft hyphens", "\u00ad".join),
        Disguise("Unicode", "right-to-left overrides", overridden),
        Disguise("Unicode", "upside down", turned),
        Disguise("separated", "spaces", " ".join, between="   "),
        Disguise("separated", "spaces, and no wider ones between words", " ".join),
        Disguise("separated", "dots", ".".join),
        Disguise("separated", "hyphens", "-".join),
        Disguise("separated", "underscores", "_".join),
        Disguise("separated", "asterisks or dots", partial(joined, "*.•", chance)),
        Disguise("separated", "emoji", partial(mixed, EMOJI, chance)),
        Disguise("separated", "small capitals with dots", small_capitals_and_dots),
        Disguise("digits", "digits", partial(replaced, DIGITS)),
        Disguise("digits", "digits and signs", partial(replaced, DIGITS_AND_SIGNS)),
        Disguise("digits", "stretched letters", partial(stretched, chance)),
        Disguise("digits", "digits with combining marks", marks_and_digits),
        Disguise("digits", "digits with spaces", digits_and_spaces, between="   "),
    ]


_WORD: Final = re.compile(r"(?<![@#&/\w])[A-Za-z]{3,}(?![/\w])")


def disguised(text: str, disguise: Disguise) -> str:
    """Spell the words of a text in another way; tags, addresses and entities stay."""
    words = re.split(r"(\s+)", text)
    words[1::2] = [disguise.between] * len(words[1::2])
    kept = ("http", "www", "&", "@", "#")
    return "".join(
        word if word.startswith(kept) else _WORD.sub(lambda m: disguise.spell(m.group()), word)
        for word in words
    )


def measure(predictor: Predictor, texts: Sequence[str]) -> list[Row]:
    """Return a row for each disguise."""
    lowered = [text.lower() for text in texts]
    plain = harm(predictor, lowered, robust=False)
    rows = []
    for disguise in disguises():
        spelt = [disguised(text, disguise) for text in lowered]
        without, robust = (harm(predictor, spelt, robust=robust) for robust in (False, True))
        rows.append(Row(disguise.kind, disguise.name, plain, without, robust))
    return rows


def harm(predictor: Predictor, texts: Sequence[str], *, robust: bool) -> float:
    """Return the mean of hate + abusing."""
    found = models.scores(predictor.score(texts, robust=robust))
    return float(found[:, :2].sum(1).mean())


def changed_labels(predictor: Predictor, texts: Sequence[str]) -> int:
    """Return how many labels robust reading changes."""
    without, robust = (
        models.scores(predictor.score(texts, robust=robust)).argmax(1) for robust in (False, True)
    )
    return int((without != robust).sum())


def hateful(path: Path, count: int) -> list[str]:
    """Return the insults, and the first hateful and abusive texts of a labelled file."""
    return [*INSULTS, *texts_of(path, "hate", "abusing")[:count]]


def texts_of(path: Path, *labels: str) -> list[str]:
    """Return the texts of a labelled file that have one of these labels."""
    return [row["text"] for row in models.rows(path) if row["label"] in labels]


def table(rows: Sequence[Row]) -> str:
    """Return the table as Markdown."""
    lines = [
        "| kind | disguise | plain | disguised | with `robust` |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {row.kind} | {row.name} | {row.plain:.2f} | {row.disguised:.2f} | {row.robust:.2f} |"
        for row in rows
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(None, __doc__)
    parser.add_argument(
        "--data", type=Path, default=models.SAMPLE, metavar="TSV", help="label, text (%(default)s)"
    )
    parser.add_argument(
        "--texts", type=int, default=TEXTS, help="hateful and abusive texts (%(default)s)"
    )
    parser.add_argument("--model-dir", type=Path, default=EMBEDDED, help="(the embedded one)")
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    options = parser.parse_args(arguments)
    predictor = models.load(options.model_dir)
    texts = hateful(options.data, options.texts)
    print(f"{predictor.model_id}: hate + abusing, mean of {len(texts)} texts\n")
    shown = table(measure(predictor, texts))
    print(shown)
    if options.write:
        head, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        tail = rest.partition(END)[2]
        PAGE.write_text(f"{head}{BEGIN}\n\n{shown}\n\n{END}{tail}", encoding="utf-8")
    neutral = texts_of(options.data, "neutral")
    changed = changed_labels(predictor, neutral)
    print(
        f"\nrobust changes the label of {changed} of {len(neutral)} neutral texts: "
        f"{changed / len(neutral):.2%}"
    )


if __name__ == "__main__":
    main()
