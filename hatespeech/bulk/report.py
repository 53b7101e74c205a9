"""One self-contained page about the scores of a run.

It has no script, loads nothing from the network, and shows texts only with --include-text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from hatespeech.bulk.statistics import BINS, SHOWN_CHARS, Example, Statistics
from hatespeech.labels import FLAGS, LABELS

WIDTH, HEIGHT, AXIS = 400, 120, 20

STYLE = """
:root { color-scheme: light dark; --back: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0;
  --bar: #2f6fbe; }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171b; --ink: #e6e9ed; --soft: #9aa4af; --line: #333a42; --bar: #6aa5ea; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; } p { margin: .25rem 0; } .soft { color: var(--soft); }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
svg { width: 100%; height: auto; display: block; } rect { fill: var(--bar); }
path { stroke: var(--line); fill: none; } text { fill: var(--soft); font-size: 12px; }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { color: var(--soft); font-weight: 500; }
.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.share { min-width: 6rem; width: 40%; } .share div { background: var(--bar); height: .8rem;
  margin-top: .35rem; min-width: 1px; }
.text { min-width: 16rem; overflow-wrap: anywhere; white-space: pre-wrap; }
"""


def render(statistics: Statistics, model: str | None, out: str, files: int) -> str:
    """Return the page as HTML; ``files`` is the number of inputs."""
    scored = statistics.rows - statistics.errors.total()
    title = f"Scores of {escape(out)}"
    several = f" in {files:,} files" if files > 1 else ""
    by = f" by {escape(model)}" if model else ""
    windows = f" {statistics.long_texts:,} were read in several windows." * bool(
        statistics.long_texts
    )
    histograms = "\n".join(
        f"<figure style='margin:0'><h3>{name}</h3>{histogram(name, counts)}</figure>"
        for name, counts in zip(FLAGS, statistics.bins, strict=True)
    )
    errors = (
        bars("error", statistics.errors, statistics.rows)
        if statistics.errors
        else "<p>Every row was scored.</p>"
    )
    warnings = (
        bars("warning", statistics.warnings, scored)
        if statistics.warnings
        else "<p>The model can read every row that was scored.</p>"
    )
    body = f"""\
<h1>{title}</h1>
<p>{statistics.rows:,} rows{several}, {scored:,} of them scored{by}.{windows}</p>
<p class="soft">Scores are the model's opinion, learnt from people's labels: the probability of a
label, not a degree of harm.</p>
<h2>Labels</h2>
{bars("label", {label: statistics.labels[label] for label in LABELS}, scored)}
<h2>Distribution of each score</h2>
<p class="soft">Number of rows by score, from 0 to 1, in {BINS} steps. The height is logarithmic, so
that small counts stay visible beside large ones. Toxic is the sum of hate and abusing.</p>
<div class="grid">
{histograms}
</div>
<h2>Warnings</h2>
<p class="soft">Rows whose scores may mean nothing. <b>unread</b>: at least half of the letters are
unknown to the model. <b>language</b>: the text is in none of the languages it was trained on.</p>
{warnings}
<h2>Errors</h2>
{errors}
<h2>Most certain</h2>
{examples(statistics.most_certain, statistics.keep_texts, files > 1)}
<h2>Least certain</h2>
{examples(statistics.least_certain, statistics.keep_texts, files > 1)}"""
    return document(title, body)


def document(title: str, body: str) -> str:
    """Return a page of its own: it has no script and may load nothing. ``title`` is HTML."""
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
{body}
</body>
</html>
"""


def histogram(name: str, counts: Sequence[int]) -> str:
    """Return the distribution of one score as SVG."""
    most = max(counts)
    top = math.log1p(most) or 1.0
    step = WIDTH / len(counts)
    drawn = []
    for index, count in enumerate(counts):
        if count:
            height = max(2.0, HEIGHT * math.log1p(count) / top)
            span = f"{index / len(counts):.3f} to {(index + 1) / len(counts):.3f}"
            drawn.append(
                f'<rect x="{index * step + 0.5:.1f}" y="{HEIGHT - height + AXIS:.1f}" '
                f'width="{step - 1:.1f}" height="{height:.1f}">'
                f"<title>{span}: {count:,} rows</title></rect>"
            )
    base = HEIGHT + AXIS
    ticks = "".join(
        f'<text x="{x}" y="{base + 15}" text-anchor="{anchor}">{value}</text>'
        for x, value, anchor in ((0, "0", "start"), (200, "0.5", "middle"), (400, "1", "end"))
    )
    return (
        f'<svg viewBox="0 0 {WIDTH} {base + AXIS}" role="img" '
        f'aria-label="Distribution of {name}: at most {most:,} rows in a step">'
        f'<text x="0" y="12">{most:,} rows</text><path d="M0 {AXIS}H{WIDTH}M0 {base}H{WIDTH}"/>'
        f"{''.join(drawn)}{ticks}</svg>"
    )


def bars(name: str, counts: Mapping[str, int], whole: int) -> str:
    """Return a table of counts, each with its share of ``whole``."""
    rows = []
    for key, count in counts.items():
        share = count / whole if whole else 0.0
        rows.append(
            f"<tr><td>{escape(key)}</td><td class='number'>{count:,}</td>"
            f"<td class='number'>{share:.2%}</td>"
            f"<td class='share'><div style='width:{share:.2%}'></div></td></tr>"
        )
    return (
        f"<div class='wide'><table><thead><tr><th>{name}</th><th class='number'>rows</th>"
        f"<th class='number'>share</th><th></th></tr></thead><tbody>{''.join(rows)}</tbody>"
        "</table></div>"
    )


def examples(found: Sequence[Example], with_text: bool, with_file: bool) -> str:
    """Return a table of example rows."""
    if not found:
        return "<p>None.</p>"
    head = ["file"] * with_file + ["row", "label", *FLAGS] + ["text"] * with_text
    numeric = {"row", *FLAGS}
    heads = "".join(
        f"<th class='number'>{name}</th>" if name in numeric else f"<th>{name}</th>"
        for name in head
    )
    rows = []
    for example in found:
        cells = [f"<td>{escape(example.file)}</td>"] * with_file
        cells += [f"<td class='number'>{example.row:,}</td>", f"<td>{example.label}</td>"]
        cells += [f"<td class='number'>{score:.4f}</td>" for score in example.scores]
        if with_text:
            text = example.text or ""
            shown = text if len(text) <= SHOWN_CHARS else f"{text[:SHOWN_CHARS]}…"
            # UTF-8 can't hold a lone surrogate: it becomes a question mark.
            readable = shown.encode(errors="replace").decode()
            cells.append(f"<td class='text'>{escape(readable)}</td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f"<div class='wide'><table><thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
