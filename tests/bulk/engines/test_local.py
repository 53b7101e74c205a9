"""The engine in this process: the same scores as the classifier's."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import torch

from hatespeech.bulk.engines.base import Chunk, EngineError
from hatespeech.bulk.engines.local import LocalEngine
from hatespeech.contract import TextScore
from hatespeech.engine.encoder import Encoded, Encoder
from hatespeech.engine.pass_size import SMALLEST_BUDGET
from hatespeech.engine.predictor import Predictor
from hatespeech.errors import ServiceError
from hatespeech.labels import LABELS
from hatespeech.settings import EngineSettings

SETTINGS = EngineSettings(max_windows=4)
TEXTS = [
    *(f"number {index} of {'many ' * (index % 40)}" for index in range(700)),
    "long " * 300,  # several windows
    "\u200b",
    "too many windows " * 500,
    "",
    "a lone surrogate \ud800",
]


@pytest.fixture(scope="module")
def classifier(small_classifier: Predictor) -> Iterator[Predictor]:
    before = small_classifier.encoder
    small_classifier.encoder = Encoder(
        small_classifier._tokenizer, 512, SETTINGS.max_windows, ("en",), False
    )
    yield small_classifier
    small_classifier.encoder = before  # other files' tests use it, too


def chunks(texts: Sequence[Any] = TEXTS, size: int = 300) -> Iterator[Chunk]:
    for start in range(0, len(texts), size):
        yield Chunk(start // size, list(texts[start : start + size]))


def columns(rows: Sequence[TextScore]) -> list[dict[str, Any]]:
    return [row.columns() for row in rows]


def score(engine: LocalEngine, *of: Any) -> list[TextScore]:
    told: list[int] = []
    found = list(engine.score(chunks(*of), told.append))
    assert [chunk.index for chunk in found] == list(range(len(found)))
    rows = [row for chunk in found for row in chunk.rows]
    assert sum(told) == len(rows)
    return rows


@pytest.fixture(scope="module")
def rows(classifier: Predictor) -> list[TextScore]:
    engine = LocalEngine(classifier, SETTINGS)
    try:
        return score(engine)
    finally:
        engine.close()


@pytest.fixture
def engine(classifier: Predictor) -> Iterator[LocalEngine]:
    made = LocalEngine(classifier, SETTINGS)
    yield made
    made.close()
    made.close()  # twice does no harm


def test_rows_are_what_the_classifier_says_one_by_one(
    classifier: Predictor, rows: list[TextScore]
) -> None:
    for index in [*range(0, 700, 50), 700]:
        text, row = TEXTS[index], rows[index]
        (expected,) = classifier.score([text])
        assert not isinstance(expected, ServiceError)
        assert [*row.scores.values()] == pytest.approx(expected.scores, abs=1e-5)
        assert row.label == LABELS[max(range(4), key=lambda i: expected.scores[i])]
        assert (row.windows, row.error) == (expected.windows, None)
    assert (rows[700].windows or 0) > 1


def test_rows_without_scores_name_the_field(rows: list[TextScore]) -> None:
    invisible, long, empty, surrogate = rows[701:]
    assert str(invisible.error) == (
        "validation: text: holds nothing but white space or invisible characters"
    )
    assert re.fullmatch(
        "too_large: text: needs [0-9]+ windows of 512 tokens, the limit is 4", str(long.error)
    )
    assert str(empty.error) == "validation: text: must not be empty"
    assert surrogate.error is None
    assert (invisible.scores, invisible.label, invisible.windows) == ({}, None, None)


def test_a_pass_that_does_not_fit_into_memory_is_cut(
    classifier: Predictor,
    rows: list[TextScore],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = classifier.probabilities
    failed = 0

    def small_device(sequences: list[list[int]]) -> list[list[float]]:
        nonlocal failed
        if sum(map(len, sequences)) > 2000:
            failed += 1
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(sequences)

    monkeypatch.setattr(classifier, "probabilities", small_device)
    engine = LocalEngine(classifier, SETTINGS)
    found = score(engine)
    engine.close()
    # Halved until passes fit, once for all, not rows cut apart again in every pass.
    assert 1 <= failed <= math.log2(SETTINGS.max_batch_tokens / SMALLEST_BUDGET)
    assert caplog.text.count("out of memory: ") == failed
    for row, expected in zip(found, rows, strict=True):
        assert (row.windows, str(row.error)) == (expected.windows, str(expected.error))
        if row.scores and expected.scores:
            assert row.scores == pytest.approx(expected.scores, abs=1e-5)


def test_a_device_too_small_for_one_text_ends_the_run(
    classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_sequences: list[list[int]]) -> list[list[float]]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(classifier, "probabilities", full)
    engine = LocalEngine(classifier, SETTINGS)
    with pytest.raises(EngineError, match="too little memory"):
        score(engine)
    engine.close()


def test_a_score_that_is_no_number_is_the_error_of_its_row_alone(
    classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = classifier.probabilities
    cursed = classifier.encode("cursed").windows[0]

    def faulty(sequences: list[list[int]]) -> list[list[float]]:
        found = real(sequences)
        return [
            [float("nan")] * 4 if sequence == cursed else row
            for sequence, row in zip(sequences, found, strict=True)
        ]

    monkeypatch.setattr(classifier, "probabilities", faulty)
    engine = LocalEngine(classifier, SETTINGS)
    found = score(engine, ["fine", "cursed", "fine, too"])
    engine.close()
    assert [row.columns()["error"] for row in found] == [
        None,
        "internal: the model gave no finite score for this text",
        None,
    ]


class Fragile(Encoder):
    """Fails on some texts as nobody foresaw, and quotes them."""

    def encode(self, text: str) -> Encoded:
        if "cursed" in text:
            raise KeyError(text)
        return super().encode(text)


UNREAD = [None, "internal: the text could not be read", None]


def test_a_text_that_cannot_be_read_is_the_error_of_its_row_alone(
    classifier: Predictor, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        classifier, "encoder", Fragile(classifier._tokenizer, 512, 4, ("en",), False)
    )
    engine = LocalEngine(classifier, SETTINGS)
    found = score(engine, ["fine", "cursed one", "fine, too"])
    engine.close()
    assert [row.columns()["error"] for row in found] == UNREAD
    assert "a text could not be read: KeyError" in caplog.text
    assert "cursed one" not in caplog.text


@pytest.mark.parametrize(
    "failure",
    [
        RuntimeError("index out of range: cursed"),
        IndexError("cursed"),
        torch.OutOfMemoryError("CUDA out of memory"),
    ],
    ids=["runtime", "index", "memory"],
)
def test_a_text_that_fails_on_the_device_costs_its_row_alone(
    failure: Exception,
    classifier: Predictor,
    rows: list[TextScore],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = classifier.probabilities
    cursed = [classifier.encode(TEXTS[index]).windows[0] for index in (5, 299, 300)]

    def fails(sequences: list[list[int]]) -> list[list[float]]:
        if any(sequence in cursed for sequence in sequences):
            raise failure
        return real(sequences)

    monkeypatch.setattr(classifier, "probabilities", fails)
    engine = LocalEngine(classifier, SETTINGS)
    found = score(engine)
    engine.close()
    for index, (row, expected) in enumerate(zip(found, rows, strict=True)):
        if index in (5, 299, 300):
            assert str(row.error) == "internal: the text could not be scored"
            assert row.scores == {}
        else:
            assert (row.windows, str(row.error)) == (expected.windows, str(expected.error))
            if expected.scores:
                assert row.scores == pytest.approx(expected.scores, abs=1e-5)


def test_a_device_that_fails_on_any_text_ends_the_run(
    classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_sequences: list[list[int]]) -> list[list[float]]:
        raise RuntimeError("CUDA error: number 3 is off")

    monkeypatch.setattr(classifier, "probabilities", broken)
    engine = LocalEngine(classifier, SETTINGS)
    with pytest.raises(EngineError, match=r"^the device failed: RuntimeError at [\w.]+:\d+$"):
        score(engine)
    engine.close()


def test_an_engine_that_is_closed_begins_no_other_pass(
    classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = classifier.probabilities
    engine = LocalEngine(classifier, EngineSettings(max_windows=4, max_batch_tokens=2048))
    passes = 0

    def closing(sequences: list[list[int]]) -> list[list[float]]:
        nonlocal passes
        passes += 1
        engine.close()
        return real(sequences)

    monkeypatch.setattr(classifier, "probabilities", closing)
    with pytest.raises(EngineError, match="stopped"):
        list(engine.score(chunks(TEXTS, len(TEXTS)), lambda _rows: None))
    assert passes == 1


def test_no_more_than_a_few_chunks_are_read_ahead(engine: LocalEngine) -> None:
    taken = 0

    def endless() -> Iterator[Chunk]:
        nonlocal taken
        while True:
            yield Chunk(taken, ["a", "b"])
            taken += 1

    scored = engine.score(endless(), lambda _rows: None)
    for _ in range(5):
        next(scored)
    assert taken <= 8
    scored.close()


def test_warnings_reach_their_rows(engine: LocalEngine) -> None:
    texts = ["good morning", "", "доброе утро", *["fine"] * 300, "早上好", "\u200b"]
    expected = [("unread",) if index in (2, 303) else None for index in range(len(texts))]
    assert [row.warnings for row in score(engine, texts)] == expected


def test_a_refused_row_has_its_error(
    classifier: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict = Encoder(classifier._tokenizer, 512, 4, ("en",), True)
    monkeypatch.setattr(classifier, "encoder", strict)
    engine = LocalEngine(classifier, SETTINGS)
    found = score(engine, ["good morning", "доброе утро"])
    engine.close()
    assert found[0].error is None
    assert str(found[1].error) == "unread: text: has too many letters that this model does not know"
