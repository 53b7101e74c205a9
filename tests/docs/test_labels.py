"""docs/labels.md: five examples on each side of every border between two labels."""

from __future__ import annotations

import itertools
import re
from typing import Final

from hatespeech.labels import LABELS
from tests.paths import ROOT

PAGE: Final = (ROOT / "docs" / "labels.md").read_text(encoding="utf-8")


def test_every_border_has_five_examples_on_each_side() -> None:
    sections = re.findall(r"^### (\w+) and (\w+)\n(.*?)(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    borders = {frozenset(names[:2]) for names in sections}
    assert borders == {frozenset(pair) for pair in itertools.combinations(LABELS, 2)}
    seen: list[str] = []
    for one, other, text in sections:
        head, _, *rows = re.findall(r"^\| (.+) \| (.+) \|$", text, re.MULTILINE)
        assert head == (one, other)
        assert len(rows) == 5
        seen += [example for row in rows for example in row]
    assert len(seen) == len(set(seen)), "an example stands there twice"
