"""The programs that the page of /demo shows, run as a person would who copied them."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from playwright.sync_api import Page, expect

from hatespeech.labels import LABELS
from tests.paths import MINI
from tests.support.demo_page import OpenPage, send, send_many
from tests.support.http_client import SECONDS, TOKEN
from tests.support.processes.server import HttpServer, http_server

# Whatever a shell, Python or JavaScript might read in another way.
NASTY: Final = (
    'you\'re an "idiot" \\n \\ $(touch pwned) `id` ${HOME} %s !! {x} @user ü🎁\n'
    "second \u2028 line' '''\"\"\" </script> \t end\\"
)
COMMANDS: Final = {
    "curl": ("bash", "-c"),
    "Python": (sys.executable, "-c"),
    "JavaScript": ("node", "--input-type=module", "--eval"),
}


def copied(page: Page, language: str) -> str:
    """Press the button of a language; return what the clipboard has, which the page shows."""
    page.get_by_role("button", name=language, exact=True).click()
    expect(page.get_by_role("button", name=language, exact=True)).to_have_attribute(
        "aria-pressed", "true"
    )
    expect(page.locator("#copied")).to_contain_text("Copied.")
    program: str = page.evaluate("navigator.clipboard.readText()")
    assert program == page.locator("#program").text_content()
    return program


def ran(command: Sequence[str], program: str, folder: Path, **environment: str) -> Any:
    """Run a program in an empty folder; return what it prints as JSON."""
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed")
    known = {name: value for name, value in os.environ.items() if name != "TOKEN"}
    done = subprocess.run(
        [*command, program],
        cwd=folder,
        env={**known, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert list(folder.iterdir()) == []
    return json.loads(done.stdout)


@pytest.mark.parametrize("language", COMMANDS)
def test_a_copied_program_gets_the_scores_on_the_page(
    server: HttpServer, open_page: OpenPage, tmp_path: Path, language: str
) -> None:
    page = open_page(permissions=["clipboard-read", "clipboard-write"])
    page.get_by_label("Flag what reaches").select_option("own")
    page.get_by_label("See through disguises").check()
    result = send(page, NASTY)
    result.get_by_text("JSON", exact=True).click()
    shown = json.loads(result.locator("pre").inner_text())
    program = copied(page, language)
    assert TOKEN not in program
    expect(page.locator("#copied")).to_contain_text("Set the environment variable TOKEN first.")
    reply = ran(COMMANDS[language], program, tmp_path, TOKEN=TOKEN)
    assert reply["text"] == shown["text"] == NASTY
    for label in LABELS:
        assert reply[label] == pytest.approx(shown[label], abs=1e-5)
    assert [word["word"] for word in reply["words"]] == [word["word"] for word in shown["words"]]
    assert reply["flagged"] == shown["flagged"] == ["toxic"]


def test_a_program_has_every_text_and_no_token_where_none_is_needed(
    open_page: OpenPage, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with http_server(tmp_path, MINI, {"BEARER_TOKEN": "", "ALLOW_ANONYMOUS": "1"}) as server:
        server.ready()
        permissions = ["clipboard-read", "clipboard-write"]
        page = open_page(f"{server.url}/demo", token="", permissions=permissions)
        texts = NASTY.split("\n")
        send_many(page, texts)
        for language, command in COMMANDS.items():
            program = copied(page, language)
            assert "TOKEN" not in program
            assert "TOKEN" not in page.locator("#copied").inner_text()
            items = ran(command, program, empty)["items"]
            assert [item["text"] for item in items] == texts
