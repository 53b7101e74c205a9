"""One self-contained page about an evaluation.

It has no script, loads nothing from the network, and shows texts only with --include-text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hatespeech.evaluation.agreement import Agreement
from hatespeech.evaluation.choices import Choice, Wish
from hatespeech.evaluation.comparison import Comparison, Disagreement, comparison_lines
from hatespeech.evaluation.groups import Gap
from hatespeech.evaluation.intervals import Estimate
from hatespeech.evaluation.results import ALL_ALIKE, Confusion, Figures, WrongRow
from hatespeech.evaluation.swap import SwapResult
from hatespeech.labels import LABELS
from hatespeech.pages import frame
from hatespeech.pages.frame import Column, Html, document, note, shown


@dataclass(frozen=True)
class Findings:
    """Everything that an evaluation found; what was not asked for is empty or ``None``."""

    source: str
    model: str | None
    rows: int
    errors: dict[str, int]  # rows without scores, by the code of the error
    unlabelled: int  # rows without a label, or without a majority
    layout: str | None
    figures: Figures | None  # None if no row has a label
    agreement: Agreement | None
    wrong: list[WrongRow]
    recommended: dict[str, dict[str, tuple[float, Estimate, Estimate]]]
    wish: Wish | None
    choices: list[Choice]
    comparison: Comparison | None
    swap: SwapResult | None
    pictures: dict[str, str]  # SVG by name


def render(found: Findings) -> str:
    """Return the page as HTML."""
    title = f"Evaluation on {found.source}"
    return document(title, f"<h1>{shown(title)}</h1>\n" + "\n".join(_sections(found)))


def _sections(found: Findings) -> Iterator[str]:
    yield _head(found)
    if found.figures is not None:
        yield from _labels(found.figures)
        if found.pictures:
            yield from _curves(found.figures, found.pictures)
    if found.recommended:
        yield from _recommended(found)
    if found.wish is not None:
        yield from _choices(found.wish, found.choices)
    if found.figures is not None and found.figures.groups:
        yield from _groups(found.figures)
    if found.agreement is not None:
        yield from _agreement(found.agreement)
    if found.comparison is not None:
        yield from _comparison(found.comparison)
    if found.swap is not None:
        yield from _swap(found.swap)
    if found.figures is not None:
        yield "<h2>Most wrong</h2>"
        yield note(
            "Rows to whose label the model gives the least. Look at them first: some labels are "
            "wrong."
        )
        yield wrong_rows(found.wrong)


def _labels(figures: Figures) -> Iterator[str]:
    yield "<h2>Labels</h2>"
    if figures.flags:
        yield from _flags(figures)
    else:
        yield f"<p>{shown(ALL_ALIKE[0].upper() + ALL_ALIKE[1:])}.</p>"
    yield "<h2>Confusion</h2>"
    yield note("A row holds the texts of one label; the columns are what the model calls them.")
    yield confusion(figures.confusion)


def _flags(figures: Figures) -> Iterator[str]:
    yield note(
        "Precision: of the texts that the model calls so, the share that is. Recall: of the texts "
        "that are, the share that it calls so. Brackets hold the interval of 95 %. Area is that "
        "under the precision–recall curve."
    )
    yield table(
        ["label", "precision", "recall", "F1", "area", "texts"],
        [
            [
                each.flag,
                each.precision,
                each.recall,
                each.f1,
                Estimate(each.average_precision),
                f"{each.positives:,}",
            ]
            for each in figures.flags
        ],
    )


def _curves(figures: Figures, pictures: Mapping[str, str]) -> Iterator[str]:
    yield "<h2>Curves</h2>"
    yield note(
        "First, precision over recall as the threshold falls. Then, how often the model is right "
        "at each confidence: on the dotted line its probabilities are what they say. Before "
        "and after: a calibration that was fitted on one half and is shown on the other."
    )
    drawn = "".join(f"<figure style='margin:0'>{svg}</figure>" for svg in pictures.values())
    yield f"<div class='grid'>{drawn}</div>"
    yield from _calibration(figures)


def _head(found: Findings) -> str:
    by = f" by {shown(found.model)}" if found.model else ""
    counted = found.figures.texts if found.figures else 0
    parts = [f"{found.rows:,} rows; {counted:,} have a label and scores{by}."]
    if found.unlabelled:
        tied = "" if found.agreement is None else ", or no majority"
        parts.append(f"{found.unlabelled:,} have no label{tied}.")
    parts += [f"{count:,} have no scores ({shown(code)})." for code, count in found.errors.items()]
    if found.layout:
        parts.append(f"The columns are those of {shown(found.layout)}.")
    said = f"<p>{' '.join(parts)}</p>"
    figures = found.figures
    if figures is None:
        return said
    right = f"Accuracy {figures.accuracy}"
    if figures.macro_f1.value is not None:
        right += f", macro-F1 {figures.macro_f1}"
    return f"{said}\n<p><b>{right}</b></p>"


def _calibration(figures: Figures) -> Iterator[str]:
    found = figures.calibration
    if found is None:
        return
    yield (
        f"<p>The expected calibration error (15 bins) is {found.error:.4f} over all texts. A "
        "temperature and biases fitted on one half change it on the other from "
        f"{found.half_before:.4f} to {found.half_after:.4f}.</p>"
    )


def _recommended(found: Findings) -> Iterator[str]:
    yield "<h2>Thresholds that the model recommends</h2>"
    yield table(
        ["name", "flag", "threshold", "precision", "recall"],
        [
            [name, flag, f"{least:g}", precision, recall]
            for name, flags in found.recommended.items()
            for flag, (least, precision, recall) in flags.items()
        ],
        words=2,
    )


def _choices(wish: Wish, choices: Sequence[Choice]) -> Iterator[str]:
    yield f"<h2>Thresholds for {shown(str(wish))}</h2>"
    yield note(
        "Chosen on one half of the texts; the figures are those of the other half. A wish is kept "
        "if the interval reaches it."
    )
    kept = {True: "kept", False: "not kept", None: ""}
    head = ["flag", "threshold", "precision", "recall", "flagged", "wish"]
    rows = [
        [
            each.flag,
            "none" if each.threshold is None else f"{each.threshold:g}",
            each.precision,
            each.recall,
            each.flagged,
            kept[each.kept] if each.cost is None else f"{each.cost:,.0f} for 1,000 texts",
        ]
        for each in choices
    ]
    yield table(head, rows)


def _groups(figures: Figures) -> Iterator[str]:
    flag = figures.flag
    yield "<h2>Groups</h2>"
    yield note(
        f"False positives: texts that are not {flag} but are called so. False negatives: {flag} "
        "texts that are missed."
    )
    yield gaps(figures.gaps)
    yield table(
        ["column", "group", "texts", "accuracy", "macro-F1", "false positives", "false negatives"],
        [
            [
                each.column,
                each.group,
                f"{each.texts:,}",
                f"{each.accuracy:.3f}",
                Estimate(each.macro_f1),
                each.false_positives,
                each.false_negatives,
            ]
            for each in figures.groups
        ],
        words=2,
    )
    for column, count in figures.left_out_groups.items():
        yield note(f"{shown(column)}: {count:,} smaller groups are not shown.")


def gaps(found: Sequence[Gap]) -> str:
    """Return a list of the largest gaps."""
    if not found:
        return "<p>No group has more errors than the other texts.</p>"
    lines = []
    for gap in found:
        sure = "" if gap.apart else "; the intervals overlap, so chance may explain it"
        lines.append(
            f"<li><b>{shown(gap.column)} {shown(gap.group)}</b>: {gap.errors} {gap.group_share}, "
            f"all others {gap.others_share}{sure}</li>"
        )
    return f"<p>The largest gaps:</p><ul>{''.join(lines)}</ul>"


def _agreement(found: Agreement) -> Iterator[str]:
    yield "<h2>Annotators</h2>"
    yield note(
        "Annotators disagree, and a model can't agree with people better than they agree with each "
        "other. Alpha is Krippendorff's: 1 is full agreement, 0 is chance."
    )
    rows: list[list[Any]] = [
        ["texts with at least two labels", f"{found.texts:,}"],
        ["alpha", Estimate(found.alpha)],
        ["all annotators agree", f"{found.all_agree:.3f}"],
        [
            "an annotator has the label of the others' majority",
            Estimate(found.annotator_and_others),
        ],
        ["the model has it", Estimate(found.model_and_others)],
        ["without a majority", f"{found.ties:,}"],
    ]
    yield table(["figure", "value"], rows)


def _comparison(found: Comparison) -> Iterator[str]:
    yield f"<h2>Against {shown(found.name)}</h2>"
    sentences = [line[0].upper() + line[1:] for line in comparison_lines(found)]
    yield "".join(f"<p>{shown(line)}.</p>" for line in sentences)
    if found.kappa is not None:
        yield note(f"Cohen's kappa of these decisions is {found.kappa:.3f}.")
    yield "<h3>Where the two differ most</h3>"
    columns = [Column("file"), Column("label")]
    columns += [Column(name, "number") for name in ("row", "ours", "theirs")]
    rows = [
        [each.file, each.truth or "", f"{each.row:,}", f"{each.ours:.4f}", f"{each.theirs:.4f}"]
        for each in found.disagreements
    ]
    yield frame.table(columns, rows, texts=_texts(found.disagreements))


def _swap(found: SwapResult) -> Iterator[str]:
    yield "<h2>Identity swap</h2>"
    yield note(
        "The name of each group stands in the same neutral and hateful sentences. Scores are the "
        "mean of toxic. In a neutral sentence a high score means that the name alone raises it."
    )
    for kind, spread in found.spread.items():
        yield (
            f"<p>In {kind} sentences the name moves the score by {spread:.3f}, most in "
            f"“{shown(found.widest[kind])}”.</p>"
        )
    yield table(
        ["kind", "group", "neutral", "called toxic", "hateful", "missed"],
        [
            [
                each.category,
                each.group,
                f"{each.neutral:.3f}",
                f"{each.neutral_called_toxic:.0%}",
                f"{each.hateful:.3f}",
                f"{each.hateful_missed:.0%}",
            ]
            for each in found.groups
        ],
        words=2,
    )


def confusion(found: Confusion) -> str:
    """Return the confusion as a table; the shade of a cell is its share of the row."""
    rows = []
    for truth, counts in zip(found.truths, found.counts, strict=True):
        cells = []
        for count in counts:
            part = count / max(1, sum(counts))
            shade = (
                f"--shade:color-mix(in srgb, var(--bar) {part * 70:.0f}%, transparent);"
                "background:var(--shade);box-shadow:0 0 0 .3rem var(--shade)"
            )
            cells.append(Html(f"<div style='{shade}'>{count:,}<br>{part:.0%}</div>"))
        rows.append([truth, *cells])
    return table(["labelled", *LABELS], rows)


def wrong_rows(found: Sequence[WrongRow]) -> str:
    """Return a table of the rows that the model is most wrong about."""
    if not found:
        return "<p>None.</p>"
    columns = [Column("file"), Column("label"), Column("model says")]
    columns += [Column("row", "number"), Column("its score of the label", "number")]
    rows = [
        [each.file, each.truth, each.label, f"{each.row:,}", f"{each.truth_score:.4f}"]
        for each in found
    ]
    return frame.table(columns, rows, texts=_texts(found))


def _texts(found: Sequence[WrongRow] | Sequence[Disagreement]) -> list[str] | None:
    """Return the text of each row; ``None`` without --include-text."""
    texts = [each.text for each in found]
    return None if all(text is None for text in texts) else [text or "" for text in texts]


def table(head: Sequence[str], rows: Sequence[Sequence[Any]], words: int = 1) -> str:
    """Return a table; the first ``words`` columns hold words, the others figures."""
    columns = [Column(name, "number" * (place >= words)) for place, name in enumerate(head)]
    return frame.table(columns, [[_cell(cell) for cell in row] for row in rows])


def _cell(value: Any) -> Any:
    """Return a value for a table; an interval stands below its estimate, in smaller letters."""
    if isinstance(value, Estimate) and value.low is not None:
        figure, _, interval = shown(value).partition(" ")
        return Html(f"{figure}<br><small>{interval}</small>")
    return value
