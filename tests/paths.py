"""Folders that the tests read."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from hatespeech.paths import EMBEDDED, PACKAGE

ROOT: Final = Path(__file__).resolve().parent.parent
DATA: Final = ROOT / "tests" / "data"
SAMPLE: Final = ROOT / "benchmarks" / "data" / "sample.tsv"
MINI: Final = EMBEDDED

__all__ = ["DATA", "EMBEDDED", "MINI", "PACKAGE", "ROOT", "SAMPLE"]
