"""The page of /demo, in each of its states, has no fault that axe-core finds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect

from tests.support.cached_tools import node_tool
from tests.support.demo_page import OpenPage, answered, give_token, send, send_many
from tests.support.http_client import TOKEN

AXE: Final = "axe-core@4.14.1"
WIDTHS: Final = (1280, 390)
MANY: Final = ("good morning", "you are an idiot", "x" * 4001, "صباح الخير")
# Each violation as its rule and the elements that break it.
VIOLATIONS: Final = """async () => (await axe.run(document)).violations.map(
  (each) => [each.id, each.nodes.map((node) => `${node.target}: ${node.failureSummary}`)])"""


@pytest.fixture(scope="module")
def axe() -> Path:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    try:
        return node_tool(AXE) / "axe-core" / "axe.min.js"
    except RuntimeError as exc:
        pytest.skip(f"{AXE} can't be installed here: {str(exc).splitlines()[0][:200]}")


def empty(page: Page) -> None:
    expect(page.get_by_label("Token")).to_be_visible()


def errors(page: Page) -> None:
    """An error beside each field that can have one, and a general one."""
    page.get_by_label("Flag what reaches").select_option("own")
    page.get_by_role("spinbutton", name="hate").fill("7")
    send(page, "good morning")
    expect(page.locator("#thresholds-error")).to_be_visible()
    audit(page)
    page.get_by_label("Flag what reaches").select_option("")
    send(page, "")
    expect(page.locator("#text-error")).to_be_visible()
    audit(page)
    page.route("**/score", lambda route: route.abort())
    send(page, "good morning")
    expect(page.get_by_role("alert")).to_contain_text("cannot be reached")
    audit(page)
    page.unroute("**/score")
    give_token(page, "wrong")
    send(page, "good morning")
    expect(page.locator("#token-error")).to_be_visible()


def one_text(page: Page) -> None:
    """With shades, ticks, flags, the JSON and a program."""
    page.get_by_label("Flag what reaches").select_option("balanced")
    page.get_by_role("button", name="an insult").click()
    expect(answered(page)).to_have_count(1)
    page.locator(".result summary").click()
    page.get_by_role("button", name="Python").click()
    expect(page.locator("#program")).to_be_visible()


def many_texts(page: Page) -> None:
    """With one that was not scored, a warning and flags, sorted."""
    page.get_by_label("Flag what reaches").select_option("own")
    expect(send_many(page, MANY)).to_have_count(len(MANY))
    page.get_by_role("button", name="toxic", exact=True).click()
    page.get_by_role("button", name="curl").click()


def audit(page: Page) -> None:
    """Assert that axe finds nothing, in the light and in the dark, on a desk and on a phone."""
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            found: Any = page.evaluate(VIOLATIONS)
            assert found == [], (width, scheme)


@pytest.mark.parametrize("state", [empty, errors, one_text, many_texts], ids=lambda it: it.__name__)
def test_axe_finds_nothing(axe: Path, open_page: OpenPage, state: Any) -> None:
    # The page's policy forbids what axe does, and this test is not about the policy.
    page = open_page(token="" if state is empty else TOKEN, bypass_csp=True)
    page.add_script_tag(path=axe)
    state(page)
    audit(page)
