"""A job as the platform knows it, and a fault that a request meets instead of its answer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

FINAL: Final = ("COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT")


@dataclass
class Job:
    """A job and how far it has come."""

    id: str
    body: Mapping[str, Any]  # of the request that submitted it: ``input``, ``policy``
    status: str = "IN_QUEUE"
    result: dict[str, Any] = field(default_factory=dict)  # ``output`` or ``error``, for callers
    answer: Mapping[str, Any] | None = None  # what a worker posted
    pods: list[str] = field(default_factory=list)  # that were given it, in order
    stopped: bool = False  # its worker was told to stop it, and has asked again since
    refused: bool = False  # an answer to it was, so that the worker has to try again
    lost: bool = False  # the platform's word that it has the answer was; it may come again

    @property
    def input(self) -> Any:
        """Return what is to be scored."""
        return self.body.get("input")

    def message(self) -> dict[str, Any]:
        """Return what a worker is sent."""
        return {"id": self.id, **({"input": self.input} if "input" in self.body else {})}

    def reply(self) -> dict[str, Any]:
        """Return what a caller is told."""
        times = {"delayTime": 12, "executionTime": 34} if self.status in FINAL else {}
        return {**times, "id": self.id, **self.result, "status": self.status}

    def finish(self, answer: Mapping[str, Any]) -> None:
        """End the job as a worker's answer says, unless it has ended before."""
        if self.status not in FINAL:
            self.status = "FAILED" if "error" in answer else "COMPLETED"
            self.result = {name: answer[name] for name in ("output", "error") if name in answer}


@dataclass(frozen=True)
class Fault:
    """What a request gets instead of its answer."""

    status: int = 500
    body: str = ""
    retry_after: int | None = None  # seconds
    as_date: bool = False  # of retry_after
    lose: bool = False  # do what was asked, then hang up instead of answering
    reset: bool = False  # hang up before anything is done
    endless: bytes | None = None  # what comes again and again without an end; b"": nothing does


LOST: Final = Fault(lose=True)
RESET: Final = Fault(reset=True)
