"""The table of disguises in the contract's page is what the embedded checkpoint does."""

from __future__ import annotations

import re

import pytest

from benchmarks import disguises, models
from tests.paths import ROOT

ROW = re.compile(r"\| (\w+) \| (.+) \| (\d\.\d\d) \| (\d\.\d\d) \| (\d\.\d\d) \|")


@pytest.mark.slow
def test_the_table_holds_and_meets_its_aims() -> None:
    page = (ROOT / "docs" / "contract.md").read_text(encoding="utf-8")
    written = ROW.findall(page.partition(disguises.BEGIN)[2].partition(disguises.END)[0])
    predictor = models.load()
    rows = disguises.measure(predictor, disguises.hateful(models.SAMPLE, disguises.TEXTS))
    assert [(kind, name) for kind, name, *_ in written] == [(row.kind, row.name) for row in rows]
    for row, (_, _, *figures) in zip(rows, written, strict=True):
        shown = pytest.approx([float(each) for each in figures], abs=0.011)
        assert [row.plain, row.disguised, row.robust] == shown, row.name
        assert row.plain - row.robust <= disguises.AIMS[row.kind], row.name
    neutral = disguises.texts_of(models.SAMPLE, "neutral")
    assert disguises.changed_labels(predictor, neutral) <= len(neutral) / 200
