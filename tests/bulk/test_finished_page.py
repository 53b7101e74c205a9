"""``hatespeech report OUT``: the page of ``score.py --report``, made from OUT later or again."""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from hatespeech.bulk import command as score
from hatespeech.bulk import report_command, written_rows
from hatespeech.bulk.statistics import EXAMPLES
from tests.support.processes.score import run_here

pytestmark = pytest.mark.usefixtures("mini")

SHOWN = ("--include-text", "--id-column", "id", "--group-by", "lang,n")
TEXTS = [
    "good morning",
    "you are \u202escum",
    'win a "free" phone, now',
    "",
    "guten Morgen, liebe Leute, wie geht es euch heute",
    "you are scum",
    "<b>good</b> evening",
] * 3
ROWS = [
    {"id": f"{9**17 + number}", "text": text, "lang": ["en", "de", ""][number % 3], "n": number % 2}
    for number, text in enumerate(TEXTS)
]


def write(path: Path, rows: list[dict[str, Any]] = ROWS) -> None:
    path.parent.mkdir(exist_ok=True, parents=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        pyarrow.csv.write_csv(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows), encoding="utf-8")
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress("".join(f"{json.dumps(row)}\n" for row in rows).encode()))
    else:
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def made(*arguments: object) -> str:
    """Run the command, which must succeed, and return the page."""
    assert report_command.main([*map(str, arguments), "again.html", *SHOWN]) == 0
    return Path("again.html").read_text(encoding="utf-8")


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("in.jsonl", "out.csv"),
        ("in.jsonl", "out.tsv.gz"),
        ("in.jsonl", "out.jsonl.zst"),
        ("in.jsonl", "out.parquet"),
        pytest.param("in.parquet", "out.parquet", marks=pytest.mark.slow),  # checked by a process
    ],
)
def test_page_of_a_finished_output_has_the_bytes_of_the_runs_own(source: str, out: str) -> None:
    write(Path(source))
    run_here(source, out, "--prefix", "x_", "--report", "r.html", *SHOWN)
    page = Path("r.html").read_text(encoding="utf-8")
    assert made(out) == page
    assert f"{9**17}" in page
    assert "21 rows, 18 of them scored." in page
    assert "balanced 0.46" in page
    assert "For trying only." in page


@pytest.mark.parametrize(
    ("source", "out"),
    [
        ("in.jsonl", "out.jsonl"),
        ("in.jsonl", "out.csv"),
        ("in.jsonl", "out.parquet"),
        ("in.json", "out.tsv"),
        pytest.param("in.parquet", "out.parquet", marks=pytest.mark.slow),  # checked by a process
    ],
)
def test_a_column_may_be_below_another(source: str, out: str) -> None:
    rows = [
        {"text": row["text"], "user": {"id": row["id"], "from": {"lang": row["lang"]}}}
        for row in ROWS
    ]
    write(Path(source), rows)
    shown = ["--id-column", "user.id", "--group-by", "user.from.lang"]
    run_here(source, out, "--report", "r.html", *shown)
    page = Path("r.html").read_text(encoding="utf-8")
    assert f"{9**17}" in page
    for value in ("en", "de", "(empty)"):
        assert f"{value}</td><td class='number'>7</td>" in page
    assert report_command.main([out, "again.html", *shown]) == 0
    assert Path("again.html").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("out", ["out/", "out.csv"])
def test_several_inputs_have_one_page_whose_rows_are_those_of_the_outputs(out: str) -> None:
    write(Path("in/b.jsonl"), [{**row, "text": "you are scum"} for row in ROWS])
    write(Path("in/a/a.jsonl"), [{**row, "text": "good morning"} for row in ROWS])
    run_here("in", out, "--report", "r.html", *SHOWN)
    page = Path("r.html").read_text(encoding="utf-8")
    assert made(out) == page
    assert "2: a/a.jsonl, b.jsonl" in page
    highest = page[page.index("Rows highest in abusing") :]
    cells = re.findall("<td[^>]*>(.*?)</td>", highest)[:3]
    assert cells[:2] == (["b.jsonl", "1"] if out == "out/" else ["22", f"{9**17}"])


def test_page_is_made_again_with_other_columns_or_by_a_finished_run() -> None:
    write(Path("in.jsonl"))
    run_here("in.jsonl", "out.csv")
    assert report_command.main(["out.csv", "--group-by", "n"]) == 0
    page = Path("out.csv.report.html").read_text(encoding="utf-8")
    assert "<h2>By n</h2>" in page
    assert "scum" not in page
    run_here("in.jsonl", "out.csv", "--report", "r.html", "--group-by", "n")
    assert Path("r.html").read_text(encoding="utf-8") == page
    assert report_command.main(["out.csv", "--group-by", "lang"]) == 0
    assert "<h2>By n</h2>" not in Path("out.csv.report.html").read_text(encoding="utf-8")


def test_a_finished_run_says_that_a_page_which_is_there_stays(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(Path("in.csv"))
    run_here("in.csv", "out.csv", "--report", "r.html", "--group-by", "n")
    page = Path("r.html").read_bytes()
    capsys.readouterr()
    run_here("in.csv", "out.csv", "--report", "r.html", "--group-by", "lang")
    stays = "r.html stays as it is; remove it, and this command writes it again"
    assert capsys.readouterr().err.splitlines()[0] == stays
    assert Path("r.html").read_bytes() == page


@pytest.mark.parametrize(
    ("given", "marks"),
    [("hate=0.123,toxic=0.9", ["given 0.123", "balanced 0.46"]), ("balanced", ["balanced 0.46"])],
)
def test_thresholds_of_the_run_are_marked_and_no_header_or_separator_is_in_the_way(
    given: str, marks: list[str]
) -> None:
    Path("in.csv").write_text("1;good morning;en\n2;you are scum;de\n")
    reading = ["--no-header", "--delimiter", ";", "--text-column", "2"]
    shown = ["--id-column", "1", "--group-by", "3", "--include-text"]
    more = ["--thresholds", given, "--model-column", "--report", "r.html"]
    run_here("in.csv", "out.csv", *reading, *more, *shown)
    page = Path("r.html").read_text(encoding="utf-8")
    hate = page[page.index("flagged as hate by threshold") : page.index("flagged as abusing")]
    assert re.findall('class="mark" x=.*?>(.*?)<', hate) == 2 * marks
    assert report_command.main(["out.csv", "again.html", *shown]) == 0
    assert Path("again.html").read_text(encoding="utf-8") == page


def receipt_without(*names: str) -> None:
    path = Path("out.csv.run.json")
    receipt: Mapping[str, Any] = json.loads(path.read_text())
    path.write_text(json.dumps({key: receipt[key] for key in receipt if key not in names}))


def test_an_output_without_its_receipt_or_with_an_older_one_has_a_page_that_says_so() -> None:
    write(Path("in.jsonl"))
    run_here("in.jsonl", "out.csv")
    receipt_without("embedded", "recommended", "finished", "scored", "seconds")
    page = made("out.csv")
    assert page.count("<dd>not known</dd>") == 2
    assert "balanced 0.46" in page  # this machine has the model
    Path("out.csv.run.json").unlink()
    page = made("out.csv")
    assert "are not known: OUT.run.json is not beside OUT." in page
    assert "21 rows, 18 of them scored." in page
    assert len(re.findall("&lt;b&gt;good", page)) >= 1


def test_thresholds_of_a_model_that_is_not_here_are_those_of_the_receipt() -> None:
    write(Path("in.jsonl"))
    run_here("in.jsonl", "out.csv")
    path = Path("out.csv.run.json")
    told = json.loads(path.read_text())
    told |= {"model": "theirs@1", "embedded": False, "recommended": {"strict": {"spam": 0.321}}}
    path.write_text(json.dumps(told))
    page = made("out.csv")
    assert "strict 0.321" in page
    assert "For trying only." not in page


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("rm", "out.csv: there is no such file or folder"),
        ("unfinished", "out.csv: is not finished; run its score.py command again"),
        ("unscored", "out.csv: lacks columns that score.py adds"),
        ("without labels", "out.csv: lacks columns that score.py adds"),
        ("edited", "out.csv: row 1, or one soon after it, is not as score.py wrote it"),
        ("out of range", "out.csv: row 1, or one soon after it, is not as score.py wrote it"),
        ("emptied", "out.csv: row 1, or one soon after it, is not as score.py wrote it"),
        ("cut", "out.csv: row 1, or one soon after it, is not as score.py wrote it"),
    ],
)
def test_what_is_no_output_is_refused(
    change: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(Path("in.jsonl"))
    run_here("in.jsonl", "out.csv")
    out = Path("out.csv")
    scored = out.read_text()
    if change in ("rm", "unfinished"):
        out.unlink()
    if change == "unfinished":
        write(Path("out.csv.partial/run.json"))
    if change == "unscored":
        out.write_text("id,lang,n,text,label\n1,en,0,good morning,neutral\n")
    if change == "without labels":
        out.write_text("id,lang,n,text\n1,en,0,good morning\n")
    other = {"edited": "scum", "out of range": "1.5", "emptied": ""}
    if change in other:
        out.write_text(re.sub(r"(morning,en,0),[^,]+,", rf"\1,{other[change]},", scored, count=1))
    if change == "cut":
        out.write_text(scored[: scored.rindex(",")])
    assert report_command.main(["out.csv", "r.html"]) == 1
    found = last_line(capsys)
    assert found.startswith("error: ")
    assert said in found
    assert "scum" not in found
    assert not Path("r.html").exists()


@pytest.mark.parametrize(
    ("options", "said", "near"),
    [
        (["--group-by", "lang,lanh"], "lanh (--group-by); it has id, text, lang, n", "lang"),
        (["--id-column", "zzz"], "zzz (--id-column); it has id, text, lang, n", ""),
        (["--id-column", "ID"], "ID (--id-column); it has id, text, lang, n", "id"),
    ],
)
@pytest.mark.parametrize(
    ("source", "out", "what"),
    [
        ("in.csv", "out.jsonl", "has no column"),
        ("in.jsonl", "out.csv", "no row has the key"),
        ("in.jsonl", "out.parquet", "no row has the key"),
        ("in.jsonl.gz", "out.jsonl", "no row has the key"),
        ("in.json", "out.json", "no row has the key"),
        ("in.parquet", "out.parquet", "has no column"),
    ],
)
def test_a_column_that_is_not_there_is_named_before_anything_is_scored(
    source: str,
    out: str,
    what: str,
    options: list[str],
    said: str,
    near: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(Path(source))
    assert score.main([source, out, "--report", "r.html", *options]) == 1
    line = last_line(capsys)
    assert line.endswith(f"{source}: {what} {said}" + (f"; is {near} meant?" if near else ""))
    assert [path.name for path in Path().iterdir()] == [source]


@pytest.mark.parametrize("out", ["out.csv", "out.jsonl", "out.json"])
def test_a_page_of_an_output_names_a_column_that_is_not_there(
    out: str, capsys: pytest.CaptureFixture[str]
) -> None:
    write(Path("in.jsonl"))
    run_here("in.jsonl", out)
    for option in ("--id-column", "--group-by"):
        assert report_command.main([out, option, "lanh"]) == 1
        assert f" lanh ({option}); it has id, text, lang, n, hate, " in last_line(capsys)
    assert report_command.main([out, "--include-text", "--text-column", "body"]) == 1
    assert " body (--text-column); it has id, text, lang, n, hate, " in last_line(capsys)
    assert report_command.main([out, "--text-column", "text"]) == 1
    assert last_line(capsys) == "error: --text-column: needs --include-text"
    assert not Path(f"{out}.report.html").exists()


def test_rows_of_jsonl_without_an_id_are_counted_in_the_summary_and_on_the_page(
    capsys: pytest.CaptureFixture[str],
) -> None:
    write(Path("in/a.jsonl"), [{"text": "good morning"}, {"text": "you are scum", "id": None}])
    write(Path("in/b.jsonl"), [{"text": "guten Morgen", "id": 7}, {"text": "a b", "id": ""}])
    shown = ["--id-column", "id"]
    run_here("in", "out.jsonl", "--report", "r.html", *shown)
    assert "  without id: 3" in capsys.readouterr().err.splitlines()
    page = Path("r.html").read_text(encoding="utf-8")
    assert "3 of 4 rows have no id." in page
    assert report_command.main(["out.jsonl", "again.html", *shown]) == 0
    assert Path("again.html").read_text(encoding="utf-8") == page


def test_a_key_is_looked_for_in_all_files_of_jsonl_as_far_as_that_takes_no_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(Path("in/a.jsonl"), [{"text": "a b", "lang": "en"}] * 3)
    write(Path("in/b.jsonl"), [{"text": "a b", "id": 1}])
    command = ["in", "out", "--report", "r.html", "--id-column"]
    assert score.main([*command, "idd"]) == 1
    said = "no row, of this file and 1 more, has the key idd (--id-column); it has text, lang, id"
    assert last_line(capsys).endswith(f"in/a.jsonl: {said}; is id meant?")
    monkeypatch.setattr(written_rows, "KEY_ROWS", 3)
    assert score.main([*command, "id"]) == 1
    assert "none of the first 3 rows, of this file and 1 more, has the key id" in last_line(capsys)


def test_a_row_that_is_no_object_is_named_before_a_key_that_may_be_in_a_later_row(
    capsys: pytest.CaptureFixture[str],
) -> None:
    Path("in.jsonl").write_text('{"text": "a"}\n[]\n{"text": "a", "id": 1}\n')
    assert score.main(["in.jsonl", "out.csv", "--report", "r.html", "--id-column", "id"]) == 1
    assert last_line(capsys).endswith("in.jsonl: row 2 is not a JSON object")


def test_a_column_that_is_there_twice_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    Path("in.csv").write_text("text,lang,lang\ngood morning,en,de\n")
    options = ["--report", "r.html", "--group-by", "lang"]
    assert score.main(["in.csv", "out.csv", *options]) == 1
    assert last_line(capsys).endswith("in.csv: has more than one column lang (--group-by)")


def test_a_key_that_rows_of_jsonl_lack_counts_as_empty() -> None:
    rows = [{"text": f"good morning {number}"} for number in range(EXAMPLES)]
    write(Path("in.jsonl"), [*rows, {"text": "a", "lang": ["en", 1.5]}])
    run_here("in.jsonl", "out.jsonl", "--report", "r.html", "--group-by", "lang")
    page = Path("r.html").read_text(encoding="utf-8")
    assert "(empty)</td><td class='number'>10</td>" in page
    assert "[&quot;en&quot;, 1.5]</td><td class='number'>1</td>" in page


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("r.txt", "FILE.html r.txt: its name must end in .html"),
        ("out/r.html", "FILE.html out/r.html: must be outside OUT"),
        ("no/r.html", "FILE.html no/r.html: there is no such folder"),
    ],
)
def test_a_page_goes_nowhere_else(page: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    write(Path("out/a.jsonl"))
    assert report_command.main(["out", page]) == 1
    assert last_line(capsys) == f"error: {said}"
