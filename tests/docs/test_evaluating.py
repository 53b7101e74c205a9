"""docs/evaluating.md: its commands print what it shows, and its pictures show today's page."""

from __future__ import annotations

import csv
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
    if block.mark == "run: with the sample as labelled.tsv"
]
BESIDE: Final = next(block for block in BLOCKS if "theirs.csv" in block.mark)
NUMBER: Final = r"\d+(?:\.\d+)?"


@pytest.fixture(autouse=True)
def embedded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run in an empty folder, with the embedded checkpoint."""
    monkeypatch.chdir(tmp_path)
    for name, value in {"MODEL_DIR": str(EMBEDDED), "DEVICE": "cpu", "LOG_LEVEL": "ERROR"}.items():
        monkeypatch.setenv(name, value)


def masked(text: str) -> str:
    return re.sub(NUMBER, "N", re.sub(r"\w+@[0-9a-f]{12}", "MODEL", text))


def numbers(text: str) -> list[float]:
    return [float(each) for each in re.findall(NUMBER, re.sub(r"\w+@[0-9a-f]{12}", "", text))]


@pytest.mark.parametrize(("example", "shown"), EXAMPLES, ids=lambda text: text[:40])
def test_an_example_prints_what_the_page_shows(
    example: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
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


def test_texts_without_labels_are_compared_with_another_service(
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = {"good morning": 0.05, "you are scum": 0.9, "what an idiot": 0.8, "nice to see you": 0.1}
    for name, columns in {"week.csv": ("text",), "theirs.csv": ("text", "TOXICITY")}.items():
        with Path(name).open("w", newline="") as file:
            csv.writer(file).writerows([columns, *(row[: len(columns)] for row in rows.items())])
    for line in BESIDE.text.splitlines():
        program, *arguments = shlex.split(line)
        assert program == "hatespeech"
        assert run([*arguments]) == 0
    printed = capsys.readouterr().out
    assert "4 rows, 0 with a label and scores" in printed
    assert "toxic and TOXICITY rank 4 texts with a correlation of " in printed
    assert "accuracy" not in printed, "the model's answers are not labels"


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
