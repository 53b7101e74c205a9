"""The command, from a labelled file to figures, a page and a file of thresholds."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest

from benchmarks.embedded_figures import scores
from benchmarks.models import load
from hatespeech.evaluation import command
from hatespeech.evaluation.figures import measure
from hatespeech.labels import LABELS
from hatespeech.training.corpus import read_corpus, read_rows
from tests.evaluation.conftest import Evaluate, Row, sure
from tests.paths import EMBEDDED, SAMPLE
from tests.support.pages import Page


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what an evaluation of the sample writes."""
    folder = tmp_path_factory.mktemp("evaluation")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MODEL_DIR", str(EMBEDDED))
        patch.setenv("DEVICE", "cpu")
        patch.setenv("DTYPE", "float32")
        arguments = [str(SAMPLE), "--group-column", "source", "--precision", "0.9"]
        arguments += ["--report", str(folder / "page.html"), "--json", str(folder / "all.json")]
        arguments += ["--write-thresholds", str(folder / "ours.json")]
        assert command.main(arguments) == 0
    return folder


@pytest.fixture(scope="module")
def found(run: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((run / "all.json").read_text(encoding="utf-8"))
    return content


def test_figures_are_those_that_training_measures(found: dict[str, Any]) -> None:
    corpus = read_corpus(SAMPLE)
    predicted = scores(load(EMBEDDED), [text for _, text, _ in read_rows(SAMPLE)])
    expected = measure(predicted, corpus.labels, corpus.sources)
    figures = found["figures"]
    assert figures["accuracy"]["value"] == pytest.approx(expected.accuracy)
    assert figures["macro_f1"]["value"] == pytest.approx(expected.macro_f1)
    by_flag = {each["flag"]: each for each in figures["flags"]}
    for label, one in expected.by_class.items():
        for name in ("precision", "recall", "f1"):
            assert by_flag[label][name]["value"] == pytest.approx(getattr(one, name))
        assert by_flag[label]["positives"] == one.texts
    groups = {each["group"]: each for each in figures["groups"]}
    assert groups.keys() == expected.by_source.keys()
    for name, source in expected.by_source.items():
        assert groups[name]["accuracy"] == pytest.approx(source.accuracy)
        assert groups[name]["macro_f1"] == pytest.approx(source.macro_f1)
    counts = dict(zip(figures["confusion"]["truths"], figures["confusion"]["counts"], strict=True))
    assert [counts[label] for label in LABELS] == expected.confusion.tolist()


def test_intervals_hold_their_figures_and_are_wider_for_fewer_texts(found: dict[str, Any]) -> None:
    widths = {}
    for each in found["figures"]["flags"]:
        for name in ("precision", "recall", "f1"):
            assert each[name]["low"] <= each[name]["value"] <= each[name]["high"]
        widths[each["flag"]] = each["recall"]["high"] - each["recall"]["low"]
    assert widths["spam"] > widths["neutral"]


def test_a_page_needs_nothing_else_and_holds_no_text(run: Path) -> None:
    html = (run / "page.html").read_text(encoding="utf-8")
    page = Page(html)
    assert "script" not in page.tags
    assert "default-src 'none'" in html
    references = [value for name, value in page.attributes if name in ("href", "xlink:href")]
    assert references, "the pictures are drawn from parts"
    assert all(value is not None and value.startswith("#") for value in references)
    assert not {name for name, _ in page.attributes} & {"src", "onload", "onclick"}
    for name in ("Labels", "Confusion", "Curves", "Groups", "Most wrong"):
        assert f"<h2>{name}</h2>" in html
    identities = [value for name, value in page.attributes if name == "id"]
    assert len(identities) == len(set(identities)), "two pictures share an id"
    texts = [text for _, text, _ in read_rows(SAMPLE) if len(text) > 20]
    assert not [text for text in texts if text in html]


def test_thresholds_are_written_with_what_they_were_chosen_by(
    run: Path, found: dict[str, Any]
) -> None:
    written = json.loads((run / "ours.json").read_text(encoding="utf-8"))
    assert written["name"] == "ours"
    assert written["model"] == found["model"]
    assert re.fullmatch("[0-9a-f]{8}", written["version"])
    assert written["wish"] == "precision 0.9"
    assert written["data"]["rows"] == 500
    chosen = {each["flag"]: each for each in found["choices"] if each["threshold"] is not None}
    assert written["thresholds"] == {flag: each["threshold"] for flag, each in chosen.items()}
    assert "toxic" in chosen
    assert chosen["toxic"]["kept"]
    assert chosen["toxic"]["chosen_on"] + chosen["toxic"]["measured_on"] == 500


def test_thresholds_hold_on_the_half_that_they_were_not_chosen_on(evaluated: Evaluate) -> None:
    rng = random.Random(5)
    rows: list[Row] = []
    for _ in range(4000):
        toxic = rng.random()
        scores = [toxic / 2, toxic / 2, (1 - toxic) / 2, (1 - toxic) / 2]
        rows.append((scores, {"label": int(rng.random() < toxic)}))  # honest probabilities
    (choice,) = evaluated(rows, "--precision", "0.9")["choices"]
    assert choice["flag"] == "toxic"
    assert choice["threshold"] == pytest.approx(0.8, abs=0.05)
    assert choice["precision"]["low"] < 0.9 < choice["precision"]["high"]
    assert choice["kept"]
    (choice,) = evaluated(rows, "--reviews", "200/day", "--per-day", "1000")["choices"]
    assert choice["threshold"] == pytest.approx(0.8, abs=0.03)
    assert choice["flagged"]["value"] == pytest.approx(0.2, abs=0.03)
    assert choice["kept"]


def test_a_binary_file_has_figures_for_what_it_decides(evaluated: Evaluate) -> None:
    rows: list[Row] = [
        (sure("hate"), {"label": "toxic"}),
        (sure("abusing"), {"label": "toxic"}),
        (sure("neutral"), {"label": "toxic"}),
        (sure("spam"), {"label": "not_toxic"}),
        (sure("neutral"), {"label": "not_toxic"}),
        (sure("hate"), {"label": "not_toxic"}),
        (sure("hate"), {"label": ""}),
    ]
    found = evaluated(rows)
    assert (found["rows"], found["unlabelled"], found["figures"]["texts"]) == (7, 1, 6)
    (toxic,) = found["figures"]["flags"]
    assert toxic["flag"] == "toxic"
    assert toxic["precision"]["value"] == pytest.approx(2 / 3)
    assert toxic["recall"]["value"] == pytest.approx(2 / 3)
    assert found["figures"]["accuracy"]["value"] == pytest.approx(4 / 6)
    assert found["figures"]["macro_f1"]["value"] is None
    assert found["figures"]["confusion"]["truths"] == ["toxic", "not-toxic"]


def test_of_three_annotators_the_majority_counts_and_their_agreement_is_told(
    evaluated: Evaluate, tmp_path: Path
) -> None:
    def row(label: str, *labels: str) -> Row:
        return sure(label), dict(zip(("anna", "ben", "carla"), labels, strict=True))

    rows = [
        row("hate", "hate", "hate", "abusing"),
        row("neutral", "neutral", "neutral", "neutral"),
        row("neutral", "abusing", "abusing", ""),
        row("spam", "hate", "abusing", "neutral"),
    ]
    page = tmp_path / "page.html"
    found = evaluated(rows, "--label-column", "anna,ben,carla", "--report", str(page))
    assert "1 have no label, or no majority." in page.read_text(encoding="utf-8")
    assert found["figures"]["confusion"]["truths"] == ["hate", "abusing", "neutral"]
    assert found["figures"]["accuracy"]["value"] == pytest.approx(2 / 3)
    assert found["unlabelled"] == 1
    agreed = found["agreement"]
    assert (agreed["annotators"], agreed["texts"], agreed["ties"]) == (3, 4, 1)
    assert 0 < agreed["alpha"] < 1


def test_groups_with_more_errors_are_named(evaluated: Evaluate) -> None:
    rows: list[Row] = []
    for index in range(400):
        dialect = "b" if index % 4 == 0 else "a"
        wrong = index % 8 == 0 or index % 40 == 1
        label = "abusing" if wrong else "neutral"
        rows.append((sure(label), {"label": "neutral", "dialect": dialect}))
        rows.append((sure("hate"), {"label": "hate", "dialect": dialect}))
    figures = evaluated(rows, "--group-column", "dialect")["figures"]
    (gap,) = figures["gaps"]
    assert (gap["group"], gap["errors"], gap["apart"]) == ("b", "false positives", True)
    assert gap["group_share"]["value"] == 0.5
    groups = {each["group"]: each for each in figures["groups"]}
    assert groups["a"]["false_positives"]["value"] == pytest.approx(10 / 300)
    assert groups["a"]["false_negatives"]["value"] == 0


def test_the_rows_that_are_most_wrong_come_first_and_once(
    evaluated: Evaluate, tmp_path: Path
) -> None:
    rows: list[Row] = [
        (sure("neutral", 0.7), {"label": "hate", "text": "less wrong"}),
        (sure("neutral", 0.99), {"label": "hate", "text": "<b>most</b> wrong"}),
        (sure("neutral", 0.99), {"label": "hate", "text": "<b>most</b> wrong"}),
        (sure("hate"), {"label": "hate"}),
    ]
    page = tmp_path / "page.html"
    wrong = evaluated(rows, "--report", str(page))["wrong"]
    assert [(each["row"], each["truth"], each["label"]) for each in wrong] == [
        (2, "hate", "neutral"),
        (1, "hate", "neutral"),
    ]
    assert wrong[0]["text"] is None
    assert "wrong</td>" not in page.read_text(encoding="utf-8")
    evaluated(rows, "--report", str(page), "--include-text")
    assert "&lt;b&gt;most&lt;/b&gt; wrong</td>" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("name", "header", "rows"),
    [
        ("OLID", "id\ttweet\tsubtask_a", ["1\tsome words\tOFF", "2\tother words\tNOT"]),
        (
            "Davidson and others",
            "count\thate_speech\toffensive_language\tneither\tclass\ttweet",
            ["3\t3\t0\t0\t0\tsome words", "3\t0\t3\t0\t1\tmore", "3\t0\t0\t3\t2\tlast"],
        ),
        (
            "Jigsaw",
            "id\tcomment_text\ttoxic\tsevere_toxic\tobscene\tthreat\tinsult\tidentity_hate",
            ["1\ta b\t1\t0\t0\t0\t0\t1", "2\tb c\t1\t0\t0\t0\t0\t0", "3\tc\t0\t0\t0\t0\t0\t0"],
        ),
    ],
)
def test_files_of_known_data_sets_need_no_options(
    name: str,
    header: str,
    rows: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(EMBEDDED))
    path, figures = tmp_path / "data.tsv", tmp_path / "figures.json"
    path.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    assert command.main([str(path), "--json", str(figures)]) == 0
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert found["layout"] == name
    expected = {"OLID": ["toxic", "not-toxic"]}.get(name, ["hate", "abusing", "not-toxic"])
    assert found["figures"]["confusion"]["truths"] == expected


def test_labels_that_are_all_alike_leave_no_empty_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(EMBEDDED))
    path, report = tmp_path / "data.tsv", tmp_path / "report.html"
    path.write_text("text\tlabel\ngood morning\tneutral\nwhat a day\tneutral\n")
    assert command.main([str(path), "--report", str(report)]) == 0
    page = report.read_text(encoding="utf-8")
    said = "abels are all alike, so precision and recall are not defined"
    assert said in capsys.readouterr().out
    assert said in page
    assert "<h2>Confusion</h2>" in page
    assert "Curves" not in page


SECRET = "confidential words"


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["text\tlabel", f"{SECRET}\trude"], [], "column label, row 1: an unknown label; --map"),
        (["text\tlabel", f"neutral\t{SECRET}"], [], "column label, row 1: an unknown label"),
        (
            ["text\tlabel", f"a\t{SECRET}", "b\thate", "c\trude", f"d\t{SECRET}", "e\tfine"],
            [],
            "column label, rows 1, 3, 5: unknown labels; --map NAME=LABEL,… maps each to one of",
        ),
        (
            ["text\tlabels", f"{SECRET}\thate"],
            [],
            "has no column label (--label-column); it has text, labels; is labels meant?",
        ),
        (
            ["text\tlabel", f"{SECRET}\thate"],
            ["--group-column", "lang"],
            "has no column lang (--group-column); it has text, label",
        ),
        (
            ["body\tlabel", f"{SECRET}\thate"],
            [],
            "has no column text (--text-column); it has body",
        ),
        (["text\tlabel", f"{SECRET}\thate\tx"], [], "row 1 has 3 fields, the header 2"),
        (["text\tlabel"], [], "has no rows"),
        (
            ["text\tlabel", f"{SECRET}\thate"],
            ["--scored"],
            "has no column hate (--scored); it has text, label",
        ),
        (
            ["text\tm_hate\tm_abusing\tm_neutral\tm_spam\tm_error", f"{SECRET}\t0\t0\t1\t0\t"],
            ["--scored"],
            "has no column hate (--scored); try --scored m_",
        ),
        (
            ["text\thate\tabusing\tneutral\tspam\terror", f"{SECRET}\t0\t0\t1\t0\t"],
            ["--scored", "m_"],
            "has no column m_hate (--scored); try --scored",
        ),
        (["text\tlabel", f"{SECRET}\t"], [], "no row has a label"),
        (["text\tlabel", "\thate"], [], "no row has both a label and scores"),
        (
            ["text\tlabel", f"{SECRET}\tspam", "x\tham"],
            ["--reviews", "1/day", "--per-day", "2"],
            "no labels tell which texts are toxic",
        ),
    ],
)
def test_an_error_is_one_line_that_names_the_place_and_quotes_no_text(
    lines: list[str],
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODEL_DIR", str(EMBEDDED))
    monkeypatch.setenv("LOG_LEVEL", "ERROR")
    Path("data.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    assert command.main(["data.tsv", *options]) == 1
    captured = capsys.readouterr()
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert "confidential" not in captured.err + captured.out


WRITTEN: Final = """\
text;gold;hate;abusing;neutral;spam;error;theirs
schöne Grüße;hate;0.9;0.1;0;0;;0.9
"you; are";neutral;0;0.1;0.9;0;;0.2
"""


@pytest.mark.parametrize("apart", [False, True])
def test_the_options_of_score_py_read_what_is_written_in_another_way(
    apart: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, figures = tmp_path / "german.csv", tmp_path / "figures.json"
    path.write_text(WRITTEN, encoding="cp1252")
    given = [str(path), "--scored", "--json", str(figures)]
    given += ["--label-column", "gold", "--against", "theirs"]
    if apart:
        given += ["--against-file", str(path)]
    assert command.main(given) == 1
    assert capsys.readouterr().err.endswith("look separated by semicolons (--delimiter ';')\n")
    assert command.main([*given, "--delimiter", ";", "--encoding", "cp1252"]) == 0
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert (found["rows"], found["comparison"]["texts"]) == (2, 2)


def test_quotes_of_tsv_are_asked_about_as_by_score_py(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, figures = tmp_path / "quoted.tsv", tmp_path / "figures.json"
    header = "text\tgold\thate\tabusing\tneutral\tspam\terror\n"
    path.write_text(f'{header}"good morning"\tneutral\t0\t0\t1\t0\t\n', encoding="utf-8")
    given = [str(path), "--scored", "--label-column", "gold", "--json", str(figures)]
    assert command.main(given) == 1
    assert "row 1 has a field in quotes, as pandas and R write TSV: say --quoting csv if" in (
        capsys.readouterr().err
    )
    for quoting in ("csv", "none"):
        assert command.main([*given, "--quoting", quoting]) == 0
    assert command.main([*given, "--quoting", "csv", "--sheet", "a"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "error: --sheet: is for Excel; IN has no such file"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--label-column", "empty"], "no row has a label"),
        (["--recall", "0.5", "--flag", "hate"], "no labels tell which texts are hate"),
    ],
)
def test_labels_that_cannot_answer_are_refused_before_a_model_is_loaded(
    options: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "absent"))
    path = tmp_path / "data.tsv"
    path.write_text("text\tlabel\tempty\na\tyes\t\nb\tno\t\n")
    assert command.main([str(path), *options]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"error: {path}: {message}"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--recall", "0.5", "--write-thresholds", "Mine.json"],
            "--write-thresholds Mine.json: the file's name names the thresholds",
        ),
        (["--report", "x.pdf"], "--report x.pdf: its name must end in .html"),
        (["--report", "."], "--report .: its name must end in .html"),
        (["--report", "nowhere/x.html"], "--report nowhere/x.html: there is no such folder"),
        (["--json", "nowhere/x.json"], "--json nowhere/x.json: there is no such folder"),
    ],
)
def test_a_name_that_cannot_be_written_is_refused_before_anything_is_read(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["absent.tsv", *options]) == 1
    assert capsys.readouterr().err.startswith(f"error: {message}")


@pytest.mark.parametrize(
    "options",
    [
        ["--precision", "95"],
        ["--precision", "0.9", "--recall", "0.9"],
        ["--reviews", "200/day"],
        ["--reviews", "200", "--per-day", "300"],
        ["--reviews", "400/day", "--per-day", "300"],
        ["--cost", "fp=1"],
        ["--map", "rude=bad"],
        ["--flag", "rude"],
        ["--write-thresholds", "ours.json"],
        ["--include-text"],
    ],
)
def test_an_impossible_option_is_refused(
    options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(["data.tsv", *options])
    assert "evaluate.py: error: " in capsys.readouterr().err


def test_scores_that_score_py_wrote_are_measured_with_their_model(
    tmp_path: Path, evaluated: Evaluate, write: Any
) -> None:
    rows: list[Row] = [(sure(label), {"label": label}) for label in LABELS for _ in range(4)]
    rows.append((sure("hate"), {"label": "hate", "m_error": "too_large: text: has 5 characters"}))
    path = write(rows)
    path.with_name("scored.jsonl.run.json").write_text('{"model": "mine@0123456789ab"}')
    found = evaluated(rows)
    assert found["model"] == "mine@0123456789ab"
    assert found["errors"] == {"too_large": 1}
    assert found["figures"]["texts"] == 16
    assert np.trace(np.array(found["figures"]["confusion"]["counts"])) == 16
