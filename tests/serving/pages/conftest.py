"""A server with the embedded checkpoint, and a browser that opens its pages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.paths import MINI
from tests.support.browsers import chromium
from tests.support.demo_page import OpenPage
from tests.support.http_client import SECONDS, TOKEN
from tests.support.processes.server import HttpServer, http_server


@pytest.fixture(scope="package")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HttpServer]:
    environment = {"MAX_TEXT_CHARS": "4000"}
    with http_server(tmp_path_factory.mktemp("demo"), MINI, environment) as server:
        yield server.ready()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def requests_seen() -> list[str]:
    """Every URL that the pages of one test asked for."""
    return []


@pytest.fixture
def complaints() -> list[str]:
    """What the console said: errors of scripts, and what the policy forbade."""
    return []


@pytest.fixture
def open_page(
    browser: Browser, server: HttpServer, requests_seen: list[str], complaints: list[str]
) -> Iterator[OpenPage]:
    """Opens the page in a context of its own, the token filled in unless it is empty."""
    contexts = []

    def open_it(url: str = f"{server.url}/demo", token: str = TOKEN, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(SECONDS * 1000)
        context.on("request", lambda request: requests_seen.append(request.url))
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(url)
        if token:
            page.get_by_label("Token").fill(token)
        return page

    yield open_it
    for context in contexts:
        context.close()
