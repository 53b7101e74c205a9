"""The library: what people score, what they get, and what must never happen to them."""

from __future__ import annotations

import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from hatespeech import (
    LABELS,
    CheckpointError,
    Classifier,
    SettingsError,
    TextScore,
    UnhealthyError,
    UnreadError,
    ValidationError,
)
from hatespeech.contract import Prediction
from hatespeech.paths import EMBEDDED
from tests.paths import ROOT

TEXTS = ["good morning", "you are scum", "win a free phone now", "what a lovely day"] * 300
SECRET = "Quizzaciously"


@pytest.fixture(scope="module")
def classifier(small_checkpoint: Path) -> Iterator[Classifier]:
    with Classifier.load(small_checkpoint, device="cpu", max_windows=4) as loaded:
        yield loaded


def test_scores_are_those_of_the_engine_in_the_order_sent(
    classifier: Classifier, small_classifier: Any
) -> None:
    items = classifier.score(TEXTS)
    assert len(items) == len(TEXTS)
    for text, item, expected in zip(TEXTS, items, small_classifier.score(TEXTS), strict=True):
        assert isinstance(expected, Prediction)
        assert item.text == text
        assert item.error is None
        assert list(item.scores) == list(LABELS)
        assert [*item.scores.values()] == pytest.approx(list(expected.scores), abs=1e-5)
        assert (item.hate, item.spam) == (item.scores["hate"], item.scores["spam"])
        assert item.label == max(item.scores, key=item.scores.__getitem__)
        assert (item.windows, item.window, item.flagged, item.words) == (1, None, None, None)


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (None, "validation: text: must be a string, not null"),
        (math.nan, "validation: text: must be a string, not null"),
        (pd.NA, "validation: text: must be a string, not null"),
        (pd.NaT, "validation: text: must be a string, not null"),
        (3, "validation: text: must be a string"),
        (b"bytes", "validation: text: must be a string"),
        ("", "validation: text: must not be empty"),
        ("\u200b \n", "validation: text: holds nothing but white space or invisible characters"),
        (SECRET * 1000, "too_large: text: has 13000 characters, the limit is 10000"),
    ],
    ids=["none", "nan", "na", "nat", "number", "bytes", "empty", "invisible", "too_long"],
)
def test_a_text_that_cannot_be_scored_is_an_item_with_its_error(
    classifier: Classifier, value: object, error: str
) -> None:
    before, bad, after = classifier.score(["fine", value, "fine, too"], thresholds={"hate": 0.5})
    assert str(bad.error) == error
    assert (bad.scores, bad.label, bad.hate, bad.windows, bad.flagged) == (
        {},
        None,
        None,
        None,
        None,
    )
    assert before.error is None
    assert after.error is None


@pytest.mark.parametrize(
    "make",
    [
        list,
        tuple,
        iter,
        lambda texts: (text for text in texts),
        lambda texts: dict.fromkeys(texts).keys(),
        pd.Series,
        lambda texts: pd.Series(texts, dtype="category"),
        pl.Series,
        np.array,
    ],
    ids=[
        "list",
        "tuple",
        "iterator",
        "generator",
        "keys",
        "pandas",
        "category",
        "polars",
        "numpy",
    ],
)
def test_any_iterable_of_texts_will_do(classifier: Classifier, make: Any) -> None:
    texts = ["good morning", "you are scum"]
    items = classifier.score(make(texts))
    assert [item.text for item in items] == texts
    assert [item.label for item in items] == [item.label for item in classifier.score(texts)]


def test_one_string_gives_one_item(classifier: Classifier) -> None:
    item = classifier.score("good morning")
    assert isinstance(item, TextScore)
    assert item.scores == pytest.approx(classifier.score(["good morning"])[0].scores, abs=1e-6)
    assert str(classifier.score("").error) == "validation: text: must not be empty"


@pytest.mark.parametrize("value", [None, 3, b"bytes"])
def test_what_is_no_iterable_of_texts_is_a_type_error(classifier: Classifier, value: Any) -> None:
    with pytest.raises(TypeError, match=r"^texts: must be a string or an iterable, not "):
        classifier.score(value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (pd.DataFrame({"text": ["hi"]}), "a DataFrame; use score_frame"),
        (pl.DataFrame({"text": ["hi"]}), "a DataFrame; use score_frame"),
        (pl.LazyFrame({"text": ["hi"]}), "a LazyFrame; use score_frame"),
        (pa.table({"text": ["hi"]}), "a Table; use score_frame"),
        ({"text": "hi"}, "a dict; give its values, as a list"),
        ({"hi", "you"}, "a set, which has no order; give a list"),
        (frozenset(["hi"]), "a frozenset, which has no order; give a list"),
    ],
    ids=["pandas", "polars", "lazy", "arrow", "dict", "set", "frozenset"],
)
def test_what_has_no_texts_in_an_order_is_a_type_error(
    classifier: Classifier, value: Any, said: str
) -> None:
    with pytest.raises(TypeError) as caught:
        classifier.score(value)
    assert str(caught.value) == f"texts: must not be {said}"


def test_a_series_with_a_value_named_columns_is_scored(classifier: Classifier) -> None:
    (item,) = classifier.score(pd.Series({"columns": "good morning"}))
    assert item.text == "good morning"


def test_nothing_to_score_is_an_empty_list(classifier: Classifier) -> None:
    assert classifier.score([]) == []


def test_thresholds_flag_and_explain_names_words(classifier: Classifier) -> None:
    item = classifier.score("good morning", thresholds={"hate": 0, "spam": 1}, explain=True)
    assert item.flagged == ("hate",)
    assert item.words is not None
    assert [word.word for word in item.words] == ["good", "morning"]
    (first,) = classifier.score(["good morning"], thresholds={})
    assert first.flagged == ()


def test_recommended_thresholds_have_names() -> None:
    with Classifier.load(EMBEDDED, device="cpu") as mini:
        named = mini.score("you are scum", thresholds="balanced")
        assert named.flagged == ("abusing", "toxic")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"thresholds": {"hate": 2}}, "thresholds.hate: must be a number from 0 to 1"),
        (
            {"thresholds": {SECRET: 1}},
            "thresholds: may be set for hate, abusing, neutral, spam, toxic",
        ),
        ({"thresholds": "none such"}, "thresholds: names are balanced and strict"),
        ({"explain": 1}, "explain: must be true, false, shapley or leave_one_out"),
        ({"explain": SECRET}, "explain: must be true, false, shapley or leave_one_out"),
    ],
)
def test_a_bad_option_is_raised_before_anything_is_scored(
    classifier: Classifier, options: Any, message: str
) -> None:
    def unread() -> Iterator[str]:
        raise AssertionError("the texts were read")
        yield ""

    with pytest.raises(ValidationError) as caught:
        classifier.score(unread(), **options)
    assert caught.value.line == message


def test_an_explanation_of_too_many_words_is_the_error_of_its_text(classifier: Classifier) -> None:
    many, few = classifier.score(["a " * 257, "two words"], explain=True)
    assert str(many.error) == "too_large: text: has 257 words to explain, the limit is 256"
    assert few.words is not None


def test_threads_share_one_classifier(classifier: Classifier) -> None:
    expected = [item.scores for item in classifier.score(TEXTS)]
    found: dict[int, list[TextScore]] = {}

    def score(number: int) -> None:
        found[number] = classifier.score(TEXTS[number:])

    threads = [threading.Thread(target=score, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number in range(6):
        for item, wanted in zip(found[number], expected[number:], strict=True):
            assert item.scores == pytest.approx(wanted, abs=1e-5)


def test_progress_counts_texts_on_standard_error(
    classifier: Classifier, capsys: pytest.CaptureFixture[str]
) -> None:
    classifier.score(TEXTS, progress=True)
    said = capsys.readouterr()
    assert f"{len(TEXTS)}/{len(TEXTS)}" in said.err
    classifier.score(TEXTS[:2])
    assert capsys.readouterr().err == said.out == ""


def test_arguments_win_over_the_environment(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(tmp_path))
    monkeypatch.setenv("DTYPE", "float16")
    with Classifier.load(small_checkpoint, dtype="float32", max_text_chars=5) as loaded:
        assert str(loaded.score("longer").error) == (
            "too_large: text: has 6 characters, the limit is 5"
        )
        assert loaded.score("short").error is None
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        Classifier.load()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model_dir": "none/such"}, CheckpointError, "MODEL_DIR=none/such is not a folder"),
        ({"device": "gpu"}, SettingsError, "DEVICE='gpu' is not allowed"),
        ({"device": "cuda:99"}, SettingsError, "there is no such device"),
        ({"dtype": "int4"}, SettingsError, "DTYPE='int4' is not allowed"),
        ({"max_windows": 0}, SettingsError, "MAX_WINDOWS='0' is not allowed"),
        ({"on_unread": "drop"}, SettingsError, "ON_UNREAD='drop' is not allowed"),
    ],
)
def test_a_bad_argument_is_one_line(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        Classifier.load(**arguments)


def test_what_cannot_be_read_is_warned_of_or_refused(small_checkpoint: Path) -> None:
    with Classifier.load(small_checkpoint) as loaded:
        item = loaded.score("доброе утро")
        assert (item.warnings, item.error) == (("unread",), None)
        assert loaded.score("good morning").warnings is None
    with Classifier.load(small_checkpoint, on_unread="refuse") as loaded:
        refused, fine = loaded.score(["доброе утро", "good morning"])
        assert isinstance(refused.error, UnreadError)
        assert fine.error is None


def test_a_closed_classifier_says_so_and_closes_twice(small_checkpoint: Path) -> None:
    loaded = Classifier.load(small_checkpoint)
    loaded.score("hi")
    before = threading.active_count()
    loaded.close()
    loaded.close()
    assert threading.active_count() < before
    with pytest.raises(RuntimeError, match="closed"):
        loaded.score("hi")


def test_a_device_that_breaks_is_an_error_and_no_endless_wait(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hatespeech.engine import predictor as engine

    def broken(self: Any, sequences: Any) -> Any:
        raise RuntimeError(SECRET)

    with Classifier.load(small_checkpoint) as loaded:
        loaded.score("hi")
        monkeypatch.setattr(engine.Predictor, "probabilities", broken)
        with pytest.raises(UnhealthyError, match="the device failed"):
            loaded.score(TEXTS)
        with pytest.raises(UnhealthyError):
            loaded.score("hi")


def test_a_pass_that_runs_out_of_memory_is_halved(
    small_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hatespeech.engine import predictor as engine

    real = engine.Predictor.probabilities

    def short(self: Any, sequences: Any) -> Any:
        if sum(map(len, sequences)) > 600:
            raise torch.OutOfMemoryError
        return real(self, sequences)

    with Classifier.load(small_checkpoint) as loaded:
        monkeypatch.setattr(engine.Predictor, "probabilities", short)
        assert all(item.error is None for item in loaded.score(TEXTS))


@pytest.mark.slow
def test_a_program_that_forgets_to_close_ends(small_checkpoint: Path) -> None:
    code = (
        "from hatespeech import Classifier\n"
        f"classifier = Classifier.load({str(small_checkpoint)!r})\n"
        "print(classifier.score('good morning').error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "None\n", "")


def test_a_classifier_that_is_sent_to_another_process_says_what_to_do(
    classifier: Classifier,
) -> None:
    with pytest.raises(TypeError, match="can't be sent to another process: load one in each"):
        pickle.dumps(classifier)


@pytest.mark.slow
def test_a_forked_process_is_told_to_load_its_own_and_ends(small_checkpoint: Path) -> None:
    code = (
        "import os, sys\n"
        "from hatespeech import Classifier\n"
        f"classifier = Classifier.load({str(small_checkpoint)!r})\n"
        "classifier.score('good morning')\n"
        "if os.fork() == 0:\n"
        "    try:\n"
        "        classifier.score('good morning')\n"
        "    except RuntimeError as error:\n"
        "        print(error, flush=True)\n"
        "    sys.exit(7)\n"
        "print(os.waitstatus_to_exitcode(os.wait()[1]), classifier.score('hi').error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    told = "this classifier belongs to another process: load one in each"
    assert (done.returncode, done.stdout) == (0, f"{told}\n7 None\n"), done.stderr


def test_closing_while_another_thread_scores_tells_it_so(small_checkpoint: Path) -> None:
    loaded = Classifier.load(small_checkpoint)
    begun = threading.Event()
    raised: list[BaseException] = []

    def endless() -> Iterator[str]:
        yield from TEXTS * 20
        begun.set()

    def score() -> None:
        try:
            loaded.score(endless())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=score)
    thread.start()
    begun.wait()
    loaded.close()
    thread.join()
    assert [str(error) for error in raised] == ["this classifier is closed"]
    assert isinstance(raised[0], RuntimeError)
