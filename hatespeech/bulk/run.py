"""A run: checks the inputs, scores what is missing, writes the rows with their scores.

Scores are kept in ``OUT.partial``, and OUT appears in one step when it is complete. So a run may be
killed at any moment, and resumes when it is started again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from hatespeech.bars import progress_bar
from hatespeech.bulk import RunError
from hatespeech.bulk.engines.base import BulkEngine, Chunk, EngineError
from hatespeech.bulk.output import write_outputs
from hatespeech.bulk.places import Place
from hatespeech.bulk.plan import (
    FORMAT,
    Plan,
    locked,
    read_json_object,
    receipt_of,
    require_free,
    require_unchanged,
)
from hatespeech.bulk.report import described, origin_of, render
from hatespeech.bulk.score_files import ScoreFiles, ScoreReader, hash_of, require_model
from hatespeech.bulk.statistics import Statistics
from hatespeech.bulk.written_rows import require_columns
from hatespeech.formats.conversion import Conversion
from hatespeech.formats.foreign_parquet import ParquetVerifier
from hatespeech.formats.interface import Piece, Reader, ReadLimits

log = logging.getLogger(__name__)

# A chunk ends early when its texts have this many code points together: this bounds memory.
CHUNK_CHARS: Final = 4 * 1024 * 1024
# Memory that a local Parquet file may need to be read.
PARQUET_BYTES: Final = 1024 * 1024 * 1024
# Texts are read in pieces of at least so many chunks, where a format allows it.
PIECE_CHUNKS: Final = 64
# More than the chunks of any piece: the index of a chunk says its piece and its place there.
PIECE: Final = 10**9


@dataclass(frozen=True)
class Outcome:
    """What a finished run has to tell."""

    statistics: Statistics
    model: str | None  # None if there were no rows
    scored: int  # rows scored by this process, not by an earlier one
    seconds: float  # spent on them


def run(
    plan: Plan,
    make_engine: Callable[[], BulkEngine],
    check_engine: Callable[[], object] = lambda: None,
) -> Outcome | None:
    """Do what is left of a run; return ``None`` if nothing is.

    ``check_engine`` runs before any work, and raises those errors of ``make_engine`` that are known
    at once. Raises :class:`RunError`, :class:`EngineError`, and the errors of the file systems.
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
        for table in map(plan.table, plan.inputs):
            require_columns(table.head(), plan.options.report_columns, table.error)
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
            **described(outcome.model, plan.settings),
            "finished": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "scored": outcome.scored,
            "seconds": round(outcome.seconds, 3),
            **outcome.statistics.counts(),
        }
        if plan.options.report is not None:
            page = render(outcome.statistics, origin_of(receipt, plan.settings), plan.out.name)
            Place.of(plan.options.report).write(page.encode())
        if plan.out.exists():
            raise appeared(plan)
        plan.receipt.write(json.dumps(receipt, indent=1).encode())
        finish(plan)
    return outcome


def _score_rows(plan: Plan, make_engine: Callable[[], BulkEngine]) -> Outcome:
    """Give all rows to an engine, and write all outputs here."""
    rows, conversions = begin(plan)
    files = ScoreFiles(plan.partial / "scores")
    files.make()
    with unchanged(plan):
        found = score_missing(plan, sum(rows), files, lambda: contextlib.closing(make_engine()))
        reader = ScoreReader(files, found.chunks)
        statistics = write_outputs(plan, conversions, rows, reader, plan.partial / "output")
        reader.end()
    return Outcome(statistics, reader.model, found.rows, found.seconds)


def finish(plan: Plan) -> None:
    """Give OUT its name, unless it has it, and remove OUT.partial."""
    output = plan.partial / "output"
    made = output if plan.outputs[0].name else output / plan.out.name
    if output.exists() and made.exists():
        try:
            made.move(plan.out)
        except FileExistsError:
            plan.receipt.remove_file()  # that OUT is not of this run
            raise appeared(plan) from None
    try:
        plan.partial.remove()
    except OSError as exc:  # NFS keeps open files, such as the lock
        log.warning("%s can't be removed: %s", plan.partial, exc.strerror or type(exc).__name__)


def appeared(plan: Plan) -> RunError:
    """Return the error for an OUT that another program has made since the run began."""
    return RunError(
        f"{plan.out}: appeared during the run, and was not made by it; move it away and run again"
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
    except Exception:
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


def require_same_options(plan: Plan, begun: Mapping[str, Any]) -> None:
    """Raise :class:`RunError` unless a plan has the options of the run that was begun."""
    if begun["run"].get("format") != FORMAT:
        raise RunError(
            f"{plan.partial}: was begun by another version of this command, and can't be resumed "
            "by this one; finish it with that version, or remove it to start over"
        )
    other = [key for key, value in plan.fixed.items() if begun["run"].get(key) != value]
    if other:
        raise other_run(plan, f"with another {', '.join(other)}")


def other_run(plan: Plan, what: str) -> RunError:
    """Return the error for a command other than the one that was interrupted."""
    return RunError(
        f"{plan.partial}: holds a run {what}; repeat its command, or remove it to start over"
    )


def check_inputs(plan: Plan) -> tuple[list[int], list[Conversion]]:
    """Read all inputs once; return what :func:`begin` does. Raises :class:`RunError`."""
    verifier = ParquetVerifier(PARQUET_BYTES)
    limits = ReadLimits(verify_parquet=verifier.verify)
    conversions = [plan.conversion(output, limits=limits) for output in plan.outputs]
    for conversion in conversions:
        conversion.require_common_columns()
    sizes = [source.size for source in plan.inputs]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    rows = []
    with contextlib.closing(verifier), progress_bar("checking", total, "B") as shown:
        for conversion in conversions:
            for table in conversion.tables:
                rows.append(table.count(shown.update, conversion.inspector(table)))
            conversion.require_common_types()
    return rows, conversions


def chunks_of(plan: Plan, only: int | None = None) -> Iterator[Chunk]:
    """Cut the texts of all inputs, in order, into chunks: the same chunks every time.

    ``only`` is the number of a piece, for its chunks alone.

    A chunk holds rows of one piece of one file, whoever scores it, so that a file's scores do not
    depend on the others.
    """
    for number, (table, piece) in enumerate(pieces_of(plan)):
        if only is not None and only != number:
            continue
        index = number * PIECE
        chars = 0
        texts: list[Any] = []
        for more in table.texts(piece):
            for text in more:
                texts.append(text)
                chars += len(text) if isinstance(text, str) else 0
                if len(texts) == plan.options.chunk_rows or chars >= CHUNK_CHARS:
                    yield Chunk(index, texts)
                    index, chars, texts = index + 1, 0, []
        if texts:
            yield Chunk(index, texts)


def pieces_of(plan: Plan) -> Iterator[tuple[Reader, Piece]]:
    """Yield the pieces of all inputs, in order."""
    for source in plan.inputs:
        table = plan.table(source)
        for piece in table.pieces(PIECE_CHUNKS * plan.options.chunk_rows):
            yield table, piece


@dataclass(frozen=True)
class ScoredRows:
    """What :func:`score_missing` has done."""

    rows: int  # without those that were scored before
    seconds: float  # spent on them
    chunks: list[int]  # the indices of all chunks


def score_missing(
    plan: Plan,
    rows: int,
    files: ScoreFiles,
    engine_for: Callable[[], contextlib.AbstractContextManager[BulkEngine]],
    only: int | None = None,
) -> ScoredRows:
    """Score the missing chunks, of all pieces or of one."""
    there = files.indices()
    kept = files.read(min(there)).model if there else None
    # Of each chunk that the engine has: the number of its rows, and the hash of its texts.
    waiting: dict[int, tuple[int, str]] = {}
    indices: list[int] = []
    scored = 0
    started = time.monotonic()

    with progress_bar("scoring", rows, "rows") as shown:

        def missing() -> Iterator[Chunk]:
            for chunk in chunks_of(plan, only):
                indices.append(chunk.index)
                texts = hash_of(chunk.texts)
                if chunk.index in there:
                    if files.texts(chunk.index) != texts:
                        raise RunError(
                            f"{plan.partial}: part {chunk.index} has the scores of other texts; "
                            f"if an input has changed, remove {plan.partial} and run again"
                        )
                    shown.initial += len(chunk.texts)
                    shown.update(len(chunk.texts))
                else:
                    waiting[chunk.index] = (len(chunk.texts), texts)
                    yield chunk

        chunks = missing()
        first = next(chunks, None)
        if first is None:
            return ScoredRows(0, 0.0, indices)
        with engine_for() as engine:
            started = time.monotonic()
            results = engine.score(_with(first, chunks), shown.update)
            # However the run ends, scoring ends before the processes and connections that it uses.
            with contextlib.closing(results):
                for done in results:
                    sent, texts = waiting.pop(done.index, (None, ""))
                    if sent != len(done.rows):
                        raise EngineError(f"the engine lost or repeated rows of part {done.index}")
                    kept = kept or done.model
                    require_model(done.model, kept)
                    files.write(done, texts)
                    scored += len(done.rows)
        if waiting:
            raise EngineError(f"the engine left {len(waiting)} parts unscored; run it again")
    return ScoredRows(scored, time.monotonic() - started, indices)


def _with(first: Chunk, others: Iterator[Chunk]) -> Iterator[Chunk]:
    yield first
    yield from others
