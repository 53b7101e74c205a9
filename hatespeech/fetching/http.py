"""A resumable download: one file over HTTP, resumed after a broken connection or a killed run.

A folder keeps two files: the bytes that have arrived, and what the server said about the file. The
next try asks for the rest on condition that the file is unchanged (``If-Range``, RFC 9110 section
13.1.5); if it has changed, the download starts over. Some servers ignore the condition, so the
validator, the size and the last byte on disk are compared as well.

Every download ends, whatever the server does: a reply has limits on its size and on the time for
its head, must bring some bytes a second, and counts as progress only if it brings more than a few.
"""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Self

import httpx2

from hatespeech.fetching import FetchError
from hatespeech.retry import RETRIED_STATUS, Backoff, retry_after
from hatespeech.urls import shown_url

PART: Final = "checkpoint.part"
STATE: Final = "checkpoint.json"

BACKOFF: Final = Backoff(first=0.5, longest=30.0)  # counts tries in a row that brought no bytes
_LONGEST_RETRY_AFTER: Final = 120.0  # seconds

LARGEST: Final = 16 * 1024**3  # bytes of a file: ten times the published checkpoint
_TOO_LARGE: Final = f"the file has more than {LARGEST / 1e9:,.0f} GB"
# A file of unknown size asks for room on the disk again after so many bytes.
ROOM_STEP: Final = 64 * 1024**2
SLOWEST: Final = 1024  # bytes a second, on average over the time-out
LEAST_PROGRESS: Final = 16 * 1024  # bytes that a try must bring, or it counts as one without any
WATCH_TIMEOUTS: Final = 3  # of them for the head of a reply, and between two measures of its pace
_RETRIED_ERRORS: Final = (
    httpx2.TimeoutException,
    httpx2.NetworkError,
    httpx2.ProxyError,
    httpx2.RemoteProtocolError,
)

_CONTENT_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")

# Is called with the bytes that have arrived, and the file's size if the server says it.
OnProgress = Callable[[int, int | None], object]


class _TryAgainError(Exception):
    """A try failed, and another may succeed; ``wait`` is what the server asks for, in seconds."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class RemoteFile:
    """What a server says about a file."""

    url: str  # without secrets
    etag: str | None
    last_modified: str | None
    size: int | None

    @classmethod
    def from_response(cls, url: str, response: httpx2.Response, size: int | None) -> Self:
        """Read a response's headers."""
        headers = response.headers
        return cls(shown_url(url), headers.get("etag"), headers.get("last-modified"), size)

    @property
    def validator(self) -> str | None:
        """What identifies the file's bytes: a strong ETag, else the date of its last change."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified


@dataclass(frozen=True)
class Download:
    """A file that has arrived completely."""

    path: Path
    remote: RemoteFile
    fetched: str  # time, ISO 8601


def download(
    url: str,
    folder: Path,
    *,
    timeout: float,
    retries: int,
    require_room: Callable[[int, int], object],
    progress: OnProgress,
    notify: Callable[[str], object],
) -> Download:
    """Fetch ``url`` into ``folder``, and resume what an earlier run left there.

    ``timeout`` is in seconds, for connecting and between two reads. ``retries`` limits the tries in
    a row that bring no new bytes. ``require_room`` is called with the bytes still to come and the
    size of the whole file, as far as they are known, and raises if the disk has no room. ``notify``
    gets a line before each further try. A redirect from https to http is not followed. Raises
    :class:`FetchError`; the bytes that have arrived stay, unless they can't be the file's.
    """
    part = folder / PART
    most, failures = _size(part), 0
    # identity: bytes are counted, resumed and hashed, so they must not be compressed on the way.
    headers = {"Accept-Encoding": "identity", "User-Agent": "hate-speech-detection download"}

    def stay_encrypted(request: httpx2.Request) -> None:
        if url.lower().startswith("https:") and request.url.scheme != "https":
            raise FetchError(f"{shown_url(url)}: redirects to {shown_url(str(request.url))}")

    with httpx2.Client(
        timeout=timeout,
        headers=headers,
        follow_redirects=True,
        event_hooks={"request": [stay_encrypted]},
    ) as client:
        while True:
            try:
                return _attempt(client, url, folder, timeout, require_room, progress)
            except _TryAgainError as exc:
                reason, wait = str(exc), exc.wait
            except _RETRIED_ERRORS as exc:
                reason, wait = _describe(exc), 0.0
            except (httpx2.HTTPError, httpx2.InvalidURL) as exc:
                raise FetchError(f"{shown_url(url)}: {_describe(exc)}") from exc
            if _size(part) >= most + LEAST_PROGRESS:
                most, failures = _size(part), 0
            failures += 1
            if failures > retries:
                raise FetchError(
                    f"{shown_url(url)}: {reason}; gave up after {failures} tries in a row"
                )
            delay = max(wait, BACKOFF.seconds(failures))
            notify(f"{reason}; trying again in {delay:g} s")
            time.sleep(delay)


def discard(folder: Path) -> None:
    """Remove a download's files."""
    (folder / STATE).unlink(missing_ok=True)
    (folder / PART).unlink(missing_ok=True)


def _attempt(
    client: httpx2.Client,
    url: str,
    folder: Path,
    timeout: float,
    require_room: Callable[[int, int], object],
    progress: OnProgress,
) -> Download:
    part = folder / PART
    known = _read_state(folder)
    if known is None or known.url != shown_url(url) or known.validator is None or not _size(part):
        known = None
        discard(folder)
    have, headers = _size(part), {}
    if known is not None and known.validator is not None:
        # From the last byte on disk, not after it: if the file is complete, there is nothing after
        # it, and the server would answer 416. The byte is also one more check.
        headers = {"Range": f"bytes={have - 1}-", "If-Range": known.validator}
    with _watched(client, url, headers, WATCH_TIMEOUTS * timeout) as (response, go_on):
        remote, start, overlap = _read_head(folder, url, response, known, have)
        if remote.size is not None:
            require_room(remote.size - start - len(overlap), remote.size)
            if remote.size > LARGEST:
                raise FetchError(f"{shown_url(url)}: {_TOO_LARGE}")
        if not overlap:
            text = json.dumps(asdict(remote))
            (folder / STATE).write_text(text, encoding="utf-8")
        # Unbuffered: every byte that has arrived is in the file, however the run ends.
        with part.open("r+b" if overlap else "wb", buffering=0) as file:
            file.seek(start)
            progress(start, remote.size)
            pace = _Pace(timeout)
            room = start  # as far as the disk has room; a known size was asked for above
            for chunk in response.iter_raw():
                if overlap and chunk[:1] != overlap:
                    discard(folder)
                    raise _TryAgainError("the file on the server has changed; starting over")
                overlap = b""
                start += len(chunk)
                if start > (LARGEST if remote.size is None else remote.size):
                    discard(folder)
                    surplus = "more bytes arrived than were announced"
                    reason = _TOO_LARGE if remote.size is None else surplus
                    raise FetchError(f"{shown_url(url)}: {reason}")
                if remote.size is None and start > room:
                    room = start + ROOM_STEP
                    require_room(ROOM_STEP, room)
                file.write(chunk)
                progress(start, remote.size)
                if pace.is_measured(len(chunk)):
                    go_on()
    if start == 0:
        raise _TryAgainError("the server sent an empty file")
    if remote.size is not None and start != remote.size:
        raise _TryAgainError(f"{start} bytes arrived, but {remote.size} were announced")
    return Download(part, remote, datetime.now(UTC).isoformat(timespec="seconds"))


def _read_head(
    folder: Path, url: str, response: httpx2.Response, known: RemoteFile | None, have: int
) -> tuple[RemoteFile, int, bytes]:
    """Return which file a reply brings, from which byte on, and that byte if it is on the disk.

    Raises :class:`_TryAgainError` and :class:`FetchError` if it brings none.
    """
    status = response.status_code
    if status == HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and known is not None:
        discard(folder)
        raise _TryAgainError("the file on the server is shorter now; starting over")
    if status in RETRIED_STATUS:
        wait = min(retry_after(response.headers), _LONGEST_RETRY_AFTER)
        raise _TryAgainError(f"the server answered {_phrase(status)}", wait)
    if status == HTTPStatus.PARTIAL_CONTENT and known is not None:
        overlap = _check_partial(folder, url, response, known, have)
        return known, have - len(overlap), overlap
    if status == HTTPStatus.OK:
        discard(folder)
        return RemoteFile.from_response(url, response, _content_length(response)), 0, b""
    raise FetchError(f"{shown_url(url)}: the server answered {_phrase(status)}")


class _Pace:
    """Raises :class:`_TryAgainError` if bytes arrive too slowly."""

    def __init__(self, seconds: float) -> None:
        """``seconds`` is the time over which the pace is measured."""
        self._seconds = seconds
        self._begun, self._arrived = time.monotonic(), 0

    def is_measured(self, arrived: int) -> bool:
        """Count bytes that have just arrived; return whether they end a measure."""
        self._arrived += arrived
        spent = time.monotonic() - self._begun
        if spent < self._seconds:
            return False
        if self._arrived < SLOWEST * spent:
            raise _TryAgainError(f"the server sends less than {SLOWEST} bytes a second")
        self._begun, self._arrived = time.monotonic(), 0
        return True


@contextmanager
def _watched(
    client: httpx2.Client, url: str, headers: Mapping[str, str], seconds: float
) -> Iterator[tuple[httpx2.Response, Callable[[], object]]]:
    """Request a file; yield the reply, and a function that gives it as many seconds more.

    When they have passed, the connection is broken. httpx limits only the time between two reads,
    and a head may come byte by byte, as may what stands between the pieces of a body.
    """
    sockets: list[socket.socket] = []

    def trace(_event: str, info: Mapping[str, Any]) -> None:
        # The stream of a connection that has just been made, or encrypted.
        stream: Any = info.get("return_value")
        if hasattr(stream, "get_extra_info"):
            sockets.append(stream.get_extra_info("socket"))

    def end() -> None:
        for each in sockets:
            with suppress(OSError):  # closed, or wrapped for TLS
                each.shutdown(socket.SHUT_RDWR)  # makes the pending read return

    timers: list[threading.Timer] = []

    def go_on() -> None:
        while timers:
            timers.pop().cancel()
        timers.append(threading.Timer(seconds, end))
        timers[0].daemon = True
        timers[0].start()

    go_on()
    try:
        with client.stream("GET", url, headers=headers, extensions={"trace": trace}) as response:
            go_on()
            yield response, go_on
    finally:
        timers.pop().cancel()


def _check_partial(
    folder: Path, url: str, response: httpx2.Response, known: RemoteFile, have: int
) -> bytes:
    """Return the last byte on disk, with which the reply must begin.

    Raises :class:`_TryAgainError` if the file has changed.
    """
    match = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
    size = int(match[3]) if match and match[3] != "*" else None
    now = RemoteFile.from_response(url, response, size)
    same_size = known.size is None or size is None or size == known.size
    if not match or int(match[1]) != have - 1 or now.validator != known.validator or not same_size:
        discard(folder)
        raise _TryAgainError("the file on the server has changed; starting over")
    with (folder / PART).open("rb") as file:
        file.seek(have - 1)
        return file.read(1)


def _read_state(folder: Path) -> RemoteFile | None:
    """Return what the server said about the bytes on disk, ``None`` if that is not known."""
    try:
        values: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
        return RemoteFile(**values)
    except (OSError, ValueError, TypeError):
        return None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _content_length(response: httpx2.Response) -> int | None:
    text = response.headers.get("content-length", "")
    return int(text) if text.isdecimal() else None


def _phrase(status: int) -> str:
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def _describe(exc: Exception) -> str:
    """Describe an error in one line; a library's message is used only if it can't hold a URL."""
    if isinstance(exc, httpx2.ConnectTimeout):
        return "connecting took too long"
    if isinstance(exc, httpx2.TimeoutException):
        return "the server went silent"
    if isinstance(exc, httpx2.ConnectError):
        return f"cannot connect ({str(exc).splitlines()[0] if str(exc) else type(exc).__name__})"
    if isinstance(exc, httpx2.NetworkError | httpx2.RemoteProtocolError):
        return "the connection broke"
    if isinstance(exc, httpx2.TooManyRedirects):
        return "too many redirects"
    return type(exc).__name__
