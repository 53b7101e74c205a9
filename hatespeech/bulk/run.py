"""A run: checks the inputs, scores what is missing, writes the rows with their scores.

Scores are kept in ``OUT.partial``, and OUT appears in one step when it is complete. So a run may be
killed at any moment, and resumes when it is started again.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Final

from hatespeech.bars import progress_bar
from hatespeech.bulk import RunError
from hatespeech.bulk.engines.base import BulkEngine, EngineError
from hatespeech.bulk.places import Place, total_bytes
from hatespeech.bulk.plan import Plan, require_free, require_unchanged
from hatespeech.bulk.report import described, origin_of, render
from hatespeech.bulk.row_scoring import Outcome, score_rows
from hatespeech.bulk.text_sample import SAMPLED_FILES, TextSample
from hatespeech.bulk.workspace import (
    ScoreFiles,
    appeared,
    finish,
    locked,
    other_run,
    read_json_object,
    receipt_of,
    require_same_options,
)
from hatespeech.bulk.written_rows import require_columns
from hatespeech.formats.conversion import Conversion
from hatespeech.formats.foreign_parquet import ParquetVerifier
from hatespeech.formats.interface import ReadLimits
from hatespeech.formats.scores import made_by

# Memory that a local Parquet file may need to be read.
PARQUET_BYTES: Final = 1024 * 1024 * 1024


def run(
    plan: Plan,
    make_engine: Callable[[], BulkEngine],
    check_engine: Callable[[], object] = lambda: None,
) -> Outcome | None:
    """Do what is left of a run; return ``None`` if nothing is.

    ``check_engine`` runs first: it raises the errors of ``make_engine`` that need no work. The run
    raises :class:`RunError`, :class:`EngineError`, and the errors of the file systems.
    """
    return carry_out(plan, lambda: _score_rows(plan, make_engine), check_engine)


def carry_out(
    plan: Plan, score: Callable[[], Outcome], check_engine: Callable[[], object]
) -> Outcome | None:
    """Do what every run does around ``score``, which makes all outputs; see :func:`run`."""
    finished = receipt_of(plan)
    if finished and not plan.partial.exists():
        return None
    require_free(plan)
    if plan.options.report_columns.names:
        require_columns(list(map(plan.table, plan.inputs)), plan.options.report_columns)
    # If the last run was killed while deleting OUT.partial, all is scored; no engine is needed.
    if not finished and not (plan.partial / "run.json").exists():
        check_engine()
    with locked(plan.partial):
        if receipt_of(plan):  # killed just before its end, or finished by another process
            finish(plan)
            return None
        outcome = score()
        receipt = {
            "run": plan.fingerprint(),
            "model": outcome.model,
            **made_by(outcome.model, outcome.versions, plan.options.thresholds),
            **described(outcome.model, plan.settings),
            "finished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "scored": outcome.scored,
            "seconds": round(outcome.seconds, 3),
            **outcome.statistics.counts(),
        }
        if plan.options.report is not None:
            page = render(outcome.statistics, origin_of(receipt, plan.settings), plan.out.name)
            Place.of(plan.options.report).write(page.encode(), alone=True)
        if plan.out.exists():
            raise appeared(plan)
        plan.receipt.write(json.dumps(receipt, indent=1).encode(), alone=True)
        finish(plan)
    return outcome


def _score_rows(plan: Plan, make_engine: Callable[[], BulkEngine]) -> Outcome:
    """Give all rows to an engine, and write all outputs here."""
    rows, conversions = begin(plan)
    files = ScoreFiles(plan.partial / "scores")
    files.make()
    with unchanged(plan):
        return score_rows(
            plan,
            conversions,
            rows,
            files,
            lambda: contextlib.closing(make_engine()),
            plan.partial / "output",
        )


@contextlib.contextmanager
def unchanged(plan: Plan) -> Iterator[None]:
    """Raise :class:`RunError` if an input changed during the run.

    It replaces any error but the engine's: the change is then its likely cause.
    """
    try:
        yield
    except EngineError:
        raise
    except Exception:  # whatever it is, it is raised again, unless a change explains it
        with contextlib.suppress(OSError):
            require_unchanged(plan)
        raise
    require_unchanged(plan)


def begin(plan: Plan) -> tuple[list[int], list[Conversion]]:
    """Return each input's number of rows, and how the outputs are made.

    Checks all inputs, unless an earlier process has done so. Raises :class:`RunError` if
    OUT.partial holds another run.
    """
    note = plan.partial / "run.json"
    fingerprint = plan.fingerprint()
    begun = read_json_object(note)
    if begun is None and note.exists():
        raise RunError(f"{note}: can't be read; remove {plan.partial} to start over")
    if begun is None:
        for name in ("scores", "output"):  # left by a run that was being removed
            (plan.partial / name).remove()
        try:
            rows, conversions = check_inputs(plan)
        except RunError:
            plan.partial.remove()  # it holds nothing to resume from
            raise
        kinds = [conversion.kinds for conversion in conversions]
        note.write(json.dumps({"run": fingerprint, "rows": rows, "kinds": kinds}).encode())
        return rows, conversions
    require_same_options(plan, begun)
    if "rows" not in begun:
        raise RunError(
            f"{plan.partial}: holds a run that goes by files; add --engine ray --by-file, or "
            "remove it to start over"
        )
    if begun["run"]["inputs"] != fingerprint["inputs"]:
        raise other_run(plan, "on other or changed files")
    pairs = zip(plan.outputs, begun["kinds"], strict=True)
    return begun["rows"], [plan.conversion(output, kinds) for output, kinds in pairs]


def check_inputs(plan: Plan) -> tuple[list[int], list[Conversion]]:
    """Read all inputs once; return what :func:`begin` does. Raises :class:`RunError`."""
    verifier = ParquetVerifier(PARQUET_BYTES)
    limits = ReadLimits(verify_parquet=verifier.verify)
    conversions = [plan.conversion(output, limits=limits) for output in plan.outputs]
    for conversion in conversions:
        conversion.require_common_columns()
    total = total_bytes(plan.inputs)
    rows: list[int] = []
    sample = TextSample()
    with contextlib.closing(verifier), progress_bar("checking", total, "B") as shown:
        for conversion in conversions:
            for table in conversion.tables:
                look = sample.add if len(rows) < SAMPLED_FILES else None
                rows.append(table.count(shown.update, conversion.inspector(table), look))
            conversion.require_common_types()
    sample.warn(plan.options.text_column)
    return rows, conversions
