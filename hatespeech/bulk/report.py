"""The page of ``--report`` and ``hatespeech report``: what a run's scores say.

It shows texts only with ``--include-text``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from hatespeech.bulk.statistics import (
    ERROR,
    EXAMPLES,
    GROUPS,
    NAME_CHARS,
    SHOWN_CHARS,
    STEPS,
    Example,
    GroupCounts,
    Statistics,
)
from hatespeech.labels import FLAGS, LABELS
from hatespeech.model.identity import find_thresholds
from hatespeech.pages.charts import SCALES, Mark, curve, histogram
from hatespeech.pages.frame import LABEL_COLOURS, Column, Html, document, note, shown, table
from hatespeech.paths import EMBEDDED, PUBLISHED
from hatespeech.settings import EngineSettings

# toxic is no label, and has the colour of the text.
STYLE = f"{LABEL_COLOURS}[data-label='toxic'] {{ --label: var(--ink); }}\n"
BARS = 40  # of a histogram
CURVE_STEPS = 200
TABLE_THRESHOLDS = [tenth / 10 for tenth in range(1, 10)]
SHOWN_GROUPS = 50
SHOWN_INPUTS = 10


@dataclass(frozen=True)
class Origin:
    """Where scores come from, as far as it is known."""

    inputs: Sequence[str]  # names
    model: str | None
    embedded: bool  # the model is the one for trying
    thresholds: Mapping[str, Mapping[str, float]]  # to mark: name -> flag -> number
    settings: Mapping[str, Any]
    finished: str | None  # UTC, in ISO 8601
    scored: int | None  # rows scored by the process that finished, not by earlier ones
    seconds: float | None  # spent on them


def origin_of(receipt: Mapping[str, Any], settings: EngineSettings) -> Origin:
    """Return what OUT.run.json says; one of an earlier version says less."""
    run = receipt["run"]
    model = receipt.get("model")
    told = {**described(model, settings), **receipt}
    return Origin(
        [name for name, *_ in run["inputs"]],
        model,
        told["embedded"],
        {**_given(run), **told["recommended"]},
        {name: value for name, value in run.items() if name not in ("format", "inputs")},
        receipt.get("finished"),
        receipt.get("scored"),
        receipt.get("seconds"),
    )


def _given(run: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the thresholds that a run was given, by their name if they have one."""
    found = run.get("--thresholds") or {}
    numbers = {str(flag): found[flag] for flag in FLAGS if flag in found}
    return {found.get("name", "given"): numbers} if numbers else {}


def described(model: str | None, settings: EngineSettings) -> dict[str, Any]:
    """Return what the folders of this machine say about a model, for the receipt."""
    folders = [settings.model_dir] if settings.model_dir else []
    folders += [PUBLISHED, EMBEDDED]
    return {
        "embedded": model is not None and find_thresholds(model, [EMBEDDED]) is not None,
        "recommended": (find_thresholds(model, folders) if model else None) or {},
    }


def render(statistics: Statistics, origin: Origin | None, out: str) -> str:
    """Return the page as HTML; ``out`` is the output's name, ``None`` stands for unknown."""
    title = f"Scores of {out}"
    body = "\n".join(_sections(statistics, origin))
    return document(title, f"<h1>{shown(title)}</h1>\n{body}", STYLE)


def _sections(statistics: Statistics, origin: Origin | None) -> Iterator[str]:
    yield _counted(statistics)
    yield from _header(origin)
    yield "<h2>Labels</h2>"
    counts = {str(label): statistics.labels[label] for label in LABELS}
    yield _bars("label", counts, statistics.scored, "Rows by label, the highest of the four scores")
    yield from _distributions(statistics)
    yield from _curves(statistics, origin.thresholds if origin else {})
    for name, groups in statistics.groups.items():
        yield from _groups(name, groups)
    yield from _problems(statistics)
    yield from _examples(statistics)


def _counted(statistics: Statistics) -> str:
    windows = (
        f" {statistics.long_texts:,} were read in several windows." if statistics.long_texts else ""
    )
    return (
        f"<p>{statistics.rows:,} rows, {statistics.scored:,} of them scored.{windows}</p>\n"
        + note(
            "Scores are the model's opinion, learnt from people's labels: the probability of a "
            "label, not a degree of harm."
        )
    )


def _header(origin: Origin | None) -> Iterator[str]:
    if origin is None:
        yield note("Inputs, model and settings are not known: OUT.run.json is not beside OUT.")
        return
    if origin.embedded:
        yield (
            "<p class='warning' role='note'><b>For trying only.</b> This model is the small one "
            "that comes with the package. It is for trying and testing, not for moderating.</p>"
        )
    names = [str(shown(name)) for name in origin.inputs[:SHOWN_INPUTS]]
    if len(origin.inputs) > SHOWN_INPUTS:
        names.append(f"and {len(origin.inputs) - SHOWN_INPUTS:,} more")
    lines = {
        "inputs": f"{len(origin.inputs):,}: {', '.join(names)}",
        "model": escape(origin.model) if origin.model else "none: there were no rows",
        "finished": _time(origin.finished),
        "duration": _duration(origin),
        "settings": ", ".join(
            f"{shown(name)} {_setting(value)}"
            for name, value in origin.settings.items()
            if value not in ("", None)
        ),
    }
    listed = "".join(f"<dt>{name}</dt><dd>{line}</dd>" for name, line in lines.items())
    yield f"<dl>{listed}</dl>"


def _time(finished: str | None) -> str:
    if finished is None:
        return "not known"
    return (
        f"<time datetime='{escape(finished)}'>{escape(finished[:16].replace('T', ' '))} UTC</time>"
    )


def _duration(origin: Origin) -> str:
    if origin.scored is None or origin.seconds is None:
        return "not known"
    if not origin.scored:
        return "an earlier process scored all rows"
    seconds = origin.seconds
    if seconds < 60:
        spent = f"{seconds:.1f} s"
    else:
        minutes = round(seconds / 60)
        spent = f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"
    return f"{spent} for the {origin.scored:,} rows that the last process scored"


def _setting(value: Any) -> Html:
    if isinstance(value, bool):
        return Html("on" if value else "off")
    if isinstance(value, Mapping):
        return shown(" ".join(f"{name}={each}" for name, each in value.items()))
    return shown(".".join(filter(None, value)) if isinstance(value, list) else value)


def _name(flag: str) -> str:
    """Return the heading of a flag, in its colour."""
    return f"<h3 class='name' data-label='{flag}'>{flag}</h3>"


def _distributions(statistics: Statistics) -> Iterator[str]:
    yield "<h2>Distribution of each score</h2>"
    yield note(
        f"Number of rows by score, in {BARS} steps. A logarithmic scale shows small counts beside "
        "large ones. Toxic is the sum of hate and abusing."
    )
    for flag, bins in zip(FLAGS, statistics.bins, strict=True):
        counts = bins[:STEPS].reshape(BARS, -1).sum(axis=1)
        counts[-1] += bins[STEPS]
        title = f"Rows by their score of {flag}"
        yield _name(flag)
        yield _figures(flag, [histogram(title, counts.tolist(), scale) for scale in SCALES])


def _figures(flag: str, drawings: Sequence[Html]) -> str:
    """Return a drawing on each scale, side by side where there is room."""
    figures = "".join(
        f"<figure>{drawing}<figcaption>{scale} scale</figcaption></figure>"
        for drawing, scale in zip(drawings, SCALES, strict=True)
    )
    return f"<div class='grid' data-label='{flag}'>{figures}</div>"


def _curves(statistics: Statistics, thresholds: Mapping[str, Mapping[str, float]]) -> Iterator[str]:
    yield "<h2>Share flagged by threshold</h2>"
    said = (
        "The vertical lines are the thresholds that the model recommends, and those that the run "
        "was given."
        if thresholds
        else "No thresholds are known that the model recommends."
    )
    yield note(f"A row is flagged if its score reaches the threshold. {said}")
    scored = max(1, statistics.scored)
    shares = {str(flag): statistics.flagged(flag) / scored for flag in FLAGS}
    marks = [
        (flag, Mark(name, least, float(shares[flag][_step(least)])))
        for name, numbers in thresholds.items()
        for flag, least in numbers.items()
    ]
    for flag in shares:
        own = [mark for marked, mark in marks if marked == flag]
        points = shares[flag][:: STEPS // CURVE_STEPS].tolist()
        title = f"Share of rows flagged as {flag} by threshold"
        yield _name(flag)
        yield _figures(flag, [curve(title, points, own, scale) for scale in SCALES])
    if marks:
        yield table(
            [Column("thresholds"), Column("flag"), *_numbers("threshold", "rows", "share")],
            [
                [mark.name, flag, f"{mark.x:g}", f"{mark.share * scored:,.0f}", f"{mark.share:.2%}"]
                for flag, mark in marks
            ],
            "Rows flagged by the thresholds that are marked",
        )
    yield table(
        [Column("flag"), *_numbers(*(f"{each:g}" for each in TABLE_THRESHOLDS))],
        [
            [flag, *(f"{share[_step(each)]:.2%}" for each in TABLE_THRESHOLDS)]
            for flag, share in shares.items()
        ],
        "Share flagged by other thresholds",
    )


def _step(threshold: float) -> int:
    """Return the place of a threshold among the steps; one between two counts as the upper."""
    return math.ceil(round(threshold * STEPS, 6))


def _numbers(*names: str) -> list[Column]:
    return [Column(name, "number") for name in names]


def _groups(name: str, groups: GroupCounts) -> Iterator[str]:
    yield f"<h2>By {shown(name)}</h2>"
    ranked = sorted(groups.values.items(), key=lambda item: (-item[1].total(), item[0]))
    if len(groups.values) == GROUPS and groups.others:
        yield note(
            f"The column has more than {GROUPS:,} values. Those after the first {GROUPS:,} are "
            "counted together."
        )
    rows = [
        (_cut(value, NAME_CHARS) or "(empty)", counts) for value, counts in ranked[:SHOWN_GROUPS]
    ]
    rest = groups.others.copy()
    for _, counts in ranked[SHOWN_GROUPS:]:
        rest.update(counts)
    if rest:
        rows.append(("all other values", rest))
    lines = []
    for value, counts in rows:
        scored = counts.total() - counts[ERROR]
        shares = [f"{counts[label] / scored:.1%}" if scored else "–" for label in LABELS]
        lines.append([value, f"{counts.total():,}", *shares, f"{counts[ERROR]:,}"])
    yield table(
        [Column(name, "word"), *_numbers("rows", *LABELS, "errors")],
        lines,
        f"Rows by value, the {SHOWN_GROUPS} most frequent ones, and the share of each label among "
        "the scored rows",
    )


def _problems(statistics: Statistics) -> Iterator[str]:
    yield "<h2>Warnings</h2>"
    yield note(
        "Rows whose scores may mean nothing. <b>unread</b>: at least half of the letters are "
        "unknown to the model. <b>language</b>: the text is in none of the languages it was "
        "trained on."
    )
    if statistics.warnings:
        counts = dict(sorted(statistics.warnings.items()))
        yield _bars("warning", counts, statistics.scored, "Scored rows by warning")
    else:
        yield "<p>The model can read every row that was scored.</p>"
    yield "<h2>Errors</h2>"
    if statistics.errors:
        counts = dict(sorted(statistics.errors.items()))
        yield _bars("error", counts, statistics.rows, "Rows without scores by error")
    else:
        yield "<p>Every row was scored.</p>"


def _bars(name: str, counts: Mapping[str, int], whole: int, caption: str) -> str:
    """Return a table of counts, each with its share of ``whole``."""
    rows = []
    for key, count in counts.items():
        share = count / whole if whole else 0.0
        colour = f" data-label='{key}'" if key in FLAGS else ""
        bar = Html(f"<div{colour} style='width:{share:.2%}' aria-hidden='true'></div>")
        rows.append([key, f"{count:,}", f"{share:.2%}", bar])
    return table([Column(name), *_numbers("rows", "share"), Column("", "share")], rows, caption)


def _examples(statistics: Statistics) -> Iterator[str]:
    yield "<h2>Highest in each score</h2>"
    yield note(f"Up to {EXAMPLES} rows each. Of copies of a text only the first is shown.")
    columns = statistics.columns.id, statistics.keep_texts
    if columns[0] is not None and (empty := statistics.empty[columns[0]]):
        yield note(f"{empty:,} of {statistics.rows:,} rows have no {shown(columns[0])}.")
    for place, (flag, ranking) in enumerate(statistics.highest.items()):
        yield _name(flag)
        found = ranking.examples
        yield _rows(found, [(flag, place)], f"Rows highest in {flag}", *columns)
    yield "<h2>Least certain</h2>"
    yield note("Rows whose highest score is lowest: look at them first.")
    found = statistics.least_certain.examples
    scores = [(label, place) for place, label in enumerate(LABELS)]
    yield _rows(found, scores, "Rows of which the model is least certain", *columns)


def _rows(
    found: Sequence[Example],
    scores: Sequence[tuple[str, int]],  # to show, each with its place among FLAGS
    caption: str,
    id_column: str | None,
    with_text: bool,
) -> str:
    """Return a table of example rows."""
    if not found:
        return "<p>None.</p>"
    with_file = any(example.file for example in found)
    columns = [Column("file", "word")] * with_file + [Column("row", "number")]
    columns += [Column(id_column, "word")] if id_column is not None else []
    columns += [*_numbers(*(name for name, _ in scores)), Column("label")]
    rows = []
    for example in found:
        cells = [example.file] * with_file + [f"{example.row:,}"]
        cells += [_cut(example.id or "", NAME_CHARS)] if id_column is not None else []
        cells += [f"{example.scores[place]:.4f}" for _, place in scores] + [example.label]
        rows.append(cells)
    texts = [_cut(example.text or "", SHOWN_CHARS) for example in found] if with_text else None
    below = ", each with its text below" if with_text else ""
    return table(columns, rows, f"{caption}{below}", texts)


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
