"""A DataFrame in, the same DataFrame with scores out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from hatespeech import Classifier
from hatespeech.contract import COLUMNS

TEXTS = ["good morning", None, "you are scum", ""]
ERRORS = [
    None,
    "validation: text: must be a string, not null",
    None,
    "validation: text: must not be empty",
]


@pytest.fixture(scope="module")
def classifier(small_checkpoint: Path) -> Iterator[Classifier]:
    with Classifier.load(small_checkpoint, device="cpu") as loaded:
        yield loaded


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame, pa.table])
def test_a_frame_keeps_its_kind_its_rows_and_its_columns(classifier: Classifier, kind: Any) -> None:
    frame = kind({"id": [7, 8, 9, 10], "body": TEXTS})
    scored = classifier.score_frame(frame, "body")
    assert type(scored) is type(frame)
    names = scored.column_names if isinstance(scored, pa.Table) else list(scored.columns)
    assert names == ["id", "body", *COLUMNS]
    rows = scored.to_pylist() if isinstance(scored, pa.Table) else None
    if isinstance(scored, pl.DataFrame):
        rows = scored.to_dicts()
    if isinstance(scored, pd.DataFrame):
        rows = scored.astype(object).where(scored.notna(), None).to_dict("records")
    assert rows is not None
    for row, item in zip(rows, classifier.score(TEXTS), strict=True):
        wanted = item.columns()
        assert row["error"] == wanted["error"]
        assert (row["label"], row["windows"]) == (wanted["label"], wanted["windows"])
        assert row["hate"] == pytest.approx(wanted["hate"], abs=1e-5)
    assert [row["error"] for row in rows] == ERRORS
    assert [row["id"] for row in rows] == [7, 8, 9, 10]


def test_a_pandas_frame_keeps_its_index_even_one_with_doubles(classifier: Classifier) -> None:
    frame = pd.DataFrame({"text": TEXTS}, index=["b", "a", "b", "c"])
    scored = classifier.score_frame(frame)
    assert list(scored.index) == ["b", "a", "b", "c"]
    assert [None if pd.isna(error) else error for error in scored["error"]] == ERRORS
    assert str(scored["hate"].dtype) == "float32"
    assert str(scored["windows"].dtype) == "Int32"
    assert list(frame.columns) == ["text"], "the frame that was given stays as it was"


def test_thresholds_add_flagged_and_a_prefix_renames(classifier: Classifier) -> None:
    frame = pl.DataFrame({"text": TEXTS, "hate": [1, 2, 3, 4]})
    thresholds = {"hate": 0.0, "abusing": 0.0, "spam": 1.0}
    scored = classifier.score_frame(frame, thresholds=thresholds, prefix="s_")  # type: ignore[arg-type]
    assert scored.columns == ["text", "hate", *(f"s_{name}" for name in (*COLUMNS, "flagged"))]
    assert scored["s_flagged"].to_list() == ["hate,abusing", None, "hate,abusing", None]
    assert scored.schema["s_hate"] == pl.Float32
    assert scored.schema["s_windows"] == pl.Int32


@pytest.mark.parametrize("kind", [pd.DataFrame, pl.DataFrame])
def test_a_wrong_column_names_those_that_are_there(classifier: Classifier, kind: Any) -> None:
    with pytest.raises(ValueError, match=r"^there is no column 'text'; the columns are id, body$"):
        classifier.score_frame(kind({"id": [1], "body": ["hi"]}))


def test_a_column_of_ours_that_exists_is_not_overwritten(classifier: Classifier) -> None:
    with pytest.raises(ValueError, match=r"^columns hate, label exist already; prefix= renames"):
        classifier.score_frame(pd.DataFrame({"text": ["a"], "label": ["b"], "hate": [1]}))


def test_an_empty_frame_gets_its_columns(classifier: Classifier) -> None:
    scored = classifier.score_frame(pd.DataFrame({"text": []}))
    assert list(scored.columns) == ["text", *COLUMNS]
    assert len(scored) == 0


@pytest.mark.parametrize("frame", [["a", "b"], pl.LazyFrame({"text": ["a"]}), pd.Series(["a"])])
def test_what_is_no_frame_is_a_type_error(classifier: Classifier, frame: Any) -> None:
    with pytest.raises(TypeError, match=r"^frame: must be a DataFrame, not .*; collect a lazy one"):
        classifier.score_frame(frame, "text")


@pytest.mark.parametrize("column", [0, "text"])
def test_names_of_columns_that_are_no_strings_are_refused(
    classifier: Classifier, column: Any
) -> None:
    with pytest.raises(ValueError, match=r"^names of columns must be strings; rename them first$"):
        classifier.score_frame(pd.DataFrame({0: ["a"]}), column)


def test_two_columns_of_one_name_are_refused(classifier: Classifier) -> None:
    frame = pd.DataFrame([["a", "b"]], columns=["text", "text"])
    with pytest.raises(ValueError, match=r"^two columns have the same name; rename one$"):
        classifier.score_frame(frame)
