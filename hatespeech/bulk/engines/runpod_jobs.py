"""One job on a Runpod endpoint: submit it, poll it, retry it, check its reply."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import re
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final

from hatespeech.bulk.engines.base import EngineError, row_of
from hatespeech.bulk.engines.runpod_client import Endpoint
from hatespeech.contract import Prediction, TextScore, Versions
from hatespeech.errors import TooLargeError, ValidationError, read_error
from hatespeech.labels import LABELS, WARNINGS

log = logging.getLogger(__name__)

_FINAL: Final = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMED_OUT"})
# Added to a job's time to live, so that the platform notices its end first.
_GRACE_SECONDS: Final = 60.0
_JOB_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


class _FailedError(Exception):
    """A job failed, and another try may succeed; the message says why."""


@dataclass(frozen=True)
class Limits:
    """How long a job may take, in seconds."""

    job: float  # of work
    queue: float  # in the queue, while no worker takes any job


class EndpointJobs:
    """Scores texts by jobs on an endpoint, for any number of threads."""

    def __init__(self, endpoint: Endpoint, limits: Limits, robust: bool) -> None:
        self._endpoint = endpoint
        self._robust = robust
        self._limits = limits
        # The platform deletes a job after its time to live. So a job whose id was in a lost reply
        # ends by itself.
        lifetime = limits.job + limits.queue
        self._policy = {
            "executionTimeout": int(limits.job * 1000),
            "ttl": int(lifetime * 1000),
        }
        self._lifetime = lifetime
        self._worker_seen = -math.inf  # when a worker last had a job, by the endpoint's clock
        self._lock = threading.Lock()
        self._model: str | None = None
        self.versions: Versions | None = None  # of the worker that answered first

    @property
    def model(self) -> str:
        """The id of the endpoint's model; a job asks for it if no reply has named it yet."""
        if self._model is None:
            self.score([""])
        if self._model is None:
            raise EngineError(f"endpoint {self._endpoint.id}: its worker does not name its model")
        return self._model

    def score(self, texts: Sequence[str]) -> list[TextScore]:
        """Score texts in one job, or in several if the worker refuses so many in one.

        Raises :class:`EngineError`.
        """
        try:
            return self._score_at_once(texts)
        except TooLargeError as error:
            if len(texts) == 1:
                return [row_of(error)]
        middle = len(texts) // 2
        return [*self.score(texts[:middle]), *self.score(texts[middle:])]

    def _score_at_once(self, texts: Sequence[str]) -> list[TextScore]:
        question = {"input": {"texts": list(texts), "robust": self._robust}, "policy": self._policy}
        content = json.dumps(question, ensure_ascii=False).encode()
        tries = self._endpoint.pace.tries
        for failures in range(1, tries + 1):
            try:
                output = self._run(content)
                rows, model = read_output(output, texts)
                self._require_same_model(model)
                self.versions = self.versions or versions_of(output)
                return rows
            except _FailedError as exc:
                reason = str(exc)
            if failures < tries:
                log.warning("a job %s; submitting it again", reason)
                self._endpoint.sleep(self._endpoint.pace.retry.seconds(failures))
        raise EngineError(
            f"endpoint {self._endpoint.id}: a job failed {tries} times, the last time it {reason}; "
            "look at the endpoint's log, then run the same command to resume"
        )

    def _run(self, content: bytes) -> Any:
        """Submit a job and return its output.

        Raises :class:`_FailedError`, :class:`TooLargeError` and :class:`EngineError`.
        """
        reply = self._endpoint.call("POST", "run", content)
        if reply.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
            raise TooLargeError("is larger than what Runpod takes in one job", field="text")
        if reply.status == HTTPStatus.NOT_FOUND:
            raise EngineError(
                f"endpoint {self._endpoint.id}: HTTP 404, there is no such endpoint for this key"
            )
        job_id = reply.body.get("id")
        if not isinstance(job_id, str) or not _JOB_ID.fullmatch(job_id):
            raise EngineError(f"endpoint {self._endpoint.id}: /run answers without a job id")
        try:
            job = self._wait(job_id)
        except _FailedError:
            raise  # the job is over, or deleted
        except BaseException:
            self._endpoint.cancel(job_id)
            raise
        if job["status"] == "COMPLETED":
            if "output" not in job:
                raise _FailedError("completed without output")
            return job["output"]
        raise self._failure(job)

    def _wait(self, job_id: str) -> Mapping[str, Any]:
        """Poll, less and less often, until the job is over; return its last status reply."""
        pace = self._endpoint.pace
        submitted, queued = time.monotonic(), self._endpoint.clock()
        delay = pace.first_poll
        while True:
            self._endpoint.sleep(delay)
            delay = min(delay * 1.5, pace.longest_poll)
            reply = self._endpoint.call("GET", f"status/{job_id}")
            if reply.status != HTTPStatus.OK:
                raise _FailedError("is no longer known to the endpoint")
            status = reply.body.get("status")
            now = self._endpoint.clock()
            if status != "IN_QUEUE":
                self._worker_seen = now
            if status in _FINAL:
                return reply.body
            if now - max(queued, self._worker_seen) > self._limits.queue:
                raise EngineError(
                    f"endpoint {self._endpoint.id}: no worker took a job in "
                    f"{self._limits.queue:.0f} s; look at its workers and its maximum number of "
                    "them, then run the same command to resume"
                )
            if time.monotonic() - submitted > self._lifetime + _GRACE_SECONDS:
                self._endpoint.cancel(job_id)
                raise _FailedError("was not done in time")

    def _failure(self, job: Mapping[str, Any]) -> Exception:
        """Return the exception to raise for an unsuccessful job."""
        written = job.get("error")
        error = read_error(written) if isinstance(written, str) else None
        if error is None or job["status"] != "FAILED":
            # Nothing of a foreign error is shown: it may quote a text.
            return _FailedError(f"ended as {job['status']}")
        if isinstance(error, TooLargeError):
            return error
        if isinstance(error, ValidationError):
            return EngineError(
                f"endpoint {self._endpoint.id}: its worker refuses the job ({error}); "
                "does it run this version of the service?"
            )
        return _FailedError(f"failed ({error})")

    def _require_same_model(self, model: str) -> None:
        with self._lock:
            if self._model is None:
                self._model = model
            if self._model != model:
                raise EngineError(
                    f"endpoint {self._endpoint.id}: its workers serve {self._model} and {model}; "
                    "wait until all serve the same model, then run the same command to resume"
                )


def read_output(output: Any, texts: Sequence[str]) -> tuple[list[TextScore], str]:
    """Read a worker's reply to ``texts``; return their rows, in order, and the model's id.

    Raises :class:`EngineError` unless it is a reply of this service to these very texts.
    """
    try:
        items, model = output["items"], output["model"]
        rows = [_read_item(item, text) for item, text in zip(items, texts, strict=True)]
        if not isinstance(model, str) or not re.fullmatch(r"[!-~]{1,200}", model):
            raise ValueError("no model id")
    except (KeyError, TypeError, ValueError):
        raise EngineError(
            "the endpoint's reply is not one of this service; does it run this version?"
        ) from None
    return rows, model


def versions_of(output: Mapping[str, Any]) -> Versions | None:
    """Return what a reply says of its versions; ``None`` if a worker's reply lacks them."""
    found = output.get("versions")
    names = [field.name for field in dataclasses.fields(Versions)]
    values = [found.get(name) for name in names] if isinstance(found, dict) else [None]
    if not all(isinstance(value, str) and re.fullmatch(r"[!-~]{1,64}", value) for value in values):
        return None
    return Versions(*map(str, values))


def _read_item(item: Mapping[str, Any], text: str) -> TextScore:
    if item["text"] != text:
        raise ValueError("not the text that was sent")
    if "error" in item:
        error = read_error(item["error"])
        if error is None:
            raise ValueError("not our error")
        return row_of(error)
    scores = [float(item[label]) for label in LABELS]
    windows = item["windows"]
    if not all(math.isfinite(score) and 0 <= score <= 1 for score in scores):
        raise ValueError("not probabilities")
    if item["label"] not in LABELS or not isinstance(windows, int) or windows < 1:
        raise ValueError("no label or no windows")
    warnings = tuple(item.get("warnings", ()))
    if not set(warnings) <= set(WARNINGS):
        raise ValueError("not our warnings")
    read_as = item.get("read_as")
    if read_as not in (None, "folded"):
        raise ValueError("no reading that this version knows")
    found = Prediction(scores, windows, None, None, read_as, warnings)
    return dataclasses.replace(row_of(found), label=item["label"])
