"""The ``ray`` engine: one run of Ray Data, whose actors keep their model until it ends.

Ray Data expects to know its input when it starts. Here the input is not known: parts are cut from
the files while others are scored. So the source is a single task that yields the number of each
part when it is offered. ``map_batches`` sends a number to an actor, and the actor fetches the texts
from Ray's object store (shared memory, not a file), where they stay until their scores are here.

Parts are offered a few at a time, which bounds memory, and no thread is needed here. If Ray loses a
process and repeats its work, the result is the same; a part that comes back twice is dropped.
"""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any, Final

import ray
from ray.data import ActorPoolStrategy, DataContext
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from typing_extensions import override

from hatespeech.bulk.engines.base import BulkEngine, Chunk, EngineError, ScoredChunk
from hatespeech.bulk.engines.ray_actors import Offers, Parts, ScoringActor
from hatespeech.bulk.engines.ray_cluster import Actors, Cluster
from hatespeech.contract import TextScore
from hatespeech.engine.predictor import choose_folder
from hatespeech.errors import describe_exception
from hatespeech.settings import EngineSettings

# Concurrent calls to an actor: while one part is on the device, the next one is read.
CALLS: Final = 2
# Parts in flight for each actor: those in its calls, and as many that wait.
PARTS_PER_ACTOR: Final = 2 * CALLS
# How often Ray Data is run again for the parts that it lost.
EXECUTIONS: Final = 3
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


class RayEngine(BulkEngine):
    """Scores with the actors of a Ray cluster."""

    def __init__(
        self,
        cluster: Cluster,
        actors: Actors,
        settings: EngineSettings,
        start_timeout: int,
        part_timeout: int,
    ) -> None:
        self._cluster = cluster
        self._actors = actors
        self._start_timeout = start_timeout
        self._part_timeout = part_timeout
        self._settings = settings.model_dump(include=ACTOR_SETTINGS) | {
            "device": "cuda" if actors.gpus else "cpu",
            "model_dir": choose_folder(settings).resolve(),
        }
        self._model: str | None = None

    @override
    def score(
        self, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> Generator[ScoredChunk, None, None]:
        """Yield every chunk once, scored, in any order; ``progress`` comes in whole chunks."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        offers: Any = ray.remote(Offers).options(num_cpus=0, scheduling_strategy=here).remote()
        source = iter(chunks)
        indices: dict[int, int] = {}  # of chunks that are offered, by their parts' numbers
        offered = 0
        ended = False
        lost = 0
        with contextlib.ExitStack() as executions:
            results = executions.enter_context(contextlib.closing(self._results(Parts(offers))))
            while True:
                while not ended and len(indices) < PARTS_PER_ACTOR * self._actors.count:
                    chunk = next(source, None)
                    if chunk is None:
                        ended = True
                        offers.end.remote(offered)
                    else:
                        offers.offer.remote(offered, [ray.put(chunk.texts)])
                        indices[offered] = chunk.index
                        offered += 1
                if not indices:
                    return
                found = self._next(results)
                if found is None:
                    # After actors were killed, Ray Data has been seen to end with a part missing.
                    lost += 1
                    if lost > EXECUTIONS:
                        raise EngineError("Ray ended before all parts were scored; run it again")
                    again = self._results(Parts(offers, sorted(indices), offered))
                    results = executions.enter_context(contextlib.closing(again))
                    continue
                index = indices.pop(found["part"], None)
                if index is None:
                    continue  # Ray repeated a part that was not lost
                offers.scored.remote(found["part"])
                rows = [TextScore.from_columns(row) for row in found["rows"]]
                progress(len(rows))
                yield ScoredChunk(index, rows, found["model"])

    @override
    def close(self) -> None:
        """Disconnect from Ray; a cluster that the run did not start keeps running."""
        self._cluster.close()

    def _next(self, results: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the next part's result, ``None`` at the end. Raises :class:`EngineError`."""
        # If the cluster has no room to restart a dead actor, Ray waits forever and says nothing.
        starting = 0 if self._model else self._start_timeout
        silence = Silence(self._part_timeout + starting)
        try:
            with silence:
                found = next(results)
        except KeyboardInterrupt:
            if not silence.ended:
                raise
            raise EngineError(
                f"no part came back in {silence.seconds} s: did an actor die, and did others take "
                "its place? Scores are kept; run it again, or raise --part-timeout"
            ) from None
        except GetTimeoutError:
            raise EngineError(
                f"the actors were not ready within {self._start_timeout} s: do others use the "
                "cluster? Wait, ask for fewer resources, or raise --start-timeout"
            ) from None
        except StopIteration:
            return None
        except Exception as exc:
            raise EngineError(f"Ray gave up: {describe_exception(exc)}; run it again") from None
        if found["fault"] is not None:
            raise EngineError(found["fault"])
        self._model = self._model or found["model"]
        if found["model"] not in (None, self._model):
            raise EngineError(
                f"the cluster's machines have two models, {self._model} and {found['model']}: "
                "put the same one on all of them"
            )
        return found

    def _results(self, source: Parts) -> Generator[dict[str, Any], None, None]:
        """Run Ray Data; yield the result of each part when it comes."""
        quiet()
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.wait_for_min_actors_s = self._start_timeout
        context.target_max_block_size = 1  # byte: pass on each block without waiting for more
        # Ray Data restarts killed actors and repeats their parts without limit; the limit is that
        # of Offers. It does not repeat a part that fails in another way.
        readers = min(4, max(self._actors.cpus // 2, 1 if self._actors.gpus else 0))
        parts = ray.data.read_datasource(source, override_num_blocks=1, num_cpus=0)
        scored = parts.map_batches(
            ScoringActor,
            fn_constructor_args=(source.offers, self._settings, self._actors.cpus, readers),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(
                size=self._actors.count,
                max_tasks_in_flight_per_actor=PARTS_PER_ACTOR,
                max_concurrent_calls_per_actor=CALLS,
                enable_true_multi_threading=True,
            ),
            num_cpus=self._actors.cpus,
            num_gpus=self._actors.gpus,
        )
        for table in scored.iter_batches(
            batch_size=None, batch_format="pyarrow", prefetch_batches=0
        ):
            yield from table.to_pylist()


class Silence:
    """Raises ``KeyboardInterrupt`` in its body if that takes too long, and sets ``ended``.

    It sends SIGTERM to the main thread, which a run treats as Ctrl-C. That ends Ray Data's threads
    in order; a wait in another thread could not be interrupted at all.
    """

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self.ended = False
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *_exception: object) -> None:
        self._timer.cancel()

    def _end(self) -> None:
        self.ended = True
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGTERM)


def quiet() -> None:
    """Make Ray Data log to its own files only, not into the progress bar."""
    log = logging.getLogger("ray.data")
    log.handlers = [handler for handler in log.handlers if "Session" in type(handler).__name__]
