"""Robust reading: a disguised text is read as sent and folded, and the less neutral one speaks."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence

import pytest

from hatespeech.contract import Prediction
from hatespeech.engine.device import Device
from hatespeech.engine.encoder import Encoder
from hatespeech.engine.pass_size import PassSize
from hatespeech.engine.predictor import Predictor
from hatespeech.errors import ServiceError, TooLargeError
from hatespeech.text.folding import fold
from tests.support.batchers import running

DISGUISED = (
    "you are an 1d10t",
    "ѕtuрid s c u m",
    "ｇｏ ａｗａｙ",
    "w.o.r.t.h.l.e.s.s and ɪᴅɪᴏᴛ",
    "so 🅸🅳🅸🅾🆃",
)
PLAIN = ("good morning", "made in the U.S.A.", "Привет, как дела?")
# The words of its last part alone are disguised, so its last window is not the folded text's last.
LONG = "ordinary words that nobody disguised " * 40 + "ѕtuрid s.c.u.m " * 60


def read(classifier: Predictor, text: str, *, robust: bool) -> Prediction:
    (found,) = classifier.score([text], robust=robust)
    assert isinstance(found, Prediction)
    return found


@pytest.mark.parametrize("text", DISGUISED)
def test_the_less_neutral_reading_speaks(small_classifier: Predictor, text: str) -> None:
    as_sent, folded = (read(small_classifier, each, robust=False) for each in (text, fold(text)))
    found = read(small_classifier, text, robust=True)
    assert as_sent.read_as is folded.read_as is None
    speaks = folded.scores[2] < as_sent.scores[2]
    assert found.read_as == ("folded" if speaks else None)
    expected = folded if speaks else as_sent
    assert found.scores == pytest.approx(expected.scores, abs=1e-5)


def test_either_reading_speaks_for_some_text(small_classifier: Predictor) -> None:
    more = ("a", "list", "of", "more", "words", "to", "try")
    texts = [*DISGUISED, *(f"{word} 1d10t" for word in more)]
    found = {read(small_classifier, text, robust=True).read_as for text in texts}
    assert found == {None, "folded"}


@pytest.mark.parametrize("text", [*PLAIN, "naïve"])
def test_a_text_that_the_model_would_see_no_other_way_is_read_once(
    small_classifier: Predictor, text: str
) -> None:
    readings = small_classifier.encoder.read(text, True)
    assert (len(readings) == 1) == (
        small_classifier.encode(fold(text)).windows == small_classifier.encode(text).windows
    )
    assert len(small_classifier.encoder.read(text, False)) == 1


def test_both_readings_count_against_the_windows(small_classifier: Predictor) -> None:
    limit = len(small_classifier.encode(LONG).windows)
    encoder = Encoder(small_classifier._tokenizer, 512, limit, ["en"], refuses=False)
    needed = limit + len(encoder.encode(fold(LONG)).windows)
    with pytest.raises(TooLargeError, match=f"needs {needed} windows .* the limit is {limit}"):
        encoder.read(LONG, True)


def test_both_readings_count_against_the_tokens_of_a_request(small_classifier: Predictor) -> None:
    limit = sum(map(len, small_classifier.encode(DISGUISED[0]).windows)) + 2

    async def score(robust: bool) -> Sequence[Prediction | ServiceError]:
        async with running(small_classifier, max_request_tokens=limit) as batcher:
            return (await batcher.score([DISGUISED[0]], robust=robust))[0]

    assert isinstance(asyncio.run(score(False))[0], Prediction)
    with pytest.raises(TooLargeError, match="tokens"):
        asyncio.run(score(True))


def test_a_window_of_the_folded_text_is_where_it_stands_in_the_text_as_sent(
    small_classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    readings = small_classifier.encoder.read(LONG, True)
    last = len(readings[0].windows) + len(readings[1].windows) - 1

    def neutral_but_the_last(sequences: list[list[int]]) -> list[list[float]]:
        rows = [[0.0, 0.0, 1.0, 0.0] for _ in sequences]
        rows[last] = [1.0, 0.0, 0.0, 0.0]
        return rows

    monkeypatch.setattr(small_classifier, "probabilities", neutral_but_the_last)
    found = read(small_classifier, LONG, robust=True)
    assert found.read_as == "folded"
    assert found.windows == len(readings[1].windows)
    assert found.window is not None
    start, end = found.window
    spoke = readings[1].normalized[slice(*readings[1].spans[-1])]
    cut = fold(LONG[start:end])
    assert end >= len(LONG.rstrip())
    assert abs(len(cut.split()) - len(spoke.split())) <= 2
    assert re.sub(r"\s", "", spoke)[20:] in re.sub(r"\s", "", cut)


def test_an_explanation_is_of_the_reading_that_speaks_in_the_words_as_sent(
    small_classifier: Predictor,
) -> None:
    text = next(
        each for each in DISGUISED if read(small_classifier, each, robust=True).read_as == "folded"
    )
    (found,) = small_classifier.score([text], explain="leave_one_out", robust=True)
    assert isinstance(found, Prediction)
    assert found.words is not None
    assert [word.start for word in found.words] == [
        word.start() for word in re.finditer(r"\S+", text)
    ]
    word = found.words[-1]
    without = read(small_classifier, fold(text[: word.start]), robust=False)
    expected = [a - b for a, b in zip(found.scores, without.scores, strict=True)]
    assert list(word.scores.values()) == pytest.approx(expected, abs=1e-5)


def test_texts_of_a_file_have_the_same_readings(small_classifier: Predictor) -> None:
    texts = [*DISGUISED, *PLAIN, LONG]
    device = Device(small_classifier, PassSize(16_384))
    found = device.score([small_classifier.encoder.read_windows(text, True) for text in texts])
    for text, one in zip(texts, found, strict=True):
        expected = read(small_classifier, text, robust=True)
        assert isinstance(one, Prediction)
        assert one.scores == pytest.approx(expected.scores, abs=1e-5)
        assert (one.read_as, one.windows) == (expected.read_as, expected.windows)
