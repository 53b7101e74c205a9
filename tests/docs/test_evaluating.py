"""docs/evaluating.md: its commands print what it shows, and its pictures are small."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Final

import pytest

from tests.docs.pages import blocks, run_shell
from tests.paths import EMBEDDED, ROOT, SAMPLE
from tests.support.processes.worker import clean_environment

PAGE: Final = "docs/evaluating.md"
BLOCKS: Final = list(blocks((ROOT / PAGE).read_text(encoding="utf-8")))
EXAMPLES: Final = [
    (block.text, shown.text if shown.mark == "output" else "")
    for block, shown in zip(BLOCKS, [*BLOCKS[1:], BLOCKS[0]], strict=True)
    if block.mark.startswith("run")
]
NUMBER: Final = r"\d+(?:\.\d+)?"


@pytest.mark.slow
def test_the_examples_print_what_the_page_shows(tmp_path: Path) -> None:
    assert len(EXAMPLES) >= 2
    environment = {**clean_environment(tmp_path, EMBEDDED), "LOG_LEVEL": "ERROR"}
    for number, (example, shown) in enumerate(EXAMPLES):
        folder = tmp_path / str(number)
        folder.mkdir()
        shutil.copy(SAMPLE, folder / "labelled.tsv")
        printed = run_shell(example, folder, environment).stdout
        assert [line.split() and re.sub(NUMBER, "N", line) for line in printed.splitlines()] == [
            re.sub(NUMBER, "N", line) for line in shown.splitlines()
        ], f"{example} prints:\n{printed}"
        # Another processor's rounding may move a text over a border.
        found = [float(each) for each in re.findall(NUMBER, printed.partition("\n")[2])]
        expected = [float(each) for each in re.findall(NUMBER, shown.partition("\n")[2])]
        assert found == pytest.approx(expected, abs=0.03), f"{example} prints:\n{printed}"


def test_pictures_are_small() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (ROOT / PAGE).read_text(encoding="utf-8"))
    assert len(pictures) == 2
    for name in pictures:
        assert (ROOT / "docs" / name).stat().st_size <= 100_000
