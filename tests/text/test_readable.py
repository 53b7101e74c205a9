"""Which letters of a text a checkpoint can read."""

from __future__ import annotations

import pytest

from hatespeech.text.language import known_languages
from hatespeech.text.normalizer import normalize_tweet
from hatespeech.text.readable import Content, ScriptReader, scripts_of


def content(text: str, *languages: str) -> Content:
    return ScriptReader(languages or ("en",)).read(normalize_tweet(text))


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("100 % of 2 :) …", 2),
        ("👍🏿 👩🏽\u200d🚒 ☀️", 0),
        ("@пример https://example.com/путь www.example.com #мир", 0),
        ("café", 4),  # composed
        ("cafe\u0301 ca\u0363t", 7),  # marks above a letter, of which one is a small e
    ],
)
def test_only_letters_of_words_count(text: str, letters: int) -> None:
    found = content(text)
    assert (found.letters, found.unread) == (letters, 0)
    assert not found.is_unread


@pytest.mark.parametrize(
    "text", ["доброе утро", "صباح الخير", "早上好", "おはよう", "안녕", "שלום", "καλημέρα", "नमस्ते"]
)
def test_a_greeting_in_another_script_is_foreign(text: str) -> None:
    found = content(text)
    assert found.is_foreign
    assert found.is_unread
    assert found.readable == ""


def test_half_of_the_letters_decide_and_a_lone_letter_does_not() -> None:
    assert content("да no").is_unread
    assert not content("да nox").is_unread
    assert not content("π").is_unread
    assert not content("¯\\_(ツ)_/¯").is_unread


@pytest.mark.parametrize("text", ["hаte", "hаtе уоu", "ｈａｔｅ", "𝐡𝐚𝐭𝐞", "Ⓗⓐⓣⓔ"])
def test_words_in_disguise_are_of_no_language_and_read_if_the_tokenizer_undoes_them(
    text: str,
) -> None:
    found = content(f"{text} this")
    assert 0 < found.foreign == found.unread
    assert found.readable == "this"
    undone = ScriptReader(["en"]).read(f"{text} this", plain=[(0, len(text))])
    assert (undone.readable, undone.foreign, undone.unread) == ("this", found.foreign, 0)
    russian = ScriptReader(["ru"]).read("good morning", plain=[(0, 4), (5, 12)])
    assert (russian.foreign, russian.unread) == (11, 11)


def test_letters_that_look_latin_among_others_of_their_language_are_unread() -> None:
    reader = ScriptReader(["en"])
    assert reader.read("как тайна", plain=[(0, 3), (4, 6)]).unread == 8
    assert reader.read("hаtе уоu π", plain=[(0, 4), (5, 8)]).unread == 1


def test_a_letter_that_the_tokenizer_does_not_know_is_unread() -> None:
    reader = ScriptReader(["en"])
    text = "abc ðþƿ 12"
    assert not reader.read(text).is_unread
    found = reader.read(text, [(4, 7), (8, 10)])
    assert (found.letters, found.foreign, found.unread) == (6, 0, 3)
    assert found.is_unread
    assert not found.is_foreign


@pytest.mark.parametrize(
    ("languages", "readable", "unreadable"),
    [
        (["ru"], "доброе утро", "good morning"),
        (["ja"], "今日はカフェです", "안녕하세요"),
        (["en", "ar"], "صباح الخير, good morning", "доброе утро"),
        (["sr"], "dobro jutro, добро јутро", "καλημέρα"),
        (["el"], "καλημέρα", "good morning"),
    ],
)
def test_scripts_follow_from_the_languages(
    languages: list[str], readable: str, unreadable: str
) -> None:
    assert content(readable, *languages).foreign == 0
    assert content(unreadable, *languages).is_foreign


def test_the_table_of_scripts_has_the_identifiers_languages() -> None:
    latin = {code for code in known_languages() if scripts_of([code]) == {"Latin"}}
    assert {"en", "de", "vi", "tr", "sw"} <= latin
    assert not latin & {
        "ru",
        "ar",
        "he",
        "el",
        "hi",
        "ta",
        "th",
        "zh",
        "ja",
        "ko",
        "ka",
        "hy",
        "am",
    }
    assert scripts_of(["ja"]) == {"Han", "Hiragana", "Katakana"}
    assert scripts_of(["en", "uk"]) == {"Latin", "Cyrillic"}
