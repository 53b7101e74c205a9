"""The page around a report: one file that has no script and loads nothing from the network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from importlib import resources
from typing import Final, NamedTuple

from hatespeech.pages.visible import visible

LABEL_COLOURS: Final = (
    resources.files("hatespeech.pages").joinpath("label_colours.css").read_text(encoding="utf-8")
)

STYLE: Final = """\
:root { color-scheme: light dark; --back: #fff; --ink: #1b1f24; --soft: #59636e; --line: #d5dae0;
  --bar: #2f6fbe; --label: var(--bar); }
@media (prefers-color-scheme: dark) {
  :root { --back: #14171b; --ink: #e6e9ed; --soft: #9aa4af; --line: #333a42; --bar: #6aa5ea; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--back); color: var(--ink);
  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: 0 0 .5rem; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 1rem 0 .25rem; } p { margin: .25rem 0; } .soft { color: var(--soft); }
.warning { margin: .75rem 0; padding: .5rem .75rem; border-left: 4px solid var(--bar); }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: .25rem 1rem;
  margin: .75rem 0; }
dt { color: var(--soft); } dd { margin: 0; }
.grid { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(20rem, 100%), 1fr)); }
figure { margin: 0; } figcaption { color: var(--soft); font-size: .875rem; }
svg { width: 100%; height: auto; display: block; } rect, circle { fill: var(--label); }
path { stroke: var(--line); fill: none; } text { fill: var(--soft); font-size: 12px; }
.curve { stroke: var(--label); stroke-width: 2; } .mark { stroke: var(--ink); }
text.mark { stroke: var(--back); stroke-width: 4; paint-order: stroke; fill: var(--ink); }
.name { color: var(--label); font-weight: 600; }
.wide { overflow-x: auto; margin: .5rem 0; } table { border-collapse: collapse; width: 100%; }
.wide:focus-visible { outline: 3px solid var(--bar); outline-offset: 2px; }
caption { text-align: left; color: var(--soft); font-size: .875rem; padding-bottom: .25rem; }
th, td { text-align: start; padding: .3rem .6rem; border-bottom: 1px solid var(--line);
  vertical-align: top; overflow-wrap: normal; }
th { color: var(--soft); font-weight: 500; text-align: left; }
th.number, td.number { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.share { min-width: 5rem; width: 40%; } .share div { background: var(--label); height: .8rem;
  margin-top: .35rem; min-width: 1px; }
.word { overflow-wrap: anywhere; min-width: 11rem; }
@media (max-width: 30rem) { th, td { padding: .3rem .3rem; font-size: .9375rem; }
  .word { min-width: 7rem; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; } dd { margin-bottom: .5rem; } }
.above td { border-bottom: 0; padding-bottom: 0; }
.text { overflow-wrap: anywhere; white-space: pre-wrap; }
@media print { .wide { overflow-x: visible; } h2, h3 { break-after: avoid; }
  figure, tr { break-inside: avoid; } }
"""


class Html(str):
    """A piece of a page, whose text is escaped already."""

    __slots__ = ()


class Column(NamedTuple):
    """A column of a table."""

    name: str
    kind: str = ""  # a class of STYLE: number, share, word


def document(title: str, body: str, style: str = "") -> str:
    """Return a page of its own; ``title`` is plain text, ``style`` stands after :data:`STYLE`."""
    return f"""\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="robots" content="noindex">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{shown(title)}</title>
<style>{STYLE}{style}</style>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""


def shown(value: object) -> Html:
    """Return a value as a page can show it: escaped, with marks for what has no shape."""
    return value if isinstance(value, Html) else Html(escape(visible(str(value))))


def note(text: str) -> Html:
    """Return a paragraph in quieter letters; ``text`` is HTML."""
    return Html(f"<p class='soft'>{text}</p>")


def table(
    columns: Sequence[Column],
    rows: Iterable[Sequence[object]],
    caption: str | None = None,
    texts: Sequence[str] | None = None,
) -> Html:
    """Return a table, which scrolls by itself where it is wider than the page.

    ``texts`` has a long text for each row, which stands below it, as wide as the table.
    """
    heads = "".join(
        f"<th scope='col'{_kind(each)}>{shown(each.name)}</th>" if each.name else "<td></td>"
        for each in columns
    )
    lines = []
    for number, row in enumerate(rows):
        cells = zip(columns, row, strict=True)
        line = "".join(f"<td{_kind(each)}>{shown(value)}</td>" for each, value in cells)
        if texts is None:
            lines.append(f"<tr>{line}</tr>")
            continue
        text = f"<td class='text' dir='auto' colspan='{len(columns)}'>{shown(texts[number])}</td>"
        lines.append(f"<tr class='above'>{line}</tr><tr>{text}</tr>")
    said = f"<caption>{shown(caption)}</caption>" if caption else ""
    return Html(
        f"<div class='wide' tabindex='0'><table>{said}<thead><tr>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _kind(column: Column) -> str:
    if not column.kind:
        return ""
    # The page can't know in which direction a word is written; the browser finds out.
    direction = " dir='auto'" if column.kind == "word" else ""
    return f" class='{column.kind}'{direction}"
