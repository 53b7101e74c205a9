"""A run in which machines read, score and write whole files themselves; this one hands out names.

A file is a run of its own, with a folder of its own in ``OUT.partial``; the steps are those of
:mod:`hatespeech.bulk.run`. A large Parquet file is scored in pieces, by several machines, and then
written by one. A file that fails is named, and the others are finished.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from typing_extensions import override

from hatespeech.bars import progress_bar
from hatespeech.bulk import RunError
from hatespeech.bulk.engines.base import BulkEngine, EngineError, Task, TaskEngine
from hatespeech.bulk.output import write_outputs
from hatespeech.bulk.places import Input
from hatespeech.bulk.plan import Output, Plan, changed, first_changed
from hatespeech.bulk.row_scoring import (
    Outcome,
    chunks_of_piece,
    pieces_of,
    score_missing,
    score_rows,
)
from hatespeech.bulk.run import begin, carry_out
from hatespeech.bulk.statistics import Statistics
from hatespeech.bulk.workspace import (
    ScoreFiles,
    ScoreReader,
    read_json_object,
    require_dtype,
    require_model,
    require_same_options,
)
from hatespeech.contract import Versions
from hatespeech.errors import describe_exception

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Written:
    """A file is in ``OUT.partial/output``."""

    statistics: Statistics
    model: str | None  # None if there were no rows
    scored: int  # rows scored by this task
    versions: Versions | None = None  # of what scored them


@dataclass(frozen=True)
class Cut:
    """A file is checked; its pieces are scored next."""

    pieces: int


@dataclass(frozen=True)
class PieceScored:
    """A piece is scored."""

    chunks: list[int]  # the indices of its chunks
    scored: int  # rows scored by this task


@dataclass(frozen=True)
class Failed:
    """A file can't be scored; the message names it and is one line."""

    message: str


Result = Written | Cut | PieceScored | Failed


@dataclass(frozen=True)
class FileTask(Task):
    """A step of one file, for whichever machine is free; each may be done again, anywhere.

    Without ``piece`` and ``chunks`` it does all, unless the file is large enough to be cut. With
    ``piece`` it scores that piece. With ``chunks``, those of all pieces, it writes the output.
    """

    plan: Plan  # of this file alone
    number: int  # of the file in the run
    piece: int | None = None
    chunks: tuple[int, ...] | None = None

    @override
    def do(self, engine: BulkEngine) -> Result:
        before = None
        try:
            before = self._source.now()
            return self._do(engine, before)
        except EngineError:
            raise
        except RunError as exc:
            fault = str(exc)
        except OSError as exc:
            fault = f"{exc.filename or self._name}: {exc.strerror or describe_exception(exc)}"
            if exc.filename not in (None, self._source.place.path):
                raise EngineError(fault) from None  # for instance, OUT's disk is full
        except Exception as exc:  # its message may quote a text
            fault = f"{self._name}: unexpected: {describe_exception(exc)}"
        if self._changed(before):
            fault = str(changed(self.plan, self._source))
        return Failed(" ".join(fault.split()))

    def _do(self, engine: BulkEngine, before: Input) -> Result:
        plan = self.plan
        if self.piece is None and self.chunks is None:
            self._forget_another()
        plan.partial.make_folder()
        rows, conversions = begin(plan)
        files = ScoreFiles(plan.partial / "scores")
        files.make()

        def engine_for() -> contextlib.AbstractContextManager[BulkEngine]:
            return contextlib.nullcontext(engine)  # it goes on to other files

        if self.piece is not None:
            indices: list[int] = []
            chunks = chunks_of_piece(plan, self.piece)
            found = score_missing(plan, sum(rows), files, engine_for, chunks, indices.append)
            return PieceScored(sorted(indices), found.rows)
        pieces = sum(1 for _ in pieces_of(plan))
        if self.chunks is None and pieces > 1:
            return Cut(pieces)
        # Another machine may still be writing this file, if it was thought to be dead.
        folder = plan.partial / f"output-{secrets.token_hex(8)}"
        if self.chunks is None:
            outcome = score_rows(plan, conversions, rows, files, engine_for, folder)
        else:
            reader = ScoreReader(files, self.chunks)
            statistics = write_outputs(plan, conversions, rows, reader, folder)
            reader.end()
            outcome = Outcome(statistics, reader.model, 0, 0.0, reader.versions)
        if self._changed(before):
            raise changed(plan, self._source)
        made = folder / self._output
        made.replace(plan.run_partial / "output" / self._output)
        folder.remove()
        return Written(outcome.statistics, outcome.model, outcome.scored, outcome.versions)

    @property
    def _source(self) -> Input:
        return self.plan.inputs[0]

    @property
    def _name(self) -> str:
        return str(self._source.place)

    @property
    def _output(self) -> str:
        return self.plan.outputs[0].name or self.plan.out.name

    def _forget_another(self) -> None:
        """Remove what is left of a run on this file before it was corrected."""
        begun = read_json_object(self.plan.partial / "run.json")
        if begun is not None and begun["run"] != self.plan.fingerprint():
            self.plan.partial.remove()

    def _changed(self, before: Input | None) -> bool:
        """Say whether the file is another one than ``before``."""
        try:
            return self._source.now() != before
        except FileNotFoundError:
            return True
        except OSError:
            return False  # nobody can say


def plan_of_file(plan: Plan, output: Output) -> Plan:
    """Return the plan of one output alone, with a folder of its own in OUT.partial."""
    name = hashlib.sha256(output.inputs[0].name.encode("utf-8", "surrogateescape")).hexdigest()
    folder = plan.partial / "files" / name[:32]
    return replace(plan, outputs=[output], inputs=output.inputs, skipped=[], folder=folder)


def run_by_file(
    plan: Plan, make_engine: Callable[[], TaskEngine], check_engine: Callable[[], object]
) -> Outcome | None:
    """Do what :func:`hatespeech.bulk.run.run` does, file by file.

    Each output of ``plan`` must be made from one input. Raises the same errors; if files fail, a
    :class:`RunError` that counts them follows when the others are done.
    """
    return carry_out(plan, lambda: _score_files(plan, make_engine), check_engine)


def _score_files(plan: Plan, make_engine: Callable[[], TaskEngine]) -> Outcome:
    note = plan.partial / "run.json"
    begun = read_json_object(note)
    if begun is not None:
        require_same_options(plan, begun)
        if "rows" in begun:
            raise RunError(
                f"{plan.partial}: holds a run that goes by rows; add --no-by-file, or remove it "
                "to start over"
            )
    # Every output is written once more: that is how its rows are counted.
    (plan.partial / "output").remove()
    with contextlib.closing(make_engine()) as engine:
        kept = begun or {}
        require_model(engine.model, kept.get("model"))
        require_dtype(engine.dtype, kept.get("dtype"))
        made_by = {"model": engine.model, "dtype": engine.dtype}
        note.write(json.dumps({"run": dict(plan.fixed), **made_by}).encode())
        files = _Files(plan)
        started = time.monotonic()
        with (
            progress_bar("scoring", len(plan.outputs), "files") as shown,
            contextlib.closing(engine.work(files.next)) as results,
        ):
            for task, result in results:
                shown.update(files.take(task, result))
    files.require_all()
    source = first_changed(plan)
    if source is not None:
        raise RunError(f"{source.place}: changed after it was scored; run the same command again")
    seconds = time.monotonic() - started
    return Outcome(files.statistics, files.model, files.scored, seconds, files.versions)


@dataclass
class _Files:
    """The steps that are left, and what the finished ones have counted."""

    plan: Plan
    statistics: Statistics = field(init=False)
    model: str | None = field(default=None, init=False)
    versions: Versions | None = field(default=None, init=False)
    scored: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        options = self.plan.options
        self.statistics = Statistics(options.report_columns, options.include_text)
        self._ahead = self._first_steps()
        self._next: deque[FileTask] = deque()  # of files that have been cut
        self._pieces: dict[int, dict[int, list[int] | None]] = {}  # their chunks, by file
        self._done: dict[int, Statistics | None] = {}  # files that wait for those before them
        self._merged = 0
        self._failed: list[str] = []

    def next(self) -> FileTask | None:
        """Return the next step to hand out, ``None`` if there is none for now."""
        return self._next.popleft() if self._next else next(self._ahead, None)

    def take(self, task: FileTask, result: Result) -> int:
        """Note what came back; return the number of files that are finished by it."""
        if isinstance(result, Cut):
            self._pieces[task.number] = dict.fromkeys(range(result.pieces))
            self._next += [replace(task, piece=piece) for piece in range(result.pieces)]
            return 0
        if isinstance(result, PieceScored):
            self.scored += result.scored
            return self._piece_scored(task, result)
        if isinstance(result, Failed):
            if task.number in self._done or task.number < self._merged:
                return 0  # another piece of it has failed, too
            log.warning("%s", result.message)
            self._failed.append(result.message)
            self._pieces.pop(task.number, None)
            self._next = deque(each for each in self._next if each.number != task.number)
            self._finish(task.number, None)
            return 1
        self.scored += result.scored
        self.model = self.model or result.model
        self.versions = self.versions or result.versions
        self._finish(task.number, result.statistics)
        return 1

    def require_all(self) -> None:
        """Raise :class:`RunError` if files have failed."""
        if self._failed:
            raise RunError(
                f"{len(self._failed):,} of {len(self.plan.outputs):,} files have no scores, the "
                f"first: {self._failed[0]}; the others are kept: correct or remove these, and run "
                "the same command again"
            )
        if self._merged < len(self.plan.outputs):
            raise EngineError("the engine left files unscored; run it again")

    def _first_steps(self) -> Iterator[FileTask]:
        for number, output in enumerate(self.plan.outputs):
            yield FileTask(plan_of_file(self.plan, output), number)

    def _piece_scored(self, task: FileTask, result: PieceScored) -> int:
        pieces = self._pieces.get(task.number)
        if pieces is not None and task.piece is not None:
            pieces[task.piece] = result.chunks
            found = list(pieces.values())
            if None not in found:
                del self._pieces[task.number]
                chunks = tuple(index for each in found for index in each or ())
                self._next.append(replace(task, piece=None, chunks=chunks))
        return 0

    def _finish(self, number: int, statistics: Statistics | None) -> None:
        """Add up what files have counted, in their order."""
        self._done[number] = statistics
        while self._merged in self._done:
            found = self._done.pop(self._merged)
            if found is not None:
                self.statistics.merge(found)
            self._merged += 1
