"""Rows are read once to check and once to be scored, in whatever order their scores come."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from hatespeech.bulk.engines.base import BulkEngine, Chunk, ScoredChunk
from hatespeech.bulk.plan import Plan, RunOptions, make_plan
from hatespeech.bulk.row_scoring import chunks_of_piece, pieces_of
from hatespeech.bulk.run import run
from hatespeech.contract import Prediction, TextScore
from hatespeech.settings import EngineSettings

pytestmark = pytest.mark.usefixtures("mini")

ROWS = 3000
OTHER = "other " * 150  # so much that buffers hardly count


class CountedFile(io.RawIOBase):
    """Counts the bytes that are read."""

    def __init__(self, content: bytes, count: Callable[[int], None]) -> None:
        self._content = io.BytesIO(content)
        self._count = count

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._content.seek(offset, whence)

    def tell(self) -> int:
        return self._content.tell()

    def readinto(self, buffer: Any) -> int:
        found = self._content.readinto(buffer)
        self._count(found)
        return found


class CountedFiles(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A file system in memory that counts what is read."""

    protocol = "counted"
    bytes_read = 0

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("counted:/")))

    def _open(self, path: str, mode: str = "rb", *more: Any, **options: Any) -> Any:
        opened = super()._open(path, mode, *more, **options)
        if mode != "rb":
            return opened

        def count(size: int) -> None:
            CountedFiles.bytes_read += size

        return io.BufferedReader(CountedFile(opened.getvalue(), count))


fsspec.register_implementation("counted", CountedFiles, clobber=True)


class Scores(BulkEngine):
    """Gives each text a score by its length; takes ``ahead`` chunks, and returns the last first."""

    def __init__(self, ahead: int) -> None:
        self.given: list[Chunk] = []
        self._ahead = ahead

    def score(
        self, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> Generator[ScoredChunk, None, None]:
        waiting: list[Chunk] = []
        for chunk in chunks:
            self.given.append(chunk)
            waiting.append(chunk)
            if len(waiting) == self._ahead:
                yield from map(self._scored, reversed(waiting))
                waiting = []
        yield from map(self._scored, reversed(waiting))
        progress(0)

    def close(self) -> None:
        pass

    def _scored(self, chunk: Chunk) -> ScoredChunk:
        shares = [(len(text) % 97) / 100 for text in chunk.texts]
        found = [Prediction([share, 0.0, 1 - share, 0.0], 1, None, None) for share in shares]
        rows = [TextScore.of("", each, None) for each in found]
        return ScoredChunk(chunk.index, rows, "mini@000000000000")


def plan_of(source: object, out: object, chunk_rows: int = 100) -> Plan:
    options = RunOptions(str(source), str(out), "text", chunk_rows, "", None, include_text=False)
    return make_plan(options, EngineSettings())


def rows() -> Iterator[dict[str, Any]]:
    for index in range(ROWS):
        yield {"id": index, "text": f"number {index} of {'many ' * (index % 9)}", "other": OTHER}


def content(kind: str) -> bytes:
    if kind == "parquet":
        sink = io.BytesIO()
        table = pa.Table.from_pylist(list(rows()))
        pq.write_table(table, sink, row_group_size=500, use_dictionary=False, compression="none")
        return sink.getvalue()
    if kind == "jsonl":
        return "".join(f"{json.dumps(row)}\n" for row in rows()).encode()
    lines = (f"{row['id']},{row['text']},{row['other']}\n" for row in rows())
    return ("id,text,other\n" + "".join(lines)).encode()


@pytest.mark.parametrize("kind", ["csv", "jsonl", "parquet"])
def test_the_input_is_read_once_to_check_and_once_to_be_scored(kind: str) -> None:
    data = content(kind)
    CountedFiles().pipe_file(f"/in/a.{kind}", data)
    CountedFiles.bytes_read = 0
    assert run(plan_of(f"counted://in/a.{kind}", f"b.{kind}"), lambda: Scores(3)) is not None
    times = CountedFiles.bytes_read / len(data)
    # Of Parquet behind a URL, only the end is read to check it.
    assert (0.9 if kind == "parquet" else 1.9) < times < (1.3 if kind == "parquet" else 2.1)


@pytest.mark.parametrize("waiting", [0, 300_000, 10**9], ids=["nothing", "a_part", "all"])
@pytest.mark.parametrize("out", ["csv", "jsonl"])
def test_scores_in_any_order_reach_their_rows(
    out: str, waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("in").mkdir()
    for name in "ab":
        Path(f"in/{name}.csv").write_bytes(content("csv"))
    Path("in/empty.csv").write_text("id,text,other\n")
    assert run(plan_of("in", f"expected.{out}"), lambda: Scores(1)) is not None
    monkeypatch.setattr("hatespeech.bulk.row_scoring.WAITING_BYTES", waiting)
    engine = Scores(1000)
    assert run(plan_of("in", f"out.{out}"), lambda: engine) is not None
    assert [chunk.index for chunk in engine.given] == [
        *range(30),
        *(10**9 + index for index in range(30)),
    ]
    assert Path(f"out.{out}").read_bytes() == Path(f"expected.{out}").read_bytes()
    assert len(Path(f"out.{out}").read_text().splitlines()) == 2 * ROWS + (out == "csv")


def test_a_folder_without_rows_becomes_a_folder_without_rows() -> None:
    Path("in").mkdir()
    for name in ("a.csv", "b.csv"):
        Path(f"in/{name}").write_text("id,text\n")
    assert run(plan_of("in", "out"), lambda: Scores(1)) is not None
    assert [path.read_text().count("\n") for path in sorted(Path("out").iterdir())] == [1, 1]


@pytest.mark.slow
def test_machines_that_score_pieces_cut_them_into_the_same_chunks() -> None:
    Path("a.parquet").write_bytes(content("parquet"))
    plan, engine = plan_of("a.parquet", "b.parquet", chunk_rows=7), Scores(1)
    pieces = range(len(list(pieces_of(plan))))
    assert len(pieces) > 2
    found = [chunk for piece in pieces for chunk in chunks_of_piece(plan, piece)]
    assert run(plan, lambda: engine) is not None
    assert engine.given == found
