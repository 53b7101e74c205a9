"""What the page for users of other services says is true."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

from hatespeech.serving.compat.mapping import load_meanings, tables
from hatespeech.serving.compat.served import served_protocols
from hatespeech.serving.settings import PROTOCOLS, ServerSettings
from tests.docs.pages import Block, blocks
from tests.paths import EMBEDDED, ROOT
from tests.support.http_client import TOKEN
from tests.support.local_server import LocalServer, local_server
from tests.support.other_clients import run_script
from tests.support.processes.worker import clean_environment

PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")


BLOCKS: Final = list(blocks(PAGE))
CLIENTS: Final = {
    block.mark.removeprefix("run with "): block.text
    for block in BLOCKS
    if block.mark.startswith("run with ")
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalServer]:
    with local_server(tmp_path_factory.mktemp("migrating"), EMBEDDED) as server:
        yield server.ready()


@pytest.mark.slow
@pytest.mark.parametrize("client", CLIENTS)
def test_every_clients_example_prints_its_scores(server: LocalServer, client: str) -> None:
    environment = {"URL": server.url, "TOKEN": TOKEN}
    assert re.search(r"0?\.\d+", run_script(client, CLIENTS[client], environment))


@pytest.mark.slow
def test_the_other_examples_run_in_their_order(server: LocalServer, tmp_path: Path) -> None:
    commands = {"sh": ["bash", "-euc"], "python": [sys.executable, "-W", "error", "-c"]}
    environment = {**clean_environment(tmp_path, EMBEDDED), "URL": server.url, "TOKEN": TOKEN}

    def run(block: Block) -> str:
        ran = subprocess.run(
            [*commands[block.language], block.text],
            cwd=tmp_path,
            env={**environment, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == 0, f"{block.text}\n{ran.stderr}"
        return ran.stdout

    printed = [
        run(block)
        for block in BLOCKS
        if block.language in commands
        and not block.mark.startswith("run with ")
        and not block.text.startswith("export TOKEN=")  # the server that runs already
    ]
    assert [len(out) > 0 for out in printed] == [True, False, True, True, True]
    assert "are flagged by both or by neither" in printed[2]


def test_the_page_holds_the_mapping() -> None:
    for table in tables().values():
        assert table in PAGE


def test_the_page_names_every_route_and_no_other() -> None:
    rows = [
        f"| `{protocol.name}` | {', '.join(f'`{route}`' for route in protocol.routes)} |"
        for protocol in served_protocols(ServerSettings())
    ]
    assert "\n".join(rows) in PAGE
    assert len(rows) == len(PROTOCOLS)


def test_the_example_of_a_mapping_can_be_used(tmp_path: Path) -> None:
    (example,) = (block.text for block in BLOCKS if block.language == "toml")
    own = tmp_path / "mapping.toml"
    own.write_text(example)
    shipped, meanings = load_meanings(None), load_meanings(own)
    assert f"`{meanings.version}`" in PAGE
    names = meanings.perspective.attributes.keys()
    assert names == shipped.perspective.attributes.keys()  # it invents none
    assert meanings.openai == shipped.openai
