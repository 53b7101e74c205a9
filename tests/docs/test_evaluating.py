"""docs/evaluating.md: its commands print what it shows, and its pictures are small."""

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

PAGE: Final = (ROOT / "docs" / "evaluating.md").read_text(encoding="utf-8")
BLOCKS: Final = list(blocks(PAGE))
# Each command, and what it or the filter behind its pipe prints.
EXAMPLES: Final = [
    (block.text, shown.text)
    for block, shown in itertools.pairwise(BLOCKS)
    if block.mark.startswith("run")
]
NUMBER: Final = r"\d+(?:\.\d+)?"


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
    for name, value in {"MODEL_DIR": str(EMBEDDED), "DEVICE": "cpu", "LOG_LEVEL": "ERROR"}.items():
        monkeypatch.setenv(name, value)
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


def test_pictures_are_small() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", PAGE)
    assert len(pictures) == 2
    for name in pictures:
        assert (ROOT / "docs" / name).stat().st_size <= 100_000
