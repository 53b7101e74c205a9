"""What runs in Ray's processes: actors that score, and the one that tells them what there is.

What Ray Data carries from here to there is the number of a part, not its texts. So its source can
be read again by a task that replaces a killed one, and gives the same.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import ray
from ray.data import Datasource
from ray.data.block import BlockMetadata
from ray.data.datasource import ReadTask

from hatespeech.bulk.engines.base import Chunk, EngineError
from hatespeech.errors import CheckpointError, SettingsError, describe_exception
from hatespeech.libraries import set_library_defaults
from hatespeech.settings import EngineSettings

# Times that a part is scored whose actor dies, or is killed; all others go on meanwhile.
TRIES: Final = 8
NUMBER: Final = pa.schema([("part", pa.int64())])
# Of one row, which Ray Data can't cut in two.
RESULT: Final = pa.schema(
    [
        ("part", pa.int64()),
        ("model", pa.string()),
        ("fault", pa.string()),  # why the run can't go on
        (
            "rows",
            pa.list_(
                pa.struct(
                    [
                        ("scores", pa.list_(pa.float64())),
                        ("label", pa.string()),
                        ("windows", pa.int64()),
                        ("error", pa.string()),
                    ]
                )
            ),
        ),
    ]
)


class Offers:
    """An actor that knows which parts there are: as many as were offered, until the end.

    Holds references to texts, not the texts; these are in the object store until they are scored.
    Calls may come in another order than they were made: Ray promises none to ``async`` actors.
    """

    def __init__(self) -> None:
        self._texts: dict[int, list[Any]] = {}
        self._taken: Counter[int] = Counter()
        self._offered = 0  # parts of which none before is missing
        self._total: int | None = None
        self._changed = asyncio.Condition()

    async def offer(self, part: int, texts: list[Any]) -> None:
        """Add the next part; ``texts`` holds a reference, in a list so that it stays one."""
        async with self._changed:
            self._texts[part] = texts
            # What is beyond the first missing one is not scored yet, so it is among the texts.
            while self._offered in self._texts:
                self._offered += 1
            self._changed.notify_all()

    async def end(self, total: int) -> None:
        """Say how many there are in all."""
        async with self._changed:
            self._total = total
            self._changed.notify_all()

    async def exists(self, part: int) -> bool:
        """Wait until a part is offered; return false if it never will be."""
        async with self._changed:
            await self._changed.wait_for(lambda: part < self._offered or part == self._total)
            return part < self._offered

    async def take(self, part: int) -> list[Any] | None:
        """Return what was offered, also to who asks again; ``None`` after too many times.

        A part that is scored already is empty.
        """
        if part not in self._texts:
            return []
        self._taken[part] += 1
        return self._texts[part] if self._taken[part] <= TRIES else None

    async def scored(self, part: int) -> None:
        """Let go of a part's texts."""
        self._texts.pop(part, None)
        self._taken.pop(part, None)


class Parts(Datasource):
    """A source for Ray Data: the number of each part, as soon as there is one, a block of each.

    ``again`` are parts before ``first`` that are to be scored once more; all from ``first`` follow.
    """

    def __init__(self, offers: Any, again: Sequence[int] = (), first: int = 0) -> None:
        self.offers = offers
        self._again = again
        self._first = first

    def estimate_inmemory_data_size(self) -> int | None:
        """Return ``None``: nobody knows before the end."""
        return None

    def get_read_tasks(self, *_arguments: Any, **_options: Any) -> list[ReadTask]:
        """Return the one task that reads this source."""
        offers, again, first = self.offers, self._again, self._first

        def read() -> Iterator[pa.Table]:
            for part in itertools.chain(again, itertools.count(first)):
                if not ray.get(offers.exists.remote(part)):
                    return
                yield pa.table({"part": [part]}, NUMBER)

        unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
        return [ReadTask(read, unknown, schema=NUMBER)]


class ScoringActor:
    """What an actor of ``map_batches`` runs: the local engine, on the device it was given.

    No exception leaves it, since Ray would log its message, which may quote a text.
    """

    def __init__(self, offers: Any, settings: Mapping[str, Any], cpus: int, readers: int) -> None:
        self._offers = offers
        self._fault: str | None = None
        # Parts come two at a time, so that one is read while the other one is scored, which takes
        # other processes to read.
        self._turn = threading.BoundedSemaphore(2 if readers else 1)
        set_library_defaults(os.environ)
        try:
            import torch

            from hatespeech.bulk.engines.local import LocalEngine
            from hatespeech.engine.classifier import Classifier

            torch.set_num_threads(cpus)
            chosen = EngineSettings.model_validate(settings)
            self._engine = LocalEngine(Classifier.from_settings(chosen), chosen, readers)
        except (CheckpointError, EngineError, SettingsError) as exc:
            self._fault = str(exc)
        except Exception as exc:
            self._fault = f"the model can't be loaded: {describe_exception(exc)}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score the part whose number comes; ``batch`` is of one row."""
        (part,) = batch.column("part").to_pylist()
        found: dict[str, Any] = {"part": part, "model": None, "fault": self._fault, "rows": []}
        if self._fault is None:
            try:
                with self._turn:
                    self._score(part, found)
            except EngineError as exc:
                found["fault"] = str(exc)
            except Exception as exc:
                found["fault"] = f"unexpected: {describe_exception(exc)}"
        return pa.Table.from_pylist([found], RESULT)

    def _score(self, part: int, found: dict[str, Any]) -> None:
        references = ray.get(self._offers.take.remote(part))
        if references is None:
            raise EngineError(
                f"{TRIES} actors have died while they scored the same part: is memory short?"
            )
        for reference in references:
            chunk = Chunk(part, ray.get(reference))
            for scored in self._engine.score([chunk], lambda _rows: None):
                found["model"] = scored.model
                found["rows"] = [row.columns() for row in scored.rows]
