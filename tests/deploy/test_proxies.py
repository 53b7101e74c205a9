"""The server behind the proxies that the pages name, each with the configuration that we ship."""

from __future__ import annotations

import contextlib
import csv
import io
import os
import random
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import requests
from playwright.sync_api import Page, Route

from tests.paths import ROOT
from tests.support.browsers import chromium
from tests.support.faulty_device import Switches
from tests.support.http_client import BEARER, SECONDS, TOKEN, together
from tests.support.local_server import local_server
from tests.support.ports import free_port, listens
from tests.support.processes.server import FAULTY_SERVER, http_server
from tests.support.processes.worker import wait_until
from tests.support.services.nginx import changed, nginx

pytestmark = pytest.mark.slow

PREFIX: Final = "/moderation"
# The second location of the shipped file in the first one's place.
UNDER_PREFIX: Final = {"    location / {": f"    location {PREFIX}/ {{"}
# A proxy that takes the prefix off, as `proxy_pass` with a path does.
STRIPPED: Final = {
    **UNDER_PREFIX,
    "proxy_pass http://hatespeech;": "proxy_pass http://hatespeech/;",
}
PLACES: Final = {"": {}, PREFIX: UNDER_PREFIX, f"{PREFIX} stripped": STRIPPED}


@pytest.fixture(scope="module", params=PLACES, ids=["at the root", "below a prefix", "stripped"])
def site(
    request: pytest.FixtureRequest, small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The service's address behind nginx, without a slash at its end."""
    prefix = str(request.param).partition(" ")[0]
    folder = tmp_path_factory.mktemp("nginx")
    with (
        local_server(folder, small_checkpoint, {"ROOT_PATH": prefix, "METRICS": "open"}) as server,
        nginx(free_port(), f"127.0.0.1:{server.port}", PLACES[request.param]) as url,
    ):
        server.ready()
        yield url + prefix


def ask(method: str, url: str, **options: Any) -> requests.Response:
    return requests.request(method, url, headers=BEARER, timeout=SECONDS, **options)


def test_every_kind_of_route_answers(site: str) -> None:
    for path in ("/ping", "/health", "/docs", "/demo", "/openapi.json", "/metrics", "/"):
        assert ask("GET", site + path).status_code == 200, path
        head = ask("HEAD", site + path)
        assert (head.status_code, head.content) == (200, b""), path
    assert ask("POST", f"{site}/score", json={"text": "hello"}).json()["label"]
    assert requests.post(f"{site}/score", json={"text": "hello"}, timeout=9).status_code == 401
    assert ask("POST", f"{site}/v1/moderations", json={"input": "hello"}).json()["results"]
    job = ask("POST", f"{site}/runsync", json={"input": {"prompt": "hello"}}).json()
    assert ask("GET", f"{site}/status/{job['id']}").json()["status"] == "COMPLETED"


def test_the_card_links_to_what_is_there(site: str) -> None:
    origin = "{0.scheme}://{0.netloc}".format(urlsplit(site))
    for link in ask("GET", f"{site}/").json()["links"].values():
        assert ask("GET", origin + link).status_code == 200, link


def test_a_file_of_100_megabytes_comes_back_scored(site: str) -> None:
    filler = "x" * 3_500_000
    body = "text,note\n" + "".join(f"hello number {n},{filler}\n" for n in range(30))
    reply = ask("POST", f"{site}/score/file", files={"file": ("texts.csv", body, "text/csv")})
    assert reply.status_code == 200, reply.text
    csv.field_size_limit(10_000_000)
    rows = list(csv.DictReader(io.StringIO(reply.text)))
    assert [row["text"] for row in rows] == [f"hello number {n}" for n in range(30)]
    assert all(row["label"] and row["note"] == filler for row in rows)


def test_the_pages_stay_below_the_prefix(site: str) -> None:
    """Neither page asks elsewhere, or sends the token there."""
    origin, prefix = re.fullmatch(r"(http://[^/]+)(.*)", site).groups()  # type: ignore[union-attr]  # it is a URL
    asked: list[str] = []

    def note(route: Route) -> None:
        asked.append(route.request.url)
        if route.request.url.startswith(f"{site}/"):
            route.continue_()
        else:
            route.abort()

    def opened(browser_page: Page, path: str) -> Page:
        browser_page.route("**/*", note)
        browser_page.goto(site + path)
        return browser_page

    with chromium() as browser:
        page = opened(browser.new_page(), "/docs")
        page.locator(".authorize").first.click()
        page.locator("input[aria-label='auth-bearer-value']").fill(TOKEN)
        page.locator(".auth-btn-wrapper .authorize").first.click()
        page.locator(".btn-done").first.click()
        page.locator("#operations-score-score .opblock-summary-control").click()
        page.locator("#operations-score-score .execute").click()
        status = page.locator("#operations-score-score .live-responses-table .response-col_status")
        status.last.wait_for()
        assert status.last.inner_text().startswith("200")
        assert f"{site}/score" in asked, asked

        page = opened(browser.new_page(), "/demo")
        page.locator("input[type=password]").fill(TOKEN)
        page.locator("textarea").first.fill("good morning")
        with page.expect_response("**/score") as reply:
            page.locator("button[type=submit]").first.click()
        assert reply.value.status == 200
    assert all(url.startswith(f"{origin}{prefix}/") for url in asked), asked


def test_idle_connections_are_used_again_without_a_502(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    """The shipped file closes them before the server does; here both do so within seconds."""
    shorter = {"keepalive_timeout 60s;": "keepalive_timeout 1s;"}
    statuses: list[int] = []

    def caller(number: int) -> None:
        chance = random.Random(number)
        with requests.Session() as session:
            for _ in range(10):
                reply = session.post(
                    f"{url}/score", json={"text": "a"}, headers=BEARER, timeout=SECONDS
                )
                statuses.append(reply.status_code)
                time.sleep(chance.uniform(0.9, 1.1))

    with (
        local_server(tmp_path, small_checkpoint, {"KEEP_ALIVE": "3"}) as server,
        nginx(free_port(), f"127.0.0.1:{server.port}", shorter) as url,
    ):
        server.ready()
        together(50, caller)
    assert statuses == [200] * 500


def test_a_wait_of_70_seconds_is_answered(small_checkpoint: Path, tmp_path: Path) -> None:
    """Longer than a proxy waits unless it is told to."""
    switches = Switches(tmp_path)
    command = (*FAULTY_SERVER, "--switches", str(tmp_path))
    with (
        http_server(tmp_path, small_checkpoint, command=command) as server,
        nginx(free_port(), f"127.0.0.1:{server.port}") as url,
        ThreadPoolExecutor(1) as pool,
    ):
        server.ready()
        switches.hold()
        try:
            waiting: Future[requests.Response] = pool.submit(
                requests.post,
                f"{url}/runsync?wait=120000",
                json={"input": {"prompt": "hello"}},
                headers=BEARER,
                timeout=180,
            )
            wait_until(lambda: switches.held, "the device", watch=server.require_running)
            time.sleep(70)
            assert not waiting.done()
        finally:
            switches.release()
        assert waiting.result().json()["status"] == "COMPLETED"


def test_a_proxy_on_a_unix_socket_names_the_caller(small_checkpoint: Path, tmp_path: Path) -> None:
    """Anonymous callers are counted by the address that the proxy names, not all as one."""
    path = tmp_path / "http.sock"
    environment = {
        "UNIX_SOCKET": str(path),
        "TRUSTED_PROXIES": "unix",
        "BEARER_TOKEN": "",
        "ALLOW_ANONYMOUS": "1",
        "RATE_LIMIT": "2/hour",
    }
    by_name = {"X-Forwarded-For $remote_addr": "X-Forwarded-For $http_x_caller"}
    with (
        http_server(tmp_path, small_checkpoint, environment) as server,
        nginx(free_port(), f"unix:{path}", by_name) as url,
    ):
        server.port = int(url.rpartition(":")[2])
        server.ready()
        statuses = [
            requests.get(
                f"{url}/score?text=hi", headers={"X-Caller": address}, timeout=SECONDS
            ).status_code
            for address in ("192.0.2.1", "192.0.2.1", "192.0.2.1", "192.0.2.2")
        ]
    assert statuses == [200, 200, 429, 200]
    assert f"listening on the Unix socket {path}" in server.stderr


@contextlib.contextmanager
def caddy(server_port: int) -> Iterator[str]:
    """Start a real Caddy with the shipped file."""
    program = shutil.which("caddy")
    if program is None:
        pytest.skip("needs Caddy: scripts/apt-packages names it")
    port = free_port()
    text = changed(
        (ROOT / "deploy" / "Caddyfile").read_text(encoding="utf-8"),
        {
            "\nmoderation.example.com {": f"\n{{\n\tadmin off\n}}\n\nhttp://127.0.0.1:{port} {{",
            "reverse_proxy 127.0.0.1:8000": f"reverse_proxy 127.0.0.1:{server_port}",
        },
    )
    process = subprocess.Popen(
        [program, "run", "--config", "-", "--adapter", "caddyfile"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/")},
    )
    assert process.stdin is not None
    process.stdin.write(text.encode())
    process.stdin.close()
    try:
        wait_until(lambda: listens(port), "Caddy to listen")
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def test_caddy_passes_texts_and_files_on(small_checkpoint: Path, tmp_path: Path) -> None:
    with local_server(tmp_path, small_checkpoint) as server, caddy(server.port) as url:
        server.ready()
        assert ask("POST", f"{url}/score", json={"text": "hello"}).json()["label"]
        file = {"file": ("texts.csv", "text\nhello\n", "text/csv")}
        assert "label" in ask("POST", f"{url}/score/file", files=file).text
