"""The page of /demo, in a real browser, against a real server with the mini model."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Final, Literal
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, Route, expect

from hatespeech.labels import LABELS
from tests.paths import MINI
from tests.support.demo_page import (
    OpenPage,
    answered,
    bar_values,
    give_token,
    marked,
    send,
    send_many,
)
from tests.support.http_client import SECONDS, TOKEN
from tests.support.ports import free_port
from tests.support.processes.server import FAULTY_SERVER, HttpServer, http_server

SCRIPTS: Final = ("demo.js", "items.js", "programs.js", "table.js")
OWN_PATHS: Final = {
    "/demo",
    "/demo/demo.css",
    *(f"/demo/{script}" for script in SCRIPTS),
    "/demo/icon.svg",
    "/health",
    "/score",
}
POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'none'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
SPAM: Final = "🎁🎁 Congratulations! You have won a free phone, claim it now at https://example.com"
NEARLY_CERTAIN: Final = "stupid stupid idiot fools"
ARABIC: Final = "صباح الخير"
UNREAD: Final = "The model can't read most of this text. The scores say nothing about it."
# Of its words one makes it more toxic, some less, and one does nothing.
MIXED: Final = "🎉 love this stupid song"
STRENGTH: Final = "mark => getComputedStyle(mark).getPropertyValue('--strength')"

# Composites the backgrounds under every text that shows, and returns those of too little contrast.
# A probe on a canvas turns whatever CSS calls the colour into red, green, blue and alpha.
LOW_CONTRAST: Final = """() => {
  const context = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const rgba = (color) => {
    context.clearRect(0, 0, 1, 1);
    context.fillStyle = color;
    context.fillRect(0, 0, 1, 1);
    return [...context.getImageData(0, 0, 1, 1).data];
  };
  const over = (top, below) =>
    [0, 1, 2].map((i) => (top[i] * top[3] + below[i] * (255 - top[3])) / 255);
  const behind = (element) =>
    element === null
      ? [255, 255, 255]
      : over(rgba(getComputedStyle(element).backgroundColor), behind(element.parentElement));
  const luminance = (color) =>
    color
      .map((c) => c / 255)
      .map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
      .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  let seen = 0;
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || !element.checkVisibility()) continue;
    seen += 1;
    const back = behind(element);
    const pair = [over(rgba(getComputedStyle(element).color), back), back].map(luminance);
    const contrast = (Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05);
    if (contrast < 4.5) found.push(`${walker.currentNode.textContent}: ${contrast}`);
  }
  return { seen, found };
}"""


# Without a browser.


@pytest.mark.slow
def test_the_page_and_its_files_need_no_token_and_have_their_types(server: HttpServer) -> None:
    page = server.get("/demo", headers={})
    assert page.status_code == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Content-Security-Policy"] == POLICY
    assert page.headers["Cache-Control"] == "no-store"
    for name, kind in (
        ("demo.css", "text/css; charset=utf-8"),
        *((script, "text/javascript; charset=utf-8") for script in SCRIPTS),
        ("icon.svg", "image/svg+xml"),
    ):
        reply = server.get(f"/demo/{name}", headers={})
        assert (reply.status_code, reply.headers["Content-Type"]) == (200, kind)
        assert reply.headers["Cache-Control"] == "public, max-age=3600"
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
    for path, status in (("/demo/none", 404), ("/demo/../score", 401), ("/demos", 401)):
        assert server.get(path, headers={}).status_code == status
    assert "/demo" not in server.get("/openapi.json", headers={}).json()["paths"]
    assert server.get("/").json()["links"]["demo"] == "/demo"


# In a browser.


def test_a_tweet_gets_the_services_own_scores_as_four_named_bars(
    server: HttpServer, open_page: OpenPage, complaints: list[str]
) -> None:
    page = open_page()
    text = "you are an idiot\nand & <you> know it"  # a line break is part of a tweet
    result = send(page, text)
    expect(result).to_have_count(1)
    reply = server.post("/score", json={"text": text}).json()
    expected = [reply[label] for label in LABELS]
    assert bar_values(result) == pytest.approx(expected, abs=1e-5)
    assert result.locator(".winner").inner_text() == reply["label"] == "abusing"
    shown = result.get_by_role("listitem").all_inner_texts()
    expect(result.locator(".toxic")).to_have_text(
        f"toxic, the sum of hate and abusing: {reply['toxic'] * 100:.1f} %"
    )
    percent = f"{reply['abusing'] * 100:.1f} %"
    assert percent in shown[LABELS.index("abusing")]
    expect(page.get_by_role("status").first).to_have_text(f"abusing, {percent}")
    assert result.locator(".text").text_content() == text
    result.get_by_text("JSON", exact=True).click()
    behind = json.loads(result.locator("pre").inner_text())
    assert behind["model"] == reply["model"]
    assert [word["word"] for word in behind["words"]] == text.split()
    assert complaints == []


def test_a_shade_covers_exactly_the_word_after_an_emoji(
    server: HttpServer, open_page: OpenPage
) -> None:
    result = send(open_page(), MIXED)
    reply = server.post("/score", json={"text": MIXED, "explain": True}).json()
    influences = {word["word"]: word["toxic"] for word in reply["words"]}
    strongest = max(influences, key=lambda word: abs(influences[word]))
    scale = max(0.05, abs(influences[strongest]))
    expected = {
        word: "for" if influence > 0 else "against"
        for word, influence in influences.items()
        if abs(influence) >= 0.1 * scale
    }
    assert set(expected.values()) == {"for", "against"}
    assert len(expected) < len(influences)
    assert marked(result) == expected
    assert result.locator(".text").text_content() == MIXED
    # A stronger word has a stronger shade.
    strengths = {
        word: float(result.locator("mark", has_text=word).evaluate(STRENGTH)) for word in expected
    }
    for word, strength in strengths.items():
        assert strength == pytest.approx(abs(influences[word]) / scale, abs=0.002)
    # The sign shows without colours, and without eyes.
    for word, side in expected.items():
        mark = result.locator("mark", has_text=word)
        expect(mark).to_have_css("border-bottom-style", "solid" if side == "for" else "dotted")
        sign = "+" if side == "for" else "−"
        points = f"{sign}{abs(influences[word]) * 100:.1f}"
        assert mark.get_attribute("title") == f"toxic {points}"
    expect(result.locator(".words")).to_contain_text(f"Raised by: “\u2068{strongest}\u2069” +")


def test_the_words_of_spam_are_shaded_by_spam(server: HttpServer, open_page: OpenPage) -> None:
    reply = server.post("/score", json={"text": SPAM, "explain": True}).json()
    assert reply["label"] == "spam"
    strongest = max(reply["words"], key=lambda word: word["spam"])
    mark = send(open_page(), SPAM).locator("mark", has_text=strongest["word"]).first
    assert mark.get_attribute("title") == f"spam +{strongest['spam'] * 100:.1f}"
    assert mark.inner_text() == strongest["word"]


def test_many_texts_are_answered_in_order_and_a_bad_one_at_its_place(
    server: HttpServer, open_page: OpenPage
) -> None:
    page = open_page()
    texts = ["good morning everyone", "x" * 4001, "you are an idiot"]
    page.get_by_label("many texts, one per line").check()
    rows = send(page, "\n \n".join(texts) + "\n")  # empty lines are no texts
    expect(rows).to_have_count(3)
    items = server.post("/score", json={"texts": texts}).json()["items"]
    assert [rows.nth(i).locator(".text").text_content() for i in range(3)] == texts
    for i in (0, 2):
        numbers = rows.nth(i).locator(".number").all_inner_texts()
        assert numbers == [f"{items[i][name] * 100:.1f} %" for name in (*LABELS, "toxic")]
        assert rows.nth(i).locator(".winner").inner_text() == items[i]["label"]
        said = ", ".join(f"{label} {items[i][label] * 100:.1f} %" for label in LABELS)
        bar = rows.nth(i).get_by_role("img", name=said, exact=True)
        whole = bar.bounding_box()
        assert whole
        for label in LABELS:
            part = bar.locator(f"[data-label={label}]").bounding_box()
            assert part
            assert part["width"] == pytest.approx(items[i][label] * whole["width"], abs=1)
    expect(rows.nth(1).locator(".wrong")).to_have_text(
        "Not scored: the text has 4001 characters, the limit is 4000."
    )
    assert set(rows.nth(1).locator(".number").all_inner_texts()) == {""}
    expect(rows.nth(1).get_by_role("img")).to_have_count(0)
    expect(page.locator("#status")).to_have_text("3 texts: 1 abusing, 1 neutral, 1 not scored")


def test_a_text_of_several_windows_says_whose_scores_it_shows(
    server: HttpServer, open_page: OpenPage
) -> None:
    page = open_page()
    text = f"{'what a lovely day 🌻 ' * 130}you are a stupid idiot"
    reply = server.post("/score", json={"text": text, "explain": False}).json()
    start, end = reply["window"]
    assert reply["windows"] > 1
    assert start > 0
    page.get_by_label("Show each word's influence").uncheck()
    result = send(page, text)
    said = result.locator(".windows").inner_text()
    assert f"It has {reply['windows']} overlapping windows" in said
    assert f"characters {start + 1} to {end}." in said
    assert result.locator(".outside").first.text_content() == text[:start]
    assert result.locator(".text").text_content() == text


def test_a_refused_token_is_said_beside_its_field_and_takes_the_earlier_result_away(
    open_page: OpenPage,
) -> None:
    page = open_page(token="")
    token, beside = page.get_by_label("Token"), page.locator("#token-error")
    expect(send(page, "good morning")).to_have_count(0)
    expect(beside).to_have_text("Give the token of this service first.")
    give_token(page, TOKEN)
    expect(send(page, "good morning")).to_have_count(1)
    expect(beside).to_be_hidden()
    # Once accepted, the token is out of the way.
    expect(token).to_be_hidden()
    expect(page.locator("#sign-in > summary")).to_have_text("Token ✓ accepted")
    give_token(page, "wrong")
    page.locator("#sign-in > summary").click()
    expect(send(page, "good evening")).to_have_count(0)
    expect(beside).to_be_visible()
    expect(beside).to_have_text("This token is not accepted.")
    expect(page.locator("#accepted")).to_be_hidden()
    expect(page.get_by_role("region", name="Result")).to_be_hidden()
    expect(page.locator("#status")).to_be_empty()
    expect(token).to_be_focused()
    expect(token).to_have_attribute("aria-invalid", "true")
    expect(token).to_have_accessible_description(re.compile("This token is not accepted"))
    page.keyboard.type("nöpe")  # no header could carry it
    send(page, "good evening")
    expect(beside).to_have_text("A token has only visible ASCII characters.")
    give_token(page, TOKEN)
    expect(send(page, "good evening")).to_have_count(1)
    expect(beside).to_be_hidden()
    expect(token).not_to_have_attribute("aria-invalid", "true")
    expect(page.get_by_role("alert")).to_have_count(0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x" * 4001, "Not scored: the text has 4001 characters, the limit is 4000."),
        ("w " * 300, "Not scored: the text has 300 words to explain, the limit is 256."),
        ("\u200b", "Not scored: the text holds nothing but white space or invisible characters."),
        ("", "Type a text first."),
    ],
)
def test_a_text_that_is_refused_has_the_reason_beside_it(
    open_page: OpenPage, text: str, said: str
) -> None:
    page = open_page()
    expect(send(page, text)).to_have_count(0)
    expect(page.locator("#text-error")).to_have_text(said)
    field = page.get_by_role("textbox", name="Text", exact=True)
    expect(field).to_be_focused()
    expect(field).to_have_accessible_description(re.compile(re.escape(said)))
    expect(page.get_by_role("alert")).to_have_count(0)


def test_too_many_texts_are_refused_beside_their_field(open_page: OpenPage) -> None:
    page = open_page()
    expect(send_many(page, ["a"] * 1025)).to_have_count(0)
    expect(page.locator("#text-error")).to_have_text(
        "Not scored: the list holds 1025 texts, the limit is 1024."
    )


def test_a_rate_limit_says_when_to_come_back_and_a_dead_server_that_it_is_gone(
    open_page: OpenPage, tmp_path: Path
) -> None:
    with http_server(tmp_path, MINI, {"RATE_LIMIT": "1/hour"}) as server:
        server.ready()
        page = open_page(f"{server.url}/demo")
        expect(send(page, "good morning")).to_have_count(1)
        send(page, "good morning")
        expect(page.get_by_role("alert")).to_have_text(
            re.compile(r"^You have sent as much as one token may for now\. Try again in \d+ s\.$")
        )
        server.terminate()
        server.wait()
        send(page, "good morning")
        expect(page.get_by_role("alert")).to_contain_text("cannot be reached")


def test_a_server_that_still_loads_says_so(
    open_page: OpenPage, small_checkpoint: Path, tmp_path: Path
) -> None:
    switches = tmp_path / "switches"
    switches.mkdir()
    (switches / "hold").touch()  # loading ends with a first text
    command = (*FAULTY_SERVER, "--switches", str(switches))
    with http_server(tmp_path, small_checkpoint, command=command) as server:
        server.wait_ping(204)
        page = open_page(f"{server.url}/demo")
        send(page, "good morning")
        expect(page.get_by_role("alert")).to_have_text(
            re.compile(
                r"^The service can't score now: the model is being .*\. Try again in \d+ s\.$"
            )
        )
        notice = page.get_by_text("The model is being loaded. It can score in a moment.")
        expect(notice).to_be_visible()
        (switches / "hold").unlink()
        server.ready()
        expect(notice).to_be_hidden(timeout=SECONDS * 1000)
        expect(send(page, "good morning")).to_have_count(1)


def test_one_request_at_a_time_which_can_be_stopped(
    open_page: OpenPage, small_checkpoint: Path, tmp_path: Path, requests_seen: list[str]
) -> None:
    switches = tmp_path / "switches"
    switches.mkdir()
    command = (*FAULTY_SERVER, "--switches", str(switches))
    with http_server(tmp_path, small_checkpoint, command=command) as server:
        server.ready()
        (switches / "hold").touch()
        page = open_page(f"{server.url}/demo")
        page.get_by_role("textbox", name="Text", exact=True).fill("good morning")
        for _ in range(3):
            page.keyboard.press("Control+Enter")
        page.get_by_role("button", name="Score").click(force=True)  # it says that it is disabled
        expect(page.get_by_role("status").first).to_have_text("Scoring …")
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_role("status").first).to_have_text("Stopped.")
        assert sum(url.endswith("/score") for url in requests_seen) == 1
        expect(page.get_by_role("alert")).to_be_hidden()
        expect(page.get_by_role("button", name="Score")).to_be_focused()
        (switches / "hold").unlink()
        expect(send(page, "good morning")).to_have_count(1)


def test_an_anonymous_server_asks_for_no_token(open_page: OpenPage, tmp_path: Path) -> None:
    environment = {"BEARER_TOKEN": "", "ALLOW_ANONYMOUS": "1"}
    with http_server(tmp_path, MINI, environment) as server:
        server.ready()
        page = open_page(f"{server.url}/demo", token="")
        expect(page.get_by_label("Token")).to_be_hidden()
        expect(send(page, "good morning")).to_have_count(1)


def test_the_keyboard_alone_will_do(open_page: OpenPage) -> None:
    page = open_page(token="")
    for _ in range(2):  # the name of its part, the field
        page.keyboard.press("Tab")
    expect(page.get_by_label("Token")).to_be_focused()
    assert page.get_by_label("Token").evaluate("it => getComputedStyle(it).outlineStyle") == "solid"
    page.keyboard.type(TOKEN)
    page.keyboard.press("Tab")
    expect(page.get_by_role("textbox", name="Text", exact=True)).to_be_focused()
    page.keyboard.type("good morning")
    page.keyboard.press("Control+Enter")
    expect(answered(page)).to_have_count(1)
    for _ in range(11):  # five examples, the mode, the words, the disguises, thresholds, the button
        page.keyboard.press("Tab")
    expect(page.locator(".result summary")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator(".result pre")).to_be_visible()
    page.keyboard.press("Tab")  # to the JSON, which may scroll
    page.keyboard.press("Tab")
    expect(page.get_by_role("button", name="curl")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#program")).to_be_visible()


def test_the_page_asks_for_its_own_paths_alone_and_complains_of_nothing(
    server: HttpServer, open_page: OpenPage, requests_seen: list[str], complaints: list[str]
) -> None:
    page = open_page()
    for name in ("a greeting", "spam", "an insult"):
        page.get_by_role("button", name=name).click()
        expect(answered(page)).to_have_count(1)
    assert {url.removeprefix(server.url) for url in requests_seen} <= OWN_PATHS
    assert sum(url.endswith("/score") for url in requests_seen) == 3
    assert complaints == []


def test_the_page_says_when_the_scores_are_those_of_what_a_disguise_spells(
    open_page: OpenPage,
) -> None:
    page = open_page()
    page.get_by_role("button", name="a disguise").click()
    expect(answered(page)).to_have_count(1)
    expect(page.get_by_label("See through disguises")).to_be_checked()
    expect(page.locator(".read-as")).to_contain_text("This text is disguised")
    page.get_by_role("button", name="a greeting").click()
    expect(answered(page)).to_have_count(1)
    expect(page.locator(".read-as")).to_have_count(0)


def test_behind_a_proxys_path_it_asks_below_that_path(
    server: HttpServer, open_page: OpenPage, browser: Browser, requests_seen: list[str]
) -> None:
    def proxy(route: Route) -> None:
        path = urlsplit(route.request.url).path.removeprefix("/models/tweets")
        route.fulfill(response=route.fetch(url=server.url + path))

    page = open_page()
    requests_seen.clear()
    outside = f"http://127.0.0.1:{free_port()}"
    page.route(f"{outside}/models/tweets/**", proxy)
    page.goto(f"{outside}/models/tweets/demo")
    expect(page.locator("#trial")).to_be_visible()
    give_token(page, TOKEN)
    expect(send(page, "good morning")).to_have_count(1)
    assert {url.removeprefix(f"{outside}/models/tweets") for url in requests_seen} <= OWN_PATHS


def test_markup_in_a_text_stays_text(
    open_page: OpenPage, requests_seen: list[str], complaints: list[str]
) -> None:
    page = open_page()
    text = "<img/src=x/onerror=alert(1)> <b>you</b> idiot <script>alert(2)</script>"
    result = send(page, text)
    assert result.locator(".text").text_content() == text
    assert page.locator("main img, #results b, #results script").count() == 0
    assert not [url for url in requests_seen if urlsplit(url).path not in OWN_PATHS]
    assert complaints == []


def test_the_policy_stops_markup_made_of_strings(
    open_page: OpenPage, complaints: list[str]
) -> None:
    page = open_page()
    page.evaluate("() => { try { document.body.innerHTML = '<b>x</b>' } catch { } }")
    expect(page.get_by_role("button", name="Score")).to_be_visible()
    assert complaints, "the browser reports what the policy forbade"


def test_the_token_stays_in_the_pages_memory(
    server: HttpServer, open_page: OpenPage, requests_seen: list[str]
) -> None:
    page = open_page()
    with page.expect_request("**/score") as asked:
        expect(send(page, "good morning")).to_have_count(1)
    assert asked.value.headers["x-api-key"] == TOKEN
    assert page.get_by_label("Token").get_attribute("type") == "password"
    assert TOKEN not in json.dumps(page.context.storage_state(indexed_db=True))
    stored = "() => JSON.stringify([{...localStorage}, {...sessionStorage}, history.state])"
    assert TOKEN not in page.evaluate(stored)
    assert TOKEN not in page.content()
    assert not [url for url in [page.url, *requests_seen] if TOKEN in url]
    page.reload()
    assert page.get_by_label("Token").input_value() == ""


def test_a_narrow_phone_scrolls_in_one_direction_alone(open_page: OpenPage) -> None:
    page = open_page(viewport={"width": 320, "height": 640})
    expect(send_many(page, [SPAM, "x" * 3000, "y" * 4001])).to_have_count(3)
    for summary in page.locator("summary").all():
        summary.click()
    assert page.evaluate("() => document.documentElement.scrollWidth") == 320


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_has_enough_contrast_in_either_scheme(
    open_page: OpenPage, scheme: Literal["light", "dark"]
) -> None:
    page = open_page(color_scheme=scheme)
    page.get_by_label("Flag what reaches").select_option("own")

    def audit(least: int) -> None:
        found = page.evaluate(LOW_CONTRAST)
        assert found["found"] == []
        assert found["seen"] > least

    send(page, "")
    audit(30)
    lines = ["good morning everyone", "you are an idiot", SPAM, "x" * 4001, ARABIC]
    expect(send_many(page, lines)).to_have_count(5)
    expect(page.locator(".warning")).to_have_count(1)
    for summary in page.locator("summary").all():
        summary.click()
    audit(80)
    page.get_by_role("button", name="an insult").click()
    expect(answered(page)).to_have_count(1)
    for summary in page.locator("summary").all():
        summary.click()
    page.get_by_role("button", name="curl").click()
    audit(50)
    red, green, blue = map(
        int,
        re.findall(r"\d+", page.evaluate("() => getComputedStyle(document.body).backgroundColor")),
    )
    assert (red + green + blue > 384) == (scheme == "light")


def test_who_wants_no_motion_gets_none(
    open_page: OpenPage, small_checkpoint: Path, tmp_path: Path
) -> None:
    switches = tmp_path / "switches"
    switches.mkdir()
    command = (*FAULTY_SERVER, "--switches", str(switches))
    with http_server(tmp_path, small_checkpoint, command=command) as server:
        server.ready()
        (switches / "hold").touch()
        for preference, count in (("no-preference", 1), ("reduce", 0)):
            page = open_page(f"{server.url}/demo", reduced_motion=preference)
            page.get_by_role("textbox", name="Text", exact=True).fill("good morning")
            page.keyboard.press("Control+Enter")
            expect(page.get_by_role("status").first).to_have_text("Scoring …")
            assert page.evaluate("() => document.getAnimations().length") == count


def test_a_screen_reader_finds_names_and_values(open_page: OpenPage) -> None:
    page = open_page()
    result = send(page, "good morning")
    page.locator("#sign-in > summary").click()
    expect(page.locator("form")).to_match_aria_snapshot("""
        - group:
          - textbox "Token of this service"
        - textbox "Text"
        - group "Examples":
          - button "a greeting"
          - button "spam"
          - button "an insult"
          - button "hate"
        - group "Read it as":
          - radio "one text" [checked]
          - radio "many texts, one per line"
        - checkbox /Show each word's influence/ [checked]
        - checkbox /See through disguises/
        - combobox "Flag what reaches"
        - button "Score"
    """)
    expect(page.get_by_role("region", name="Result")).to_be_visible()
    for label in LABELS:
        bar = result.get_by_role("meter", name=label, exact=True)
        expect(bar).to_have_attribute("aria-valuetext", re.compile(r"^[<>]? ?\d+\.\d %$"))
    assert page.title() == "Hate-speech detection: demo"
    assert page.locator("html").get_attribute("lang") == "en"


# What people read around the scores.


def test_a_warning_stands_in_plain_words_before_the_scores(open_page: OpenPage) -> None:
    page = open_page()
    result = send(page, ARABIC)
    warning = result.locator(".warning")
    expect(warning).to_be_visible()
    expect(warning).to_have_text(UNREAD)
    above, below = warning.bounding_box(), result.locator(".bars").bounding_box()
    assert above
    assert below
    assert above["y"] < below["y"]
    status = page.locator("#status")
    expect(status).to_have_text(re.compile(rf"^\w+, \d+\.\d %\. {re.escape(UNREAD)}$"))
    send_many(page, [ARABIC, "good morning"])
    expect(page.locator(".warning")).to_have_count(1)
    expect(status).to_have_text(re.compile("^2 texts: .+, 1 with a warning$"))


def test_the_legend_shows_with_the_shades_it_explains_and_only_then(open_page: OpenPage) -> None:
    page = open_page()
    legend = page.locator("#legend")
    expect(legend).to_be_hidden()
    expect(send(page, MIXED)).to_have_count(1)
    expect(legend).to_be_visible()
    expect(legend).to_contain_text("how far a word raises or lowers the toxic score")
    expect(legend).to_contain_text("neither what the word means nor whether the model is right")
    page.get_by_label("Show each word's influence").uncheck()
    expect(send(page, MIXED).locator("mark")).to_have_count(0)
    expect(legend).to_be_hidden()


def test_the_words_that_lower_a_score_are_named(server: HttpServer, open_page: OpenPage) -> None:
    reply = server.post("/score", json={"text": MIXED, "explain": True}).json()
    words = sorted(reply["words"], key=lambda word: word["toxic"])
    lowering = [word for word in words if word["toxic"] <= -0.0005][:3]
    named = [f"“\u2068{w['word']}\u2069” −{-w['toxic'] * 100:.1f}" for w in lowering]
    assert named
    result = send(open_page(), MIXED)
    expect(result.locator(".words")).to_contain_text(f"Lowered by: {', '.join(named)}.")


def test_a_probability_that_is_next_to_nothing_is_not_called_nothing(
    server: HttpServer, open_page: OpenPage
) -> None:
    text = NEARLY_CERTAIN
    reply = server.post("/score", json={"text": text}).json()
    tiny = [label for label in LABELS if 0 < reply[label] < 0.0005]
    assert tiny
    result = send(open_page(), text)
    for label in tiny:
        row = result.get_by_role("listitem").nth(LABELS.index(label))
        expect(row).to_contain_text("< 0.1 %")
        bar = result.get_by_role("meter", name=label, exact=True)
        expect(bar).to_have_attribute("aria-valuetext", "< 0.1 %")


def test_the_model_and_its_time_stand_below_the_results(
    server: HttpServer, open_page: OpenPage
) -> None:
    page = open_page()
    send(page, "good morning")
    model = server.post("/score", json={"text": "good morning"}).json()["model"]
    facts = page.locator("#facts")
    expect(facts).to_have_text(re.compile(rf"^Model {re.escape(model)}, \d+ ms$"))
    expect(facts).to_be_visible()


def test_what_stands_after_the_window_that_spoke_is_greyed(
    server: HttpServer, open_page: OpenPage
) -> None:
    page = open_page()
    text = f"you are a stupid idiot {'what a lovely day 🌻 ' * 130}"
    start, end = server.post("/score", json={"text": text}).json()["window"]
    assert start == 0
    page.get_by_label("Show each word's influence").uncheck()
    result = send(page, text)
    outside = result.locator(".outside")
    expect(outside).to_have_count(1)
    assert outside.text_content() == text[end:]
    colour = "it => getComputedStyle(it).color"
    assert outside.evaluate(colour) != result.locator(".text").evaluate(colour)
    assert outside.evaluate(colour) == page.locator("#facts").evaluate(colour)


def test_meta_and_enter_submit_as_control_does(open_page: OpenPage) -> None:
    page = open_page()
    field = page.get_by_role("textbox", name="Text", exact=True)
    field.fill("good morning")
    field.press("Enter")  # alone, a new line
    assert field.input_value() == "good morning\n"
    expect(answered(page)).to_have_count(0)
    field.press("Meta+Enter")
    expect(answered(page)).to_have_count(1)
    assert field.input_value() == "good morning\n"


def test_an_example_is_one_text_whatever_was_chosen_before(open_page: OpenPage) -> None:
    page = open_page()
    page.get_by_label("many texts, one per line").check()
    page.get_by_role("button", name="spam").click()
    expect(answered(page)).to_have_count(1)
    expect(page.get_by_label("one text")).to_be_checked()
    expect(page.get_by_role("heading", name="Result", exact=True)).to_be_visible()
    example = page.get_by_role("button", name="spam").get_attribute("data-text")
    assert page.get_by_role("textbox", name="Text", exact=True).input_value() == example


def test_a_token_that_was_pasted_with_spaces_is_sent_without(open_page: OpenPage) -> None:
    page = open_page(token=f" \t{TOKEN}  ")
    with page.expect_request("**/score") as asked:
        expect(send(page, "good morning")).to_have_count(1)
    assert asked.value.headers["x-api-key"] == TOKEN


def test_the_status_is_announced_and_the_results_have_a_heading(open_page: OpenPage) -> None:
    page = open_page()
    status = page.locator("#status")
    # A live region is announced only if it was there, empty, before.
    element = status.element_handle()
    assert element is not None
    expect(status).to_have_role("status")
    expect(status).to_be_empty()
    expect(page.get_by_role("heading", level=1)).to_have_text("Hate-speech detection")
    expect(page.get_by_role("heading", level=2)).to_have_count(0)
    send(page, "good morning")
    assert (element.text_content() or "").startswith("neutral, ")
    assert element.evaluate("it => it.isConnected && it.ariaLive !== 'off' && !it.ariaHidden")
    expect(page.get_by_role("heading", level=2)).to_have_text("Result")
    send_many(page, ["good morning"])
    expect(page.get_by_role("heading", level=2)).to_have_text("Results")
    expect(page.get_by_role("region", name="Results")).to_be_visible()
    assert element.text_content() == "1 text: 1 neutral"
