"""How much of a score each word carries: what the shares are, and what they cost."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
from collections.abc import Callable, Iterator
from statistics import fmean

import numpy as np
import pytest
from numpy.typing import NDArray

from hatespeech.contract import Prediction, WordInfluence
from hatespeech.engine import explanation
from hatespeech.engine.explanation import (
    CHARS_AT_ONCE,
    CHARS_OF_A_TOKEN,
    PLACEHOLDER,
    READ_AT_ONCE,
    WordSet,
    count_readings,
    draw_pairs,
    fit_shares,
    readings,
    tokens_to_read,
)
from hatespeech.engine.predictor import Predictor
from hatespeech.engine.spans import MAX_EXPLAINED_WORDS, Word
from hatespeech.errors import InternalError, TooLargeError
from hatespeech.labels import EXPLANATIONS, LABELS, Explanation
from hatespeech.settings import EngineSettings
from tests.paths import EMBEDDED, ROOT

Game = Callable[[WordSet], list[float]]
SAME_MEANING = "you are a stupid idiot and a moron"


@pytest.fixture(scope="module")
def embedded() -> Predictor:
    return Predictor.from_settings(
        EngineSettings(model_dir=EMBEDDED, device="cpu", dtype="float32")
    )


def scored(classifier: Predictor, text: str, method: Explanation | None = None) -> Prediction:
    (result,) = classifier.score([text], method)
    assert isinstance(result, Prediction), result
    return result


def explained(classifier: Predictor, text: str, method: Explanation) -> list[WordInfluence]:
    words = scored(classifier, text, method).words
    assert words is not None
    return list(words)


def shares_of(game: Game, words: int) -> NDArray[np.float64]:
    """Share out a game as texts are shared out."""
    every = (1 << words) - 1
    pairs = draw_pairs(words)
    needed = {0, every, *(each for half, _ in pairs for each in (half, every ^ half))}
    return fit_shares(words, pairs, {kept: np.array(game(kept)) for kept in needed})


def by_definition(game: Game, words: int) -> NDArray[np.float64]:
    """Average what each word adds over all orders in which the words may come."""
    shares = np.zeros((words, len(game(0))))
    for order in itertools.permutations(range(words)):
        kept = 0
        for word in order:
            shares[word] += np.array(game(kept | 1 << word)) - np.array(game(kept))
            kept |= 1 << word
    return shares / math.factorial(words)


def any_of(*words: int) -> Game:
    """A game that one of these words wins alone, so that none of them is missed."""
    wanted = sum(1 << word for word in words)
    return lambda kept: [float(bool(kept & wanted)), 0.5]


def random_game(words: int) -> Game:
    draw = random.Random(words)
    values = [[draw.random(), draw.random()] for _ in range(1 << words)]
    return values.__getitem__


@pytest.mark.parametrize("words", range(1, 8))
def test_few_words_get_their_shapley_values(words: int) -> None:
    game = random_game(words)
    assert shares_of(game, words) == pytest.approx(by_definition(game, words), abs=1e-9)


@pytest.mark.parametrize("words", [1, 2, 3, 8, 9, 10, 21, 63, 64, 65, 150, 255, 256])
def test_shares_add_up_to_the_whole_difference(words: int) -> None:
    draw = random.Random(1)
    read: dict[WordSet, list[float]] = {}

    def game(kept: WordSet) -> list[float]:
        return read.setdefault(kept, [draw.random(), draw.random()])

    every = (1 << words) - 1
    shares = shares_of(game, words)
    difference = np.array(game(every)) - np.array(game(0))
    assert shares.sum(axis=0) == pytest.approx(difference, abs=1e-9)
    # Even readings that fit together in no way do not blow the shares up.
    assert abs(shares).max() < 5


def test_words_that_say_the_same_share_alike_and_a_word_that_says_nothing_gets_nothing() -> None:
    shares = shares_of(any_of(1, 4, 6), 8)
    assert shares[[1, 4, 6], 0] == pytest.approx([1 / 3] * 3, abs=1e-9)
    assert shares[[0, 2, 3, 5, 7], 0] == pytest.approx([0] * 5, abs=1e-9)
    assert shares[:, 1] == pytest.approx([0] * 8, abs=1e-9)


@pytest.mark.parametrize("words", [9, 10, 20, 40, 100, 256])
def test_drawn_sets_come_close_to_the_shapley_values(words: int) -> None:
    shares = shares_of(any_of(1, 4, 6), words)[:, 0]
    expected = [1 / 3 if word in (1, 4, 6) else 0 for word in range(words)]
    assert shares == pytest.approx(expected, abs=0.12)
    assert fmean(abs(shares - expected)) < 0.03


def test_a_text_of_ten_words_is_shared_out_nearly_as_if_every_set_were_read(
    embedded: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = (
        "my stupid neighbour is a moron and a fool too",
        "you won a free phone, claim it now you idiot",
        "good morning everyone, what a lovely day for a walk",
    )
    drawn = [explained(embedded, text, "shapley") for text in texts]
    monkeypatch.setattr(explanation, "READINGS", 2**10)
    for text, words in zip(texts, drawn, strict=True):
        assert readings(10, "shapley") == 2**10 - 1
        for word, exact in zip(words, explained(embedded, text, "shapley"), strict=True):
            assert word.scores == pytest.approx(exact.scores, abs=0.04)


def test_three_insults_carry_the_score_together(embedded: Predictor) -> None:
    words = explained(embedded, SAME_MEANING, "shapley")
    insults = sum(word.toxic for word in words if word.word in ("stupid", "idiot", "moron"))
    assert insults >= 0.8 * sum(word.toxic for word in words) > 0
    # Without any one of them the score is nearly the same, which the cheap way takes for innocence.
    assert all(abs(word.toxic) < 0.1 for word in explained(embedded, SAME_MEANING, "leave_one_out"))


@pytest.mark.parametrize(
    ("text", "culprit"),
    [("good morning you idiot!!!", "idiot"), ("my neighbour is a moron, I think.", "moron")],
)
def test_a_word_that_is_alone_responsible_carries_nearly_all(
    embedded: Predictor, text: str, culprit: str
) -> None:
    words = explained(embedded, text, "shapley")
    (share,) = (word.toxic for word in words if word.word == culprit)
    assert share == pytest.approx(sum(word.toxic for word in words), rel=0.15)


def test_what_stands_in_for_words_is_neutral_however_long(embedded: Predictor) -> None:
    for words in (1, 2, 4, 8, 16, 64, 250):
        assert scored(embedded, " ".join([PLACEHOLDER] * words)).scores[2] > 0.8


def test_influences_are_the_score_minus_that_of_the_text_without_its_words(
    embedded: Predictor,
) -> None:
    text = "  “you”  are\tthe worst, driver!"
    result = scored(embedded, text, "shapley")
    without = scored(embedded, " ".join([PLACEHOLDER] * 5))
    assert result.words is not None
    for index, label in enumerate(LABELS):
        carried = sum(word.scores[label] for word in result.words)
        assert carried == pytest.approx(result.scores[index] - without.scores[index], abs=1e-5)


@pytest.mark.parametrize("method", EXPLANATIONS)
def test_a_text_is_explained_the_same_in_any_company(
    small_classifier: Predictor, method: Explanation
) -> None:
    texts = [" ".join(f"word{n}" for n in range(count)) for count in (3, 12, 30)]
    together = small_classifier.score(texts, method, max_batch_tokens=2000)
    for text, result in zip(texts, together, strict=True):
        assert isinstance(result, Prediction)
        assert result.words is not None
        for word, alone in zip(
            result.words, explained(small_classifier, text, method), strict=True
        ):
            assert word.scores == pytest.approx(alone.scores, abs=1e-4)


def read_alone(classifier: Predictor, text: str, method: Explanation) -> Iterator[int]:
    """Read a text as a batcher does; yield how many sequences each part has."""
    reading = classifier.read(text, method)
    try:
        sequences = next(reading)
        while True:
            sequences = reading.send(classifier.probabilities(sequences))
            yield len(sequences)
    except StopIteration:
        return


@pytest.mark.parametrize(
    ("words", "method", "count"),
    [
        (1, "shapley", 1),
        (2, "shapley", 3),
        (8, "shapley", 255),
        (9, "shapley", 255),
        (63, "shapley", 255),
        (100, "shapley", 401),
        (9, "leave_one_out", 9),
    ],
)
def test_readings_are_bounded_and_come_in_parts(
    small_classifier: Predictor, words: int, method: Explanation, count: int
) -> None:
    parts = list(read_alone(small_classifier, " ".join(["a"] * words), method))
    assert sum(parts) == readings(words, method) == count
    assert max(parts) <= 64


def test_the_contract_has_the_table_of_readings() -> None:
    page = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    for words in (1, 4, 8, 16, 32, 64, 128, MAX_EXPLAINED_WORDS):
        counts = " | ".join(str(readings(words, method)) for method in EXPLANATIONS)
        assert f"| {words} | {counts} |" in page


@pytest.mark.parametrize("method", EXPLANATIONS)
def test_what_an_explanation_reads_is_known_before(
    embedded: Predictor, monkeypatch: pytest.MonkeyPatch, method: Explanation
) -> None:
    read: list[int] = []
    forward = embedded.probabilities

    def counted(sequences: list[list[int]]) -> list[list[float]]:
        read.append(sum(map(len, sequences)))
        return forward(sequences)

    monkeypatch.setattr(embedded, "probabilities", counted)
    for text in (SAME_MEANING, "good morning @everyone, what a lovely day 😀 today " * 2):
        read.clear()
        windows = embedded.encode(text).windows
        planned = tokens_to_read(text, windows, method)
        explained(embedded, text, method)
        assert 0.7 * planned <= sum(read) - len(windows[0]) <= planned


def test_a_reading_of_many_characters_and_few_tokens_counts_by_the_characters() -> None:
    window = [0, 5, 6, 2]
    short, long = "a b", f"a{' ' * 9997}b"
    assert tokens_to_read(short, [window], "shapley") == readings(2, "shapley") * 4
    least = readings(2, "shapley") * len(long) // CHARS_OF_A_TOKEN
    assert least - 100 <= tokens_to_read(long, [window], "shapley") <= least
    assert count_readings(long, "shapley") == 1 + readings(2, "shapley")


@pytest.mark.parametrize("length", [50, 2000, 100_000])
def test_long_texts_are_read_in_small_turns(length: int) -> None:
    text = " ".join("abcdefghijkl").ljust(length)
    method = explanation.explain(text, (0, len(text)), "shapley", lambda _: [0], [0.25] * 4)
    part = next(method)
    assert len(part) == max(1, min(READ_AT_ONCE, CHARS_AT_ONCE // length))
    read = 0
    with contextlib.suppress(StopIteration):
        while True:
            read += len(part)
            part = method.send([[0.25] * 4] * len(part))
    assert read == readings(12, "shapley")


def test_more_words_than_can_be_explained_are_refused_unread(
    small_classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = "a " * (MAX_EXPLAINED_WORDS + 1)
    assert isinstance(small_classifier.score([many])[0], Prediction)
    monkeypatch.setattr(small_classifier, "probabilities", lambda _rows: pytest.fail("was read"))
    for method in EXPLANATIONS:
        (result,) = small_classifier.score([many], method)
        assert isinstance(result, TooLargeError)


def test_as_many_words_as_can_be_explained_are(small_classifier: Predictor) -> None:
    words = explained(small_classifier, "a " * MAX_EXPLAINED_WORDS, "leave_one_out")
    assert len(words) == MAX_EXPLAINED_WORDS


def test_the_cheap_way_takes_one_word_out_at_a_time(small_classifier: Predictor) -> None:
    text = "  you are the\tworst driver"
    result = scored(small_classifier, text, "leave_one_out")
    assert result.words is not None
    assert [word.word for word in result.words] == ["you", "are", "the", "worst", "driver"]
    for word in result.words:
        assert text[word.start : word.end] == word.word
        without = scored(small_classifier, text[: word.start] + text[word.end :])
        expected = [a - b for a, b in zip(result.scores, without.scores, strict=True)]
        assert list(word.scores.values()) == pytest.approx(expected, abs=1e-5)
        assert list(word.scores) == list(LABELS)
    assert max(abs(value) for word in result.words for value in word.scores.values()) > 0.01


def test_the_cheap_way_compares_a_lone_word_with_an_empty_text(
    small_classifier: Predictor,
) -> None:
    result = scored(small_classifier, "worst", "leave_one_out")
    empty = small_classifier.probabilities([small_classifier._tokenizer.encode("").ids])[0]
    expected = [a - b for a, b in zip(result.scores, empty, strict=True)]
    assert result.words is not None
    assert list(result.words[0].scores.values()) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("method", EXPLANATIONS)
def test_a_long_text_explains_the_window_that_spoke(
    small_classifier: Predictor, method: Explanation
) -> None:
    long_words = " ".join("extraordinarily" * 3 + str(n) for n in range(60))
    result = scored(small_classifier, long_words, method)
    assert result.windows > 1
    assert result.window is not None
    assert result.words
    start, end = result.window
    assert all(word.start < end and word.end > start for word in result.words)
    assert all(long_words[word.start : word.end] == word.word for word in result.words)
    assert len(result.words) < 60
    window = scored(small_classifier, long_words[start:end])
    if method == "shapley":
        without = scored(small_classifier, " ".join([PLACEHOLDER] * len(result.words)))
        carried = [sum(word.scores[label] for word in result.words) for label in LABELS]
        expected = [a - b for a, b in zip(window.scores, without.scores, strict=True)]
        assert carried == pytest.approx(expected, abs=1e-5)
        return
    for word in result.words[::7]:
        cut = long_words[start : max(word.start, start)] + long_words[min(word.end, end) : end]
        without = scored(small_classifier, cut)
        expected = [a - b for a, b in zip(window.scores, without.scores, strict=True)]
        assert list(word.scores.values()) == pytest.approx(expected, abs=1e-5)


def test_a_reading_that_is_not_finite_is_an_error(
    small_classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward = small_classifier.probabilities

    def broken(sequences: list[list[int]]) -> list[list[float]]:
        rows = forward(sequences)
        if len(rows) > 1:
            rows[1][0] = math.nan
        return rows

    monkeypatch.setattr(small_classifier, "probabilities", broken)
    for method in EXPLANATIONS:
        (result,) = small_classifier.score(["one two three"], method)
        assert isinstance(result, InternalError)


@pytest.mark.parametrize(
    ("run", "shown"),
    [
        ("idiot", "idiot"),
        ("idiot!!!", "idiot"),
        ("“idiot”,", "idiot"),
        ("(don't)", "don't"),
        ("¿qué?", "qué"),
        ("馬鹿。", "馬鹿"),
        ("#tag,", "#tag"),
        (".@name:", "@name"),
        ("f***!", "f***"),
        ("100%", "100%"),
        ("w/", "w/"),
        ("https://example.com/a?b=c.", "https://example.com/a?b=c"),
        ("🤬!", "🤬"),
        ("👩🏽\u200d🚒", "👩🏽\u200d🚒"),
        (":)", ":)"),
        (":D", ":D"),
        ("<3", "<3"),
        ("!!!", "!!!"),
        ("…", "…"),
        ("-", "-"),
    ],
)
def test_a_word_is_shown_without_the_punctuation_around_it(run: str, shown: str) -> None:
    text = f"  {run} so"
    bare, start, end = Word(2, 2 + len(run)).bare(text)
    assert (bare, text[start:end]) == (shown, shown)
