"""``--thresholds`` and ``--model-column`` add columns; OUT says what made its scores."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, Final

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hatespeech import Classifier
from hatespeech.bulk import command as score
from hatespeech.bulk.flagging import asked_thresholds
from hatespeech.formats.parquet import NOTE
from hatespeech.formats.scores import SCORE_TYPES, with_flags
from hatespeech.settings import EngineSettings
from hatespeech.text import normalizer
from hatespeech.version import __version__
from tests.paths import MINI

pytestmark = pytest.mark.usefixtures("mini")

TEXTS: Final = ["good morning", "you are scum", "", "win a free phone now, call 0800"]


def scored(*arguments: str) -> None:
    assert score.main([*arguments]) == 0


def write_input() -> None:
    with Path("a.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["text"], *([text] for text in TEXTS), ["the last"]])


def rows(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("given", "thresholds"),
    [
        ("balanced", "balanced"),
        ("hate=0.01, toxic=.5,neutral=1", {"hate": 0.01, "toxic": 0.5, "neutral": 1.0}),
    ],
)
def test_what_reaches_its_threshold_is_that_of_the_library(given: str, thresholds: Any) -> None:
    write_input()
    scored("a.csv", "b.csv", "--thresholds", given)
    classifier = Classifier.load(MINI, device="cpu", dtype="float32")
    expected = [
        None if text == "" else classifier.score(text, thresholds=thresholds).flagged
        for text in [*TEXTS, "the last"]
    ]
    found = rows("b.csv")
    assert list(found[0])[-2:] == ["error", "flagged"]
    assert [row["flagged"] for row in found] == [",".join(each or ()) for each in expected]
    assert any(each for each in expected)


def test_a_score_that_equals_its_threshold_reaches_it() -> None:
    scores = {name: pa.array([None, 0.7], kind) for name, kind in SCORE_TYPES[:5]}
    found = with_flags(pa.table(scores), {"hate": 0.7, "spam": 0.71})  # 0.7 is less in float32
    assert found["flagged"].to_pylist() == [None, "hate"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("hate=1.5", "hate must be a number from 0 to 1"),
        ("hate=nan", "hate must be a number from 0 to 1"),
        ("hate=x", "must be a name, or label=number joined by commas"),
        ("love=0.5", "may be set for hate, abusing, neutral, spam, toxic"),
        ("mild", "names are balanced and strict"),
    ],
)
def test_thresholds_that_are_none_are_refused(
    given: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write_input()
    assert score.main(["a.csv", "b.csv", "--thresholds", given]) == 1
    assert capsys.readouterr().err == f"error: --thresholds: {message}\n"


def test_names_need_the_model_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--engine", "runpod", "--endpoint", "abc", "--thresholds", "strict"]
    assert score.main(["a.csv", "b.csv", *options]) == 1
    needs = "--thresholds: the model is not on this machine; give numbers, such as hate=0.7"
    assert capsys.readouterr().err == f"error: {needs}\n"
    assert asked_thresholds("hate=0.7", EngineSettings(), local_model=False) == {"hate": 0.7}


def test_other_thresholds_are_another_run(capsys: pytest.CaptureFixture[str]) -> None:
    write_input()
    scored("a.csv", "b.csv", "--thresholds", "hate=0.5", "--model-column")
    for options in ([], ["--thresholds", "hate=0.6", "--model-column"]):
        assert score.main(["a.csv", "b.csv", *options]) == 1
        assert "was not made from this input with these options" in capsys.readouterr().err
    scored("a.csv", "b.csv", "--model-column", "--thresholds", "hate=0.5")
    assert "is complete, scored by" in capsys.readouterr().err


def test_the_model_stands_beside_each_row() -> None:
    write_input()
    scored("a.csv", "b.csv", "--model-column", "--prefix", "m_", "--thresholds", "spam=0.5")
    found = rows("b.csv")
    assert list(found[0])[-3:] == ["m_error", "m_flagged", "m_model"]
    (model,) = {row["m_model"] for row in found}
    assert model.startswith("mini@")
    Path("c.csv").write_text("text,model\na,b\n")
    assert score.main(["c.csv", "d.csv", "--model-column"]) == 1
    scored("c.csv", "d.csv")


@pytest.mark.parametrize("out", ["b.parquet", "b.jsonl", "out/"])
def test_out_says_what_made_its_scores(out: str) -> None:
    write_input()
    scored("a.csv", out, "--thresholds", "strict")
    made = json.loads(Path(f"{out.rstrip('/')}.run.json").read_text())
    name, _, digits = made["model"].partition("@")
    assert (name, len(digits)) == ("mini", 12)
    assert made["versions"]["service"] == __version__
    assert made["versions"]["normaliser"] == normalizer.NORMALIZER_VERSION
    assert len(made["versions"]["checkpoint"]) == 12
    assert made["thresholds"].keys() > {"name", "version"}
    if out == "b.parquet":
        for metadata in (pq.read_metadata(out).metadata, pq.read_schema(out).metadata):
            note = json.loads(metadata[NOTE])
            assert note == {key: made[key] for key in ("model", "versions", "thresholds")}


def test_metadata_that_was_there_stays() -> None:
    table = pq.read_table(io.BytesIO(parquet_of_pandas()))
    store = fsspec.filesystem("memory")  # read here, without another process
    store.pipe_file("/metadata/a.parquet", parquet_of_pandas())
    scored("memory://metadata/a.parquet", "b.parquet")
    kept = pq.read_schema("b.parquet").metadata
    assert kept[b"pandas"] == table.schema.metadata[b"pandas"]
    assert kept.keys() == {b"pandas", NOTE}
    store.rm("/metadata", recursive=True)


def parquet_of_pandas() -> bytes:
    import pandas as pd

    sink = io.BytesIO()
    pd.DataFrame({"text": TEXTS}).to_parquet(sink)
    return sink.getvalue()
