"""The page in a browser, as wide as a desk and as a phone, in the light and in the dark."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from hatespeech.labels import LABELS
from tests.evaluation.conftest import Evaluate, Row, sure
from tests.support.browsers import chromium

WIDER_THAN_THE_PAGE = "document.documentElement.scrollWidth > window.innerWidth"
INK = "getComputedStyle(document.querySelector('svg text')).fill"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


def test_nothing_is_wider_than_the_page_and_pictures_follow_the_theme(
    evaluated: Evaluate, browser: Browser, tmp_path: Path
) -> None:
    rows: list[Row] = [
        (sure(LABELS[n % 4], 0.4 + (n % 50) / 100), {"label": LABELS[n // 9 % 4], "theirs": n / 99})
        for n in range(100)
    ]
    rows[7] = (sure("hate", 0.99), {"label": "neutral", "theirs": 0, "text": "W" * 500})
    page = tmp_path / "page.html"
    options = ["--against", "theirs", "--recall", "0.5", "--group-column", "text"]
    evaluated(rows, *options, "--report", str(page), "--include-text")
    colours = set()
    complaints: list[str] = []
    for width, theme in ((1200, "light"), (360, "dark")):
        context = browser.new_context(
            viewport={"width": width, "height": 800},
            color_scheme=theme,  # type: ignore[arg-type]  # a literal in a loop
        )
        shown = context.new_page()
        shown.on("console", lambda message: complaints.append(message.text))
        shown.goto(page.as_uri())
        assert shown.evaluate(WIDER_THAN_THE_PAGE) is False, width
        boxes = [drawing.bounding_box() for drawing in shown.locator("svg").all()]
        assert len(boxes) == 2
        assert all(box and 250 < box["width"] <= width for box in boxes)
        assert complaints == []
        colours.add(shown.evaluate(INK))
        context.close()
    assert len(colours) == 2, "the text of the pictures has the theme's colour"
