"""A run: check the input, score what is missing, write the output beside the scores.

What is scored is kept in ``OUT.partial``, and OUT appears in one step when it is complete. So a run
may be killed at any moment, and goes on when it is started again.
"""

from __future__ import annotations

import contextlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from hatespeech.bars import progress_bar
from hatespeech.bulk import RunError
from hatespeech.bulk.engines.base import BulkEngine, Chunk, EngineError
from hatespeech.bulk.output import write_outputs
from hatespeech.bulk.places import Place
from hatespeech.bulk.plan import (
    Plan,
    locked,
    read_json_object,
    receipt_of,
    require_free,
    require_unchanged,
)
from hatespeech.bulk.report import render
from hatespeech.bulk.score_files import ScoreFiles, ScoreReader, require_model
from hatespeech.bulk.statistics import Statistics
from hatespeech.bulk.tables.conversion import Conversion

log = logging.getLogger(__name__)

# A chunk ends early when its texts are this long together, so that memory stays bounded.
CHUNK_CHARS: Final = 4 * 1024 * 1024


@dataclass(frozen=True)
class Outcome:
    """What a run came to."""

    statistics: Statistics
    model: str | None  # None if there was no row
    scored: int  # rows, in this session
    seconds: float  # it took to score them


def run(
    plan: Plan,
    make_engine: Callable[[], BulkEngine],
    check_engine: Callable[[], object] = lambda: None,
) -> Outcome | None:
    """Do what is left of a run; return ``None`` if nothing was.

    ``check_engine`` is called before anything is done, and raises what ``make_engine`` would, as
    far as that can be told at once. Raises :class:`RunError`, :class:`EngineError`, and what the
    file systems raise.
    """
    finished = receipt_of(plan)
    if finished and not plan.partial.exists():
        return None
    require_free(plan)
    # A run that was killed while it removed OUT.partial has nothing left for an engine to do.
    if not finished and not (plan.partial / "run.json").exists():
        check_engine()
    with locked(plan.partial):
        if receipt_of(plan):  # killed, or finished by another process, just before its end
            finish(plan)
            return None
        rows, conversions = begin(plan)
        files = ScoreFiles(plan.partial / "scores")
        files.make()
        with unchanged(plan):
            scored, seconds, chunks = score_missing(plan, sum(rows), files, make_engine)
            reader = ScoreReader(files, chunks)
            statistics = write_outputs(plan, conversions, rows, reader)
            reader.end()
        if plan.options.report is not None:
            page = render(statistics, reader.model, plan.out.name, len(plan.inputs))
            # A file's name may be no UTF-8.
            Place.of(plan.options.report).write(page.encode(errors="replace"))
        receipt = {"run": plan.fingerprint(), "model": reader.model, **statistics.counts()}
        plan.receipt.write(json.dumps(receipt, indent=1).encode())
        finish(plan)
    return Outcome(statistics, reader.model, scored, seconds)


def finish(plan: Plan) -> None:
    """Have OUT appear, if it has not, and remove what is no longer needed."""
    output = plan.partial / "output"
    if output.exists():
        (output if plan.outputs[0].name else output / plan.out.name).move(plan.out)
    try:
        plan.partial.remove()
    except OSError as exc:  # NFS keeps a file that is open, such as the lock
        log.warning("%s can't be removed: %s", plan.partial, exc.strerror or type(exc).__name__)


@contextlib.contextmanager
def unchanged(plan: Plan) -> Iterator[None]:
    """Raise :class:`RunError` if inputs change meanwhile, which is then behind any other error."""
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
    """Return the rows of each input, and how the outputs are made; check all, unless that is done.

    Raises :class:`RunError` if what was begun is another run.
    """
    note = plan.partial / "run.json"
    fingerprint = plan.fingerprint()
    begun = read_json_object(note)
    if begun is None and note.exists():
        raise RunError(f"{note}: can't be read; remove {plan.partial} to begin anew")
    if begun is None:
        for name in ("scores", "output"):  # a run that was being removed
            (plan.partial / name).remove()
        try:
            rows, conversions = check_inputs(plan)
        except RunError:
            plan.partial.remove()  # there is nothing in it to go on from
            raise
        kinds = [conversion.kinds for conversion in conversions]
        note.write(json.dumps({"run": fingerprint, "rows": rows, "kinds": kinds}).encode())
        return rows, conversions
    other = [key for key, value in fingerprint.items() if begun["run"].get(key) != value]
    if other == ["inputs"]:
        raise other_run(plan, "of other files, or changed ones")
    if other:
        raise other_run(plan, f"with another {', '.join(other)}")
    pairs = zip(plan.outputs, begun["kinds"], strict=True)
    return begun["rows"], [plan.conversion(output, kinds) for output, kinds in pairs]


def other_run(plan: Plan, what: str) -> RunError:
    """Return the error of a command that is not the one that was begun."""
    return RunError(
        f"{plan.partial}: holds a run {what}; give the same command, or remove it to begin anew"
    )


def check_inputs(plan: Plan) -> tuple[list[int], list[Conversion]]:
    """Read all inputs once; see :func:`begin`. Raises :class:`RunError`."""
    conversions = [plan.conversion(output) for output in plan.outputs]
    for conversion in conversions:
        conversion.require_common_columns()
    sizes = [source.size for source in plan.inputs]
    total = None if None in sizes else sum(size or 0 for size in sizes)
    rows = []
    with progress_bar("checking", total, "B") as shown:
        for conversion in conversions:
            for table in conversion.tables:
                rows.append(table.count(shown.update, conversion.inspector(table)))
            conversion.require_common_types()
    return rows, conversions


def chunks_of(plan: Plan) -> Iterator[Chunk]:
    """Cut the texts of all inputs, in order, into chunks; the same ones every time."""
    index = chars = 0
    texts: list[Any] = []
    for source in plan.inputs:
        for more in plan.table(source).texts():
            for text in more:
                texts.append(text)
                chars += len(text) if isinstance(text, str) else 0
                if len(texts) == plan.options.chunk_rows or chars >= CHUNK_CHARS:
                    yield Chunk(index, texts)
                    index, chars, texts = index + 1, 0, []
    if texts:
        yield Chunk(index, texts)


def score_missing(
    plan: Plan, rows: int, files: ScoreFiles, make_engine: Callable[[], BulkEngine]
) -> tuple[int, float, int]:
    """Score the chunks that are not there yet; return rows, seconds, and chunks in all."""
    there = files.indices()
    kept = files.read(min(there))[1] if there else None
    waiting: dict[int, int] = {}  # rows of chunks that the engine has
    count = scored = 0
    started = time.monotonic()

    with progress_bar("scoring", rows, "rows") as shown:

        def missing() -> Iterator[Chunk]:
            nonlocal count
            for chunk in chunks_of(plan):
                count = chunk.index + 1
                if chunk.index in there:
                    if files.rows(chunk.index) != len(chunk.texts):
                        raise RunError(
                            f"{plan.partial}: part {chunk.index} has not the rows of the input; "
                            "remove it and run again"
                        )
                    shown.initial += len(chunk.texts)
                    shown.update(len(chunk.texts))
                else:
                    waiting[chunk.index] = len(chunk.texts)
                    yield chunk

        chunks = missing()
        first = next(chunks, None)
        if first is None:
            return 0, 0.0, count
        with contextlib.closing(make_engine()) as engine:
            started = time.monotonic()
            results = engine.score(_with(first, chunks), shown.update)
            # Whatever ends the run, what scores ends before the processes and connections it uses.
            with contextlib.closing(results):
                for done in results:
                    if waiting.pop(done.index, None) != len(done.rows):
                        raise EngineError(f"the engine lost or repeated rows of part {done.index}")
                    kept = kept or done.model
                    require_model(done.model, kept)
                    files.write(done)
                    scored += len(done.rows)
        if waiting:
            raise EngineError(f"the engine left {len(waiting)} parts without scores; run it again")
    return scored, time.monotonic() - started, count


def _with(first: Chunk, others: Iterator[Chunk]) -> Iterator[Chunk]:
    yield first
    yield from others
