"""The interface of an engine: chunks of texts in, scored chunks out, in any order.

A run cuts its input into chunks, in order, and keeps each scored chunk in a file of its own, named
by its index. So an engine may finish chunks in any order, and a resumed run gives it only the
chunks that are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from hatespeech.contract import Prediction, TextScore, Versions
from hatespeech.errors import ServiceError


@dataclass(frozen=True)
class Chunk:
    """Rows to score."""

    index: int  # position among the run's chunks, from 0
    texts: list[Any]  # values of the text column; one that is not a string makes its row an error


@dataclass(frozen=True)
class ScoredChunk:
    """The scores of a chunk's rows, in the chunk's order."""

    index: int
    rows: list[TextScore]  # without their texts; an error names the field ``text``
    model: str  # id of the model that scored them, such as mini@0123456789ab
    versions: Versions | None = None  # of what scored them, if it says so
    dtype: str | None = None  # number format of the weights, such as float32, if it says so


def row_of(outcome: Prediction | ServiceError) -> TextScore:
    """Return the row for a text's outcome; an error names the field ``text``."""
    if isinstance(outcome, ServiceError):
        outcome = outcome.at("text")
    return TextScore.of("", outcome, None)


class EngineError(Exception):
    """The engine can't continue.

    The message is one line, says what to do, and never quotes a text. Chunks that were yielded
    before are kept, and a resumed run does not score them again.
    """


class Task(Protocol):
    """Work that an engine of :class:`TaskEngine` may do on any machine."""

    def do(self, engine: BulkEngine) -> Any:
        """Do it with an engine of that machine.

        Raises :class:`EngineError`, and nothing else.
        """
        ...


class TaskEngine(Protocol):
    """Does tasks on whichever machine is free; :meth:`close` frees its processes."""

    @property
    def model(self) -> str:
        """The id of the model that every machine has."""
        ...

    @property
    def dtype(self) -> str:
        """The number format of the weights, such as float32, on every machine."""
        ...

    def work(self, next_task: Callable[[], Any]) -> Generator[tuple[Any, Any], None, None]:
        """Yield each :class:`Task` with what it returned, in any order.

        ``next_task`` is called whenever a machine is free, and also after it has returned ``None``,
        as long as tasks are being done. Raises :class:`EngineError`.
        """
        ...

    def close(self) -> None:
        """Free processes and connections; may be called twice."""
        ...


class BulkEngine(Protocol):
    """Scores chunks; :meth:`close` frees its processes and connections."""

    def score(
        self, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> Generator[ScoredChunk, None, None]:
        """Yield every chunk once, scored, in any order.

        ``chunks`` is read lazily, a bounded number ahead, so that memory stays constant.
        ``progress`` is called with the number of rows finished since its last call. Raises
        :class:`EngineError` if the engine can't continue. A row that cannot be scored does not
        raise; it carries its error.
        """
        ...

    def close(self) -> None:
        """Free processes and connections; may be called twice."""
        ...
