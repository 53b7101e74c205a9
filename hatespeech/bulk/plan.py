"""What a run is: its inputs, its outputs, and how it is told from any other run."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final

from hatespeech.bulk import RunError
from hatespeech.bulk.places import (
    FORMATS,
    PARTIAL,
    RECEIPT,
    Format,
    Input,
    Place,
    find_inputs,
)
from hatespeech.bulk.tables.conversion import Conversion
from hatespeech.bulk.tables.lines import (
    CsvTable,
    CsvWriter,
    JsonlTable,
    JsonlWriter,
    TsvTable,
    TsvWriter,
)
from hatespeech.bulk.tables.parquet import ParquetTable, ParquetWriter
from hatespeech.bulk.tables.table import InputTable, Writer
from hatespeech.locks import FolderHeldError, held_folder
from hatespeech.settings import EngineSettings
from hatespeech.urls import shown_url

TABLES: Final[Mapping[str, type[InputTable]]] = {
    "CSV": CsvTable,
    "TSV": TsvTable,
    "JSONL": JsonlTable,
    "Parquet": ParquetTable,
}
WRITERS: Final[Mapping[str, type[Writer]]] = {
    "CSV": CsvWriter,
    "TSV": TsvWriter,
    "JSONL": JsonlWriter,
    "Parquet": ParquetWriter,
}

# How a run is kept in OUT.partial, and how chunks are cut: raised when either changes.
FORMAT: Final = 1


@dataclass(frozen=True)
class RunOptions:
    """What the command line asks for, whatever the engine."""

    source: str
    out: str
    text_column: str
    chunk_rows: int
    prefix: str
    report: str | None
    include_text: bool


@dataclass(frozen=True)
class Output:
    """One file to be written, from one input or several."""

    name: str  # below OUT; "" for OUT itself
    format: Format
    inputs: list[Input]


@dataclass(frozen=True)
class Plan:
    """A run, before anything is read."""

    options: RunOptions
    out: Place
    outputs: list[Output]
    inputs: list[Input]
    left_out: list[str]  # names in IN that are of no known format
    fixed: Mapping[str, Any]  # what a resumed run must be given again, by name

    @property
    def partial(self) -> Place:
        """The folder that holds what there is until OUT is complete."""
        return self.out.beside(PARTIAL)

    @property
    def receipt(self) -> Place:
        """The file beside OUT that says of which run OUT is the outcome."""
        return self.out.beside(RECEIPT)

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this run from others, as JSON holds it."""
        files = [[each.name, each.size, each.version] for each in self.inputs]
        return {**self.fixed, "inputs": files}

    def conversion(
        self, output: Output, kinds: Mapping[str, str | None] | None = None
    ) -> Conversion:
        """Return what an output is made of; ``kinds`` is what an earlier check has learnt."""
        tables = [self.table(source) for source in output.inputs]
        return Conversion(output.format.kind, tables, kinds)

    def table(self, source: Input) -> InputTable:
        """Return an input as a table."""
        return TABLES[source.format.kind](source, self.options.text_column, self.options.prefix)


def make_plan(options: RunOptions, settings: EngineSettings) -> Plan:
    """Look at IN and OUT; raise :class:`RunError` if they do not go together."""
    out, source = Place.of(options.out), Place.of(options.source)
    # OUT.partial is removed at the end, and "remove OUT" would be bad advice.
    if _is_below(source, out) or _is_below(source, out.beside(PARTIAL)):
        raise RunError(f"{shown_url(options.source)}: must be outside of OUT and OUT.partial")
    found = find_inputs(options.source, out)
    inputs = found.inputs
    form = None if options.out.endswith("/") else Format.of(out.name)
    if form is not None:
        outputs = [Output("", form, inputs)]
    elif found.many or options.out.endswith("/") or not PurePosixPath(out.name).suffix:
        outputs = [Output(each.name, each.format, [each]) for each in inputs]
    else:
        raise RunError(f"{out}: its name must end in {FORMATS}; a folder's in /")
    fixed = {
        "format": FORMAT,
        "--text-column": options.text_column,
        "--chunk-rows": options.chunk_rows,
        "--prefix": options.prefix,
        "MAX_TEXT_CHARS": settings.max_text_chars,
        "MAX_WINDOWS": settings.max_windows,
    }
    plan = Plan(options, out, outputs, inputs, found.left_out, fixed)
    _require_report_fits(plan)
    return plan


def _require_report_fits(plan: Plan) -> None:
    """Raise :class:`RunError` for a report that could not be written where it is wanted."""
    name = plan.options.report
    if name is None:
        if plan.options.include_text:
            raise RunError("--include-text: goes with --report")
        return
    report, folder = Place.of(name), Place.of(name.rpartition("/")[0] or ".")
    if not name.lower().endswith(".html"):
        raise RunError(f"--report {name}: its name must end in .html")
    if report.fs.isdir(report.path):
        raise RunError(f"--report {name}: is a folder")
    if _is_below(report, plan.out) or _is_below(report, plan.partial):
        raise RunError(f"--report {name}: must be outside of OUT")
    if folder.is_local and not folder.fs.isdir(folder.path):
        raise RunError(f"--report {name}: there is no such folder")


def _is_below(place: Place, folder: Place) -> bool:
    """Say whether a path is another one, or below it, links followed."""
    paths = [
        os.path.realpath(each.path) if each.is_local else each.path for each in (place, folder)
    ]
    return place.fs == folder.fs and f"{paths[0]}/".startswith(f"{paths[1]}/")


def require_free(plan: Plan) -> None:
    """Raise :class:`RunError` where OUT could not get its name at the end by a rename."""
    if not plan.out.is_local:
        return
    path = plan.out.path
    if os.path.islink(path):  # noqa: PTH114 - a path of fsspec's
        raise RunError(f"{path}: is a symbolic link; give the name of what it leads to")
    if os.path.ismount(path):
        raise RunError(f"{path}: is a mount point; give the name of a folder in it")
    if not plan.outputs[0].name and os.path.isdir(path):  # noqa: PTH112 - a path of fsspec's
        raise RunError(f"{path}: is a folder, and OUT a file by its name; end it in / or remove it")


def require_unchanged(plan: Plan) -> None:
    """Raise :class:`RunError` if an input is not what it was when the run was planned.

    One that has come since does no harm.
    """
    try:
        now = {each.name: each for each in find_inputs(plan.options.source, plan.out).inputs}
    except (RunError, FileNotFoundError):
        now = {}
    for each in plan.inputs:
        if now.get(each.name) != each:
            raise changed(plan, each)


def changed(plan: Plan, source: Input) -> RunError:
    """Return the error of a run whose scores are not those of its rows."""
    return RunError(
        f"{source.place}: has changed while it was scored; remove {plan.partial} and run again"
    )


def receipt_of(plan: Plan) -> dict[str, Any] | None:
    """Return what is noted about OUT if it is the outcome of this very run; ``None`` if none is.

    Raises :class:`RunError` if something else is there.
    """
    if not plan.out.exists():
        return None
    receipt = read_json_object(plan.receipt)
    if receipt is None or receipt.get("run") != plan.fingerprint():
        raise RunError(
            f"{plan.out}: exists already, and is not the outcome of this input and these options; "
            "remove it or choose another name"
        )
    return receipt


def read_json_object(place: Place) -> dict[str, Any] | None:
    """Return an object that was written to a file; ``None`` if there is none."""
    try:
        value = json.loads(place.read())
    except (FileNotFoundError, ValueError):
        return None
    return value if isinstance(value, dict) else None


@contextlib.contextmanager
def locked(folder: Place) -> Iterator[None]:
    """Hold a folder on this machine for this process; a killed one lets go of it.

    Raises :class:`RunError` if another process holds it. An object store knows no such lock.
    """
    if not folder.is_local:
        yield
        return
    try:
        with held_folder(Path(folder.path)):
            yield
    except FolderHeldError:
        raise RunError(f"{folder}: another run is writing there") from None
