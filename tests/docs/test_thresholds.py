"""The page about thresholds has the figures of the embedded checkpoint."""

from __future__ import annotations

from benchmarks import thresholds
from tests.paths import EMBEDDED, ROOT, SAMPLE


def test_the_table_is_what_the_script_prints() -> None:
    page = (ROOT / "docs" / "thresholds.md").read_text(encoding="utf-8")
    printed = thresholds.table(EMBEDDED, SAMPLE)
    assert printed in page, f"python -m benchmarks.thresholds prints:\n{printed}"
