"""A run's inputs and outputs, and what identifies the run."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, Final

from hatespeech.bulk import RunError
from hatespeech.bulk.places import PARTIAL, RECEIPT, Input, Place, find_inputs
from hatespeech.bulk.statistics import NO_COLUMNS, Columns
from hatespeech.formats.choice import READERS
from hatespeech.formats.conversion import Conversion
from hatespeech.formats.dialects import Dialect
from hatespeech.formats.interface import Reader, ReadLimits
from hatespeech.formats.names import FORMATS, Format
from hatespeech.settings import EngineSettings
from hatespeech.urls import shown_url

# What the options of a dialect are for: formats, and whether OUT may have one, too.
USES: Final[Mapping[str, tuple[Sequence[str], bool]]] = {
    "--encoding": (("CSV", "TSV", "JSONL", "JSON", "Text"), False),
    "--delimiter": (("CSV",), True),
    "--quoting": (("CSV", "TSV"), True),
    "--no-header": (("CSV", "TSV", "Excel"), False),
    "--sheet": (("Excel",), False),
}
# Version of the files in OUT.partial and of how chunks are cut: raised when either changes.
FORMAT: Final = 4


@dataclass(frozen=True)
class RunOptions:
    """The command line's options that all engines share."""

    source: str
    out: str
    text_column: str
    chunk_rows: int
    prefix: str
    report: str | None
    include_text: bool
    report_columns: Columns = NO_COLUMNS
    input_format: Format | None = None  # of every input, whatever its name says
    dialect: Dialect | None = None
    thresholds: Mapping[str, Any] | None = None  # numbers by label, and any name, as in replies
    model_column: bool = False


@dataclass(frozen=True)
class Output:
    """One file to write, from one or more inputs."""

    name: str  # path below OUT; "" for OUT itself
    format: Format
    inputs: list[Input]


@dataclass(frozen=True)
class Plan:
    """A run, before anything is read."""

    options: RunOptions
    out: Place
    outputs: list[Output]
    inputs: list[Input]
    skipped: list[str]  # names in IN of unknown formats
    fixed: Mapping[str, Any]  # options and settings that a resumed run must be given again
    settings: EngineSettings
    folder: Place | None = None  # of a plan that is a part of a run: its own folder in OUT.partial

    @property
    def partial(self) -> Place:
        """The folder that holds what is done of this plan."""
        return self.folder or self.run_partial

    @property
    def run_partial(self) -> Place:
        """The folder that holds the run until OUT is complete."""
        return self.out.beside(PARTIAL)

    @property
    def receipt(self) -> Place:
        """The file beside OUT that says which run made OUT."""
        return self.out.beside(RECEIPT)

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this run from any other, as JSON values."""
        files = [[each.name, each.size, each.version] for each in self.inputs]
        return {**self.fixed, "inputs": files}

    def conversion(
        self,
        output: Output,
        kinds: Mapping[str, str | None] | None = None,
        limits: ReadLimits | None = None,
    ) -> Conversion:
        """Return how an output is made; ``kinds`` are the column types that a check learnt."""
        tables = [self.table(source, limits) for source in output.inputs]
        return Conversion(output.format, tables, kinds)

    def table(self, source: Input, limits: ReadLimits | None = None) -> Reader:
        """Return an input as a table."""
        reader = READERS[source.format.kind]
        options = self.options
        return reader(
            source,
            options.text_column,
            options.prefix,
            limits,
            options.thresholds is not None,
            options.dialect,
            options.model_column,
        )


def make_plan(options: RunOptions, settings: EngineSettings) -> Plan:
    """Find the inputs and outputs; raise :class:`RunError` if IN and OUT do not fit together."""
    for name, given in {"IN": options.source, "OUT": options.out}.items():
        if not given:  # as a variable of a shell that is not set; it would be this folder
            raise RunError(f"{name}: is empty")
    out, source = Place.of(options.out), Place.of(options.source)
    # The run removes OUT.partial, and a message may advise to remove OUT.
    if _is_below(source, out) or _is_below(source, out.beside(PARTIAL)):
        raise RunError(f"{shown_url(options.source)}: must be outside OUT and OUT.partial")
    if out.is_web:
        raise RunError(f"{out}: can't be written over HTTP; write a file, and upload it")
    found = find_inputs(options.source, out, options.input_format)
    inputs = found.inputs
    form = None if options.out.endswith("/") else Format.of(out.name)
    if form is not None and form.writable:
        outputs = [Output("", form, inputs)]
    elif form is None and (
        found.many or options.out.endswith("/") or not PurePosixPath(out.name).suffix
    ):
        # The names of OUT's files hold the folders' keys, as those of IN do.
        inputs = [dataclasses.replace(each, keys={}) for each in inputs]
        outputs = [Output(*each.format.output(each.name), [each]) for each in inputs]
        _require_names_of_their_own(out, outputs)
    else:
        raise RunError(f"{out}: its name must end in {FORMATS}, or in / if it is a folder")
    if options.dialect is not None:
        require_use(options.dialect, inputs, outputs)
    fixed = _fixed(options, settings)
    plan = Plan(options, out, outputs, inputs, found.skipped, fixed, settings)
    _require_report_fits(plan)
    return plan


def _fixed(options: RunOptions, settings: EngineSettings) -> dict[str, Any]:
    """Return the options and settings that a resumed run must be given again, as JSON values."""
    fixed = {
        "format": FORMAT,
        "--text-column": options.text_column,
        "--chunk-rows": options.chunk_rows,
        "--prefix": options.prefix,
        "MAX_TEXT_CHARS": settings.max_text_chars,
        "MAX_WINDOWS": settings.max_windows,
        "ON_UNREAD": settings.on_unread,
        "--robust": settings.robust,
    }
    # Only if it is given: OUT of an earlier version stays what this command would make.
    if settings.dtype != "auto":  # which is float16 on one machine and float32 on another
        fixed["DTYPE"] = settings.dtype
    if options.input_format is not None:
        fixed["--input-format"] = [options.input_format.kind, options.input_format.compression]
    if options.dialect is not None:
        fixed.update(_said(options.dialect))
    if options.thresholds is not None:
        fixed["--thresholds"] = dict(options.thresholds)
    if options.model_column:
        fixed["--model-column"] = True
    return fixed


def _said(dialect: Dialect) -> dict[str, Any]:
    """Return what the command line says of a dialect, by option."""
    said = {
        "--encoding": dialect.encoding,
        "--delimiter": dialect.delimiter,
        "--quoting": dialect.quoted,
        "--no-header": None if dialect.header else True,
        "--sheet": dialect.sheet,
    }
    return {option: value for option, value in said.items() if value is not None}


def require_use(dialect: Dialect, inputs: Sequence[Input], outputs: Sequence[Output] = ()) -> None:
    """Raise :class:`RunError` if an option is for formats that no file has, or OUT can't follow.

    There are no ``outputs`` if nothing is written.
    """
    for option in _said(dialect):
        kinds, in_out = USES[option]
        formats = [each.format for each in inputs]
        in_out = in_out and bool(outputs)
        formats += [each.format for each in outputs] if in_out else []
        if not any(each.kind in kinds for each in formats):
            where = "neither IN nor OUT has such a file" if in_out else "IN has no such file"
            raise RunError(f"{option}: is for {', '.join(kinds)}; {where}")
    if not all(dialect.separates_scores(output.format.kind) for output in outputs):
        raise RunError(
            "--quoting none: OUT can't be CSV with this separator, which errors and warnings hold, "
            "too; .tsv, .jsonl and .parquet can hold them"
        )


def _require_names_of_their_own(out: Place, outputs: Sequence[Output]) -> None:
    """Raise :class:`RunError` if two inputs would be written to one file."""
    seen: dict[str, str] = {}
    for output in outputs:
        name = output.inputs[0].name
        if output.name in seen:
            raise RunError(
                f"{out}: {seen[output.name]} and {name} would both be written to {output.name}; "
                "give one of them another name"
            )
        seen[output.name] = name


def _require_report_fits(plan: Plan) -> None:
    """Raise :class:`RunError` if the report could not be written to its place."""
    options = plan.options
    asked = {
        "--include-text": options.include_text,
        "--id-column": options.report_columns.id is not None,
        "--group-by": bool(options.report_columns.groups),
    }
    if options.report is not None:
        require_page_fits("--report", options.report, plan.out)
    elif alone := next((option for option, given in asked.items() if given), None):
        raise RunError(f"{alone}: needs --report")


def require_page_fits(option: str, name: str, out: Place | None = None) -> None:
    """Raise :class:`RunError` if a page can't be written to a place.

    A page about OUT must be outside ``out``.
    """
    report, folder = Place.of(name), Place.of(name.rpartition("/")[0] or ".")
    if not name.lower().endswith(".html"):
        raise RunError(f"{option} {name}: its name must end in .html")
    if report.fs.isdir(report.path):
        raise RunError(f"{option} {name}: is a folder")
    if out is not None and (_is_below(report, out) or _is_below(report, out.beside(PARTIAL))):
        raise RunError(f"{option} {name}: must be outside OUT")
    if folder.is_local and not folder.fs.isdir(folder.path):
        raise RunError(f"{option} {name}: there is no such folder")


def _is_below(place: Place, folder: Place) -> bool:
    """Say whether a path is a folder or is below it, with links followed."""
    paths = [
        os.path.realpath(each.path) if each.is_local else each.path for each in (place, folder)
    ]
    return place.fs == folder.fs and f"{paths[0]}/".startswith(f"{paths[1]}/")


def require_free(plan: Plan) -> None:
    """Raise :class:`RunError` if a rename could not give OUT its name at the end."""
    if not plan.out.is_local:
        return
    path = plan.out.path
    if os.path.islink(path):  # noqa: PTH114 - a path of fsspec's
        raise RunError(f"{path}: is a symbolic link; name its target instead")
    if os.path.ismount(path):
        raise RunError(f"{path}: is a mount point; name a folder in it instead")
    if not plan.outputs[0].name and os.path.isdir(path):  # noqa: PTH112 - a path of fsspec's
        raise RunError(
            f"{path}: is a folder, but OUT's name is a file's; add a / to the name, or remove it"
        )


def require_unchanged(plan: Plan) -> None:
    """Raise :class:`RunError` if an input has changed since the run was planned."""
    source = first_changed(plan)
    if source is not None:
        raise changed(plan, source)


def first_changed(plan: Plan) -> Input | None:
    """Return the first input that has changed since the run was planned, ``None`` if none has.

    A new file in IN does not count: the run does not read it.
    """
    try:
        found = find_inputs(plan.options.source, plan.out, plan.options.input_format)
        now = {each.name: each for each in found.inputs}
    except (RunError, FileNotFoundError):
        now = {}
    return next((each for each in plan.inputs if now.get(each.name) != each), None)


def changed(plan: Plan, source: Input) -> RunError:
    """Return the error for an input that no longer has the rows that were scored."""
    return RunError(
        f"{source.place}: changed while it was being scored; remove {plan.partial} and run again"
    )
