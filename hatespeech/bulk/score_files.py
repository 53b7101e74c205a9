"""The scores of the chunks, each in a small file of its own until the output is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from hatespeech.bulk import RunError
from hatespeech.bulk.engines.base import ScoredChunk
from hatespeech.bulk.places import Place
from hatespeech.contract import COLUMNS

# The columns that a run adds.
SCORES: Final = pa.schema(
    [pa.field(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()]
)
SCORE_TYPES: Final = list(zip(SCORES.names, SCORES.types, strict=True))
MODEL: Final = b"model"


class ScoreFiles:
    """A folder of scored chunks, named by their index; a file appears only when complete."""

    def __init__(self, folder: Place) -> None:
        self._folder = folder

    def make(self) -> None:
        """Make the folder."""
        self._folder.make_folder()

    def indices(self) -> set[int]:
        """Return the indices of the chunks that are there."""
        matches = (re.fullmatch(r"(\d{8,})\.parquet", name) for name in self._folder.names())
        return {int(match[1]) for match in matches if match}

    def write(self, chunk: ScoredChunk) -> None:
        """Write a chunk's scores to its file."""
        found = [row.columns() for row in chunk.rows]
        table = pa.table(
            [pa.array([row[name] for row in found], kind) for name, kind in SCORE_TYPES],
            schema=SCORES.with_metadata({MODEL: chunk.model.encode()}),
        )
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._place(chunk.index).write(sink.getvalue().to_pybytes())

    def read(self, index: int) -> tuple[pa.Table, str]:
        """Return a chunk's scores and the model that gave them.

        Raises :class:`RunError` if the file is missing or damaged.
        """
        place = self._place(index)
        try:
            table = pq.read_table(pa.BufferReader(place.read()))
            return table, table.schema.metadata[MODEL].decode()
        except (pa.ArrowException, OSError, KeyError, TypeError):
            raise _damaged(place) from None

    def rows(self, index: int) -> int:
        """Return a chunk's number of rows; raises as :meth:`read` does."""
        place = self._place(index)
        try:
            with place.fs.open(place.path, "rb") as file:
                rows: int = pq.read_metadata(file).num_rows
        except (pa.ArrowException, OSError):
            raise _damaged(place) from None
        return rows

    def _place(self, index: int) -> Place:
        return self._folder / f"{index:08}.parquet"


def _damaged(place: Place) -> RunError:
    return RunError(f"{place}: can't be read; remove it and run again")


class ScoreReader:
    """All scores of a run, in the order of its rows."""

    def __init__(self, files: ScoreFiles, chunks: int) -> None:
        self.model: str | None = None
        self._files = files
        self._tables = self._read(chunks)
        self._rest = SCORES.empty_table()

    def take(self, count: int) -> pa.Table:
        """Return the scores of the next ``count`` rows."""
        parts = [self._rest]
        have = len(self._rest)
        while have < count:
            table = next(self._tables, None)
            if table is None:
                raise RunError("there are fewer scores than rows: has the input changed?")
            parts.append(table)
            have += len(table)
        whole: Any = pa.concat_tables(parts)
        self._rest = whole.slice(count)
        return whole.slice(0, count)

    def end(self) -> None:
        """Raise :class:`RunError` if scores are left."""
        if len(self._rest) or next(self._tables, None) is not None:
            raise RunError("there are more scores than rows: has the input changed?")

    def _read(self, chunks: int) -> Iterator[pa.Table]:
        for index in range(chunks):
            table, model = self._files.read(index)
            self.model = self.model or model
            require_model(model, self.model)
            yield table.replace_schema_metadata(None)


def require_model(model: str, kept: str | None) -> None:
    """Raise :class:`RunError` if ``model`` is not the one whose scores are ``kept``."""
    if kept is not None and model != kept:
        raise RunError(
            f"some parts were scored by {kept}, but this engine is {model}: run again with "
            f"{kept}, or remove the .partial folder"
        )
