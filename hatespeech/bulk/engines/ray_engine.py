"""The ``ray`` engine: parts go to the actors of a Ray cluster, one after the other.

Texts travel through Ray's object store (shared memory, not a file), and stay there until their
scores are here. A few parts are on their way at a time, which bounds memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from typing import Any, Final

import ray
import torch
from typing_extensions import override

from hatespeech.bulk.engines.base import BulkEngine, Chunk, ScoredChunk, TaskEngine
from hatespeech.bulk.engines.ray_actors import ScoringActor
from hatespeech.bulk.engines.ray_cluster import Actors, Cluster
from hatespeech.bulk.engines.ray_pool import CALLS, ActorPool, Call, Timeouts
from hatespeech.bulk.reach import Reach
from hatespeech.engine.predictor import choose_dtype, choose_folder
from hatespeech.settings import EngineSettings

# The settings that an actor reads, beside device and model_dir. EngineSettings has no secrets; the
# others are left out because they concern the queue, the front and the log.
ACTOR_SETTINGS: Final = {
    "dtype",
    "max_batch_tokens",
    "max_text_chars",
    "max_windows",
    "on_unread",
    "robust",
}


class RayEngine(BulkEngine, TaskEngine):
    """Scores with the actors of a Ray cluster."""

    def __init__(
        self,
        cluster: Cluster,
        actors: Actors,
        settings: EngineSettings,
        timeouts: Timeouts,
        reach: Reach | None,
    ) -> None:
        """Start the actors. With ``reach``, each must find the files of the run."""
        self._cluster = cluster
        device = "cuda" if actors.gpus else "cpu"
        self._dtype: str = settings.dtype
        if settings.dtype == "auto":
            self._dtype = str(choose_dtype(settings, torch.device(device))).removeprefix("torch.")
        chosen = settings.model_dump(include=ACTOR_SETTINGS) | {
            "device": device,
            "model_dir": choose_folder(settings).resolve(),
        }
        self._pool = ActorPool(lambda: _start(actors, chosen, reach), actors.count, timeouts)
        self._pool.start()

    @override
    def score(
        self, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> Generator[ScoredChunk, None, None]:
        """Yield every chunk once, scored, in any order; ``progress`` comes in whole chunks."""
        calls = (Call("score", ray.put(chunk), len(chunk.texts)) for chunk in chunks)
        for call, scored in self._pool.results(lambda: next(calls, None)):
            progress(call.about)
            yield scored

    @property
    @override
    def model(self) -> str:
        return self._pool.model

    @property
    @override
    def dtype(self) -> str:
        return self._dtype

    @override
    def work(self, next_task: Callable[[], Any]) -> Generator[tuple[Any, Any], None, None]:
        def next_call() -> Call | None:
            task = next_task()
            return None if task is None else Call("do", task, task)

        for call, result in self._pool.results(next_call):
            yield call.about, result

    @override
    def close(self) -> None:
        """Disconnect from Ray; a cluster that the run did not start keeps running."""
        self._cluster.close()


def _start(actors: Actors, settings: dict[str, Any], reach: Reach | None) -> Any:
    """Start an actor, which loads the model, and return its handle."""
    kind: Any = ray.remote(ScoringActor).options(
        num_cpus=actors.cpus, num_gpus=actors.gpus, max_concurrency=CALLS
    )
    return kind.remote(settings, actors.cpus, reach)
