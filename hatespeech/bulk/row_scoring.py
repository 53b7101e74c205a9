"""The middle of a run: rows are read once, their texts scored in chunks, and all written in order.

The rows wait in memory for their scores, so the engine reads them a little ahead of the writer. If
chunks come back far out of order, more rows would wait than memory is planned for: then the writer
stops, and reads the rows once more when all are scored.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Any, Final

from hatespeech.bars import progress_bar
from hatespeech.bulk import RunError
from hatespeech.bulk.engines.base import BulkEngine, Chunk, EngineError
from hatespeech.bulk.output import Outputs
from hatespeech.bulk.places import Place
from hatespeech.bulk.plan import Plan
from hatespeech.bulk.statistics import Statistics
from hatespeech.bulk.workspace import ScoreFiles, ScoreReader, hash_of, require_dtype, require_model
from hatespeech.contract import Versions
from hatespeech.formats.conversion import Conversion
from hatespeech.formats.interface import Block, Piece, Reader

# A chunk ends early when its texts have this many code points together: this bounds memory.
CHUNK_CHARS: Final = 4 * 1024 * 1024
# Texts are read in pieces of at least so many chunks, where a format allows it.
PIECE_CHUNKS: Final = 64
# More than the chunks of any piece: the index of a chunk says its piece and its place there.
PIECE: Final = 10**9
# Rows that wait for their scores take about this much memory at most.
WAITING_BYTES: Final = 64 * 1024 * 1024

EngineFor = Callable[[], contextlib.AbstractContextManager[BulkEngine]]


@dataclass(frozen=True)
class Outcome:
    """What a finished run has to tell."""

    statistics: Statistics
    model: str | None  # None if there were no rows
    scored: int  # rows scored by this process, not by an earlier one
    seconds: float  # spent on them
    versions: Versions | None = None  # of what scored the first rows


@dataclass(frozen=True)
class ScoredRows:
    """What :func:`score_missing` has done."""

    rows: int  # without those that were scored before
    seconds: float  # spent on them


class Cutter:
    """Cuts the texts of one piece into chunks: the same chunks every time."""

    def __init__(self, piece: int, chunk_rows: int) -> None:
        self._index = piece * PIECE
        self._chunk_rows = chunk_rows
        self._texts: list[Any] = []
        self._chars = 0

    def add(self, texts: Iterable[Any]) -> Iterator[Chunk]:
        """Yield the chunks that these texts fill."""
        for text in texts:
            self._texts.append(text)
            self._chars += len(text) if isinstance(text, str) else 0
            if len(self._texts) == self._chunk_rows or self._chars >= CHUNK_CHARS:
                yield from self.end()

    @property
    def is_open(self) -> bool:
        """Whether texts are in no chunk yet."""
        return bool(self._texts)

    def end(self) -> Iterator[Chunk]:
        """Yield the texts that are left, if there are any."""
        if self._texts:
            chunk = Chunk(self._index, self._texts)
            self._index, self._texts, self._chars = self._index + 1, [], 0
            yield chunk


def pieces_of(plan: Plan) -> Iterator[tuple[Reader, Piece | None]]:
    """Yield the pieces of all inputs, in order.

    A chunk holds rows of one piece of one file, whichever engine scores it, so that a file's scores
    do not depend on the others.
    """
    for source in plan.inputs:
        table = plan.table(source)
        for piece in table.pieces(PIECE_CHUNKS * plan.options.chunk_rows):
            yield table, piece


def chunks_of_piece(plan: Plan, number: int) -> Iterator[Chunk]:
    """Cut the texts of one piece into chunks."""
    table, piece = list(pieces_of(plan))[number]
    cutter = Cutter(number, plan.options.chunk_rows)
    for texts in table.texts(piece):
        yield from cutter.add(texts)
    yield from cutter.end()


class OnePass:
    """Reads the rows of all inputs, gives out their texts, and writes them behind their scores."""

    def __init__(
        self,
        plan: Plan,
        conversions: Sequence[Conversion],
        rows: Sequence[int],
        files: ScoreFiles,
        folder: Place,
    ) -> None:
        """Raise what :class:`Outputs` does; ``folder`` is where the outputs go."""
        self._plan = plan
        self._tables = [table for conversion in conversions for table in conversion.tables]
        self._rows = rows
        self._chunks: list[int] = []  # the indices of those that are cut, in order
        self._there: set[int] = set()
        self._ready = 0  # how many of the chunks are there, without a gap
        self._waiting: deque[tuple[Block | None, int]] = deque()  # None ends an input
        self._waiting_bytes = 0
        self._given_up = False  # to keep rows in memory
        self._written = 0  # blocks, and ends of inputs
        self._reader = ScoreReader(files, self._indices())
        self._outputs = Outputs(plan, conversions, rows, self._reader, folder)

    @property
    def model(self) -> str | None:
        """The model that gave the scores, ``None`` if there were no rows."""
        return self._reader.model

    @property
    def versions(self) -> Versions | None:
        """What the scores say of their versions."""
        return self._reader.versions

    def chunks(self) -> Iterator[Chunk]:
        """Yield all chunks, in order."""
        piece, chunk_rows = 0, self._plan.options.chunk_rows
        for table in self._tables:
            pieces = table.pieces(PIECE_CHUNKS * chunk_rows)
            ends = deque(accumulate(each.rows for each in pieces[:-1] if each is not None))
            cutter = Cutter(piece, chunk_rows)
            seen = 0
            for block in table.blocks():
                yield from self._cut(cutter.add(block.texts))
                seen += len(block.texts)
                while ends and seen >= ends[0]:
                    yield from self._cut(cutter.end())
                    ends.popleft()
                    piece += 1
                    cutter = Cutter(piece, chunk_rows)
                self._wait(block, len(self._chunks) - (not cutter.is_open))
            yield from self._cut(cutter.end())
            self._wait(None, -1)
            piece += 1

    def scored(self, index: int) -> None:
        """Note that a chunk's scores are in its file; write the rows that waited for it."""
        self._there.add(index)
        while self._ready < len(self._chunks) and self._chunks[self._ready] in self._there:
            self._there.remove(self._chunks[self._ready])
            self._ready += 1
        self._write()

    def end(self) -> Statistics:
        """Write what is left; raise :class:`RunError` if there are other rows than scores."""
        if self._given_up:
            with progress_bar("writing", sum(self._rows), "rows") as shown:
                for place, block in enumerate(self._again()):
                    if place >= self._written:
                        self._send(block)
                    shown.update(len(block.texts) if block else 0)
        self._reader.end()
        return self._outputs.statistics

    def close(self) -> None:
        """Give the outputs up, unless they are written."""
        self._outputs.close()

    def _cut(self, chunks: Iterator[Chunk]) -> Iterator[Chunk]:
        for chunk in chunks:
            self._chunks.append(chunk.index)
            yield chunk

    def _indices(self) -> Iterator[int]:
        place = 0
        while place < len(self._chunks):
            yield self._chunks[place]
            place += 1

    def _wait(self, block: Block | None, last: int) -> None:
        """Keep a block until the chunk of its last row has scores; ``None`` ends an input."""
        if self._given_up:
            return
        self._waiting.append((block, last))
        if block is not None:
            self._waiting_bytes += block.memory_bytes
        self._write()
        if self._waiting_bytes > WAITING_BYTES:
            self._given_up = True
            self._waiting.clear()

    def _write(self) -> None:
        while self._waiting and self._waiting[0][1] < self._ready:
            block, _ = self._waiting.popleft()
            if block is not None:
                self._waiting_bytes -= block.memory_bytes
            self._send(block)

    def _send(self, block: Block | None) -> None:
        self._written += 1
        self._outputs.send(block)

    def _again(self) -> Iterator[Block | None]:
        for table in self._tables:
            yield from table.blocks()
            yield None


def score_rows(
    plan: Plan,
    conversions: Sequence[Conversion],
    rows: Sequence[int],
    files: ScoreFiles,
    engine_for: EngineFor,
    folder: Place,
) -> Outcome:
    """Score the missing chunks of all inputs, and write all outputs into a folder.

    ``rows`` is the number of rows of each input. Raises :class:`RunError` if an input now has
    another number, or other texts than those that were scored.
    """
    with contextlib.closing(OnePass(plan, conversions, rows, files, folder)) as rows_once:
        found = score_missing(
            plan, sum(rows), files, engine_for, rows_once.chunks(), rows_once.scored
        )
        statistics = rows_once.end()
    return Outcome(statistics, rows_once.model, found.rows, found.seconds, rows_once.versions)


def score_missing(
    plan: Plan,
    rows: int,
    files: ScoreFiles,
    engine_for: EngineFor,
    chunks: Iterable[Chunk],
    scored_chunk: Callable[[int], object],
) -> ScoredRows:
    """Score the chunks whose scores are missing; call back for each that has scores."""
    there = files.indices()
    kept = files.read(min(there)) if there else None
    model, dtype = (kept.model, kept.dtype) if kept else (None, None)
    # Of each chunk that the engine has: the number of its rows, and the hash of its texts.
    waiting: dict[int, tuple[int, str]] = {}
    scored = 0
    started = time.monotonic()

    with progress_bar("scoring", rows, "rows") as shown:

        def missing() -> Iterator[Chunk]:
            for chunk in chunks:
                texts = hash_of(chunk.texts)
                if chunk.index in there:
                    if files.texts(chunk.index) != texts:
                        raise RunError(
                            f"{plan.partial}: part {chunk.index} has the scores of other texts; "
                            f"if an input has changed, remove {plan.partial} and run again"
                        )
                    shown.initial += len(chunk.texts)
                    shown.update(len(chunk.texts))
                    scored_chunk(chunk.index)
                else:
                    waiting[chunk.index] = (len(chunk.texts), texts)
                    yield chunk

        left = missing()
        first = next(left, None)
        if first is None:
            return ScoredRows(0, 0.0)
        with engine_for() as engine:
            started = time.monotonic()
            results = engine.score(chain([first], left), shown.update)
            # However the run ends, scoring ends before the processes and connections that it uses.
            with contextlib.closing(results):
                for done in results:
                    sent, texts = waiting.pop(done.index, (None, ""))
                    if sent != len(done.rows):
                        raise EngineError(f"the engine lost or repeated rows of part {done.index}")
                    model, dtype = model or done.model, dtype or done.dtype
                    require_model(done.model, model)
                    require_dtype(done.dtype, dtype)
                    files.write(done, texts)
                    scored += len(done.rows)
                    scored_chunk(done.index)
        if waiting:
            raise EngineError(f"the engine left {len(waiting)} parts unscored; run it again")
    return ScoredRows(scored, time.monotonic() - started)
