"""What CONTRIBUTING.md says to run prints what its steps need."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.pages import marked, run_shell
from tests.paths import ROOT
from tests.support.processes.worker import clean_environment


@pytest.mark.slow
def test_each_command_prints_a_table_that_a_page_holds(tmp_path: Path) -> None:
    pages = ("settings.md", "contract.md")
    commands = marked("CONTRIBUTING.md", "run")
    assert len(commands) == len(pages)
    for command, page in zip(commands, pages, strict=True):
        folder = tmp_path / page
        folder.mkdir()
        printed = run_shell(command.text, folder, clean_environment(folder, None)).stdout
        tables = [f"{table.strip()}\n" for table in printed.split("\n\n")]
        assert all(table.startswith("| ") for table in tables)
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        assert all(table in text for table in tables)


def test_tests_that_are_named_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = re.findall(r"\btests/[\w/.]*\w", text)
    assert len(named) >= 6
    assert [path for path in named if not (ROOT / path).exists()] == []
