"""The ``ray`` engine: one run of Ray Data, whose actors keep their model to its end.

Ray Data wants to know its input before it starts, and here nobody knows it: parts are cut from
the files while they are scored. So its source is a single task that yields the numbers of parts as
they are offered, ``map_batches`` sends each number to an actor, and the actor fetches the texts,
which are in Ray's object store (shared memory, no file) until their scores are here. That
bounds memory, as parts are offered a few at a time; it needs no thread here; and whatever Ray
repeats after it lost a process gives the same again. A part that is scored twice is dropped.
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

from hatespeech.bulk.engines.base import Chunk, EngineError, ScoredChunk
from hatespeech.bulk.engines.ray_actors import Offers, Parts, ScoringActor
from hatespeech.bulk.engines.ray_cluster import Actors, Cluster
from hatespeech.contract import TextScore
from hatespeech.engine.classifier import choose_folder
from hatespeech.errors import describe_exception
from hatespeech.settings import EngineSettings

# Calls that an actor gets at once: while one part is on the device, the next one is read.
CALLS: Final = 2
# Parts between the input and the output, for each actor: these, and as many that wait.
PARTS_PER_ACTOR: Final = 2 * CALLS
# Times that parts which Ray Data lost are given to it anew.
EXECUTIONS: Final = 3
# What the actors have to know; no token or other secret is among it.
SENT: Final = {"dtype", "max_batch_tokens", "max_text_chars", "max_windows"}


class RayEngine:
    """See :class:`BulkEngine`."""

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
        self._settings = settings.model_dump(include=SENT) | {
            "device": "cuda" if actors.gpus else "cpu",
            "model_dir": choose_folder(settings).resolve(),
        }
        self._model: str | None = None

    def score(
        self, chunks: Iterable[Chunk], progress: Callable[[int], object]
    ) -> Generator[ScoredChunk, None, None]:
        """See :meth:`BulkEngine.score`; progress comes in whole chunks."""
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
                    # Seen after actors were killed: Ray Data ends, and has lost a part.
                    lost += 1
                    if lost > EXECUTIONS:
                        raise EngineError("Ray ended before all was scored; run it again")
                    again = self._results(Parts(offers, sorted(indices), offered))
                    results = executions.enter_context(contextlib.closing(again))
                    continue
                index = indices.pop(found["part"], None)
                if index is None:
                    continue  # Ray has repeated what was not lost
                offers.scored.remote(found["part"])
                rows = [TextScore.from_columns(row) for row in found["rows"]]
                progress(len(rows))
                yield ScoredChunk(index, rows, found["model"])

    def close(self) -> None:
        """See :meth:`BulkEngine.close`; a cluster that was there before stays."""
        self._cluster.close()

    def _next(self, results: Iterator[dict[str, Any]]) -> dict[str, Any] | None:
        """Return the next part's outcome, ``None`` at the end. Raises :class:`EngineError`."""
        # Actors that died wait for a place without an end and without a word, and so would this.
        starting = 0 if self._model else self._start_timeout
        silence = Silence(self._part_timeout + starting)
        try:
            with silence:
                found = next(results)
        except KeyboardInterrupt:
            if not silence.ended:
                raise
            raise EngineError(
                f"no part has come back in {silence.seconds} s: have others taken the place of an "
                "actor that died? What is scored is kept; run it again, or raise --part-timeout"
            ) from None
        except GetTimeoutError:
            raise EngineError(
                f"the actors were not ready within {self._start_timeout} s: is the cluster taken "
                "by others? Wait, ask for less, or raise --start-timeout"
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
        """Run Ray Data; yield the outcome of each part as soon as there is one."""
        quiet()
        context = DataContext.get_current()
        context.enable_progress_bars = False
        context.wait_for_min_actors_s = self._start_timeout
        context.target_max_block_size = 1  # byte: hand on what there is, and wait for no more
        # Ray Data has killed actors start again, and what they had done again, without end; it is
        # Offers that gives up. What fails otherwise it does not repeat.
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
    """A context that is left by ``KeyboardInterrupt`` if it lasts too long; then, ``ended``.

    It sends the main thread a SIGTERM, which a run takes for Ctrl-C: that ends Ray Data's threads
    in order, where the wait in another thread could not be left at all.
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
    """Have Ray Data write to its own log files alone, and not into a progress bar."""
    log = logging.getLogger("ray.data")
    log.handlers = [handler for handler in log.handlers if "Session" in type(handler).__name__]
