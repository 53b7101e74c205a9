"""The report in a browser, as wide as a desk and as a phone, in the light and in the dark."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from hatespeech.bulk.report import render
from hatespeech.bulk.statistics import Columns, ScoredBlock, Statistics
from tests.bulk.test_report import HOSTILE, ORIGIN, scores
from tests.support.browsers import chromium
from tests.support.processes.worker import wait_until

Scheme = Literal["light", "dark"]

WIDER_THAN_THE_PAGE: Final = "document.documentElement.scrollWidth > window.innerWidth"
# What reaches beyond the page and does not scroll by itself.
OVERFLOWING: Final = """
[...document.body.querySelectorAll("*")]
  .filter((each) => !each.closest(".wide") || each.matches(".wide"))
  .filter((each) => each.getBoundingClientRect().right > document.documentElement.clientWidth + 0.5
    || each.getBoundingClientRect().left < -0.5)
  .map((each) => each.outerHTML.slice(0, 200))
"""
# Text of a drawing that is outside it, or smaller than a reader can read.
BAD_TEXT: Final = """
[...document.querySelectorAll("svg text")].filter((each) => {
  const text = each.getBoundingClientRect();
  const drawing = each.closest("svg").getBoundingClientRect();
  return text.left < drawing.left - 0.5 || text.right > drawing.right + 0.5 || text.height < 11;
}).map((each) => each.textContent)
"""
# Texts whose contrast with the page is below 4.5, as WCAG computes it.
FAINT: Final = """
(() => {
  const light = (colour) => {
    const parts = colour.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const page = light(getComputedStyle(document.body).backgroundColor);
  return [...document.body.querySelectorAll("h1, h2, h3, p, dt, dd, th, td, caption, svg text")]
    .filter((each) => {
      const style = getComputedStyle(each);
      const text = light(each.closest("svg") ? style.fill : style.color);
      return (Math.max(text, page) + 0.05) / (Math.min(text, page) + 0.05) < 4.5;
    }).map((each) => each.outerHTML.slice(0, 200));
})()
"""


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page with everything that may be too wide for it."""
    statistics = Statistics(Columns("id", ["lang", "w" * 60]), keep_texts=True)
    rng = np.random.default_rng(1)
    rows = [tuple(row) for row in rng.dirichlet([0.2, 0.3, 2.0, 0.1], 400)]
    texts = ["W" * 300, HOSTILE * 5, *["good morning, dear people"] * 398]
    ids = ["W" * 100, *(f"{10**18 + number}" for number in range(399))]
    groups = [f"{number % 70}" for number in range(399)]
    found = scores([*rows[:-1], "validation: text: must not be empty"])
    columns = {"id": ids, "lang": ["שלום", *groups], "w" * 60: ["W" * 100, *groups]}
    statistics.add(ScoredBlock("folder/" + "W" * 100, 1, found, texts, columns))
    thresholds = {
        "balanced": {"hate": 0.02, "abusing": 0.3, "spam": 0.97, "toxic": 0.5, "neutral": 1.0},
        "strict": {"hate": 0.98, "abusing": 0.31, "spam": 1.0, "toxic": 0.72},
    }
    settings = {"--text-column": "W" * 100}
    origin = replace(
        ORIGIN, inputs=["W" * 200, "b"], model="W" * 100, thresholds=thresholds, settings=settings
    )
    path = tmp_path_factory.mktemp("page") / "r.html"
    path.write_text(render(statistics, origin, "W" * 200), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def opened(browser: Browser, file: Path, width: int, scheme: Scheme) -> tuple[Page, list[str]]:
    """Return the page and what it asks for or complains about."""
    context = browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    noted: list[str] = []
    page.on("request", lambda request: noted.append(request.url))
    page.on("console", lambda message: noted.append(message.text))
    page.goto(file.as_uri())
    assert noted.pop(0) == file.as_uri()
    return page, noted


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_nothing_overflows_and_nothing_leaves_the_page(
    width: int, scheme: Scheme, page_file: Path, browser: Browser
) -> None:
    page, noted = opened(browser, page_file, width, scheme)
    assert page.evaluate(WIDER_THAN_THE_PAGE) is False
    assert page.evaluate(OVERFLOWING) == []
    assert page.evaluate(BAD_TEXT) == []
    assert page.evaluate(FAINT) == []
    boxes = [drawing.bounding_box() for drawing in page.locator("svg").all()]
    assert len(boxes) == 20
    assert all(box and 300 < box["width"] <= width for box in boxes)
    beside = boxes[0] and boxes[1] and boxes[0]["y"] == boxes[1]["y"]
    assert beside is (width == 1280), "the two scales are side by side where there is room"
    texts = page.locator("td.text").all()
    assert all((box := text.bounding_box()) and box["width"] > 300 for text in texts[:3])
    page.locator("h2").last.scroll_into_view_if_needed()
    assert noted == []
    page.context.close()


def test_the_schemes_have_colours_of_their_own_and_labels_those_of_the_demo(
    page_file: Path, browser: Browser
) -> None:
    colours: dict[str, list[str]] = {}
    schemes: list[Scheme] = ["light", "dark"]
    for scheme in schemes:
        page, _ = opened(browser, page_file, 1280, scheme)
        colours[scheme] = page.evaluate(
            """[getComputedStyle(document.body).backgroundColor,
            ...[...document.querySelectorAll(".grid rect:first-of-type")]
              .map((each) => getComputedStyle(each).fill)]"""
        )
        page.context.close()
    assert colours["light"][:2] == ["rgb(255, 255, 255)", "rgb(179, 38, 30)"]
    assert colours["dark"][:2] == ["rgb(20, 23, 27)", "rgb(255, 143, 134)"]
    assert len(set(colours["light"])) == 6  # the page and five scores
    assert not set(colours["light"]) & set(colours["dark"])


def test_a_reader_of_the_page_finds_headings_tables_and_drawings_by_their_names(
    page_file: Path, browser: Browser
) -> None:
    page, _ = opened(browser, page_file, 390, "light")
    levels = page.evaluate(
        "[...document.querySelectorAll('h1, h2, h3')].map((each) => Number(each.tagName[1]))"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))
    for table in page.locator("table").all():
        assert table.locator("caption").inner_text()
    assert page.get_by_role("img", name="flagged as hate by threshold, linear").count() == 1
    assert page.get_by_role("main").count() == 1
    assert page.get_by_role("note").inner_text().startswith("For trying only.")
    wide = page.locator(".wide", has=page.get_by_text("most frequent")).first
    assert wide.get_attribute("tabindex") == "0"  # not every browser can focus it otherwise
    wide.focus()
    page.keyboard.press("ArrowRight")
    # A smooth movement. The policy of the page forbids Playwright's own waiting: a script in it.
    wait_until(lambda: page.evaluate("document.activeElement.scrollLeft") > 0, "the table to move")
    page.context.close()
