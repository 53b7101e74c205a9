"""The progress bars of a run."""

from __future__ import annotations

import sys
from typing import NoReturn

from tqdm import tqdm


def bar(name: str, total: int | None, unit: str) -> tqdm[NoReturn]:
    """Return a progress bar on standard error; a log gets a line every ten seconds."""
    return tqdm(
        desc=name,
        total=total,
        unit=unit if unit == "B" else f" {unit}",
        unit_scale=unit == "B" or (total or 0) >= 1_000_000,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
        file=sys.stderr,
    )
