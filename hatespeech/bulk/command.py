"""The command line of score.py."""

from __future__ import annotations

import argparse
import codecs
import importlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from hatespeech.bulk import RunError
from hatespeech.bulk.by_file import run_by_file
from hatespeech.bulk.engines.base import EngineError
from hatespeech.bulk.finished_page import add_page_options, columns_of, make_page
from hatespeech.bulk.flagging import asked_thresholds
from hatespeech.bulk.places import Place
from hatespeech.bulk.plan import Plan, RunOptions, make_plan
from hatespeech.bulk.row_scoring import Outcome
from hatespeech.bulk.run import run
from hatespeech.bulk.standard_streams import STANDARD, standard_streams
from hatespeech.bulk.workspace import receipt_of
from hatespeech.cli import interruptible, make_parser, parse_one_source, say, whole_number
from hatespeech.errors import CheckpointError, SettingsError, describe_exception
from hatespeech.formats.dialects import Dialect, is_separator
from hatespeech.formats.encodings import is_encoding
from hatespeech.formats.names import INPUT_FORMATS, Format
from hatespeech.labels import LABELS
from hatespeech.libraries import set_library_defaults
from hatespeech.logs import JsonFormatter, shown_logs, warn_of_mistyped
from hatespeech.settings import EngineSettings

DESCRIPTION = """\
Score one or more files of tweets. Every row is written unchanged and in order, with new columns:
hate, abusing, neutral, spam, toxic (the sum of hate and abusing), label (the most probable of the
first four), windows (how many parts a long text was read in), warnings (why the scores may mean
nothing), read_as (folded if the scores are those of the text without its disguise) and error (why a
row has no scores).

IN is a file, a folder, a glob in quotes, a URL that fsspec can open (s3://… needs s3fs), or - for
standard input. Its name says its format: .csv or .tsv with a header, .jsonl, .ndjson, .json (an
array), .txt (a text on each line), each also with .gz, .zst, .bz2 or .xz, .xlsx or .parquet. OUT is
a file, whose name chooses its format in the same way, except .txt and .xlsx; IN may have another
format. If OUT has no such ending, it is a folder, with a file of the same name and format for each
input. - is standard output.

Text is UTF-8, CSV has commas and quotes, and TSV has tabs and no quotes. The options below say
otherwise; --delimiter and --quoting hold for OUT, too. Nothing is guessed: where a file looks
different, a message names the option. Standard input needs --input-format.

Environment variables choose the model, the device and the limits: MODEL_DIR, DEVICE, DTYPE,
MAX_BATCH_TOKENS, MAX_TEXT_CHARS, MAX_WINDOWS, ROBUST; ON_UNREAD=refuse makes an error of a row that
the model can't read. docs/settings.md describes them.

To resume after an interruption (Ctrl-C, SIGTERM, kill -9, even a power cut), run the same command
again: scores are kept in OUT.partial. OUT appears when it is complete. OUT.run.json beside it names
the model.
"""

EPILOG = """\
examples:
  COMMAND tweets.csv scored.csv
  COMMAND tweets.csv scored.parquet
  COMMAND tweets.jsonl.zst scored.jsonl.gz --text-column data.text --report report.html
  COMMAND survey.csv scored.csv --delimiter ';' --encoding cp1252 --thresholds balanced
  COMMAND from_pandas.tsv scored.parquet --quoting csv --model-column
  cat tweets.jsonl | COMMAND - - --input-format jsonl > scored.jsonl
  COMMAND 'archive/2024-*.parquet' scored/
  MODEL_DIR=checkpoints/mine COMMAND s3://bucket/tweets/ s3://bucket/scored/

docs/bulk.md has an example of each engine, and how to plan for a billion rows.
"""

# The parser imports these modules for their options. None imports torch or ray before it makes an
# engine.
ENGINES: Final[Mapping[str, str]] = {
    "local": "hatespeech.bulk.engines.local",
    "ray": "hatespeech.bulk.engines.ray_options",
    "runpod": "hatespeech.bulk.engines.runpod_options",
}
GROUPS: Final[Mapping[str, str]] = {
    "local": "--engine local: this machine's device",
    "ray": "--engine ray: a Ray cluster, or all devices of this machine",
    "runpod": "--engine runpod: a Runpod endpoint",
}


def scoring_parser(prog: str) -> argparse.ArgumentParser:
    """Return the parser of the command line; ``prog`` is how the program was called."""
    parser = make_parser(prog, DESCRIPTION, EPILOG)
    parser.add_argument(
        "source", metavar="IN", help="file, folder, glob or URL; - is standard input"
    )
    parser.add_argument("out", metavar="OUT", help="new file or folder; - is standard output")
    add_reading(parser)
    add_writing(parser)
    add_report(parser)
    add_engines(parser)
    return parser


def add_reading(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how IN is read."""
    group = parser.add_argument_group("how IN is read")
    group.add_argument(
        "--text-column",
        default="text",
        metavar="NAME",
        help="column with the texts, or the path of a key below others, such as data.text "
        "(default: %(default)s)",
    )
    add_written(group)
    group.add_argument(
        "--robust",
        action="store_true",
        help="also read each text without its disguise, such as look-alike or separated letters; "
        "costs up to twice as much",
    )


def add_written(group: Any) -> None:
    """Add the options that say how IN is written, as far as the names of files do not say it."""
    add = group.add_argument
    add(
        "--input-format",
        type=format_name,
        metavar="FORMAT",
        help="format of IN, whatever its name says: csv, tsv, jsonl, json, txt, xlsx or parquet, "
        "such as jsonl.gz if it is compressed",
    )
    add(
        "--encoding",
        type=encoding_name,
        metavar="NAME",
        help="encoding of text, such as cp1252, if it is not UTF-8; a byte order mark wins",
    )
    add(
        "--delimiter",
        type=delimiter,
        metavar="SIGN",
        help="what stands between the fields of CSV, such as ';' or tab",
    )
    add(
        "--quoting",
        choices=["csv", "none"],
        help="csv: fields of CSV and TSV are in double quotes where they need it, as pandas and R "
        "write both; none: quotes belong to the fields (default: csv for CSV, and for TSV none, "
        "unless a field looks quoted: then the run ends and asks)",
    )
    add(
        "--no-header",
        action="store_true",
        help="CSV and TSV begin with a row, not with a header; columns are called 1, 2 and so on",
    )
    add("--sheet", metavar="NAME", help="sheet of an .xlsx file that has several")


def add_writing(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how OUT is written."""
    add = parser.add_argument_group("how OUT is written").add_argument
    add(
        "--output-format",
        type=format_name,
        metavar="FORMAT",
        help="format of standard output, as for --input-format (default: the format of IN); of "
        "a file, its name says it",
    )
    add(
        "--thresholds",
        metavar="NAME|LABEL=X,…",
        help="add a column flagged: the labels, and toxic, whose score reaches its threshold; a "
        "name, such as balanced, means what the model recommends, or THRESHOLDS_FILE",
    )
    add(
        "--model-column",
        action="store_true",
        help="add a column model: the id of the model that scored the row",
    )
    add(
        "--chunk-rows",
        type=whole_number(1, 1_000_000),
        default=4096,
        metavar="N",
        help="rows in a part; a killed run loses at most the parts that were being scored "
        "(default: %(default)s)",
    )
    add(
        "--prefix",
        type=column_prefix,
        default="",
        metavar="P",
        help="put P before the names of the new columns, in case IN has columns of those names",
    )


def add_report(parser: argparse.ArgumentParser) -> None:
    """Add the options of the report."""
    group = parser.add_argument_group("the report")
    group.add_argument(
        "--report", metavar="FILE.html", help="also write a page of statistics about the scores"
    )
    add_page_options(group)


def add_engines(parser: argparse.ArgumentParser) -> None:
    """Add ``--engine`` and the options of each engine."""
    parser.add_argument(
        "--engine",
        choices=list(ENGINES),
        default="local",
        help="what scores the texts (default: %(default)s)",
    )
    for name, module in ENGINES.items():
        importlib.import_module(module).add_arguments(parser.add_argument_group(GROUPS[name]))


def format_name(value: str) -> Format:
    """Read a format as an ending, with or without its dot: the type of an option."""
    found = Format.of(f"x.{value.removeprefix('.')}")
    if found is None:
        raise argparse.ArgumentTypeError(f"must be one of {INPUT_FORMATS}")
    return found


def encoding_name(value: str) -> str:
    """Read the name of an encoding: the type of an option."""
    if not is_encoding(value):
        raise argparse.ArgumentTypeError("must be an encoding that Python knows, such as cp1252")
    return codecs.lookup(value).name


def delimiter(value: str) -> str:
    """Read a separator, a sign or the word tab: the type of an option."""
    sign = "\t" if value in ("tab", "\\t") else value
    if not is_separator(sign):
        raise argparse.ArgumentTypeError("must be one character, or tab")
    return sign


def column_prefix(value: str) -> str:
    """Read the beginning of the new columns' names, which TSV must hold: the type of an option."""
    if not value.isprintable():
        raise argparse.ArgumentTypeError("must have no tab, line break or other control character")
    return value


def dialect_of(arguments: argparse.Namespace) -> Dialect:
    """Return what the command line says of CSV and TSV."""
    return Dialect(
        arguments.encoding,
        arguments.delimiter,
        None if arguments.quoting is None else arguments.quoting == "csv",
        not arguments.no_header,
        arguments.sheet,
        asks=True,
    )


def parse(arguments: Sequence[str] | None, prog: str = "score.py") -> argparse.Namespace:
    """Read the command line."""
    return parse_one_source(scoring_parser(prog), arguments)


def main(arguments: Sequence[str] | None = None, prog: str = "score.py") -> int:
    """Run the command; return the exit code: 1 after an error, 130 after an interruption."""
    set_library_defaults(os.environ)
    options = parse(arguments, prog)
    again = "interrupted; run the same command again to resume"
    return guarded(lambda settings: plan_and_run(options, settings), again)


def guarded(work: Callable[[EngineSettings], int], interrupted: str) -> int:
    """Run a command with the environment's settings; turn what it raises into a line and a code.

    Returns what it returns, 1 after an error, and 130 after an interruption.
    """
    try:
        with interruptible():
            settings = EngineSettings.from_environment(os.environ)
            as_json = settings.log_format == "json"
            formatter = JsonFormatter() if as_json else logging.Formatter("%(message)s")
            with shown_logs(formatter, settings.log_level):
                warn_of_mistyped(os.environ)
                return work(settings)
    except (RunError, EngineError, CheckpointError, SettingsError) as exc:
        fault = str(exc)
    except KeyboardInterrupt:
        say(interrupted)
        return 130
    except OSError as exc:
        place = f"{exc.filename}: " if exc.filename else ""
        fault = f"{place}{exc.strerror or describe_exception(exc)}"
    except Exception as exc:  # its message may quote a text
        fault = f"unexpected: {describe_exception(exc)}"
    say(f"error: {' '.join(fault.split())}")
    return 1


def plan_and_run(arguments: argparse.Namespace, settings: EngineSettings) -> int:
    """Plan the run, run it, and print the summary; return the exit code."""
    require_no_option_of_another_engine(arguments)
    if arguments.robust:
        settings = settings.model_copy(update={"robust": True})
    thresholds = None
    if arguments.thresholds is not None:
        local_model = arguments.engine != "runpod"
        thresholds = asked_thresholds(arguments.thresholds, settings, local_model)
    with standard_streams(
        arguments.source, arguments.out, arguments.input_format, arguments.output_format
    ) as (source, out):
        options = RunOptions(
            source,
            out,
            arguments.text_column,
            arguments.chunk_rows,
            arguments.prefix,
            arguments.report,
            arguments.include_text,
            columns_of(arguments),
            arguments.input_format,
            dialect_of(arguments),
            thresholds,
            arguments.model_column,
        )
        told = run_plan(make_plan(options, settings), arguments, settings)
    say(told)
    return 0


def require_no_option_of_another_engine(arguments: argparse.Namespace) -> None:
    """Raise :class:`RunError` if an option is given that only another engine knows."""
    for name, module in ENGINES.items():
        if name == arguments.engine:
            continue
        parser = argparse.ArgumentParser()
        importlib.import_module(module).add_arguments(parser)
        for option, default in vars(parser.parse_args([])).items():
            if getattr(arguments, option) != default:
                raise RunError(f"--{option.replace('_', '-')}: needs --engine {name}")


def run_plan(plan: Plan, arguments: argparse.Namespace, settings: EngineSettings) -> str:
    """Run what is planned; return what to say of it."""
    options = plan.options
    if plan.skipped:
        count, first = len(plan.skipped), plan.skipped[0]
        say(f"skipped {count:,} files of other formats, the first is {first}")
    module: Any = importlib.import_module(ENGINES[arguments.engine])
    goes_by_file = getattr(module, "goes_by_file", lambda _options, _plan: False)
    if goes_by_file(arguments, plan):
        outcome = run_by_file(
            plan,
            lambda: module.make_engine(arguments, settings, plan),
            lambda: module.check(arguments, settings),
        )
    else:
        outcome = run(
            plan,
            lambda: module.make_engine(arguments, settings),
            lambda: module.check(arguments, settings),
        )
    if outcome is None:
        if options.report and not Place.of(options.report).exists():
            columns, texts = options.report_columns, options.include_text
            make_page(options.out, options.report, columns, texts, None, settings)
            say(f"wrote {options.report}")
        elif options.report:
            say(f"{options.report} stays as it is; remove it, and this command writes it again")
        model = (receipt_of(plan) or {}).get("model")
        by = f", scored by {model}" if model else ""  # an input without rows has no model
        return f"{plan.out} is complete{by}; remove it to score again"
    out = "standard output" if arguments.out == STANDARD else plan.out
    return f"wrote {out}\n{run_summary(outcome)}"


def run_summary(outcome: Outcome) -> str:
    """Return a run's figures, in a few lines."""
    counted = outcome.statistics
    scored = counted.rows - counted.errors.total()
    if not counted.rows:
        return "0 rows"
    lines = [f"{counted.rows:,} rows, {scored:,} scored by {outcome.model}"]
    lines += [
        f"  {label:<8} {counted.labels[label]:>12,}  {counted.labels[label] / max(1, scored):7.2%}"
        for label in LABELS
    ]
    if counted.long_texts:
        lines.append(f"  {counted.long_texts:,} read in several windows")
    lines += [f"  warning {code}: {count:,}" for code, count in sorted(counted.warnings.items())]
    lines += [f"  error {code}: {count:,}" for code, count in sorted(counted.errors.items())]
    lines += [f"  without {name}: {count:,}" for name, count in counted.empty.items() if count]
    if outcome.scored:
        rate = outcome.scored / max(outcome.seconds, 1e-9)
        lines.append(f"  {outcome.scored:,} rows in {outcome.seconds:,.1f} s: {rate:,.0f} rows/s")
    return "\n".join(lines)
