"""The page and the lines at the end of a run: right, self-contained, and without texts."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pyarrow as pa
import pytest

from hatespeech.bulk.command import run_summary
from hatespeech.bulk.report import render
from hatespeech.bulk.run import Outcome
from hatespeech.bulk.statistics import BINS, EXAMPLES, Statistics
from hatespeech.formats.scores import SCORES
from hatespeech.labels import FLAGS, LABELS
from tests.support.pages import Page

HOSTILE = '<script>alert("x")</script> & \ud800 “quoted”'


def scores(rows: list[tuple[float, ...] | str]) -> pa.Table:
    """Return rows of scores, or of an error."""
    made = [
        {"error": row}
        if isinstance(row, str)
        else {
            **dict(zip(LABELS, row, strict=True)),
            "toxic": row[0] + row[1],
            "label": LABELS[row.index(max(row))],
            "windows": 3 if row[0] == 0.25 else 1,
        }
        for row in rows
    ]
    return pa.Table.from_pylist(made, schema=SCORES)


def collected(keep_texts: bool = False) -> Statistics:
    statistics = Statistics(keep_texts)
    statistics.add(
        "a.csv",
        1,
        [HOSTILE, "b", "c", "d"],
        scores(
            [
                (0.97, 0.01, 0.01, 0.01),
                "validation: text: must not be empty",
                (0.25, 0.25, 0.3, 0.2),
                "too_large: text: has 5 characters, the limit is 4",
            ]
        ),
    )
    statistics.add("b.csv", 1, ["e"], scores([(0.0, 0.0, 0.0, 1.0)]))
    return statistics


def test_page_needs_nothing_else_and_runs_nothing() -> None:
    html = render(collected(keep_texts=True), "mini@1", "b<i>.csv", 2)
    page = Page(html)
    assert "script" not in page.tags
    assert not {name for name, _ in page.attributes} & {"src", "href", "onload", "onclick"}
    assert "http://" not in html
    assert "https://" not in html
    assert "default-src 'none'" in html
    assert "prefers-color-scheme: dark" in html
    assert ("name", "viewport") in page.attributes
    assert "b&lt;i&gt;.csv" in html
    html.encode()


def test_page_shows_texts_only_when_asked_and_escapes_them() -> None:
    without = render(collected(), "mini@1", "b.csv", 2)
    assert "alert" not in without
    assert "<th>text</th>" not in without
    shown = render(collected(keep_texts=True), "mini@1", "b.csv", 2)
    assert "&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt; &amp; ? “quoted”" in shown


def test_page_cuts_long_texts() -> None:
    statistics = Statistics(keep_texts=True)
    statistics.add("a", 1, ["y" * 1000], scores([(0.7, 0.1, 0.1, 0.1)]))
    assert re.findall("y{9,}…?", render(statistics, None, "b", 1)) == ["y" * 280 + "…"] * 2


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
    *_, spam, toxic = (
        {index: count for index, count in enumerate(counts) if count} for counts in statistics.bins
    )
    assert spam == {0: 1, 8: 1, 39: 1}
    assert toxic == {0: 1, 20: 1, 39: 1}
    html = render(statistics, "mini@1", "b.csv", 2)
    assert "5 rows in 2 files, 3 of them scored by mini@1." in html
    assert "1 were read in several windows." in html
    assert "<td>too_large</td><td class='number'>1</td><td class='number'>20.00%</td>" in html


def test_histograms_are_svg_with_a_bar_for_each_step_that_has_rows() -> None:
    html = render(collected(), "mini@1", "b.csv", 1)
    drawings = re.findall(r"<svg.*?</svg>", html)
    assert len(drawings) == len(FLAGS)
    for drawing, counts in zip(drawings, collected().bins, strict=True):
        bars = ElementTree.fromstring(drawing).findall("rect")
        assert len(bars) == sum(count > 0 for count in counts)
        for bar in bars:
            assert 0 <= float(bar.attrib["x"]) <= 400 - 400 / BINS + 1
            assert 0 < float(bar.attrib["height"]) <= 120


def test_examples_are_the_most_and_least_certain_once_each_and_few() -> None:
    statistics = Statistics()
    rows: list[tuple[float, ...] | str] = [
        (0.4 + index / 200, 0.6 - index / 200, 0.0, 0.0) for index in range(100)
    ]
    statistics.add("a", 1, [""] * 100, scores(rows))
    statistics.add("b", 1, [""] * 100, scores(rows))
    most = [(each.file, each.row) for each in statistics.most_certain]
    assert most == [("a", 100 - index) for index in range(EXAMPLES)]
    least = [(each.file, each.row) for each in statistics.least_certain]
    assert least[0] == ("a", 21)  # 0.5 and 0.5
    assert len(least) == EXAMPLES
    assert {file for file, _ in least} == {"a"}


def test_a_page_without_rows_is_a_page() -> None:
    html = render(Statistics(), None, "b.csv", 1)
    Page(html)
    assert "0 rows, 0 of them scored." in html


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
    statistics.add("a", 1, [""] * 4, pa.Table.from_pylist(rows, schema=SCORES))
    assert statistics.counts()["warnings"] == {"language": 1, "unread": 2}
    html = render(statistics, "mini@1", "b.csv", 1)
    assert "<td>unread</td><td class='number'>2</td><td class='number'>66.67%</td>" in html
    assert "The model can read every row" not in html
    assert "The model can read every row" in render(collected(), "mini@1", "b.csv", 1)
    summary = run_summary(Outcome(statistics, "mini@1", 4, 1.0))
    assert "  warning language: 1\n  warning unread: 2\n  error unread: 1\n" in summary
