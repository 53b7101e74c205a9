"""The column with the texts, also below other keys; what folders say; shards that differ."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hatespeech.formats.columns import is_header, names_said, nearest
from tests.formats.conftest import SECRET
from tests.support.processes.score import run_here as scored

pytestmark = pytest.mark.usefixtures("mini")

GREETING: Final = "good morning"
PROCESS: Final = pytest.mark.slow  # which checks Parquet of this machine


def written(path: str) -> list[dict[str, Any]]:
    if path.endswith(".parquet"):
        return list(pq.read_table(path).to_pylist())
    with Path(path).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file)) if path.endswith(".csv") else list(map(json.loads, file))


NESTED: Final[list[dict[str, Any]]] = [
    {"id": 1, "extended_tweet": {"full_text": GREETING, "entities": {"urls": []}}, "text": "x"},
    {"id": 2, "extended_tweet": None, "text": "y"},
    {"id": 3, "extended_tweet": {"full_text": "you are scum", "entities": None}, "text": "z"},
]


@pytest.mark.parametrize("source", ["a.jsonl", pytest.param("a.parquet", marks=PROCESS)])
@pytest.mark.parametrize("out", ["b.jsonl", "b.parquet", "b.csv"])
def test_a_key_below_another_has_the_text(source: str, out: str) -> None:
    if source == "a.parquet":
        pq.write_table(pa.Table.from_pylist(NESTED), source)
    else:
        Path(source).write_text("".join(f"{json.dumps(row)}\n" for row in NESTED))
    scored(source, out, "--text-column", "extended_tweet.full_text")
    found = written(out)
    assert [row["label"] for row in found] == ["neutral", found[1]["label"], "abusing"]
    assert found[1]["error"] == "validation: text: must be a string, not null"
    assert [str(row["id"]) for row in found] == ["1", "2", "3"]


@PROCESS
def test_a_column_whose_own_name_has_a_dot_comes_first() -> None:
    rows = [{"data.text": GREETING, "data": {"text": "you are scum"}}]
    pq.write_table(pa.Table.from_pylist(rows), "a.parquet")
    Path("a.jsonl").write_text(json.dumps(rows[0]) + "\n")
    for name in ("a.parquet", "a.jsonl"):
        scored(name, f"out-{name}", "--text-column", "data.text")
        assert written(f"out-{name}")[0]["label"] == "neutral"


@PROCESS
def test_keys_with_dots_have_others_below_them() -> None:
    row = {"v1.data": {"text": "good morning", "old.v0": {"text": "you are scum"}}}
    pq.write_table(pa.Table.from_pylist([row]), "a.parquet")
    Path("a.jsonl").write_text(json.dumps(row) + "\n")
    for name in ("a.parquet", "a.jsonl"):
        scored(name, f"1-{name}", "--text-column", "v1.data.text")
        scored(name, f"2-{name}", "--text-column", "v1.data.old.v0.text")
        assert [written(f"{n}-{name}")[0]["label"] for n in (1, 2)] == ["neutral", "abusing"]


def test_a_key_that_is_missing_is_said_with_those_that_there_are(
    refuse: Callable[..., str],
) -> None:
    pq.write_table(pa.Table.from_pylist(NESTED), "a.parquet")
    Path("a.jsonl").write_text(json.dumps(NESTED[0]) + "\n")
    for name, what in (("a.parquet", "has no column"), ("a.jsonl", "no row has the key")):
        said = refuse(name, "b.csv", "--text-column", "full_text")
        assert said.startswith(f"{name}: {what} full_text (--text-column); it has ")
        assert said.endswith("; is extended_tweet.full_text meant?")
    said = refuse("a.parquet", "b.csv", "--text-column", "extended_tweet.entities")
    assert "its column extended_tweet.entities must hold strings, but is struct<" in said


@pytest.mark.parametrize(
    ("wanted", "names", "near"),
    [
        ("text", ["id", "Text"], "Text"),
        ("text", ["id", "tweet_text", "data.text"], "data.text"),
        ("txet", ["id", "text"], "text"),
        ("text", ["id", "lang"], None),
    ],
)
def test_the_nearest_name(wanted: str, names: list[str], near: str | None) -> None:
    assert nearest(wanted, names) == near


def test_names_in_a_message_are_few_short_and_printable() -> None:
    names = ["", "a\x1b[31m", "b" * 100, *(f"c{number}" for number in range(30))]
    assert names_said("text", ["id", " text"]) == "; it has id, ' text'; is ' text' meant?"
    said = names_said("text", names)
    assert said.startswith(f"; it has a?[31m, {'b' * 40}…, c0, ")
    assert said.endswith("c17 and 12 more")


@pytest.mark.parametrize(
    ("first", "names"),
    [
        (["id", "Tweet text", "created_at", ""], True),
        (["id", " text"], True),
        (["1", "hello"], False),
        (["bob", "you are scum"], False),
        (["you are"], False),
        (["bob", "what?!"], False),
        (["bob", "x" * 41], False),
    ],
)
def test_a_first_row_that_may_hold_a_text_is_no_header(first: list[str], names: bool) -> None:
    assert is_header(first) == names


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (
            [{"text": ["a"], "id": [1]}, {"text": ["b"], "id": ["2"]}],
            "in/1.parquet: its column id is string, but int64 in in/0.parquet; OUT as a folder "
            "takes both",
        ),
        (
            [{"text": ["a"], "id": [1]}, {"text": ["b"], "no": [2]}],
            "in/1.parquet: has no column id, unlike in/0.parquet",
        ),
        (
            [{"text": ["a"]}, {"text": ["b"], "no": [2]}],
            "in/1.parquet: has a column no, unlike in/0.parquet",
        ),
        (
            [{"text": ["a"], "id": [1]}, {"id": [2], "text": ["b"]}],
            "in/1.parquet: its columns are in another order than those of in/0.parquet",
        ),
    ],
)
def test_shards_that_differ_say_where(
    tables: list[dict[str, list[Any]]], message: str, refuse: Callable[..., str]
) -> None:
    Path("in").mkdir()
    for number, columns in enumerate(tables):
        pq.write_table(pa.table(columns), f"in/{number}.parquet")
    assert refuse("in", "out.parquet") == message


def test_shards_without_a_header_quote_nothing(refuse: Callable[..., str]) -> None:
    Path("in").mkdir()
    Path("in/0.csv").write_text(f"text,{SECRET} {SECRET} {SECRET}\n")
    Path("in/1.csv").write_text("text,a\n")
    assert refuse("in", "b.csv") == "in/1.csv: its columns are other than those of in/0.csv"


def partition(form: str) -> None:
    """Write a text in each of two folders."""
    for lang in ("de", "en", "__HIVE_DEFAULT_PARTITION__"):
        folder = Path(f"in/lang={lang}/day=2024-01-01 12%3A00")
        folder.mkdir(parents=True)
        if form == "parquet":
            pq.write_table(pa.table({"text": [GREETING]}), folder / "part.parquet")
        elif form == "csv":
            (folder / "part.csv").write_text(f"text\n{GREETING}\n")
        else:
            (folder / "part.jsonl").write_text(f'{{"text": "{GREETING}"}}\n')


@pytest.mark.parametrize("form", ["csv", "jsonl", pytest.param("parquet", marks=PROCESS)])
@pytest.mark.parametrize("out", ["csv", "jsonl", "parquet", "tsv"])
def test_what_folders_say_becomes_columns_of_one_file(form: str, out: str) -> None:
    partition(form)
    scored("in", f"out.{out}")
    if out == "tsv":
        with Path("out.tsv").open(newline="") as file:
            found = list(csv.DictReader(file, delimiter="\t"))
    else:
        found = written(f"out.{out}")
    nothing = "" if form == "csv" or out in ("csv", "tsv") else None
    assert [row["lang"] for row in found] == [nothing, "de", "en"]
    assert {row["day"] for row in found} == {"2024-01-01 12:00"}
    assert list(found[0])[:4] == ["text", "lang", "day", "hate"]


@PROCESS
def test_what_folders_say_stays_in_the_names_of_a_folder() -> None:
    partition("parquet")
    scored("in", "out")
    found = {str(path.relative_to("out")) for path in Path("out").rglob("*.parquet")}
    assert found == {str(path.relative_to("in")) for path in Path("in").rglob("*.parquet")}
    assert pq.read_table("out").column("lang").to_pylist() == [None, "de", "en"]


def test_a_name_that_two_folders_have_is_refused(refuse: Callable[..., str]) -> None:
    Path("in/lang=de/lang=en").mkdir(parents=True)
    Path("in/lang=de/lang=en/a.csv").write_text("text\na\n")
    said = refuse("in", "b.csv")
    assert said == "in/lang=de/lang=en/a.csv: is in two folders named lang="


def test_what_a_folder_says_must_fit_into_out(refuse: Callable[..., str]) -> None:
    Path("in/lang=a%09b").mkdir(parents=True)
    Path("in/lang=a%09b/a.tsv").write_text("text\na\n")
    said = refuse("in", "b.tsv")
    assert said.endswith(
        "the name of its folder lang= holds a tab or a line break, which TSV can't hold"
    )


def test_what_a_folder_says_must_be_new_and_the_same_for_all(refuse: Callable[..., str]) -> None:
    partition("csv")
    Path("in/lang=de/day=2024-01-01 12%3A00/part.csv").write_text("text,day\na,b\n")
    said = refuse("in", "b.csv")
    assert said.endswith("part.csv: has a column day, and is in a folder named day=")
    Path("in/lang=de/day=2024-01-01 12%3A00/part.csv").unlink()
    Path("in/lang=de/other.csv").write_text("text\na\n")
    assert "in/lang=de/other.csv: has no column day, unlike in/lang=" in refuse("in", "b.csv")
    Path("in/label=1").mkdir()
    Path("in/label=1/x.csv").write_text("text\na\n")
    said = refuse("in/label=1/x.csv", "b.csv")
    assert "already has label; --prefix gives the new columns other names" in said
