"""Pictures: PNG files for a model card, SVG for the page of an evaluation."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from hatespeech.evaluation.calibration import (
    Labels,
    Logits,
    expected_calibration_error,
    reliability,
)
from hatespeech.labels import LABELS

# In an SVG these become the page's own colours, which follow the reader's light or dark theme.
INK: Final = "#010203"
SOFT: Final = "#040506"
PAGE_COLOURS: Final = {INK: "var(--ink)", SOFT: "var(--soft)"}
# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), told apart by colour-blind readers and
# on both themes.
COLOURS: Final = ("#d55e00", "#e69f00", "#009e73", "#0072b2", "#cc79a7")
STYLES: Final = ("-", "--", "-.", ":", (0, (3, 1, 1, 1, 1, 1)))


def draw_confusion(confusion: NDArray[np.int64]) -> Figure:
    """Draw the confusion matrix; a row shows shares of one true label."""
    totals = confusion.sum(axis=1, keepdims=True)
    shares = confusion / np.maximum(totals, 1)
    figure = Figure(figsize=(4.2, 3.8), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_xticks(range(len(LABELS)), LABELS)
    axes.set_yticks(range(len(LABELS)), LABELS)
    axes.set_xlabel("predicted")
    axes.set_ylabel("labelled")
    for (row, column), share in np.ndenumerate(shares):
        colour = "white" if share > 0.5 else "black"
        text = f"{share:.0%}\n{confusion[row, column]}"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
    return figure


def draw_reliability(before: Logits, after: Logits, labels: Labels) -> Figure:
    """Draw accuracy over confidence, before and after calibration."""
    least = 0.8 / before.shape[1]  # the largest of several probabilities is not below their mean
    figure = Figure(figsize=(4.2, 3.8), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="dotted")
    for logits, name, style in ((before, "before", "--"), (after, "after", "-")):
        confidence, accuracy, _ = reliability(logits, labels)
        error = expected_calibration_error(logits, labels)
        axes.plot(
            confidence, accuracy, style, marker="o", markersize=3, label=f"{name}: {error:.3f}"
        )
    axes.set(xlim=(least, 1), ylim=(least, 1), xlabel="confidence", ylabel="accuracy")
    axes.legend(title="expected calibration error", fontsize=8, title_fontsize=8)
    return figure


def draw_curves(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Draw precision over recall; ``curves`` holds recall and precision by flag."""
    figure = Figure(figsize=(4.2, 3.8), dpi=90, layout="constrained")
    axes = figure.add_subplot()
    for (name, (recall, precision)), colour, style in zip(
        curves.items(), COLOURS, STYLES, strict=False
    ):
        axes.plot(
            recall,
            precision,
            color=colour,
            linestyle=style,
            linewidth=1.6,
            label=name,
            drawstyle="steps-post",
        )
    axes.set(xlim=(0, 1.01), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.legend(fontsize=8)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a small PNG without the name of what made it."""
    figure.savefig(path, metadata={"Software": None})


def svg_of(figure: Figure, name: str) -> str:
    """Return a picture as an element of a page; ``name`` is what a screen reader says.

    Its text is text, its background is the page's, and it has no script and no link.
    """
    _recolour(figure)
    written = io.StringIO()
    # The ids of its parts are made from the salt: two pictures of a page need ids of their own.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    drawn = written.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'<g id="[^"]*"', "<g", drawn)  # every picture has the same ones
    for colour, own in PAGE_COLOURS.items():
        drawn = drawn.replace(colour, own)
    size = re.search(r'viewBox="[^"]+"', drawn)
    assert size is not None  # noqa: S101 - matplotlib writes one
    head = (
        f'<svg {size[0]} role="img" aria-label="{name}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    )
    return head + drawn[drawn.index(">") + 1 :]


def _recolour(figure: Figure) -> None:
    """Draw axes, ticks and legends in the page's colours."""
    for axes in figure.axes:
        axes.tick_params(colors=SOFT, labelcolor=SOFT)
        parts: list[Any] = [axes.xaxis.label, axes.yaxis.label]
        legend = axes.get_legend()
        if legend is not None:
            parts += [*legend.get_texts(), legend.get_title()]
            legend.get_frame().set(facecolor="none", edgecolor=SOFT)
        for part in parts:
            part.set_color(INK)
        for spine in axes.spines.values():
            spine.set_color(SOFT)
