"""What holds for every page: links lead somewhere, paths exist, and examples run or say why not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Final

import pytest

from hatespeech.model.identity import CONFIG, model_id_of
from tests.docs.pages import PAGES, anchors, blocks
from tests.paths import EMBEDDED, ROOT

NAMES: Final = [str(page.relative_to(ROOT)) for page in PAGES]
FOLDERS: Final = r"\.runpod|benchmarks|docker|docs|examples|hatespeech|scripts|tests|utils"

# Languages of examples. Other blocks show output, a reply or a picture.
EXAMPLES: Final = frozenset({"sh", "console", "python", "javascript"})
# Of these pages a test runs every example in these languages.
RUN_WHOLE: Final[Mapping[str, frozenset[str]]] = {
    "docs/http.md": frozenset({"sh", "python"}),
    "docs/migrating.md": frozenset({"sh"}),
    "docs/nevermined.md": frozenset({"sh", "python"}),
    "docs/python.md": frozenset({"python"}),
}


@pytest.mark.parametrize("name", NAMES)
def test_every_link_leads_to_a_file_and_a_heading(name: str) -> None:
    page = ROOT / name
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text(encoding="utf-8")):
        path, _, anchor = target.partition("#")
        linked = page.parent / path if path else page
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("name", NAMES)
def test_every_path_of_the_repository_exists(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    named = re.findall(rf"`((?:{FOLDERS})/[^\s`:*]+)", text)
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.mark.parametrize("name", NAMES)
def test_every_example_is_run_by_a_test_or_says_why_not(name: str) -> None:
    unexplained = [
        block.text
        for block in blocks((ROOT / name).read_text(encoding="utf-8"))
        if block.language in EXAMPLES
        and block.language not in RUN_WHOLE.get(name, ())
        and not re.match(r"run\b|check: |not run: ", block.mark)
    ]
    assert unexplained == []


def test_every_model_id_is_that_of_the_embedded_checkpoint() -> None:
    config = json.loads((EMBEDDED / CONFIG).read_text(encoding="utf-8"))
    _, _, digits = model_id_of(config["name"], config["sha256"]).partition("@")
    texts = [page.read_text(encoding="utf-8") for page in PAGES]
    found = {each for text in texts for each in re.findall(r"\w@([0-9a-f]{12})\b", text)}
    assert found == {digits}


def test_pages_and_their_blocks_are_found() -> None:
    assert {"README.md", "CONTRIBUTING.md", "docs/index.md", "benchmarks/README.md"} <= set(NAMES)
    assert len(list(blocks((ROOT / "docs" / "runpod.md").read_text(encoding="utf-8")))) == 8
    assert len(list(blocks((ROOT / "docs" / "nevermined.md").read_text(encoding="utf-8")))) == 6
