"""What an engine is to a bulk run: chunks of texts in, scored chunks out, in any order.

A run cuts its input into chunks of a fixed number of rows, in input order, and keeps every scored
chunk in a file of its own, named by its index. So an engine may finish chunks in any order, and a
run that goes on after an interruption hands it only the chunks that are still missing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from hatespeech.contract import TextScore


@dataclass(frozen=True)
class Chunk:
    """Rows to be scored."""

    index: int  # place among the run's chunks, from 0
    texts: list[Any]  # what stands in the text column; None or another kind is the row's error


@dataclass(frozen=True)
class ScoredChunk:
    """A chunk's rows, scored, in the chunk's order."""

    index: int
    rows: list[TextScore]  # without their texts; an error names the field ``text``
    model: str  # the model_id that scored them, such as mini@0123456789ab


class EngineError(Exception):
    """The engine can't go on; one line that says what to do, and quotes no text.

    What was yielded before is kept: the same command goes on from there.
    """


class BulkEngine(Protocol):
    """Scores chunks. Used as a context manager; leaving it frees processes and connections."""

    def score(
        self, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> Generator[ScoredChunk, None, None]:
        """Yield every chunk once, scored, in any order.

        ``chunks`` is read lazily, a bounded number ahead, so that memory stays constant.
        ``progress`` is called with the number of rows finished since its last call. Raises
        :class:`EngineError` when it can't go on; a row that can't be scored is no such case.
        """
        ...

    def close(self) -> None:
        """Free processes and connections; may be called twice."""
        ...
