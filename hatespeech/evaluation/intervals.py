"""Estimates with their intervals of 95 %."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest  # type: ignore[import-untyped]  # ships no types

LEVEL: Final = 0.95
DRAWS: Final = 2000
SEED: Final = 20_170_612  # fixed, so that two runs on the same file agree


@dataclass(frozen=True)
class Estimate:
    """A figure and its interval; ``None`` if it is not defined, such as a share of nothing."""

    value: float | None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.value is None or self.low is None or self.high is None:
            return "–" if self.value is None else f"{self.value:.3f}"
        return f"{self.value:.3f} ({self.low:.3f}–{self.high:.3f})"


def resampled(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``[DRAWS, *counts.shape]``: a table of counts as other samples would have it.

    The bootstrap draws as many texts as there are, with replacement, and counts them anew. That is
    to draw the counts from a multinomial distribution, which takes no longer for many texts.
    """
    total = int(counts.sum())
    shares = counts.ravel() / max(1, total)
    drawn = np.random.default_rng(SEED).multinomial(total, shares, size=DRAWS)
    return drawn.reshape(DRAWS, *counts.shape)


def estimate(value: float, drawn: NDArray[np.float64], texts: int) -> Estimate:
    """Return a figure with the percentile interval of the same figure on :func:`resampled` counts.

    NaN is what is not defined; draws without a value do not count. ``texts`` is how many the figure
    rests on. Of a figure of 0 or 1 every draw has the same value, however few they are, so it gets
    the interval of :func:`share`.
    """
    if np.isnan(value):
        return Estimate(None)
    outside = 50 * (1 - LEVEL)
    low, high = np.nanpercentile(drawn, [outside, 100 - outside])
    if low == high:
        known = share(round(value * texts), texts)
        return Estimate(float(value), known.low, known.high)
    return Estimate(float(value), float(low), float(high))


def share(hits: int, total: int) -> Estimate:
    """Return a share with Wilson's interval, which is sound for few texts and for none of many."""
    if not total:
        return Estimate(None)
    interval = binomtest(hits, total).proportion_ci(LEVEL, method="wilson")
    return Estimate(hits / total, float(interval.low), float(interval.high))


def divide(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the quotients, NaN where the whole is 0."""
    quotients = np.full(np.shape(part), np.nan)
    np.divide(part, whole, out=quotients, where=whole > 0)
    return quotients
