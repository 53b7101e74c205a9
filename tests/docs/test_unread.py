"""docs/unread.md: its tables and its example, and what the figures have to be."""

from __future__ import annotations

import contextlib
import io
import re
from collections import Counter
from collections.abc import Sequence

import pytest

from benchmarks import models
from benchmarks.unread import (
    LEAST_RIGHT,
    MOST_WRONG,
    SENTENCES,
    counted,
    embedded_encoder,
    read,
    table,
)
from hatespeech.engine.encoder import Encoder
from hatespeech.paths import EMBEDDED
from tests.paths import ROOT

PAGE = (ROOT / "docs" / "unread.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return embedded_encoder()


def share(counts: Sequence[Counter[str]]) -> float:
    return sum(found["any"] for found in counts) / sum(found["texts"] for found in counts)


def test_sentences_in_other_languages(encoder: Encoder) -> None:
    counts = counted(encoder, read(SENTENCES, "language"))
    assert f"<!-- sentences -->\n{table('language', counts)}" in PAGE
    assert len(counts) >= 25
    assert share(list(counts.values())) >= LEAST_RIGHT


def test_english_texts(encoder: Encoder) -> None:
    counts = counted(encoder, read(models.SAMPLE, "source"))
    assert f"<!-- sample -->\n{table('source', counts)}" in PAGE
    assert share(list(counts.values())) <= MOST_WRONG


def test_the_example_prints_what_the_page_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODEL_DIR", str(EMBEDDED))
    found = re.search(r"```python\n(.*?)```\n\n<!-- output -->\n```text\n(.*?)```", PAGE, re.DOTALL)
    assert found
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(found[1], "docs/unread.md", "exec"), {})
    assert printed.getvalue() == found[2]
