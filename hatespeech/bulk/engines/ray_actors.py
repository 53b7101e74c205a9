"""What runs in Ray's processes: the actors that score, and one that hands out the parts.

A part is a chunk of the run, under a number of its own. Ray Data carries these numbers, not the
texts. So if the task that reads the source is killed, its replacement yields the same numbers.
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
from typing_extensions import override

from hatespeech.bulk.engines.base import Chunk, EngineError
from hatespeech.contract import COLUMNS
from hatespeech.errors import CheckpointError, SettingsError, describe_exception
from hatespeech.libraries import set_library_defaults
from hatespeech.settings import EngineSettings

# How often a part is tried if its actor dies each time. Other parts are scored meanwhile.
TRIES: Final = 8
NUMBER: Final = pa.schema([("part", pa.int64())])
ROW: Final = pa.struct([(name, pa.type_for_alias(kind)) for name, kind in COLUMNS.items()])
# A result is one row, because Ray Data can't split a row.
RESULT: Final = pa.schema(
    [
        ("part", pa.int64()),
        ("model", pa.string()),
        ("fault", pa.string()),  # why the run can't continue
        ("rows", pa.list_(ROW)),
    ]
)


class Offers:
    """An actor that keeps the parts that the run offers.

    It holds references to the texts; the texts stay in the object store until they are scored.
    Ray may deliver calls to an ``async`` actor in another order than they were made.
    """

    def __init__(self) -> None:
        self._texts: dict[int, list[Any]] = {}
        self._taken: Counter[int] = Counter()
        self._offered = 0  # number of parts offered without a gap
        self._total: int | None = None
        self._changed = asyncio.Condition()

    async def offer(self, part: int, texts: list[Any]) -> None:
        """Add a part; ``texts`` is a list of one reference, because Ray resolves a bare one."""
        async with self._changed:
            self._texts[part] = texts
            # Parts behind a gap can't have been scored yet, so their texts are still here.
            while self._offered in self._texts:
                self._offered += 1
            self._changed.notify_all()

    async def end(self, total: int) -> None:
        """Announce the number of parts in all."""
        async with self._changed:
            self._total = total
            self._changed.notify_all()

    async def exists(self, part: int) -> bool:
        """Wait until a part is offered; return false if there is no such part."""
        async with self._changed:
            await self._changed.wait_for(lambda: part < self._offered or part == self._total)
            return part < self._offered

    async def take(self, part: int) -> list[Any] | None:
        """Return a part's texts, also to a caller that asks again; ``None`` after ``TRIES`` calls.

        The list is empty if the part is already scored.
        """
        if part not in self._texts:
            return []
        self._taken[part] += 1
        return self._texts[part] if self._taken[part] <= TRIES else None

    async def scored(self, part: int) -> None:
        """Drop a part's texts."""
        self._texts.pop(part, None)
        self._taken.pop(part, None)


class Parts(Datasource):
    """A source for Ray Data that yields the number of each part when it is offered.

    Each number is a block of its own. First come the parts in ``again``, which are scored once
    more, then all parts from ``first`` on.
    """

    def __init__(self, offers: Any, again: Sequence[int] = (), first: int = 0) -> None:
        self.offers = offers
        self._again = again
        self._first = first

    @override
    def estimate_inmemory_data_size(self) -> int | None:
        return None  # the number of parts is not known before the end

    @override
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
    """An actor of ``map_batches``: runs the local engine on the device that Ray assigns to it.

    It raises nothing, because Ray logs the message of an exception, which may quote a text.
    """

    def __init__(self, offers: Any, settings: Mapping[str, Any], cpus: int, readers: int) -> None:
        self._offers = offers
        self._fault: str | None = None
        # With reader processes two parts are at work: one is read while the other is scored.
        self._turn = threading.BoundedSemaphore(2 if readers else 1)
        set_library_defaults(os.environ)
        try:
            import torch

            from hatespeech.bulk.engines.local import LocalEngine
            from hatespeech.engine.predictor import Predictor

            torch.set_num_threads(cpus)
            chosen = EngineSettings.model_validate(settings)
            self._engine = LocalEngine(Predictor.from_settings(chosen), chosen, readers)
        except (CheckpointError, EngineError, SettingsError) as exc:
            self._fault = str(exc)
        except Exception as exc:
            self._fault = f"the model can't be loaded: {describe_exception(exc)}"

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Score the part whose number is the one row of ``batch``."""
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
            raise EngineError(f"{TRIES} actors died while scoring the same part: is memory short?")
        for reference in references:
            chunk = Chunk(part, ray.get(reference))
            for scored in self._engine.score([chunk], lambda _rows: None):
                found["model"] = scored.model
                found["rows"] = [row.columns() for row in scored.rows]
