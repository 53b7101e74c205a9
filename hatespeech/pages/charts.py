"""Histograms and curves as SVG, each on a linear or a logarithmic scale.

They are two shapes and two axes, drawn in the page's own colours. A charting library would bring a
script, or fixed colours and megabytes of dependencies for as many lines.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from hatespeech.pages.frame import Html, shown

WIDTH: Final = 360
HEIGHT: Final = 190
LEFT, RIGHT, TOP, BOTTOM = 56, 348, 22, 154  # of the area inside the axes
LOG_SCALE: Final = "logarithmic"
LINEAR_SCALE: Final = "linear"
SCALES: Final = (LINEAR_SCALE, LOG_SCALE)
DASHES: Final = ("6 3", "2 3", "8 2 2 2")  # of the marks, by their order


class Mark(NamedTuple):
    """A threshold that has a name, and the share of rows that it flags."""

    name: str
    x: float
    share: float


class _Axis(NamedTuple):
    """A vertical axis: the value at its foot, the value at its top, and where it has ticks."""

    least: float
    most: float
    ticks: Sequence[float]
    scale: str

    def y(self, value: float) -> float:
        """Return where a value stands."""
        if self.scale == LOG_SCALE:
            value = math.log(max(value, self.least) / self.least)
            part = value / math.log(self.most / self.least)
        else:
            part = (value - self.least) / (self.most - self.least)
        return BOTTOM - part * (BOTTOM - TOP)


def histogram(title: str, counts: Sequence[int], scale: str) -> Html:
    """Return numbers of rows by score; each count is that of an equal part of 0 to 1."""
    axis = _count_axis(max(counts), scale)
    step = (RIGHT - LEFT) / len(counts)
    drawn = []
    for index, count in enumerate(counts):
        if count:
            y = min(axis.y(count), BOTTOM - 2)
            span = f"{index / len(counts):.3f} to {(index + 1) / len(counts):.3f}"
            drawn.append(
                f'<rect x="{LEFT + index * step + 0.5:.1f}" y="{y:.1f}" '
                f'width="{step - 1:.1f}" height="{BOTTOM - y:.1f}">'
                f"<title>{span}: {count:,} rows</title></rect>"
            )
    labels = [_short(tick) for tick in axis.ticks]
    return _drawing(f"{title}, {scale} scale", "rows", "score", axis, labels, drawn)


def curve(title: str, shares: Sequence[float], marks: Sequence[Mark], scale: str) -> Html:
    """Return shares of rows by threshold, at equal steps from 0 to 1, with marks on the curve.

    A step whose share is 0 has no point on a logarithmic scale.
    """
    smallest = min((share for share in shares if share), default=1.0)
    axis = _share_axis(smallest, scale)
    last = len(shares) - 1
    points = [
        f"{_x(index / last):.1f} {axis.y(share):.1f}"
        for index, share in enumerate(shares)
        if share or scale == LINEAR_SCALE
    ]
    drawn = [f'<path class="curve" d="M{"L".join(points)}"/>'] if points else []
    ordered = sorted(marks, key=lambda mark: mark.x)
    for row, mark in enumerate(ordered):
        drawn += _drawn_mark(row, mark, axis, leftward=row < len(ordered) - 1)
    labels = [f"{tick:.6%}".rstrip("0%").rstrip(".") + " %" for tick in axis.ticks]
    return _drawing(f"{title}, {scale} scale", "flagged", "threshold", axis, labels, drawn)


def _drawn_mark(row: int, mark: Mark, axis: _Axis, leftward: bool) -> Iterator[str]:
    """Yield a line down from a mark's name, and a point where it meets the curve."""
    x = _x(mark.x)
    y = TOP + 12 + 15 * row
    # A name stands away from the next mark, if there is room for it.
    leftward = mark.x > 0.7 or (leftward and mark.x > 0.3)
    place, anchor = (x - 4, "end") if leftward else (x + 4, "start")
    yield (
        f'<path class="mark" stroke-dasharray="{DASHES[row % len(DASHES)]}" '
        f'd="M{x:.1f} {TOP}V{BOTTOM}"/>'
    )
    if mark.share or axis.scale == LINEAR_SCALE:
        yield f'<circle cx="{x:.1f}" cy="{axis.y(mark.share):.1f}" r="3.5"/>'
    yield (
        f'<text class="mark" x="{place:.1f}" y="{y}" text-anchor="{anchor}">'
        f"{shown(mark.name)} {mark.x:g}</text>"
    )


def _drawing(
    title: str, upward: str, along: str, axis: _Axis, labels: Sequence[str], drawn: Sequence[str]
) -> Html:
    """Return the SVG: axes, their ticks and names, and what is drawn between them."""
    ticks = "".join(
        f'<path d="M{LEFT} {axis.y(tick):.1f}H{RIGHT}"/>'
        f'<text x="{LEFT - 5}" y="{axis.y(tick) + 4:.1f}" text-anchor="end">{label}</text>'
        for tick, label in zip(axis.ticks, labels, strict=True)
    )
    below = "".join(
        f'<path d="M{_x(x):.1f} {BOTTOM}v4"/>'
        f'<text x="{_x(x):.1f}" y="{BOTTOM + 17}" text-anchor="middle">{x:g}</text>'
        for x in (0, 0.25, 0.5, 0.75, 1)
    )
    names = (
        f'<text x="0" y="12">{upward}</text>'
        f'<text x="{(LEFT + RIGHT) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">{along}</text>'
    )
    return Html(
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{shown(title)}">'
        f"<title>{shown(title)}</title>"
        f'{ticks}<path d="M{LEFT} {TOP}V{BOTTOM}H{RIGHT}"/>{below}{names}{"".join(drawn)}</svg>'
    )


def _x(value: float) -> float:
    return LEFT + value * (RIGHT - LEFT)


def _count_axis(most: int, scale: str) -> _Axis:
    most = max(most, 4)
    if scale == LOG_SCALE:
        powers = range(int(math.log10(most)) + 1)
        ticks = [10.0**power for power in powers[:: _every(powers)]]
        return _Axis(0.5, most, ticks, scale)  # so that a single row stands above the foot
    step = _round_step(most / 4)
    return _Axis(0, most, [step * n for n in range(int(most / step) + 1)], scale)


def _share_axis(smallest: float, scale: str) -> _Axis:
    if scale == LOG_SCALE:
        powers = range(0, min(-1, math.floor(math.log10(max(smallest, 1e-6)))) - 1, -1)
        ticks = [10.0**power for power in powers[:: _every(powers)]]
        return _Axis(10.0 ** powers[-1], 1, ticks, scale)
    return _Axis(0, 1, [0, 0.25, 0.5, 0.75, 1], scale)


def _every(powers: Sequence[int]) -> int:
    """Return the distance of ticks that leaves at most six of them."""
    return 1 + (len(powers) - 1) // 6


def _round_step(least: float) -> float:
    """Return the smallest of 1, 2, 5, 10, 20, 50 … that is at least ``least``."""
    power = 10.0 ** math.floor(math.log10(max(least, 1)))
    return max(1.0, next(power * n for n in (1, 2, 5, 10) if power * n >= least))


def _short(count: float) -> str:
    """Return a number of rows in few characters."""
    for least, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= least:
            return f"{count / least:g}{unit}"
    return f"{count:g}"
