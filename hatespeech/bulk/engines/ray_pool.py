"""Actors with a model each: a call goes to whichever is free, and to another one if that dies.

Ray can restart an actor itself. That isn't used here, because Ray then either repeats a call on the
same actor or refuses calls until that one is back. Here a new actor takes the place of a dead one,
and meanwhile the other actors take its calls.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any, Final

import ray
from ray.exceptions import (
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    WorkerCrashedError,
)

from hatespeech.bulk.engines.base import EngineError
from hatespeech.bulk.engines.ray_actors import Fault
from hatespeech.errors import describe_exception

# Concurrent calls to an actor: while one part is on the device, the next one is read.
CALLS: Final = 2
# How often a call is made if its actor dies each time. Other calls are made meanwhile.
TRIES: Final = 8
# What Ray raises if an actor is lost, or a result that was left on its machine.
LOST: Final = (
    RayActorError,
    NodeDiedError,
    ObjectLostError,
    OutOfMemoryError,
    WorkerCrashedError,
)


@dataclass(eq=False)
class Call:
    """A call that any actor may take."""

    method: str
    argument: Any  # or a reference to it in the object store
    about: Any  # whatever the caller wants to know it by
    tries: int = field(default=0, init=False)
    actor: Any = field(default=None, init=False)  # that has it


@dataclass(frozen=True)
class Timeouts:
    """How long to wait, in seconds."""

    start: int  # until the first actor has loaded its model
    part: int  # until the next call returns


class ActorPool:
    """A number of actors; ``make`` makes one and returns its handle."""

    def __init__(self, make: Callable[[], Any], count: int, timeouts: Timeouts) -> None:
        self._make = make
        self._count = count
        self._timeouts = timeouts
        self._model: str | None = None
        self._starting: dict[Any, Any] = {}  # actors, by the reference to their model's id
        self._died_starting = 0  # one after the other
        # Actors that have loaded their model, and how many calls each can take.
        self._free: dict[Any, int] = {}
        self._running: dict[Any, Call] = {}  # by the reference to the result
        self._again: deque[Call] = deque()  # whose actors died

    def start(self) -> None:
        """Start the actors, and wait until one has loaded its model; the others join when they can.

        Raises :class:`EngineError`.
        """
        for _ in range(self._count):
            self._add()
        seconds = self._timeouts.start
        deadline = time.monotonic() + seconds
        while not self._free:
            done = self._wait(deadline - time.monotonic())
            if done is None:
                raise EngineError(
                    f"no actor was ready within {seconds} s: do others use the cluster? "
                    "Wait, ask for fewer resources, or raise --start-timeout"
                )
            self._began(done)

    @property
    def model(self) -> str:
        """The id of the actors' model; known when the first has started."""
        return self._model or ""

    def results(
        self, next_call: Callable[[], Call | None]
    ) -> Generator[tuple[Call, Any], None, None]:
        """Make the calls; yield each once with what it returned, in any order.

        ``next_call`` is called when an actor is free, and also after it has returned ``None``, as
        long as calls are being made. Raises :class:`EngineError`.
        """
        while True:
            while (actor := self._freest()) and (
                call := self._again.popleft() if self._again else next_call()
            ):
                call.actor = actor
                self._free[actor] -= 1
                method = getattr(call.actor, call.method)
                self._running[method.remote(call.argument)] = call
            if not self._running and not self._again:
                return
            done = self._wait(self._timeouts.part)
            if done is None:
                raise EngineError(
                    f"no part came back in {self._timeouts.part} s: did an actor die, and did "
                    "others take its place? Scores are kept; run it again, or raise --part-timeout"
                )
            if done in self._starting:
                self._began(done)
                continue
            call = self._running.pop(done)
            result = self._result(done)
            if result is not None:
                if call.actor in self._free:
                    self._free[call.actor] += 1
                yield call, result
                continue
            self._replace(call.actor)
            call.tries += 1
            if call.tries == TRIES:
                raise EngineError(
                    f"{TRIES} actors died while scoring the same part: is memory short?"
                )
            self._again.append(call)

    def _freest(self) -> Any:
        """Return the actor that can take the most calls, ``None`` if none can take any."""
        actor = max(self._free, key=self._free.__getitem__, default=None)
        return actor if actor is not None and self._free[actor] else None

    def _wait(self, seconds: float) -> Any:
        """Return the reference to a result that is there, ``None`` if none comes in time."""
        waiting = [*self._starting, *self._running]
        done, _ = ray.wait(waiting, timeout=max(0.0, seconds))
        return done[0] if done else None

    def _result(self, done: Any) -> Any:
        """Return what a call returned, ``None`` if its actor died.

        Raises :class:`EngineError` if the run can't continue.
        """
        try:
            result = ray.get(done)
        except LOST:
            return None
        except RayError as exc:
            raise EngineError(f"Ray gave up: {describe_exception(exc)}; run it again") from None
        if isinstance(result, Fault):
            raise EngineError(result.message)
        return result

    def _add(self) -> None:
        actor = self._make()
        self._starting[actor.loaded.remote()] = actor

    def _began(self, done: Any) -> None:
        """Let an actor take calls, unless it died while it loaded its model."""
        actor = self._starting.pop(done)
        model = self._result(done)
        if model is None:
            self._died_starting += 1
            if self._died_starting == TRIES:
                raise EngineError(f"{TRIES} actors died while loading the model: is memory short?")
            self._add()
            return
        self._died_starting = 0
        self._model = self._model or model
        require_one_model(self._model, model)
        self._free[actor] = CALLS

    def _replace(self, actor: Any) -> None:
        """Start another actor in place of a dead one, whose calls all fail."""
        if self._free.pop(actor, None) is None:
            return
        ray.kill(actor)  # it may live, out of reach
        self._add()


def require_one_model(first: str, other: str) -> None:
    """Raise :class:`EngineError` if two actors have different models."""
    if other != first:
        raise EngineError(
            f"the cluster's machines have two models, {first} and {other}: "
            "put the same one on all of them"
        )
