"""HTTP requests to one Runpod endpoint: retried after faults, held back when it asks for a pause.

In 10 s Runpod allows 1000 ``/run`` requests, 2000 ``/status`` requests and 100 ``/cancel`` requests
(20 at the same time). It answers 429 above that, and also when too many jobs are queued.
"""

from __future__ import annotations

import contextlib
import json
import logging
import random
import re
import threading
import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, Final, Self
from urllib.parse import urlsplit

import httpx2

from hatespeech.bulk.engines.base import EngineError
from hatespeech.errors import read_error
from hatespeech.retry import RETRIED_STATUS, Backoff, retry_after
from hatespeech.urls import is_this_machine

log = logging.getLogger(__name__)
logging.getLogger("httpx2").setLevel(logging.WARNING)  # at INFO it logs every poll of every job

BASE_URL: Final = "https://api.runpod.ai/v2"
BASE_URL_VARIABLE: Final = "RUNPOD_ENDPOINT_BASE_URL"  # the Runpod SDK's name for it

_RETRIED: Final = RETRIED_STATUS | {520, 521, 522, 523, 524}  # Cloudflare's, which is in front
_RETRY: Final = Backoff(first=1.0, longest=60.0)
_TIMEOUT: Final = httpx2.Timeout(30.0, connect=15.0)
# For a cancellation, and for an answer that is arriving when the engine closes.
_CLOSING_SECONDS: Final = 5.0
_CANCELS_AT_ONCE: Final = 10
_LONGEST_RETRY_AFTER: Final = 3600.0
_ID = re.compile(r"[A-Za-z0-9_-]{1,128}")


@dataclass(frozen=True)
class Pace:
    """How often to poll and to retry, in seconds; a random share of up to half is added to each."""

    first_poll: float = 0.5  # each later wait is 1.5 times as long
    longest_poll: float = 5.0
    retry: Backoff = _RETRY
    longest_answer: float = 120.0  # for an answer's body
    tries: int = 8  # for one request, and for one job

    @classmethod
    def for_jobs(cls, in_flight: int) -> Self:
        """Return a pace at which this many jobs poll at most 100 times a second together."""
        return cls(
            first_poll=max(cls.first_poll, in_flight / 100),
            longest_poll=max(cls.longest_poll, in_flight / 20),
        )


class StoppedError(EngineError):
    """The engine was closed while a request or a wait was going on."""

    def __init__(self) -> None:
        super().__init__("stopped")


class _RetriedError(Exception):
    """A request failed, and another try may succeed; the message says why."""

    def __init__(self, reason: str, status: int | None = None, asked_wait: float = 0.0) -> None:
        super().__init__(reason)
        self.status = status
        self.asked_wait = asked_wait  # seconds


class Endpoint:
    """One endpoint, for any number of threads. The key is in a header, and in no message or log.

    Raises :class:`EngineError` for a key that can't be sent, or an address that is not safe.
    """

    def __init__(self, base_url: str, endpoint_id: str, key: str, pace: Pace) -> None:
        if not _ID.fullmatch(endpoint_id):
            raise EngineError("--endpoint: must be an endpoint's id, such as abc123def456")
        if not key:
            raise EngineError("RUNPOD_API_KEY is not set; the runpod engine needs it")
        if not re.fullmatch(r"[!-~]+", key):
            raise EngineError("RUNPOD_API_KEY may hold only visible ASCII characters")
        self.id = endpoint_id
        self.pace = pace
        self._stop = threading.Event()
        self._not_before = 0.0  # earliest time of the next request, by time.monotonic()
        self._held = 0.0  # total seconds on hold, including the current hold
        self._lock = threading.Lock()
        self._cancelling = threading.Semaphore(_CANCELS_AT_ONCE)
        self._client = httpx2.Client(
            base_url=f"{require_safe(base_url)}/{endpoint_id}/",
            headers={
                "Authorization": f"Bearer {key}",
                "Content-Type": "application/json",
                "User-Agent": "hate-speech-detection bulk",
            },
            timeout=_TIMEOUT,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=None),
            # Over plain http, which only goes to this machine, a proxy would see the key and texts.
            trust_env=base_url.startswith("https:"),
        )

    def stop(self) -> None:
        """Make every wait and every later request raise :class:`StoppedError`."""
        self._stop.set()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def sleep(self, seconds: float) -> None:
        """Wait up to half as long again; raise :class:`StoppedError` when the engine is closed.

        The random share is only ever added, since a server may have asked for the wait.
        """
        if self._stop.wait(seconds * random.uniform(1.0, 1.5)):  # noqa: S311 - not for a secret
            raise StoppedError

    def clock(self) -> float:
        """Return a time in seconds that stands still while requests are on hold."""
        with self._lock:
            return max(time.monotonic(), self._not_before) - self._held

    def call(self, method: str, path: str, content: bytes | None = None) -> _Reply:
        """Send a request until it is answered with a success, 404 or 413.

        Raises :class:`EngineError` for an answer that retrying can't change, and after
        ``Pace.tries`` failures.
        """
        shown = f"/{path.partition('/')[0]}"
        for failures in range(1, self.pace.tries + 1):
            self._wait_for_turn()
            try:
                return self._send(method, path, content, shown)
            except _RetriedError as exc:
                fault = exc
            wait = max(self.pace.retry.seconds(failures), fault.asked_wait)
            if fault.status == HTTPStatus.TOO_MANY_REQUESTS:
                self._hold_all(wait)
                wait = 0.0
            if failures < self.pace.tries:
                left = max(wait, self._not_before - time.monotonic())
                log.warning("%s: %s; trying again in about %.1f s", shown, fault, left)
                self.sleep(wait)
        raise EngineError(
            f"endpoint {self.id}: {shown} failed {self.pace.tries} times in a row, the last time "
            f"with {fault}; run the same command later to resume"
        )

    def _send(self, method: str, path: str, content: bytes | None, shown: str) -> _Reply:
        """Send a request once.

        Raises :class:`_RetriedError` if another try may succeed, else :class:`EngineError`.
        """
        try:
            with self._client.stream(method, path, content=content) as response:
                answer = self._read(response, self.pace.longest_answer)
        except httpx2.RequestError as exc:
            raise _RetriedError(f"no answer ({type(exc).__name__})") from None
        status = response.status_code
        if response.is_success:
            with contextlib.suppress(ValueError, RecursionError):
                body = json.loads(answer)
                if isinstance(body, dict):
                    return _Reply(status, body)
            raise _RetriedError("an answer that is not a JSON object")
        if status in (HTTPStatus.NOT_FOUND, HTTPStatus.REQUEST_ENTITY_TOO_LARGE):
            return _Reply(status, {})
        if status in _RETRIED:
            raise _RetriedError(f"HTTP {status}", status, self._asked_wait(response))
        raise EngineError(self._refusal(status, shown, answer))

    def cancel(self, job_id: str) -> None:
        """Ask Runpod to cancel a job; the results are the same if that fails."""
        with (
            self._cancelling,
            # RuntimeError: another thread closed the connections.
            contextlib.suppress(httpx2.RequestError, RuntimeError),
            self._client.stream("POST", f"cancel/{job_id}", timeout=_CLOSING_SECONDS) as response,
        ):
            self._read(response, _CLOSING_SECONDS)  # so that the connection can be reused

    def _read(self, response: httpx2.Response, seconds: float) -> bytearray:
        """Return a response's content.

        The client's timeout applies to each read, so a server that sends a byte now and then never
        reaches it. Hence ``seconds`` limits the content as a whole. Raises
        :class:`httpx2.RequestError` and :class:`StoppedError`.
        """
        content = bytearray()
        begun = time.monotonic()
        for piece in response.iter_bytes():
            content += piece
            taken = time.monotonic() - begun
            if taken > seconds:
                raise httpx2.ReadTimeout("the answer takes too long", request=response.request)
            # Not immediately: the answer may name a job that has to be cancelled.
            if self._stop.is_set() and taken > _CLOSING_SECONDS:
                raise StoppedError
        return content

    def _wait_for_turn(self) -> None:
        if self._stop.is_set():
            raise StoppedError
        while (left := self._not_before - time.monotonic()) > 0:
            if self._stop.wait(left):
                raise StoppedError

    def _hold_all(self, seconds: float) -> None:
        """Make every thread wait: the limit applies to the endpoint, not to one request."""
        with self._lock:
            now = time.monotonic()
            until = max(self._not_before, now + seconds)
            self._held += until - max(self._not_before, now)
            self._not_before = until

    def _asked_wait(self, response: httpx2.Response) -> float:
        seconds = retry_after(response.headers)
        if seconds > _LONGEST_RETRY_AFTER:
            raise EngineError(
                f"endpoint {self.id}: asks for a pause of {seconds / 3600:.1f} hours; "
                "run the same command after that to resume"
            )
        return seconds

    def _refusal(self, status: int, shown: str, answer: bytearray) -> str:
        if status == HTTPStatus.UNAUTHORIZED:
            return f"endpoint {self.id}: HTTP 401, RUNPOD_API_KEY is not accepted"
        if status == HTTPStatus.FORBIDDEN:
            return f"endpoint {self.id}: HTTP 403, RUNPOD_API_KEY may not use this endpoint"
        return (
            f"endpoint {self.id}: HTTP {status} from {shown}{_reason(answer)}; "
            "retrying will not help"
        )


def _reason(answer: bytearray) -> str:
    """Return in parentheses why a server of this project refuses a request.

    Nothing of a foreign answer is shown: it may quote a text.
    """
    with contextlib.suppress(ValueError, RecursionError):
        body = json.loads(answer)
        if isinstance(body, dict) and body.keys() == {"error", "error_type"}:
            error = read_error(f"{body['error_type']}: {body['error']}")
            if error is not None and error.line.isprintable():
                return f" ({error.line})"
    return ""


@dataclass(frozen=True)
class _Reply:
    """An answer: its status, and its body if that is a success."""

    status: int
    body: dict[str, Any]


def require_safe(base_url: str) -> str:
    """Return the API's address without a slash at its end.

    Raises :class:`EngineError` unless it is https, or http to this machine: otherwise the key would
    travel unencrypted.
    """
    try:
        parts = urlsplit(base_url)
        host = parts.hostname or ""
        sound = bool(host) and not parts.query and not parts.fragment and "@" not in parts.netloc
        _ = parts.port
    except ValueError:
        sound = False
    if not sound or parts.scheme not in ("http", "https"):
        raise EngineError(f"{BASE_URL_VARIABLE}: must be an address such as {BASE_URL}")
    if parts.scheme == "http" and not is_this_machine(host):
        raise EngineError(
            f"{BASE_URL_VARIABLE}: must begin with https://, or the key would travel unencrypted"
        )
    return base_url.rstrip("/")
