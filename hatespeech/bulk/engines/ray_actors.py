"""What runs in Ray's own processes: an actor with a model, which scores the parts it is given."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import ray

from hatespeech.bars import hide_bars
from hatespeech.bulk import RunError
from hatespeech.bulk.engines.base import Chunk, EngineError, ScoredChunk, Task
from hatespeech.bulk.reach import Reach
from hatespeech.errors import CheckpointError, SettingsError, describe_exception
from hatespeech.libraries import set_library_defaults
from hatespeech.settings import EngineSettings

Result = TypeVar("Result")


@dataclass(frozen=True)
class Fault:
    """Why the run can't continue, in one line that quotes no text."""

    message: str


class ScoringActor:
    """Runs the local engine on the device that Ray assigns to this actor.

    It raises nothing, because Ray logs the message of an exception, which may quote a text. It
    returns a :class:`Fault` instead.
    """

    def __init__(self, settings: Mapping[str, Any], cpus: int, reach: Reach | None) -> None:
        self._loaded: str | Fault
        set_library_defaults(os.environ)
        hide_bars()
        try:
            if reach is not None:
                _require_reach(reach)
            import torch

            from hatespeech.bulk.engines.local import LocalEngine
            from hatespeech.engine.predictor import Predictor

            torch.set_num_threads(cpus)
            chosen = EngineSettings.model_validate(settings)
            predictor = Predictor.from_settings(chosen)
            self._engine = LocalEngine(predictor, chosen)
            self._loaded = predictor.model_id
        except (CheckpointError, EngineError, SettingsError) as exc:
            self._loaded = Fault(str(exc))
        except Exception as exc:
            self._loaded = Fault(f"the model can't be loaded: {describe_exception(exc)}")

    def loaded(self) -> str | Fault:
        """Return the model's id."""
        return self._loaded

    def score(self, chunk: Chunk) -> ScoredChunk | Fault:
        """Score a part. Ray calls this in several threads."""
        return self._guarded(lambda: next(self._engine.score([chunk], lambda _rows: None)))

    def do(self, task: Task) -> Any:
        """Do a task, and return what it returns. Ray calls this in several threads."""
        return self._guarded(lambda: task.do(self._engine))

    def _guarded(self, work: Callable[[], Result]) -> Result | Fault:
        if isinstance(self._loaded, Fault):
            return self._loaded
        try:
            return work()
        except EngineError as exc:
            return Fault(str(exc))
        except Exception as exc:
            return Fault(f"unexpected: {describe_exception(exc)}")


def _require_reach(reach: Reach) -> None:
    """Raise :class:`EngineError` unless this machine finds the files of the run."""
    try:
        reach.require()
        return
    except RunError as exc:
        fault = str(exc)
    except OSError as exc:
        fault = f"{reach.folder}: {exc.strerror or describe_exception(exc)}"
    except Exception as exc:
        fault = f"{reach.folder}: can't be reached: {describe_exception(exc)}"
    machine: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]  # Ray leaves it so
    raise EngineError(
        f"machine {machine}: {fault}; put IN and OUT where every machine finds them, or add "
        "--no-by-file"
    )
