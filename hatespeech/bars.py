"""Progress bars on standard error."""

from __future__ import annotations

import sys
from typing import NoReturn

from tqdm import tqdm


class _Bars:
    """Whether this process shows its bars."""

    hidden = False


def hide_bars() -> None:
    """Show none from now on: this process has a log instead of a standard error."""
    _Bars.hidden = True


def progress_bar(name: str, total: int | None, unit: str, done: int = 0) -> tqdm[NoReturn]:
    """Return a bar. If standard error is not a terminal, it writes a line every ten seconds.

    ``unit`` is ``B`` for bytes, or the name of what is counted, such as ``rows``.
    """
    bar = tqdm(
        desc=name,
        total=total,
        initial=done,
        unit=unit if unit == "B" else f" {unit}",
        unit_scale=unit == "B" or (total or 0) >= 1_000_000,
        mininterval=0.1 if sys.stderr.isatty() else 10.0,
        file=sys.stderr,
        disable=_Bars.hidden,
    )
    bar.initial = done  # a hidden one lacks it
    return bar
