"""The fold: disguised spellings become what a person reads, and everything else stays."""

from __future__ import annotations

import sys
import unicodedata
from types import FrameType
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hatespeech.text import lookalikes, spellings
from hatespeech.text.folding import fold, fold_in_places
from hatespeech.text.normalizer import normalize_tweet

DISGUISED = {
    "Cyrillic among Latin": ("you ѕtuріd іdіot", "you stupid idiot"),
    "all in Cyrillic": ("іԁіот", "idiot"),
    "Greek": ("ιδιοτ", "idiot"),
    "Greek letters read in two ways": ("ωομεη αrε ѕтирiд", "women are stupid"),
    "full width": ("ＹＯＵ ＡＲＥ ＳＣＵＭ！", "YOU ARE SCUM!"),
    "mathematical": ("𝓲𝔡𝕚𝐨𝚝", "idiot"),
    "circled": ("ⓘⓓⓘⓞⓣ", "idiot"),
    "negative squares": ("🅸🅳🅸🅾🆃", "IDIOT"),
    "parentheses": ("⒤⒟⒤⒪⒯", "idiot"),
    "small capitals": ("ɪᴅɪᴏᴛ", "idiot"),
    "raised": ("ᶦᵈᶦᵒᵗ", "idiot"),
    "ligatures": ("ﬁlthy", "filthy"),
    "accents and strokes": ("ïđîøŧ", "idiot"),
    "piled marks": ("Z̷̢a̸l̴g̵o̶ i̶d̷i̸o̶t̷", "Zalgo idiot"),
    "regional indicators": ("🇮🇩🇮🇴🇹", "idiot"),
    "flags that spell a word": ("🇸🇨🇺🇲", "scum"),
    "Braille": ("you ⠊⠙⠊⠕⠞", "you idiot"),
    "key caps": ("you 1️⃣diot", "you idiot"),
    "a font of Chinese characters": ("卂 乃rain", "a brain"),
    "upside down": ("you are an ʇoᴉpᴉ", "you are an idiot"),
    "upside down as a whole": ("noʎ ǝɹɐ ɐ pıdnʇs", "stupid a are you"),
    "right-to-left override": ("\u202etoidi\u202c you", "idiot you"),
    "zero-width characters": ("i\u200bd\u200ci\u2060o\ufefft", "idiot"),
    "invisible separators and tags": ("i\u2063d\U000e0064i\u034fo\ufe0ft", "idiot"),
    "soft hyphens": ("s\u00adc\u00adum", "scum"),
    "entities": ("id&#8203;iot &#1110;diot", "idiot idiot"),
    "spaces": ("you s t u p i d dog", "you stupid dog"),
    "odd spaces": ("s\u2009t\u2009u\u2009p\u2009i\u2009d", "stupid"),
    "spaces everywhere": ("y o u   a r e   s c u m", "you are scum"),
    "spaces without a wider one": ("y o u a r e a n i d i o t", "you are an idiot"),
    "dots": ("y.o.u a.r.e s.c.u.m", "you are scum"),
    "hyphens": ("i-d-i-o-t", "idiot"),
    "underscores": ("i_d_i_o_t", "idiot"),
    "asterisks": ("i*d*i*o*t", "idiot"),
    "fraction slashes": ("i⁄d⁄i⁄o⁄t", "idiot"),
    "lines": ("i\nd\ni\no\nt", "idiot"),
    "one emoji": ("s🔥t🔥u🔥p🔥i🔥d", "stupid"),
    "several emoji": ("s🔥c💀u❤️m", "scum"),
    "three letters that are a word": ("what an a.s.s", "what an ass"),
    "cut in two": ("stu.pid id iot mo🔥ron", "stupid idiot moron"),
    "digits": ("y0u 57up1d 1d107", "you stupid idiot"),
    "signs": ("@sshole $hit b!tch a$$ |d|ot", "asshole shit bitch ass idiot"),
    "separated digits": ("1 d 1 0 t", "idiot"),
    "separated signs": ("$ h ! t", "shit"),
    "an asterisk with one reading": ("f*ck id*iot", "fuck idiot"),
    "a capital for an l": ("asshoIe", "asshole"),
    "capitals": ("STUPID 1D10T", "STUPID IDIOT"),
    "brackets": ("[s][t][u][p][i][d]", "[stupid]"),
    "a list that spells a word": ("s, t, u, p, i, d", "stupid"),
    "words joined by underscores": ("you_are_an_idiot", "you are an idiot"),
    "words joined by dots": ("you.are.an.idiot", "you are an idiot"),
    "cut by a dot": ("fu.ck you", "fuck you"),
    "two words spelt out": ("go d i e", "go die"),
    "initials that are none": ("F.U.C.K.", "FUCK."),
    "an alphabet of the web": ("丂ㄒㄩ卩丨ᗪ", "stupiD"),
    "stretched": ("stuuupid asssshole coooool", "stupid asshole cool"),
    "doubled": ("ssttuuppiidd", "stupid"),
    "Cyrillic with dots": ("ѕ.с.υ.м", "scum"),
    "small capitals with emoji": ("ɪ🔥ᴅ🔥ɪ🔥ᴏ🔥ᴛ", "idiot"),
    "digits with marks": ("1̶d̶1̶0̶t̶", "idiot"),
    "full width with spaces": ("ｉ ｄ ｉ ｏ ｔ", "idiot"),
}

PLAIN = (
    "U.S.A.",
    "made in the U.S.A. and in the u.s.a.",
    "a b c",
    "a b c d e f g",
    "A+",
    "3D",
    "C3PO and R2D2",
    "w/o",
    "b2b and 4ever",
    "3rd, 10k, 5pm, 2nd, 1st, the 90s, 10am, 5'10",
    "covid19 mp3 PS5 h2o x86 i7 RTX3080 F-16 B52 747 1080p",
    "call 555-123-4567 or 5 5 5 1 2 3 4",
    "(555) 123 4567, +1 555 0100",
    "$100, $AAPL, 100%, #1, @user, @user_1",
    "http://t.co/4b0ut1 www.s3x.com a1b@c0m.com",
    "e.g. i.e. a.m. p.m. Ph.D. J. R. R. Tolkien",
    "it's a b, don't u r a",
    "sh*t f**k c*nt",
    "E = m c 2, f(x) = a x + b",
    "I, II, III, XIII and kkk",
    "C++ c# A* <3 :D :-) x_x o_O",
    "™ № ½",
    "( o.o )\n > ^ <\n /\\_/\\",
    "X | O | X\nO | X | O",
    "|\\---/|\n| o_o |\n \\_^_/",
    "👩\u200d🚒 👍🏿 ❤️ 🇺🇸🇩🇪 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
    "Το κόμμα λέει ότι η Ελλάδα είναι ωραία",
    "Привет, как дела? Он там, а мы тут.",
    "тот кот сам",
    "Анна и IT-специалист",
    "the Greek word λόγος means word",
    "صباح الخير يا صديقي",
    "می\u200cخواهم",
    "नमस्ते दोस्त क्\u200dष",
    "สวัสดีครับ",
    "おはようございます 我 是 你",
    "안녕하세요",
    "¡hola!",
    "1) a) b) c)",
    "options: x, y, z or A, B, C, D",
    "see www.example.org, notes.final.txt_old and #you_are_an",
    "some words that nobody disguised, with well-known hyphens and a co-worker",
)


@pytest.mark.parametrize("name", DISGUISED)
def test_a_disguise_comes_off(name: str) -> None:
    sent, read = DISGUISED[name]
    assert fold(sent) == read


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_not_a_disguise_stays(text: str) -> None:
    assert fold(text) == text


def test_the_words_of_another_script_stay_beside_disguised_ones() -> None:
    russian = "Привет, как дела? Сегодня хорошая погода."
    assert fold(f"{russian} ѕtuріd") == f"{russian} stupid"


def test_every_character_of_the_result_has_its_place() -> None:
    sent = "so: ѕ.t.u.ｐ.i\u200b.d 1d10t"
    folded = fold_in_places(sent)
    assert folded.text == "so: stupid idiot"
    start = folded.text.index("stupid")
    assert sent[slice(*folded.span(start, start + 6))] == "ѕ.t.u.ｐ.i\u200b.d"
    assert sent[slice(*folded.span(start + 7, start + 12))] == "1d10t"


def test_a_span_of_turned_words_is_where_they_stand() -> None:
    sent = "you ʇoᴉpᴉ ɐ"
    folded = fold_in_places(sent)
    assert folded.text == "you a idiot"
    assert folded.span(4, 5) == (10, 11)
    assert folded.span(6, 11) == (4, 9)


SIGNS = (
    "aeiostulmn10345@$!|*._- \n\u200b\u202e\u202c\u0301\u0336&#8203;&#x456;"
    "ѕіԁоαι🔥❤️🇮🇩ʇǝᴉɪᴅ🅸ｉ𝓲⠊ﬁ㎑﷽½क्ष"
)
ODD = st.one_of(st.text(max_size=60), st.text(alphabet=st.sampled_from(SIGNS), max_size=60))


@given(ODD)
@settings(max_examples=300, deadline=None)
def test_any_text_folds_to_one_of_bounded_length_with_places_inside(text: str) -> None:
    folded = fold_in_places(text)
    assert len(folded.text) <= 3 * len(text)
    assert len(folded.places) == len(folded.text)
    assert all(0 <= place < len(text) for place in folded.places)
    normalize_tweet(folded.text).encode()


@given(ODD)
@example("2*O")
@settings(max_examples=300, deadline=None)
def test_folding_leaves_something_to_read_wherever_there_was(text: str) -> None:
    def visible(shown: str) -> list[str]:
        return [each for each in shown if unicodedata.category(each)[0] in "LNPS"]

    if visible(text):
        assert visible(fold(text))


def test_plain_ascii_letters_look_like_themselves_and_emoji_like_nothing() -> None:
    assert [lookalikes.latin(each) for each in "aZ7!ä😂™"] == ["a", "Z", "7", "", "a", "", ""]


def test_a_spelling_stands_for_the_most_frequent_word_it_can() -> None:
    choices = [("l",), ("o", "oo"), ("s",), ("e",), ("r",)]
    assert spellings.solve(choices) == ["l", "o", "s", "e", "r"]
    assert spellings.solve([("k",), ("1", "i"), ("ll",)]) == ["k", "i", "ll"]
    assert spellings.solve([("q",), ("x",), ("z",)]) is None


def test_letters_that_were_run_together_are_cut_into_words() -> None:
    assert spellings.split("youareanidiot") == ["you", "are", "an", "idiot"]
    assert "".join(spellings.split("xqzxqz")) == "xqzxqz"


HOSTILE = (
    "1",
    "1a",
    "a1l!|0",
    "a ",
    "a.",
    "a🔥",
    "a b",
    "$@!|",
    "ѕі",
    "ʇ ",
    "\u202ea",
    "\u202ea\u202c",
    "a\u0301\u0336",
    "\u200b",
    "🇮",
    "🇮🇩",
    "i*",
    "stu.",
    "aaab",
    "&#8203;",
    "ii!!11||ll",
    "a\u200d🔥\ufe0f",
    "٣ا",
)


def work(text: str) -> int:
    """Return how many lines of the package ran."""
    lines = 0

    def trace(frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal lines
        if "hatespeech" not in frame.f_code.co_filename:
            return None
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        fold(text)
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.parametrize("part", HOSTILE)
@pytest.mark.parametrize("gap", ["", " "])
def test_twice_the_text_is_at_most_twice_the_work(part: str, gap: str) -> None:
    short, long = (gap.join([part] * count) for count in (100, 200))
    fold(long)  # fills the caches
    assert work(long) <= 2.2 * work(short) + 3000
