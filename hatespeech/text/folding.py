"""From a disguised text to the spelling that a person reads.

:func:`fold` replaces look-alike letters by Latin ones, drops marks and hidden characters, joins
letters that something separates, and reads digits and signs as letters where that makes a word. It
changes a text step by step, and each step passes over it once. What a word costs is bounded, so the
time is linear in the length of the text.

The normaliser does not fold: what the model was trained on holds accents, digits and stretched
words. A folded text is read beside the text as sent.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import regex

from hatespeech.text.lookalikes import Kind, is_flag, kind, latin, readings, rotated, script
from hatespeech.text.spellings import LONGEST_WORD, is_word, solve, split
from hatespeech.text.tokens import ENTITY, decode_entity


@dataclass(frozen=True)
class Folded:
    """A folded text, and where each of its characters comes from."""

    text: str
    places: Sequence[int]  # for each code point, one of the text as sent

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Map code points ``[start, end)`` to the shortest span as sent that they come from."""
        places = self.places[start:end]
        return (min(places), max(places) + 1) if places else (0, 0)


def fold(text: str) -> str:
    """Return the text as a person reads it; the same text if nothing in it is disguised.

    Takes any `str` and never raises. The result has at most three times as many characters.
    """
    return fold_in_places(text).text


def fold_in_places(text: str) -> Folded:
    """Return what :func:`fold` does, with the place of each of its characters."""
    cells = _Cells(list(text), list(range(len(text))))
    for step in _STEPS:
        step(cells)
        cells.settle()
    return Folded(cells.text, cells.places)


class _Cells:
    """A text that is being folded: each cell holds a string, and the place that it comes from.

    A step reads ``text``, in which every cell is one character, and sets ``strings``.
    """

    def __init__(self, strings: list[str], places: list[int]) -> None:
        self.strings = strings
        self.places = places
        self.text = "".join(strings)

    def settle(self) -> None:
        """Let every cell hold one character again."""
        text = "".join(self.strings)
        if len(text) != len(self.strings) or text != self.text:
            pairs = zip(self.strings, self.places, strict=True)
            self.places = [place for string, place in pairs for _ in string]
            self.strings = list(text)
            self.text = text

    def put(self, start: int, strings: Sequence[str]) -> None:
        """Replace the cells from ``start`` on."""
        self.strings[start : start + len(strings)] = strings

    def drop(self, start: int, end: int) -> None:
        """Empty the cells ``[start, end)``."""
        self.strings[start:end] = [""] * (end - start)

    def reverse(self, start: int, end: int) -> None:
        """Reverse the order of the cells ``[start, end)``."""
        self.strings[start:end] = self.strings[start:end][::-1]
        self.places[start:end] = self.places[start:end][::-1]


# Entities, and the order in which characters are shown.

_RIGHT_TO_LEFT = re.compile("\u202e([^\u202a-\u202e\n\r\u2029]*)")


def _decode_entities(cells: _Cells) -> None:
    """Decode the entities of letters, marks and hidden characters, as the normaliser would."""
    if "&" not in cells.text:
        return
    for match in ENTITY.finditer(cells.text):
        decoded = decode_entity(match)
        if decoded.isalnum() or not decoded.isascii():
            cells.drop(match.start(), match.end())
            cells.strings[match.start()] = decoded


def _follow_overrides(cells: _Cells) -> None:
    """Put what is forced from right to left into the order in which it is shown."""
    for match in _RIGHT_TO_LEFT.finditer(cells.text):
        cells.reverse(match.start(1), match.end(1))


_WORD = re.compile(r"\S+")
_TURNED: Final = frozenset("ɐǝɥᴉɯɹʇʌʍʎʞɔɟꓤƎƆᗡ")


def _turn_around(cells: _Cells) -> None:
    """Turn words that stand upside down."""
    if cells.text.isascii() or _TURNED.isdisjoint(cells.text):
        return
    run: list[tuple[int, int]] = []

    def turn() -> None:
        start, end = run[0][0], run[-1][1]
        turned = [rotated(each) or each for each in cells.text[start:end]]
        cells.put(start, turned)
        cells.reverse(start, end)
        run.clear()

    waiting: list[tuple[int, int]] = []  # words that may belong to a run, if it goes on
    for match in _WORD.finditer(cells.text):
        word = match.group()
        if not all(rotated(each) or not each.isalnum() for each in word):
            if run:
                turn()
            waiting.clear()
        elif not _TURNED.isdisjoint(word):
            run += [*waiting, match.span()] if run else [match.span()]
            waiting.clear()
        else:
            waiting.append(match.span())
    if run:
        turn()


# Look-alikes, marks and hidden characters.

_SEGMENT_KINDS: Final = frozenset(Kind) - {Kind.OTHER}
_FULL_WIDTH_SIGN = re.compile("[\uff01-\uff5e]")


@dataclass(frozen=True)
class _Segment:
    """Characters without white space, punctuation or emoji between them."""

    start: int
    end: int
    kinds: Sequence[Kind]

    def count(self, wanted: Kind) -> int:
        return self.kinds.count(wanted)


def _segments(text: str) -> Iterator[_Segment]:
    start = 0
    kinds: list[Kind] = []
    for index, character in enumerate(text):
        found = kind(character)
        if found in _SEGMENT_KINDS and (
            not kinds or (found is Kind.FLAG) == (kinds[0] is Kind.FLAG)
        ):
            if not kinds:
                start = index
            kinds.append(found)
            continue
        if kinds:
            yield _Segment(start, index, kinds)
        start, kinds = index, [found] if found in _SEGMENT_KINDS else []
    if kinds:
        yield _Segment(start, len(text), kinds)


def _replace_lookalikes(cells: _Cells) -> None:
    """Write look-alikes as Latin letters; drop marks and hidden characters among these."""
    if cells.text.isascii():
        return
    for match in _FULL_WIDTH_SIGN.finditer(cells.text):
        cells.strings[match.start()] = chr(ord(match.group()) - 0xFEE0)
    cells.settle()
    text = cells.text
    foreign: list[_Segment] = []
    disguised: Counter[str] = Counter()  # letters of each script that stand for Latin ones
    at_home: Counter[str] = Counter()  # letters of each script that don't
    for segment in _segments(text):
        if segment.kinds[0] is Kind.FLAG:
            _spell_flags(cells, segment)
        elif not segment.count(Kind.FOREIGN):
            if segment.count(Kind.LATIN):
                _write_latin(cells, segment)
        elif segment.count(Kind.LATIN) and _is_mixed(text, segment):
            _write_latin(cells, segment)
            disguised[_script_of(text, segment)] += segment.count(Kind.FOREIGN)
        else:
            foreign.append(segment)
            if not segment.count(Kind.LATIN) and segment.count(Kind.FOREIGN) > 1:
                known = is_word(_spelled(text, segment)) or bool(_otherwise(text, segment))
                votes = disguised if known else at_home
                votes[_script_of(text, segment)] += segment.count(Kind.FOREIGN)
    # Lone letters have no vote. They pass for Latin ones beside these, or if they spell a word.
    lone = [each for each in foreign if each.count(Kind.FOREIGN) == 1]
    among_latin = any(each.isascii() and each.isalpha() for each in text)
    spelt_out = among_latin or is_word("".join(_spelled(text, each) for each in lone))
    for segment in foreign:
        of = _script_of(text, segment)
        alone = segment.count(Kind.FOREIGN) == 1 and spelt_out and not at_home[of]
        if _spelled(text, segment) and (alone or disguised[of] > 3 * at_home[of]):
            _write_latin(cells, segment)


def _spell_flags(cells: _Cells, segment: _Segment) -> None:
    """Write regional indicators as letters, unless they are flags and spell nothing."""
    indicators = cells.text[segment.start : segment.end]
    spelled = "".join(map(latin, indicators))
    pairs = [indicators[at : at + 2] for at in range(0, len(indicators), 2)]
    if (is_word(spelled) and len(spelled) > 2) or not all(map(is_flag, pairs)):
        cells.put(segment.start, list(spelled))


def _is_mixed(text: str, segment: _Segment) -> bool:
    """Return whether the foreign letters among Latin ones pass for Latin letters themselves."""
    unlike = sum(
        of is Kind.FOREIGN and not latin(text[segment.start + index])
        for index, of in enumerate(segment.kinds)
    )
    return unlike * 3 <= len(segment.kinds) - segment.count(Kind.MARK)


def _spelled(text: str, segment: _Segment) -> str:
    """Return a segment in Latin letters, ``""`` if a letter of it looks like none."""
    shown = [
        latin(text[segment.start + index])
        for index, of in enumerate(segment.kinds)
        if of not in (Kind.MARK, Kind.HIDDEN)
    ]
    return "".join(shown) if all(shown) else ""


def _script_of(text: str, segment: _Segment) -> str:
    return script(text[segment.start + segment.kinds.index(Kind.FOREIGN)])


def _write_latin(cells: _Cells, segment: _Segment) -> None:
    letters = segment.count(Kind.LATIN) + segment.count(Kind.FOREIGN)
    last = len(segment.kinds) - 1
    spelled = _spelled(cells.text, segment)
    whole = segment.count(Kind.WEAK) > 0 and is_word(spelled)
    if segment.count(Kind.FOREIGN) and not is_word(spelled):
        for at, letter in _otherwise(cells.text, segment).items():
            cells.strings[at] = letter
    shown = False  # a letter of this segment
    for index, of in enumerate(segment.kinds):
        at = segment.start + index
        if of is Kind.MARK or (of is Kind.HIDDEN and shown):
            cells.strings[at] = ""
        elif of is Kind.HIDDEN:
            # Before any letter it may belong to the emoji before it.
            if segment.start == 0 or cells.text[segment.start - 1].isspace():
                cells.strings[at] = ""
        elif of is Kind.WEAK:
            if whole or (letters > 1 and 0 < index < last):
                cells.strings[at] = latin(cells.text[at])
        else:
            shown = True
            if cells.strings[at] == cells.text[at]:
                cells.strings[at] = latin(cells.text[at]) or cells.text[at]


def _otherwise(text: str, segment: _Segment) -> dict[int, str]:
    """Return the foreign letters of a word that it becomes if some are read in a second way."""
    shown = [
        segment.start + index
        for index, of in enumerate(segment.kinds)
        if of not in (Kind.MARK, Kind.HIDDEN)
    ]
    if len(shown) > LONGEST_WORD:
        return {}
    chosen = solve([readings(text[at]) for at in shown]) or []
    pairs = zip(shown, chosen, strict=False)
    return {at: letter for at, letter in pairs if kind(text[at]) is Kind.FOREIGN}


# Letters that something separates.

# A lone letter or digit, not after an apostrophe nor beside a censor's asterisk; or
# a sign between separators.
_LETTER: Final = r"[[\p{L}\p{N}\p{M}]--[\ufe0e\ufe0f\u20e3]]"
_LONE = regex.compile(
    rf"(?<!{_LETTER}['’]?)(?<!{_LETTER}{{2}}[*\-])[A-Za-z0-9](?!['’]?{_LETTER}|[*\-]{_LETTER}{{2}})"
    r"|(?:(?<=[\s.\-_*~•·|/])|(?<![^\n]))[@$!](?=[\s.\-_*~•·|/]|$)",
    regex.V1,
)
_GAP = regex.compile(
    r"(?:[^\p{L}\p{N}\p{M}()\[\]{}<>=\"\\^,;:?]|[\ufe0e\ufe0f\u20e3]){1,8}|[,;:] ?"
    r"|\)\(|\]\[|\}\{|[=<>\\]"
)
_COMMAS: Final = frozenset(",;:")
_LEAST_SPLIT: Final = 6
_MANY: Final = 4  # so many letters in a row are a word; three are one only if it is known


def _join_letters(cells: _Cells) -> None:
    """Join lone letters to words: ``s.t.u.p.i.d``, ``s t u p i d``, ``s🔥t🔥u🔥p🔥i🔥d``."""
    text = cells.text
    run: list[int] = []
    listed = False  # whether the run has commas between its letters
    for match in _LONE.finditer(text):
        at = match.start()
        gap = text[run[-1] + 1 : at] if run else ""
        if run and (not _is_gap(gap) or (len(run) > 1 and listed != (gap[0] in _COMMAS))):
            _join_run(cells, run)
            run = []
        elif run:
            listed = gap[0] in _COMMAS
        run.append(at)
    _join_run(cells, run)


def _is_gap(between: str) -> bool:
    return 0 < len(between) <= 8 and _GAP.fullmatch(between) is not None and between.count("\n") < 2


def _join_run(cells: _Cells, run: Sequence[int]) -> None:
    if len(run) < _MANY - 1:
        return
    text = cells.text
    gaps = [text[left + 1 : right] for left, right in pairwise(run)]
    if _is_list(run, gaps, text):
        return
    widths = [sum(map(str.isspace, gap)) for gap in gaps]
    counted = Counter(widths)
    usual = max(counted, key=lambda width: (counted[width], width))
    groups = [[run[0]]]
    for at, width in zip(run[1:], widths, strict=True):
        if width > usual:
            groups.append([])
        groups[-1].append(at)
    spelt = ["".join(text[at] for at in group) for group in groups]
    if len(run) < _MANY:
        if len(set(gaps)) > 1 or not is_word("".join(spelt)):
            return
    elif gaps[0][0] in _COMMAS:
        if not is_word("".join(spelt)):
            return
    elif sum(len(each) for each in spelt if _is_spelt_out(each)) * 2 < len(run):
        return
    # Where nothing else parts them, short words may be run together, too.
    least = _MANY if usual and len(groups) == 1 else _LEAST_SPLIT
    for group, letters, following in zip(groups, spelt, [*groups[1:], None], strict=True):
        if not letters.isdigit():
            for left, right in pairwise(group):
                cells.drop(left + 1, right)
            if len(letters) >= least:
                _space_out(cells, group, letters)
        if following:
            cells.drop(group[-1] + 1, following[0])
            cells.strings[group[-1] + 1] = " "


def _is_list(run: Sequence[int], gaps: Sequence[str], text: str) -> bool:
    """Return whether lone letters are a list in alphabetic order, or initials."""
    letters = "".join(text[at] for at in run)
    if all(ord(right) == ord(left) + 1 for left, right in pairwise(letters)):
        return True
    if len(letters) < _MANY and (letters.isupper() or not letters.isalpha()):
        return True
    if not set(gaps) <= {".", ". "} or text[run[-1] + 1 : run[-1] + 2] != ".":
        return False
    return max(map(len, "".join(gaps).replace(". ", " ").split(" "))) + 1 < _MANY


def _is_spelt_out(letters: str) -> bool:
    """Return whether lone letters are a word, and not a game or a picture."""
    alphabetic = {each.lower() for each in letters if each.isalpha()}
    if len(alphabetic) >= 3 and sum(map(str.isalpha, letters)) * 2 >= len(letters):
        return True
    known = is_word(letters) or (bool(alphabetic) and solve(_choices(letters)) is not None)
    return known and len(letters) >= 3


def _space_out(cells: _Cells, group: Sequence[int], letters: str) -> None:
    """Put spaces between words that are spelt out without a wider gap between them."""
    if not letters.isalpha() or is_word(letters) or solve(_choices(letters)):
        return
    end = 0
    for word in split(letters)[:-1]:
        end += len(word)
        cells.strings[group[end - 1]] += " "


# Words that are cut in two or three.

_PIECE = regex.compile(rf"(?<!{_LETTER})[A-Za-z]+(?!{_LETTER})", regex.V1)
_SIGN = r"[^\p{L}\p{N}\p{M}\s\x00-\x7f][\ufe0e\ufe0f]?"
_CUT = regex.compile(rf"[ .\-_*~|•·+/]|(?:{_SIGN}){{1,4}}")
_LOUD_CUT = regex.compile(rf"[._*~|•·+]|(?:{_SIGN}){{1,4}}")  # nothing that stands between words
_USUAL_CUTS: Final = frozenset((" ", ", ", ". ", "! ", "? ", ": ", "; ", " - ", "-", "'", "’"))
_PIECES: Final = 4
_LEAST_JOINED: Final = 5


def _join_pieces(cells: _Cells) -> None:
    """Join pieces that are a word together, and not words by themselves: ``stu.pid``."""
    text = cells.text
    pieces = list(_PIECE.finditer(text))
    cuts = [text[left.end() : right.start()] for left, right in pairwise(pieces)]
    # Nearly all are words with a space between them: look only near those that are not.
    odd = [not is_word(piece.group()) for piece in pieces]
    near = [index for index, cut in enumerate(cuts) if odd[index] or cut not in _USUAL_CUTS]
    near += [index - 1 for index, unknown in enumerate(odd) if unknown]
    starts = {each - back for each in near for back in range(_PIECES - 1)}
    done = 0
    for start in sorted(each for each in starts if each >= 0):
        if start < done:
            continue
        count = _fitting(
            pieces[start : start + _PIECES],
            cuts[start : start + _PIECES],
            odd[start : start + _PIECES],
        )
        for left, right in pairwise(pieces[start : start + count]):
            cells.drop(left.end(), right.start())
        done = start + count


def _fitting(pieces: Sequence[regex.Match[str]], cuts: Sequence[str], odd: Sequence[bool]) -> int:
    """Return how many pieces from the first on are a word together."""
    joined = pieces[0].group()
    unknown, loud = odd[0], True
    best = 1
    for index, piece in enumerate(pieces[1:], 1):
        cut = cuts[index - 1]
        if len(cut) > 8 or not _CUT.fullmatch(cut) or len(joined) > LONGEST_WORD:
            break
        joined += piece.group()
        unknown = unknown or odd[index]
        loud = loud and _LOUD_CUT.fullmatch(cut) is not None
        if len(joined) >= _LEAST_JOINED - loud and (unknown or loud) and is_word(joined):
            best = index + 1
    return best


# Addresses stay as they are.
_ADDRESS = re.compile(
    r"(?i)https?:|www\.|\w@[\w-]+\.\w|\w\.(?:com|org|net|edu|gov|co|io|me|ly|uk|info|tv|us)\b"
)


# Words that something joins.

_JOINED_WORDS = re.compile(
    r"(?<![\w#@/.])[A-Za-z]+(?P<sign>[._*~|+])[A-Za-z]+(?:(?P=sign)[A-Za-z]+)+(?!\w)"
)


def _part_words(cells: _Cells) -> None:
    """Put spaces between words that a sign joins: ``you_are_an_idiot``."""
    for match in _JOINED_WORDS.finditer(cells.text):
        if all(map(is_word, match.group().split(match["sign"]))) and not _ADDRESS.search(
            match.group()
        ):
            for at in range(*match.span()):
                if cells.text[at] == match["sign"]:
                    cells.strings[at] = " "


# Digits and signs for letters, and stretched letters.

_READ_AS: Final[dict[str, tuple[str, ...]]] = {
    "0": ("o",),
    "1": ("i", "l"),
    "2": ("z",),
    "3": ("e",),
    "4": ("a",),
    "5": ("s",),
    "6": ("g", "b"),
    "7": ("t",),
    "8": ("b", "ate"),
    "9": ("g",),
    "@": ("a",),
    "$": ("s",),
    "!": ("i", "l"),
    "|": ("i", "l"),
    "+": ("t",),
    "^": ("a",),
    "(": ("c",),
    "<": ("c",),
    "#": ("h",),
    "¡": ("i",),
}
_VOWELS: Final = "iuoae"
_CANDIDATE = re.compile(r"[A-Za-z0-9@$!|+^(<#¡*]{2,}")
_ODD = re.compile(r"[^A-Za-z]|([A-Za-z])\1\1|(?<=[a-z])I|^(?:([A-Za-z])\2)+$")
_EDGE: Final = "!|+^(<#¡*"
_NUMBERED = re.compile(
    r"(?i)[$+#]?(?:\d+(?:am|pm|s|k|m|in|oz|ft|x|p|g)?|\d*(?:1st|2nd|3rd|\dth))!*"
)
_ROMAN = re.compile(r"[IVXLC]+")
_RUN = re.compile(r"(?i)(.)\1*")


def _read_signs(cells: _Cells) -> None:
    """Write digits and signs as letters, and stretched letters once, where that makes a word."""
    for word in _WORD.finditer(cells.text):
        if _ADDRESS.search(word.group()):
            continue
        for match in _CANDIDATE.finditer(cells.text, *word.span()):
            if _ODD.search(match.group()):
                _read_word(cells, match)


def _read_word(cells: _Cells, match: re.Match[str]) -> None:
    whole = match.group()
    bare = whole.strip(_EDGE)
    start = match.start() + whole.find(bare)
    for at, word in dict.fromkeys(((start, bare), (match.start(), whole))):
        if len(word) > LONGEST_WORD * 3 or _NUMBERED.fullmatch(word) or is_word(word):
            return
        if len(word) < 3 or not _ODD.search(word):
            continue
        found = _solved(word)
        if found is not None:
            cells.put(at, found)
            return
    if bare.isalpha() and not _ROMAN.fullmatch(bare):
        cells.put(start, _shortened(bare))


def _solved(word: str) -> list[str] | None:
    """Return the word that this one stands for, a string for each of its characters."""
    if not any(map(str.isalpha, word)) and not set(word) & set("@$"):
        return None
    found: list[list[str]] = []
    if word.count("*") == 1 and 0 < word.index("*") < len(word) - 1:
        read = [solve(_choices(word, vowel)) for vowel in _VOWELS]
        found = [each for each in read if each]
        if len(found) > 1:
            return None  # which one is meant?
    chosen = found[0] if found else solve(_choices(word))
    if chosen is None or len("".join(chosen)) < 3:
        return None
    strings: list[str] = []
    for run, letters in zip(_RUN.finditer(word), chosen, strict=True):
        shown = run.group()[: len(letters)]
        if shown.lower() != letters:
            shown = letters.upper() if word.isupper() else letters
        strings += [shown, *[""] * (len(run.group()) - 1)]
    return strings


def _choices(word: str, asterisk: str = "") -> list[tuple[str, ...]]:
    """Return what each run of equal characters in a word, and of asterisks, may stand for."""
    runs = [match.group() for match in _RUN.finditer(word)]
    doubled = len(word) > 4 and all(len(run) % 2 == 0 for run in runs)
    choices: list[tuple[str, ...]] = []
    for run in runs:
        if run[0] == "*":
            choices.append((asterisk,))
            continue
        single = _READ_AS.get(run[0]) or (
            ("i", "l") if run == "I" and choices else (run[0].lower(),)
        )
        if len(run) > 2 or doubled:
            choices.append((*single, *(each * 2 for each in single)))
        else:
            choices.append(tuple(each * len(run) for each in single))
    return choices


def _shortened(word: str) -> list[str]:
    """Return an unknown word with its stretched letters once, or twice where that is usual."""
    runs = [match.group() for match in _RUN.finditer(word)]
    if len(runs) < 2:
        return list(word)
    strings: list[str] = []
    for index, run in enumerate(runs):
        twice = 0 < index < len(runs) - 1 and run[0].lower() not in "aiuhjkqvwxy"
        kept = len(run) if len(run) < 3 else 1 + twice
        strings += [*run[:kept], *[""] * (len(run) - kept)]
    return strings


_STEPS: Final[tuple[Callable[[_Cells], None], ...]] = (
    _decode_entities,
    _follow_overrides,
    _turn_around,
    _replace_lookalikes,
    _join_letters,
    _join_pieces,
    _part_words,
    _read_signs,
)
