"""What a text's warnings are, with vocabularies of both kinds, and what is refused."""

from __future__ import annotations

import asyncio
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from tokenizers import Tokenizer, models

from benchmarks.unread import LEAST_CHARS, LEAST_RIGHT, SENTENCES
from hatespeech.engine.batcher import Batcher
from hatespeech.engine.encoder import Encoder
from hatespeech.engine.pass_size import PassSize
from hatespeech.engine.predictor import Predictor
from hatespeech.errors import UnreadError
from hatespeech.model import checkpoint as checkpoints
from tests.paths import EMBEDDED

GERMAN: Final = "Heute Morgen bin ich mit dem Fahrrad zur Arbeit gefahren"
ENGLISH: Final = "This morning I rode my bike to work and it rained"


def encoder(tokenizer: Tokenizer, *languages: str, refuses: bool = False) -> Encoder:
    return Encoder(tokenizer, 512, 4, languages or ("en",), refuses)


@pytest.fixture(scope="module", params=["WordPiece", "bytes"])
def tokenizer(request: pytest.FixtureRequest, small_checkpoint: Path) -> Tokenizer:
    """One that knows some characters, and one that knows every byte."""
    folder = EMBEDDED if request.param == "WordPiece" else small_checkpoint
    return checkpoints.load_tokenizer(checkpoints.describe(folder))


def test_the_tokenizers_are_of_these_kinds(tokenizer: Tokenizer) -> None:
    unknown = tokenizer.token_to_id("<unk>") in tokenizer.encode("早").ids
    assert unknown == isinstance(tokenizer.model, models.WordPiece)


def sentences() -> Iterator[tuple[str, str]]:
    with SENTENCES.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield row["language"], row["text"]


def test_sentences_in_many_languages_are_warned_of_whatever_the_vocabulary(
    tokenizer: Tokenizer,
) -> None:
    reader = encoder(tokenizer)
    long = [(code, text) for code, text in sentences() if len(text) >= LEAST_CHARS]
    assert len({code for code, _ in long}) > 25
    right = [(code, text) for code, text in long if reader.encode(text).warnings]
    assert len(right) >= LEAST_RIGHT * len(long)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("صباح الخير يا صديقي", ("unread",)),
        ("早上好", ("unread",)),
        (GERMAN, ("language",)),
        (f"{GERMAN} спасибо", ("language",)),
        ("Guten Morgen", ()),  # short
        (f"{GERMAN}. {ENGLISH}", ()),  # mixed
        (ENGLISH, ()),
        (f"{ENGLISH}, спасибо", ()),
        ("this fооl and that other fооl do not know what they are talking about", ()),
        ("RT @user: lmao dis boy finna get me fired 😂😂 #smh https://t.co/x", ()),
        ("👍🏿 100 %", ()),
    ],
)
def test_the_warnings_of_a_text(tokenizer: Tokenizer, text: str, expected: tuple[str, ...]) -> None:
    assert encoder(tokenizer).encode(text).warnings == expected


def test_the_language_is_given_if_the_identifier_was_asked(tokenizer: Tokenizer) -> None:
    for text, expected in ((GERMAN, "de"), (ENGLISH, "en")):
        language = encoder(tokenizer).encode(text).language
        assert language is not None
        assert (language[0], language[1] > 0.5) == (expected, True)
    russian = "доброе утро, дорогие друзья, как дела?"
    for text in ("good morning", russian, f"{GERMAN} {russian} {russian} {russian}"):
        assert encoder(tokenizer).encode(text).language is None


def test_the_checkpoints_languages_are_not_warned_of(tokenizer: Tokenizer) -> None:
    assert encoder(tokenizer, "de", "en").encode(GERMAN).warnings == ()
    assert encoder(tokenizer, "de").encode(ENGLISH).warnings == ("language",)
    russian = "Сегодня утром я поехал на работу на велосипеде"
    assert "language" not in encoder(tokenizer, "ru").encode(russian).warnings
    assert "language" in encoder(tokenizer, "bg").encode(russian).warnings


def test_of_a_language_that_the_identifier_does_not_know_it_says_nothing(
    tokenizer: Tokenizer,
) -> None:
    assert encoder(tokenizer, "en", "pcm").encode(GERMAN).warnings == ()


def test_a_long_text_is_judged_as_a_whole(tokenizer: Tokenizer) -> None:
    encoded = encoder(tokenizer).encode(f"{GERMAN}. " * 25)
    assert len(encoded.windows) > 1
    assert encoded.warnings == ("language",)


def test_what_a_caller_sent_is_refused_and_the_services_own_text_is_not(
    tokenizer: Tokenizer,
) -> None:
    strict = encoder(tokenizer, refuses=True)
    for text, reason in ((GERMAN, "in a language"), ("صباح الخير", "too many letters")):
        with pytest.raises(UnreadError, match=reason) as caught:
            strict.read(text)
        assert text not in str(caught.value)
        assert strict.encode(text).warnings
    assert strict.read(ENGLISH) == [strict.encode(ENGLISH)]
    assert encoder(tokenizer).read(GERMAN)[0].warnings


@pytest.mark.parametrize("text", ["уоu аrе а ѕtuріd іdіоt", "ｙｏｕ ａｒｅ ａ ｍｏｒｏｎ"])
def test_a_disguise_is_unread_unless_the_tokenizer_or_the_fold_undoes_it(
    tokenizer: Tokenizer, text: str
) -> None:
    strict = encoder(tokenizer, refuses=True)
    if isinstance(tokenizer.model, models.WordPiece):  # the embedded checkpoint's undoes it
        assert strict.read(text)[0].warnings == ()
    else:
        with pytest.raises(UnreadError):
            strict.read(text)
    assert {reading.warnings for reading in strict.read(text, robust=True)} == {()}
    with pytest.raises(UnreadError):
        strict.read(GERMAN, robust=True)


def test_a_checkpoint_of_another_language_starts_though_it_refuses_english(
    small_classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    russian = encoder(small_classifier._tokenizer, "ru", refuses=True)
    monkeypatch.setattr(small_classifier, "encoder", russian)
    small_classifier.warm_up(16_384)

    async def main() -> None:
        batcher = Batcher(
            small_classifier,
            pass_size=PassSize(512),
            max_queue_texts=8,
            max_request_tokens=512,
            on_broken=lambda: None,
        )
        results, _ = await batcher.score(["good morning", "доброе утро"])
        batcher.close()
        assert isinstance(results[0], UnreadError)
        assert not isinstance(results[1], UnreadError)

    asyncio.run(main())
