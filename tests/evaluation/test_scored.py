"""Files that score.py has written: whose labels count, and whose never do."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Final

import pytest

from hatespeech.evaluation import command
from tests.support.processes.score import run_here

pytestmark = pytest.mark.usefixtures("mini")

# The model calls the first neutral and the second abusing, so it is right about one of them.
ROWS: Final = [("good morning", "hate"), ("you are scum", "abusing")]
WISH: Final = ("--recall", "0.5", "--write-thresholds", "ours.json")


def write_rows(label: str) -> None:
    with Path("in.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", label), *ROWS])


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl"])
@pytest.mark.parametrize("options", [["--scored"], ["--scored", *WISH], WISH])
def test_the_models_own_answer_does_not_stand_for_a_label(
    out: str, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows("labels")
    run_here("in.csv", out)
    capsys.readouterr()
    assert command.main([out, *options]) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert f"{out}: its column label is the model's own answer" in line
    assert line.endswith("(--label-column); it has text, labels; is labels meant?")
    assert captured.out == ""
    assert not Path("ours.json").exists()


def test_another_models_answer_does_not_stand_for_a_label_either(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_rows("gold")
    run_here("in.csv", "one.csv")
    run_here("one.csv", "two.csv", "--prefix", "m_")
    assert command.main(["two.csv", "--scored", "m_"]) == 1
    assert "its column label is the model's own answer" in capsys.readouterr().err
    assert command.main(["two.csv", "--scored", "m_", "--label-column", "gold"]) == 0
    assert "accuracy 0.500" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("column", "scoring", "evaluating"),
    [
        ("gold", [], ["--scored", "--label-column", "gold"]),
        ("label", ["--prefix", "m_"], ["--scored", "m_"]),
        ("label", ["--prefix", "m_"], []),
    ],
)
def test_peoples_labels_count_beside_the_models(
    column: str, scoring: list[str], evaluating: list[str]
) -> None:
    write_rows(column)
    run_here("in.csv", "out.csv", *scoring)
    assert command.main(["out.csv", "--json", "all.json", *evaluating]) == 0
    assert json.loads(Path("all.json").read_text())["figures"]["accuracy"]["value"] == 0.5


@pytest.mark.parametrize(
    ("options", "column"),
    [
        (["--scored", "--label-column", "label"], "label"),
        (["--scored", "m_", "--label-column", "gold,m_label"], "m_label"),
        (["--scored", "--label-column", "toxic"], "toxic"),
    ],
)
def test_what_the_model_said_is_refused_as_a_label(
    options: list[str], column: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["absent.csv", *options])
    said = capsys.readouterr().err.splitlines()[-1]
    assert f"error: --label-column {column}: with --scored this column is the model's own" in said
