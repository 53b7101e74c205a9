"""docs/evaluating.md: its commands print what it shows, and its pictures show today's page."""

from __future__ import annotations

import itertools
import re
import shlex
import shutil
from pathlib import Path
from typing import Final

import pytest

from hatespeech.console.commands import run
from tests.docs.pages import blocks
from tests.paths import EMBEDDED, ROOT, SAMPLE
from tests.support.evaluation_pictures import DESK, PHONE, evaluation_page, layout, layout_in

PAGE: Final = (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8")
BLOCKS: Final = list(blocks(PAGE))
# Each command, and what it or the filter behind its pipe prints.
EXAMPLES: Final = [
    (block.text, shown.text)
    for block, shown in itertools.pairwise(BLOCKS)
    if block.mark.startswith("run")
]
NUMBER: Final = r"\d+(?:\.\d+)?"


@pytest.fixture(autouse=True)
def embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"MODEL_DIR": str(EMBEDDED), "DEVICE": "cpu", "LOG_LEVEL": "ERROR"}.items():
        monkeypatch.setenv(name, value)


def masked(text: str) -> str:
    return re.sub(NUMBER, "N", re.sub(r"\w+@[0-9a-f]{12}", "MODEL", text))


def numbers(text: str) -> list[float]:
    return [float(each) for each in re.findall(NUMBER, re.sub(r"\w+@[0-9a-f]{12}", "", text))]


@pytest.mark.parametrize(("example", "shown"), EXAMPLES, ids=lambda text: text[:40])
def test_an_example_prints_what_the_page_shows(
    example: str,
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(SAMPLE, "labelled.tsv")
    program, *arguments = shlex.split(example.partition("|")[0])
    assert program == "hatespeech"
    assert run([*arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    wanted = shown.splitlines()
    starts = [index for index, line in enumerate(lines) if masked(line) == masked(wanted[0])]
    assert starts, f"{example} prints:\n" + "\n".join(lines)
    printed = lines[starts[0] : starts[0] + len(wanted)]
    assert [masked(line) for line in printed] == [masked(line) for line in wanted], printed
    # Another processor's rounding may move a text over a border.
    expected = [numbers(line) for line in wanted]
    for line, found, values in zip(printed, map(numbers, printed), expected, strict=True):
        assert found == pytest.approx(values, abs=0.03), line


def test_every_example_is_found() -> None:
    assert len(EXAMPLES) == 3


def test_pictures_show_the_page_of_the_present_checkpoint(tmp_path: Path) -> None:
    page = evaluation_page(tmp_path).read_text(encoding="utf-8")
    for picture in (DESK, PHONE):
        old = layout_in(picture) != layout(page)
        assert not old, f"{picture.name} is old: run python -m tests.support.evaluation_pictures"


def test_pictures_are_small() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGE)
    assert pictures == [DESK.name, PHONE.name]
    for picture in (DESK, PHONE):
        assert picture.stat().st_size <= 100_000
