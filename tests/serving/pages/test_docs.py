"""The page of /docs, in a real browser, against a real server with the mini model."""

from __future__ import annotations

import re
from typing import Literal

import pytest
from playwright.sync_api import expect

from tests.support.demo_page import OpenPage
from tests.support.http_client import TOKEN
from tests.support.processes.server import HttpServer


def test_the_documentation_lists_every_operation_and_asks_nobody_else(
    server: HttpServer, open_page: OpenPage, requests_seen: list[str], complaints: list[str]
) -> None:
    page = open_page(f"{server.url}/docs", token="")
    document = server.get("/openapi.json", headers={}).json()
    expected = {
        (method.upper(), path) for path, methods in document["paths"].items() for method in methods
    }
    assert len(expected) >= 20
    operations = page.locator(".opblock")
    expect(operations).to_have_count(len(expected))
    shown = {
        (
            operation.locator(".opblock-summary-method").inner_text(),
            # Swagger UI lets long paths break, by spaces of no width.
            operation.locator(".opblock-summary-path").inner_text().replace("\u200b", ""),
        )
        for operation in operations.all()
    }
    assert shown == expected
    tags = page.locator(".opblock-tag").all_inner_texts()
    assert [tag.splitlines()[0] for tag in tags[:2]] == ["score", "jobs"]
    expect(page.locator(".models")).to_have_count(0)
    expect(page.get_by_role("heading", name="Hate-speech detection")).to_be_visible()
    page.wait_for_load_state("networkidle")
    local = [url for url in requests_seen if not url.startswith("data:")]
    assert {url.removeprefix(server.url) for url in local} == {
        "/docs",
        "/docs/swagger-ui.css",
        "/docs/swagger-ui-bundle.js",
        "/docs/start.js",
        "/docs/favicon.png",
        "/openapi.json",
    }
    assert complaints == []


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_the_documentation_follows_the_users_colour_scheme(
    scheme: Literal["dark", "light"], server: HttpServer, open_page: OpenPage
) -> None:
    page = open_page(f"{server.url}/docs", token="")
    page.emulate_media(color_scheme=scheme)
    expect(page.locator(".opblock").first).to_be_visible()
    paper = page.evaluate("getComputedStyle(document.documentElement).backgroundColor")
    if scheme == "light":
        assert paper == "rgba(0, 0, 0, 0)"  # the browser's own, which is white
    else:
        assert max(int(channel) for channel in re.findall(r"\d+", paper)[:3]) < 60


def test_the_documentation_signs_in_and_tries_a_request_out(
    server: HttpServer, open_page: OpenPage, requests_seen: list[str], complaints: list[str]
) -> None:
    page = open_page(f"{server.url}/docs", token="")
    page.locator(".auth-wrapper > .authorize").click()
    dialog = page.locator(".dialog-ux")
    scheme = dialog.locator(".auth-container", has_text="X-API-Key")
    scheme.locator("input").fill(TOKEN)
    scheme.get_by_role("button", name="Apply credentials").click()
    expect(scheme.get_by_role("button", name="Remove authorization")).to_be_visible()
    dialog.get_by_role("button", name="Close").last.click()
    operation = page.locator("#operations-score-score")
    operation.locator(".opblock-summary-control").click()
    operation.get_by_role("button", name="Execute").click()
    reply = operation.locator(".live-responses-table .response")
    expect(reply.locator(".response-col_status").first).to_contain_text("200")
    expect(reply.locator(".response-col_description").first).to_contain_text('"neutral"')
    assert sum(url == f"{server.url}/score" for url in requests_seen) == 1
    assert complaints == []
