"""The pages in Firefox, driven by Puppeteer over WebDriver BiDi: the main ways through them."""

from __future__ import annotations

import shutil
from typing import Any, Final

import pytest

from hatespeech.labels import LABELS
from tests.support.http_client import SECONDS, TOKEN
from tests.support.other_clients import run_node
from tests.support.processes.server import HttpServer

PUPPETEER: Final = "puppeteer-core@24.43.1"
INSULT: Final = "you are an idiot"
TEXTS: Final = ("good morning everyone", INSULT, "x" * 4001, "what a lovely day")

# Does what a person does, and returns what the page shows after each step.
SCRIPT: Final = """
const puppeteer = require("puppeteer-core");
const browser = await puppeteer.launch({
  browser: "firefox", executablePath: given.firefox, headless: true,
});
try {
  const seen = { version: await browser.version(), complaints: [] };
  const page = await browser.newPage();
  page.setDefaultTimeout(given.seconds * 1000);
  page.on("console", (message) => seen.complaints.push(message.text()));
  page.on("pageerror", (error) => seen.complaints.push(String(error)));
  const texts = (query) => page.$$eval(query, (all) => all.map((it) => it.textContent));
  const shown = (query) => page.$eval(query, (it) => it.checkVisibility());
  const fill = async (query, value) => {
    await page.$eval(query, (it, value) => { it.value = value; }, value);
  };
  const send = async (query, text) => {
    await fill("#text", text);
    await page.click("#submit");
    await page.waitForSelector(query, { visible: true });
    await page.waitForSelector("#submit:not([aria-disabled])");
  };

  await page.goto(`${given.url}/demo`);
  await page.waitForSelector("#trial", { visible: true });
  await page.type("#token", given.token);
  await send(".result", given.insult);
  seen.signedIn = [await shown("#token"), await texts("#sign-in > summary")];
  seen.words = await texts(".result mark");
  seen.winner = await texts(".winner");
  seen.values = await page.$$eval("meter", (all) => all.map((it) => it.value));
  seen.names = await page.$$eval("meter", (all) => all.map((it) => it.ariaLabel));
  seen.heights = await page.$$eval("meter", (all) => all.map((it) => it.offsetHeight));

  await send("#text-error", "");
  seen.error = [await texts("#text-error"), await page.evaluate("document.activeElement.id")];

  await page.select("#thresholds", "own");
  await page.click("[data-flag=abusing]");
  await page.keyboard.type("many");
  await send("#thresholds-error", given.insult);
  seen.threshold = await texts("#thresholds-error");
  await fill("[data-flag=abusing]", "0.25");
  await send(".result", given.insult);
  seen.ticks = await page.$$eval(".tick", (all) => all.map((tick) => {
    const [bar, it] = [tick.parentElement, tick].map((each) => each.getBoundingClientRect());
    return (it.x + it.width / 2 - bar.x) / bar.width;
  }));
  seen.flags = await texts(".flags");

  await page.click("input[value=many]");
  await send("table", given.texts.join("\\n"));
  const press = async () => {
    await page.click("th.of-toxic button");
    const sorted = await page.$eval("th.of-toxic", (it) => it.ariaSort);
    return [sorted, (await texts("tbody th")).map(Number)];
  };
  seen.sorted = [await press(), await press()];
  await page.click("button[data-language=curl]");
  await page.waitForSelector("#program", { visible: true });
  seen.program = await page.$eval("#program", (it) => it.textContent);

  await page.goto(`${given.url}/docs`);
  await page.waitForSelector(".opblock");
  seen.operations = (await page.$$(".opblock")).length;
  console.log(JSON.stringify(seen));
} finally {
  await browser.close();
}
"""


@pytest.mark.browser
def test_firefox_shows_the_pages_as_chromium_does(server: HttpServer) -> None:
    firefox = shutil.which("firefox-esr") or shutil.which("firefox")
    if firefox is None:
        pytest.skip("no Firefox; on Debian: apt-get install firefox-esr")
    given: dict[str, Any] = {
        "firefox": firefox,
        "url": server.url,
        "token": TOKEN,
        "insult": INSULT,
        "texts": TEXTS,
        "seconds": SECONDS,
    }
    seen = run_node(PUPPETEER, SCRIPT, **given)
    assert "firefox" in seen["version"].lower()
    assert seen["complaints"] == []
    assert seen["signedIn"] == [False, ["Token ✓ accepted"]]
    reply = server.post("/score", json={"text": INSULT}).json()
    assert "idiot" in seen["words"]
    assert seen["winner"] == [reply["label"]]
    assert seen["names"] == list(LABELS)
    assert seen["values"] == pytest.approx([reply[label] for label in LABELS], abs=1e-5)
    assert set(seen["heights"]) == {12}
    assert seen["error"] == [["Type a text first."], "text"]
    assert seen["threshold"] == ["The threshold of abusing must be a number from 0 to 1."]
    assert seen["ticks"] == pytest.approx([0.25], abs=0.01)
    assert seen["flags"] == ["Flagged: abusing, toxic"]
    items = server.post("/score", json={"texts": TEXTS}).json()["items"]
    scored = [i for i, item in enumerate(items) if "toxic" in item]
    rising = [i + 1 for i in sorted(scored, key=lambda i: items[i]["toxic"])]
    assert seen["sorted"] == [["descending", [*rising[::-1], 3]], ["ascending", [*rising, 3]]]
    assert TOKEN not in seen["program"]
    assert f"{server.url}/score" in seen["program"]
    document = server.get("/openapi.json", headers={}).json()
    assert seen["operations"] == sum(len(methods) for methods in document["paths"].values())
