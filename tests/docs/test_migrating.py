"""What the page for users of other services says is true."""

from __future__ import annotations

import tomllib

from hatespeech.serving.compat.mapping import Meanings, load_meanings, tables
from hatespeech.serving.compat.served import served_protocols
from hatespeech.serving.settings import PROTOCOLS, ServerSettings
from tests.docs.pages import blocks
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")


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


def test_the_example_of_a_mapping_can_be_used() -> None:
    (example,) = (block.text for block in blocks(PAGE) if block.language == "toml")
    given = tomllib.loads(example)
    shipped = load_meanings(None).model_dump()
    assert given["perspective"]["attributes"].keys() <= shipped["perspective"]["attributes"].keys()
    Meanings.model_validate(given)
