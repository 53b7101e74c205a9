"""The command line of evaluate.py."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np

from hatespeech.bulk import RunError
from hatespeech.bulk.command import add_engines, add_written, dialect_of, guarded
from hatespeech.bulk.places import Place, find_inputs
from hatespeech.bulk.plan import require_page_fits, require_use
from hatespeech.cli import make_parser, parse_one_source, say, whole_number
from hatespeech.contract import COLUMNS
from hatespeech.evaluation import (
    agreement,
    card,
    choices,
    comparison,
    labelled,
    page,
    results,
    scoring,
    swap,
)
from hatespeech.evaluation.calibration import calibrate
from hatespeech.evaluation.choices import Choice, Wish
from hatespeech.evaluation.comparison import Comparison, comparison_lines
from hatespeech.evaluation.intervals import Estimate, share
from hatespeech.evaluation.labelled import Labelled, Wanted
from hatespeech.evaluation.page import Findings
from hatespeech.evaluation.results import Figures
from hatespeech.evaluation.scoring import Scored, Scores
from hatespeech.evaluation.swap import STARTER, SwapResult, SwapTexts
from hatespeech.evaluation.thresholds import RECOMMENDED_FLAGS
from hatespeech.evaluation.truths import SKIP, TRUTHS, decided, flags_decided, read_map
from hatespeech.labels import FLAGS
from hatespeech.libraries import set_library_defaults
from hatespeech.settings import EngineSettings

DESCRIPTION: Final = """\
Measure a model on labelled texts: how good it is on yours, at which threshold, for which groups.

IN is a file, a folder, a glob in quotes or a URL, in a format that score.py reads. The same options
say how it is written, such as --delimiter ';' for CSV of a German spreadsheet.
Labels are hate, abusing, neutral and spam, or those of OLID, Davidson, HateXplain, HateCheck or
Jigsaw, or toxic and not toxic, 1 and 0; --map names others. Several label columns are several
annotators: the label is what most of them said.

It prints the figures; --report writes a page that needs no other file, --json the figures in full
digits. Texts are shown only with --include-text. The environment chooses the model, as for
score.py: MODEL_DIR, DEVICE, DTYPE, ROBUST.

A wish (--precision, --recall, --reviews, --cost) chooses thresholds on one half of the texts and
measures them on the other. --write-thresholds ours.json keeps them for the service
(THRESHOLDS_FILE=ours.json), where a request asks for them by name: "thresholds": "ours".

--against compares with another service's scores, with or without labels. --swap tells what the
names of groups do to the scores. --card writes the figures into the checkpoint's model card.
"""

EPILOG: Final = """\
examples:
  COMMAND labelled.tsv --report report.html
  COMMAND olid.tsv --text-column tweet --label-column subtask_a --group-column lang
  COMMAND survey.csv --delimiter ';' --encoding cp1252
  COMMAND rated.csv --label-column anna,ben,carla --map rude=abusing,fine=neutral
  COMMAND labelled.csv --precision 0.95 --write-thresholds ours.json
  COMMAND scored.csv --scored --against toxicity --against-threshold 0.7
  COMMAND labelled.csv --swap --report report.html
  COMMAND labelled.csv --reviews 200/day --per-day 50000 --flag toxic

docs/evaluating.md walks through an evaluation.
"""


def evaluation_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line; ``prog`` is how the program was called."""
    parser = make_parser(prog, DESCRIPTION, EPILOG)
    add = parser.add_argument
    add("source", metavar="IN", help="labelled texts: file, folder, glob or URL")
    add("--text-column", metavar="NAME", help="column with the texts (default: text)")
    add(
        "--label-column",
        type=_names,
        default=(),
        metavar="NAME,…",
        help="column with the labels, or one for each annotator (default: label)",
    )
    add(
        "--map",
        type=_map,
        default={},
        metavar="NAME=LABEL,…",
        help=f"what the file's labels mean: {', '.join(TRUTHS)}, or {SKIP} to leave texts out",
    )
    add(
        "--group-column",
        type=_names,
        default=(),
        metavar="NAME,…",
        help="columns whose groups are compared, such as a language or a source",
    )
    add(
        "--scored",
        nargs="?",
        const="",
        metavar="P",
        help="take the scores that score.py wrote into IN (with --prefix P), instead of scoring; "
        "the label beside them is the model's answer, and never counts as one of yours",
    )
    add(
        "--card",
        action="store_true",
        help="also write the figures into the card of the checkpoint in MODEL_DIR",
    )
    add(
        "--swap",
        type=Path,
        nargs="?",
        const=STARTER,
        metavar="FILE",
        help="also put names of groups into sentences and compare the scores; FILE is TOML "
        "(default: 30 groups in 20 sentences)",
    )
    add("--report", metavar="FILE.html", help="also write a page")
    add("--include-text", action="store_true", help="show the texts of the rows on the page")
    add("--json", type=Path, metavar="FILE", help="also write all figures as JSON")
    wishes = parser.add_argument_group("thresholds for a wish")
    one = wishes.add_mutually_exclusive_group()
    one.add_argument(
        "--precision", type=_part, metavar="P", help="precision to reach, such as 0.95"
    )
    one.add_argument("--recall", type=_part, metavar="R", help="recall to reach, such as 0.8")
    one.add_argument(
        "--reviews", type=_per_day, metavar="N/day", help="texts to flag in a day; needs --per-day"
    )
    one.add_argument(
        "--cost",
        type=_cost,
        metavar="fp=X,fn=Y",
        help="least cost: X for a text flagged wrongly, Y for one missed",
    )
    wishes.add_argument(
        "--per-day", type=whole_number(1), metavar="N", help="texts that come in a day"
    )
    wishes.add_argument(
        "--flag",
        type=_flags,
        metavar="NAME,…",
        help="what to choose thresholds for (default: hate, abusing, spam and toxic, as far as the "
        "labels decide them; with --reviews, toxic)",
    )
    wishes.add_argument(
        "--write-thresholds", type=Path, metavar="FILE", help="write the thresholds' file"
    )
    others = parser.add_argument_group("another service's scores")
    others.add_argument("--against", metavar="NAME", help="column with them, in IN")
    others.add_argument(
        "--against-file", metavar="FILE", help="the column is in this file, beside the same texts"
    )
    others.add_argument(
        "--against-flag",
        choices=FLAGS,
        default="toxic",
        help="our score that means the same (default: %(default)s)",
    )
    others.add_argument(
        "--against-threshold",
        type=float,
        default=0.5,
        metavar="T",
        help="their threshold, for which one of ours with the same decisions is looked for "
        "(default: %(default)s)",
    )
    add_written(parser.add_argument_group("how IN is written, and the file of --against-file"))
    add_engines(parser)
    return parser


def parse(arguments: Sequence[str] | None, prog: str) -> argparse.Namespace:
    """Read the command line; exit with 2 if it does not make sense."""
    parser = evaluation_parser(prog)
    options = parse_one_source(parser, arguments)
    if (options.reviews is None) != (options.per_day is None):
        parser.error("--reviews and --per-day need each other")
    if options.reviews is not None and options.reviews > options.per_day:
        parser.error("--reviews: more than --per-day")
    if options.write_thresholds and wish_of(options) is None:
        parser.error("--write-thresholds: needs --precision, --recall, --reviews or --cost")
    if options.against_file and not options.against:
        parser.error("--against-file: needs --against")
    if options.card and (options.scored is not None or options.engine != "local"):
        parser.error("--card: needs the checkpoint here, so neither --scored nor another engine")
    if options.include_text and not options.report:
        parser.error("--include-text: needs --report")
    if options.scored is not None:
        written = [options.scored + name for name in COLUMNS]
        for name in options.label_column:
            if name in written:
                parser.error(
                    f"--label-column {name}: with --scored this column is the model's own answer, "
                    "which can't tell how good the model is"
                )
    return options


def main(arguments: Sequence[str] | None = None, prog: str = "evaluate.py") -> int:
    """Run the command; return the exit code: 1 after an error, 130 after an interruption."""
    set_library_defaults(os.environ)
    options = parse(arguments, prog)
    return guarded(lambda settings: evaluate(options, settings), "interrupted")


def evaluate(options: argparse.Namespace, settings: EngineSettings) -> int:
    """Read, score, measure and write; return the exit code."""
    require_writable(options)
    folder = card.card_folder(settings) if options.card else None
    asked = swap.read_swap(options.swap) if options.swap else None
    dialect = dialect_of(options)
    inputs = find_inputs(options.source, form=options.input_format).inputs
    others = find_inputs(options.against_file).inputs if options.against_file else []
    require_use(dialect, [*inputs, *others])
    everything = labelled.read(inputs, wanted(options), dialect)
    require_labels(options, everything)
    scored, swapped = score_all(options, settings, everything, asked)
    found = findings(options, everything, scored, swapped)
    sys.stdout.write(summary(found))
    if options.json:
        options.json.write_text(figures_as_json(found), encoding="utf-8")
        say(f"wrote {options.json}")
    if options.report:
        report = Place.of(options.report)
        report.write(page.render(found).encode())
        say(f"wrote {report}")
    if folder is not None and found.figures:
        name = found.source
        say(f"wrote {card.write_card(folder, name, found.model, everything.sha256, found.figures)}")
    if options.write_thresholds and found.wish:
        path = options.write_thresholds
        choices.write_thresholds(path, found.choices, found.wish, scored.model, everything)
        say(f"wrote {path}: serve with THRESHOLDS_FILE={path}, ask for it as {path.stem}")
    return 0


def score_all(
    options: argparse.Namespace,
    settings: EngineSettings,
    everything: Labelled,
    asked: SwapTexts | None,
) -> tuple[Scored, SwapResult | None]:
    """Score the rows and the texts of --swap, with one model that is loaded once."""
    texts = everything.texts if options.scored is None else []
    count, more = len(texts), asked.texts if asked else []
    run = None
    if texts or more:
        run = scoring.score([*texts, *more], options, settings, "scoring")
    if options.scored is not None:
        scored = scoring.read_scores(everything.columns, options.scored, options.source)
    else:
        assert run is not None  # noqa: S101 - there are texts
        scored = run.part(0, count)
    if asked is None or run is None:
        return scored, None
    of_swap = run.part(count, count + len(more))
    if not of_swap.there.all():
        raise RunError(f"--swap {options.swap}: {sum(of_swap.errors.values())} have no scores")
    return scored, swap.measure_swap(asked, of_swap.scores)


def wanted(options: argparse.Namespace) -> Wanted:
    """Return which columns to read."""
    others = dict.fromkeys(options.group_column, "--group-column")
    if options.scored is not None:
        names = [options.scored + name for name in labelled.SCORES]
        others |= dict.fromkeys(names, "--scored")
    if options.against and not options.against_file:
        others[options.against] = "--against"
    optional = bool(options.against or options.swap)
    return Wanted(options.text_column, options.label_column, options.map, others, optional)


def require_writable(options: argparse.Namespace) -> None:
    """Raise :class:`RunError` now, not after the scoring, for a file that can't be written."""
    if options.report is not None:
        require_page_fits("--report", options.report)
    if options.write_thresholds is not None:
        choices.require_name(options.write_thresholds)
    for name in ("json", "write_thresholds"):
        path: Path | None = getattr(options, name)
        if path is not None and (path.is_dir() or not path.absolute().parent.is_dir()):
            option = f"--{name.replace('_', '-')}"
            raise RunError(f"{option} {path}: there is no such folder, or it is a folder")


def require_labels(options: argparse.Namespace, everything: Labelled) -> None:
    """Raise :class:`RunError` before the scoring if the labels can't tell what is asked."""
    if needs_labels(options) and not everything.truths.any():
        raise RunError(f"{options.source}: no row has a label")
    if wish_of(options):
        chosen_flags(options, everything)


def needs_labels(options: argparse.Namespace) -> bool:
    """Return whether something is asked that only labels tell."""
    return bool(wish_of(options) or options.card or not (options.against or options.swap))


def findings(
    options: argparse.Namespace,
    everything: Labelled,
    scored: Scored,
    swapped: SwapResult | None,
) -> Findings:
    """Return everything that was found about the rows that have scores."""
    has_label = everything.truths != 0
    counted = scored.there & has_label
    wish = wish_of(options)
    if needs_labels(options) and not counted.any():
        raise RunError(f"{options.source}: no row has both a label and scores")
    rows, scores = everything.select(counted), scored.scores[counted]
    figures = results.measure_all(rows, scores, options.group_column) if len(rows) else None
    agreed = None
    if everything.annotations.shape[1]:
        there = scored.there
        answers = scored.scores[there].argmax(axis=1)
        agreed = agreement.agreement(everything.annotations[there], answers)
    return Findings(
        Place.of(options.source).name,
        scored.model,
        len(everything),
        scored.errors,
        int((~has_label).sum()),
        everything.layout,
        figures,
        agreed,
        results.most_wrong(rows, scores, options.include_text) if figures else [],
        recommended(scored, rows, scores),
        wish,
        choices.choose(rows, scores, wish, chosen_flags(options, rows)) if wish else [],
        compared(options, everything, scored) if options.against else None,
        swapped,
        pictures_of(figures, rows, scores) if options.report and figures else {},
    )


def compared(options: argparse.Namespace, everything: Labelled, scored: Scored) -> Comparison:
    """Return how our scores compare with another service's; raise :class:`RunError`."""
    source, name = options.against_file or options.source, options.against
    if options.against_file:
        others, dialect = find_inputs(source).inputs, dialect_of(options)
        by_text = labelled.read_column(others, name, options.text_column, "--against", dialect)
        values = [by_text.get(str(text)) for text in everything.texts]
    else:
        values = everything.columns[name]
    theirs = comparison.other_scores(values, name, source)
    both = scored.there & ~np.isnan(theirs)
    if not both.any():
        raise RunError(f"{source}: column {name} (--against) has no score for any text of ours")
    return comparison.compare(
        everything.select(both),
        scored.scores[both],
        theirs[both],
        name,
        options.against_flag,
        options.against_threshold,
        options.include_text,
    )


def pictures_of(figures: results.Figures, rows: Labelled, scores: Scores) -> dict[str, str]:
    """Return the page's pictures as SVG."""
    from hatespeech.evaluation import pictures  # matplotlib takes a second to load

    drawn = {}
    if figures.flags:
        curves = pictures.draw_curves(dict(results.curves(figures.flags)))
        drawn["curves"] = pictures.svg_of(curves, "Precision over recall")
    data = results.calibration_data(rows, scores, figures.flag)
    if data is not None:
        _, logits, true, first = data
        after = calibrate(logits[first], true[first]).apply(logits[~first])
        reliability = pictures.draw_reliability(logits[~first], after, true[~first])
        drawn["reliability"] = pictures.svg_of(reliability, "Accuracy over confidence")
    return drawn


def chosen_flags(options: argparse.Namespace, rows: Labelled) -> list[str]:
    """Return the flags to choose thresholds for; raise :class:`RunError` if there are none."""
    there = flags_decided(rows.truths)
    asked = options.flag or (["toxic"] if options.reviews else RECOMMENDED_FLAGS)
    found = [flag for flag in asked if flag in there]
    missing = [flag for flag in options.flag or () if flag not in there]
    if missing or not found:
        name = missing[0] if missing else asked[0]
        raise RunError(f"{options.source}: no labels tell which texts are {name}")
    return found


def recommended(
    scored: Scored, rows: Labelled, scores: Scores
) -> dict[str, dict[str, tuple[float, Estimate, Estimate]]]:
    """Return precision and recall of the thresholds that the model recommends."""
    found: dict[str, dict[str, tuple[float, Estimate, Estimate]]] = {}
    for name, numbers in scored.recommended.items():
        for flag, least in numbers.items():
            positive, negative = decided(rows.truths, flag)
            flagged = results.flag_scores(scores, flag) >= least
            right = int((flagged & positive).sum())
            precision = share(right, int((flagged & (positive | negative)).sum()))
            recall = share(right, int(positive.sum()))
            if positive.any():
                found.setdefault(name, {})[flag] = (least, precision, recall)
    return found


def wish_of(options: argparse.Namespace) -> Wish | None:
    """Return the wish that the options state."""
    if options.reviews is not None and options.per_day:
        return Wish(reviews=options.reviews / options.per_day)
    wish = Wish(options.precision, options.recall, None, options.cost)
    return None if wish == Wish() else wish


def summary(found: Findings) -> str:
    """Return the figures in a few lines."""
    by = f" by {found.model}" if found.model else ""
    counted = found.figures.texts if found.figures else 0
    lines = [f"{found.rows:,} rows, {counted:,} with a label and scores{by}"]
    if found.figures:
        lines += _figure_lines(found.figures)
    if found.agreement is not None and found.agreement.alpha is not None:
        lines.append(f"agreement of the annotators: alpha {found.agreement.alpha:.3f}")
    if found.wish is not None:
        lines.append(f"thresholds for {found.wish}, measured on the other half")
        lines += [_choice_line(each) for each in found.choices]
    if found.comparison is not None:
        lines += comparison_lines(found.comparison)
    if found.swap is not None:
        spread = found.swap.spread
        lines.append(
            f"identity swap: the group's name moves toxic by {spread['neutral']:.3f} in neutral "
            f"sentences, by {spread['hateful']:.3f} in hateful ones"
        )
        lines += [
            f"  {each.group:<20} neutral {each.neutral:.3f}, hateful {each.hateful:.3f}"
            for each in (*found.swap.groups[:3], *found.swap.groups[-3:])
        ]
    return "\n".join(lines) + "\n"


def _figure_lines(figures: Figures) -> list[str]:
    lines = [f"accuracy {figures.accuracy}"]
    if figures.macro_f1.value is not None:
        lines.append(f"macro-F1 {figures.macro_f1}")
    if not figures.flags:
        return [*lines, results.ALL_ALIKE]
    lines.append(f"{'':<9}{'precision':<21} {'recall':<21} {'F1':<21} texts")
    for flag in figures.flags:
        shown = " ".join(f"{each!s:<21}" for each in (flag.precision, flag.recall, flag.f1))
        lines.append(f"{flag.flag:<9}{shown} {flag.positives:,}")
    if figures.calibration is not None:
        lines.append(f"expected calibration error {figures.calibration.error:.4f}")
    lines += [
        f"gap: {gap.errors} of {gap.column} {gap.group}: {gap.group_share}, all others "
        f"{gap.others_share}"
        for gap in figures.gaps
        if gap.apart
    ]
    return lines


def _choice_line(choice: Choice) -> str:
    if choice.threshold is None:
        return f"{choice.flag:<9}none does this"
    return (
        f"{choice.flag:<9}{choice.threshold:<5g} precision {choice.precision}, recall "
        f"{choice.recall}, flags {choice.flagged}"
    )


def figures_as_json(found: Findings) -> str:
    """Return everything but the pictures; ``null`` is what is not defined."""
    content: dict[str, Any] = asdict(found)
    del content["pictures"]
    return json.dumps(content, indent=1, allow_nan=False) + "\n"


def _names(value: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in value.split(","))


def _flags(value: str) -> tuple[str, ...]:
    names = _names(value)
    if not set(names) <= set(FLAGS):
        raise argparse.ArgumentTypeError(f"must be of {', '.join(FLAGS)}")
    return names


def _map(value: str) -> Mapping[str, int]:
    try:
        return read_map(value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be NAME=LABEL,…, where LABEL is one of {', '.join(TRUTHS)} or {SKIP}"
        ) from None


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return float("nan")


def _part(value: str) -> float:
    if not 0 < (number := _number(value)) <= 1:
        raise argparse.ArgumentTypeError("must be a number from 0 to 1, such as 0.95")
    return number


def _per_day(value: str) -> float:
    number, slash, day = value.partition("/")
    if not slash or day != "day" or not _number(number) > 0:
        raise argparse.ArgumentTypeError("must be N/day, such as 200/day")
    return float(number)


def _cost(value: str) -> tuple[float, float]:
    parts = dict(part.partition("=")[::2] for part in value.split(","))
    costs = (_number(parts.get("fp", "")), _number(parts.get("fn", "")))
    if parts.keys() != {"fp", "fn"} or not all(0 <= cost < 1e9 for cost in costs):
        raise argparse.ArgumentTypeError("must be fp=X,fn=Y, such as fp=1,fn=5")
    return costs
