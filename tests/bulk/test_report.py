"""The page and the lines at the end of a run: right, self-contained, and without texts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pyarrow as pa
import pytest

from hatespeech.bulk.command import run_summary
from hatespeech.bulk.report import Origin, render
from hatespeech.bulk.row_scoring import Outcome
from hatespeech.bulk.statistics import (
    EXAMPLES,
    GROUPS,
    NO_COLUMNS,
    STEPS,
    Columns,
    ScoredBlock,
    Statistics,
)
from hatespeech.formats.scores import SCORES
from hatespeech.labels import FLAGS, LABELS
from tests.support.pages import Page

HOSTILE = '<script>alert("x")</script> & \ud800 “quoted” \u202ekcab\x00\n'
ORIGIN = Origin(
    inputs=["a.csv", "b<i>.csv"],
    model="mini@1",
    embedded=True,
    thresholds={"balanced": {"hate": 0.25, "toxic": 0.5}, "strict": {"spam": 0.9}},
    settings={
        "--text-column": "text",
        "--robust": False,
        "--prefix": "",
        "--thresholds": {"hate": 0.3, "toxic": 0.9},
        "--input-format": ["CSV", None],
    },
    finished="2026-11-30T06:40:59Z",
    scored=5,
    seconds=2.04,
)


def scores(rows: Sequence[tuple[float, ...] | str]) -> pa.Table:
    """Return rows of scores, or of an error."""
    made = [
        {"error": row}
        if isinstance(row, str)
        else {
            **dict(zip(LABELS, row, strict=True)),
            "toxic": min(1.0, row[0] + row[1]),
            "label": LABELS[row.index(max(row))],
            "windows": 3 if row[0] == 0.25 else 1,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(made, schema=SCORES)


def block(
    file: str,
    rows: Sequence[tuple[float, ...] | str],
    texts: Sequence[str] | None = None,
    first: int = 1,
    **columns: Sequence[str],
) -> ScoredBlock:
    return ScoredBlock(file, first, scores(rows), texts or [""] * len(rows), columns)


def collected(keep_texts: bool = False, columns: Columns = NO_COLUMNS) -> Statistics:
    statistics = Statistics(columns, keep_texts)
    rows: list[tuple[float, ...] | str] = [
        (0.97, 0.01, 0.01, 0.01),
        "validation: text: must not be empty",
        (0.25, 0.25, 0.3, 0.2),
        "too_large: text: has 5 characters, the limit is 4",
    ]
    languages = ["en", "en", "<b>", ""]
    texts = [HOSTILE, "b", "c", "d"]
    statistics.add(block("a.csv", rows, texts, id=["1", "2", "\u202e3", "4"], lang=languages))
    statistics.add(block("b.csv", [(0.0, 0.0, 0.0, 1.0)], ["e"], id=["5"], lang=["en"]))
    return statistics


def rows_of(html: str, caption: str) -> list[list[str]]:
    """Return the cells of the table whose caption begins so."""
    found = re.search(rf"<table><caption>{caption}[^<]*</caption>(.*?)</table>", html)
    assert found, caption
    rows = re.findall(r"<tr.*?</tr>", found[1].partition("<tbody>")[2])
    return [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in rows]


def test_page_needs_nothing_else_and_runs_nothing() -> None:
    html = render(collected(keep_texts=True), ORIGIN, "b<i>.csv")
    page = Page(html)
    assert "script" not in page.tags
    assert not {name for name, _ in page.attributes} & {"src", "href", "onload", "onclick"}
    assert "http://" not in html
    assert "https://" not in html
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert ("name", "viewport") in page.attributes
    assert html.count("b&lt;i&gt;.csv") == 3  # title, heading, inputs
    html.encode()


def test_page_shows_texts_only_when_asked_escaped_and_with_marks_for_what_has_no_shape() -> None:
    without = render(collected(), ORIGIN, "b.csv")
    assert "alert" not in without
    html = render(collected(keep_texts=True), ORIGIN, "b.csv")
    shown = (
        "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; ⟨U+D800⟩ “quoted” ⟨U+202E⟩kcab␀␊"
    )
    assert rows_of(html, "Rows highest in hate")[1] == [shown]
    assert not re.search("[\x00-\x09\x0b-\x1f\u202e]", html)


def test_page_cuts_long_texts_ids_and_values() -> None:
    statistics = Statistics(Columns("id", ["group"]), keep_texts=True)
    row = (0.7, 0.1, 0.1, 0.1)
    statistics.add(block("a", [row], ["y" * 1000], id=["i" * 1000], group=["g" * 1000]))
    html = render(statistics, None, "b")
    assert set(re.findall("y{9,}…?", html)) == {"y" * 280 + "…"}
    assert set(re.findall("i{9,}…?", html)) == {"i" * 100 + "…"}
    assert re.findall("g{9,}…?", html) == ["g" * 100 + "…"]


def test_figures_are_those_of_the_rows() -> None:
    statistics = collected()
    assert statistics.counts() == {
        "rows": 5,
        "labels": {"hate": 1, "abusing": 0, "neutral": 1, "spam": 1},
        "errors": {"too_large": 1, "validation": 1},
        "warnings": {},
        "long_texts": 1,
    }
    assert [sum(counts) for counts in statistics.bins] == [3] * 5
    *_, spam, toxic = (dict(enumerate(counts)) for counts in statistics.bins)
    assert {step: count for step, count in spam.items() if count} == {10: 1, 200: 1, 1000: 1}
    assert {step: count for step, count in toxic.items() if count} == {0: 1, 500: 1, 980: 1}
    html = render(statistics, ORIGIN, "b.csv")
    assert "5 rows, 3 of them scored. 1 were read in several windows." in html
    assert rows_of(html, "Rows by label")[0][:3] == ["hate", "1", "33.33%"]
    assert rows_of(html, "Rows without scores")[0][:3] == ["too_large", "1", "20.00%"]


def test_a_score_is_flagged_by_every_threshold_that_it_reaches_in_float32() -> None:
    """As a reply's ``flagged`` is: 0.7 in float32 is less than 0.7 in float64."""
    statistics = Statistics()
    values = [0.0, 0.001, 0.29, 0.57, 0.7, 0.7000001, 1.0]
    statistics.add(block("a", [(value, 0.0, 0.0, 0.0) for value in values]))
    flagged = statistics.flagged("hate")
    assert len(flagged) == STEPS + 1
    for step, count in enumerate(flagged):
        threshold = np.float32(step / STEPS)
        assert count == sum(np.float32(value) >= threshold for value in values), step


def test_curves_mark_the_recommended_thresholds_and_a_table_has_their_figures() -> None:
    html = render(collected(), ORIGIN, "b.csv")
    assert rows_of(html, "Rows flagged by the thresholds") == [
        ["balanced", "hate", "0.25", "2", "66.67%"],
        ["balanced", "toxic", "0.5", "2", "66.67%"],
        ["strict", "spam", "0.9", "1", "33.33%"],
    ]
    assert rows_of(html, "Share flagged by other")[0][:3] == ["hate", "66.67%", "66.67%"]
    curves = re.findall(r"<svg.*?</svg>", html)[2 * len(FLAGS) :]
    assert len(curves) == 2 * len(FLAGS)
    names = [re.findall(r'class="mark" x=.*?>(.*?)<', drawing) for drawing in curves]
    assert (
        names == [["balanced 0.25"]] * 2 + [[]] * 4 + [["strict 0.9"]] * 2 + [["balanced 0.5"]] * 2
    )
    without = render(collected(), replace(ORIGIN, thresholds={}), "b.csv")
    assert "No thresholds are known that the model recommends." in without
    assert 'class="mark"' not in without


def test_drawings_have_titles_and_a_bar_for_each_step_that_has_rows_on_both_scales() -> None:
    html = render(collected(), ORIGIN, "b.csv")
    drawings = re.findall(r"<svg.*?</svg>", html)
    titles = [ElementTree.fromstring(drawing).findtext("title") for drawing in drawings]
    assert titles[:2] == [
        "Rows by their score of hate, linear scale",
        "Rows by their score of hate, logarithmic scale",
    ]
    assert len(set(titles)) == len(titles) == 4 * len(FLAGS)
    for number, counts in enumerate(collected().bins):
        steps = {min(step // 25, 39) for step in np.flatnonzero(counts)}
        for drawing in drawings[2 * number : 2 * number + 2]:
            bars = ElementTree.fromstring(drawing).findall("rect")
            assert len(bars) == len(steps)
            for bar in bars:
                assert 56 <= float(bar.attrib["x"]) <= 348
                assert 0 < float(bar.attrib["height"]) <= 132


def test_a_linear_scale_shows_proportions_and_a_logarithmic_one_small_counts() -> None:
    statistics = Statistics()
    statistics.add(block("a", [(0.0, 0.0, 1.0, 0.0)] * 1000 + [(1.0, 0.0, 0.0, 0.0)]))
    drawings = re.findall(r"<svg.*?</svg>", render(statistics, None, "b"))
    heights = [
        [float(bar.attrib["height"]) for bar in ElementTree.fromstring(drawing).findall("rect")]
        for drawing in drawings[:2]
    ]
    (many, few), (many_log, few_log) = heights
    assert many == many_log == 132
    assert few == 2  # still visible
    assert 10 < few_log < 20
    ticks = re.findall(r'text-anchor="end">(.*?)<', drawings[1])
    assert ticks == ["1", "10", "100", "1k"]


def test_the_header_has_inputs_model_its_warning_time_settings_and_duration() -> None:
    html = render(collected(), ORIGIN, "b.csv")
    header = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", html))
    assert header == {
        "inputs": "2: a.csv, b&lt;i&gt;.csv",
        "model": "mini@1",
        "finished": "<time datetime='2026-11-30T06:40:59Z'>2026-11-30 06:40 UTC</time>",
        "duration": "2.0 s for the 5 rows that the last process scored",
        "settings": "--text-column text, --robust off, --thresholds hate=0.3 toxic=0.9, "
        "--input-format CSV",
    }
    assert "For trying only." in html
    other = replace(ORIGIN, embedded=False, seconds=3700.0, inputs=[f"{n}.csv" for n in range(200)])
    html = render(collected(), other, "b.csv")
    assert "For trying only." not in html
    assert "200: 0.csv, 1.csv" in html
    assert "9.csv, and 190 more" in html
    assert "1 h 2 min for" in html
    assert "an earlier process scored all rows" in render(
        collected(), replace(ORIGIN, scored=0), "b"
    )
    assert "are not known: OUT.run.json is not beside OUT." in render(collected(), None, "b")


def test_examples_are_the_highest_of_each_score_and_the_least_certain_once_each() -> None:
    statistics = Statistics()
    rows = [(0.4 + index / 200, 0.6 - index / 200, 0.0, 0.0) for index in range(100)]
    statistics.add(block("a", rows))
    statistics.add(block("b", rows))
    hate = [(each.file, each.row) for each in statistics.highest["hate"].examples]
    assert hate == [("a", 100 - index) for index in range(EXAMPLES)]
    abusing = [(each.file, each.row) for each in statistics.highest["abusing"].examples]
    assert abusing == [("a", 1 + index) for index in range(EXAMPLES)]
    least = [(each.file, each.row) for each in statistics.least_certain.examples]
    assert least[0] == ("a", 21)  # 0.5 and 0.5
    assert len(least) == EXAMPLES
    assert {file for file, _ in least} == {"a"}
    html = render(statistics, None, "out")
    assert rows_of(html, "Rows highest in hate")[0] == ["a", "100", "0.8950", "hate"]
    assert len(rows_of(html, "Rows highest in toxic")) == EXAMPLES


def test_examples_are_named_by_the_id_column() -> None:
    columns = Columns("id", [])
    html = render(collected(columns=columns), ORIGIN, "b.csv")
    assert rows_of(html, "Rows highest in hate")[0] == ["a.csv", "1", "1", "0.9700", "hate"]
    assert rows_of(html, "Rows highest in hate")[1][2] == "⟨U+202E⟩3"


@pytest.mark.parametrize("cut", [1, 7, 64, 400])
def test_what_is_shown_does_not_depend_on_how_the_rows_are_cut(cut: int) -> None:
    """Neither into blocks nor into files; scores of copies differ a little, by their batch."""
    rng = np.random.default_rng(3)
    texts = rng.dirichlet([0.3] * 4, 60).round(4)  # far from where rounding goes the other way
    drawn = rng.integers(0, 60, 400)
    rows = [tuple(texts[index] + rng.uniform(0, 3e-7, 4)) for index in drawn]
    groups = [f"g{index}" for index in rng.integers(0, 9, 400)]
    columns = Columns("id", ["group"])
    names = [f"{index}" for index in range(400)]
    whole, blocks, merged = (Statistics(columns) for _ in range(3))
    whole.add(block("", rows, id=names, group=groups))
    for first in range(0, 400, cut):
        part = slice(first, first + cut)
        piece = block("", rows[part], None, first + 1, id=names[part], group=groups[part])
        blocks.add(piece)
        file = merged.of_next_file()
        file.add(piece)
        merged.merge(file)
    page = render(whole, ORIGIN, "b")
    shown = [drawn[each.row - 1] for each in whole.highest["hate"].examples]
    assert len(set(shown)) == EXAMPLES, "a copy is shown twice"
    assert render(blocks, ORIGIN, "b") == page
    assert render(merged, ORIGIN, "b") == page


def test_groups_are_counted_by_label_and_error() -> None:
    columns = Columns(None, ["lang", "id"])
    html = render(collected(columns=columns), ORIGIN, "b.csv")
    assert rows_of(html, "Rows by value")[:3] == [
        ["en", "3", "50.0%", "0.0%", "0.0%", "50.0%", "1"],
        ["(empty)", "1", "–", "–", "–", "–", "1"],
        ["&lt;b&gt;", "1", "0.0%", "0.0%", "100.0%", "0.0%", "0"],
    ]
    assert "<h2>By lang</h2>" in html
    assert "<h2>By id</h2>" in html


def test_a_column_of_many_values_is_counted_in_bounded_memory_and_the_page_says_so() -> None:
    columns = Columns(None, ["id"])
    statistics = Statistics(columns)
    row = (0.7, 0.1, 0.1, 0.1)
    for first in range(0, 3 * GROUPS, 500):
        names = [f"{name}" for name in range(first, first + 500)]
        statistics.add(block("a", [row] * 501, id=["0", *names]))
    counted = statistics.groups["id"]
    assert len(counted.values) == GROUPS
    assert counted.values["0"].total() == 7
    html = render(statistics, ORIGIN, "b")
    assert f"more than {GROUPS:,} values" in html
    rows = rows_of(html, "Rows by value")
    assert len(rows) == 51
    assert rows[0][:2] == ["0", "7"]
    assert rows[-1][:2] == ["all other values", "2,950"]


def test_a_page_without_rows_is_a_page() -> None:
    html = render(Statistics(Columns("a", ["b"])), replace(ORIGIN, model=None), "b.csv")
    Page(html)
    assert "0 rows, 0 of them scored." in html
    assert "<dd>none: there were no rows</dd>" in html


@pytest.mark.parametrize("scored", [5, 0])
def test_summary_counts_labels_errors_and_rate(scored: int) -> None:
    lines = run_summary(Outcome(collected(), "mini@1", scored, 2.0)).splitlines()
    assert lines[0] == "5 rows, 3 scored by mini@1"
    assert lines[1].split() == ["hate", "1", "33.33%"]
    assert lines[5:8] == [
        "  1 read in several windows",
        "  error too_large: 1",
        "  error validation: 1",
    ]
    assert lines[8:] == (["  5 rows in 2.0 s: 2 rows/s"] if scored else [])


def test_warnings_are_counted_and_explained() -> None:
    found = (0.7, 0.1, 0.1, 0.1)
    rows = scores([found, found, found, "unread: text: x"]).to_pylist()
    rows[0]["warnings"], rows[1]["warnings"] = "unread", "unread,language"
    statistics = Statistics()
    table = pa.Table.from_pylist(rows, schema=SCORES)
    statistics.add(ScoredBlock("a", 1, table, [""] * 4, {}))
    assert statistics.counts()["warnings"] == {"language": 1, "unread": 2}
    html = render(statistics, ORIGIN, "b.csv")
    assert rows_of(html, "Scored rows by warning")[1][:3] == ["unread", "2", "66.67%"]
    assert "The model can read every row" not in html
    assert "The model can read every row" in render(collected(), ORIGIN, "b.csv")
    summary = run_summary(Outcome(statistics, "mini@1", 4, 1.0))
    assert "  warning language: 1\n  warning unread: 2\n  error unread: 1\n" in summary
