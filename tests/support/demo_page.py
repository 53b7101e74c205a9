"""What the tests of ``/demo`` do on the page, and read off it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from playwright.sync_api import Locator, Page, expect

from hatespeech.labels import LABELS
from tests.support.http_client import SECONDS

OpenPage = Callable[..., Page]


def send(page: Page, text: str) -> Locator:
    """Type a text and press the button; return the results, one a text."""
    page.get_by_role("textbox", name="Text", exact=True).fill(text)
    page.get_by_role("button", name="Score").click()
    return answered(page)


def send_many(page: Page, texts: Sequence[str]) -> Locator:
    """Type many texts and press the button; return the rows of the table."""
    page.get_by_label("many texts, one per line").check()
    return send(page, "\n".join(texts))


def answered(page: Page) -> Locator:
    """Wait until nothing is under way; return the results, one a text."""
    expect(page.locator("#submit:not([aria-disabled])")).to_be_visible(timeout=SECONDS * 1000)
    return page.locator("#items > article, #items tbody > tr")


def give_token(page: Page, token: str) -> None:
    """Type a token, in its field that is folded away once a token was accepted."""
    field = page.get_by_label("Token")
    if not field.is_visible():
        page.locator("#sign-in > summary").click()
    field.fill(token)


def bar_values(result: Locator) -> list[float]:
    """Return the four bars' values; they are found by the names that screen readers say."""
    bars = [result.get_by_role("meter", name=label, exact=True) for label in LABELS]
    return [float(bar.get_attribute("value") or "nan") for bar in bars]


def marked(result: Locator) -> dict[str, str]:
    """Return the shaded words, and whether they raise or lower the score."""
    found = result.locator("mark").all()
    return {mark.inner_text(): mark.get_attribute("class") or "" for mark in found}
