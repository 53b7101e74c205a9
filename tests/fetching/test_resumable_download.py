"""A download through servers that break off, fall silent, lie, or change the file."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from hatespeech.fetching import FetchError, http
from hatespeech.fetching.http import Download, download
from hatespeech.retry import Backoff
from tests.support.ports import free_port
from tests.support.stand_ins.file_server import Answer, FileServer

SIZE = 400_000
CUT = 150_000
FILE = random.Random(1).randbytes(SIZE)
# Another file: of the same size, and the same at the byte where a broken download goes on.
OTHER = random.Random(2).randbytes(CUT - 1) + FILE[CUT - 1 :][:1] + random.Random(3).randbytes(SIZE)
OTHER = OTHER[:SIZE]


@dataclass
class Fetch:
    """Downloads into one folder and remembers what it was told."""

    folder: Path
    notes: list[str] = field(default_factory=list)
    progress: list[tuple[int, int | None]] = field(default_factory=list)
    needed: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, url: str, **changes: Any) -> Download:
        arguments: dict[str, Any] = {
            "timeout": 5.0,
            "retries": 2,
            "require_room": lambda coming, whole: self.needed.append((coming, whole)),
            "progress": lambda done, total: self.progress.append((done, total)),
            "notify": self.notes.append,
        }
        return download(url, self.folder, **(arguments | changes))


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    monkeypatch.setattr(http, "BACKOFF", Backoff(first=0.01, longest=30.0))
    return Fetch(tmp_path)


def test_broken_connection_is_resumed_from_where_it_broke(server: FileServer, fetch: Fetch) -> None:
    url = server.serve("/f", FILE, Answer(cut=CUT), Answer(cut=CUT), Answer())
    assert fetch(url).path.read_bytes() == FILE
    assert [r.headers.get("range") for r in server.requests] == [
        None,
        f"bytes={CUT - 1}-",
        f"bytes={2 * CUT - 2}-",
    ]
    assert [r.headers.get("if-range") for r in server.requests] == [None, '"one"', '"one"']
    assert sum(r.sent for r in server.requests) == SIZE + 2
    assert fetch.progress[-1] == (SIZE, SIZE)
    assert fetch.notes == ["the connection broke; trying again in 0.01 s"] * 2


def test_another_run_resumes_too(server: FileServer, fetch: Fetch) -> None:
    url = server.serve("/f", FILE, Answer(cut=CUT), Answer())
    with pytest.raises(FetchError, match="connection broke"):
        fetch(url, retries=0)
    assert fetch(url).path.read_bytes() == FILE
    assert sum(r.sent for r in server.requests) == SIZE + 1


def test_complete_download_costs_one_byte_to_confirm(server: FileServer, fetch: Fetch) -> None:
    url = server.serve("/f", FILE)
    fetch(url)
    assert fetch(url).path.read_bytes() == FILE
    assert [r.sent for r in server.requests] == [SIZE, 1]


def test_tries_that_bring_something_do_not_count_towards_giving_up(
    server: FileServer, fetch: Fetch
) -> None:
    url = server.serve("/f", FILE, *[Answer(cut=SIZE // 8)] * 7, Answer())
    assert fetch(url, retries=1).path.read_bytes() == FILE


def test_server_errors_are_tried_again(server: FileServer, fetch: Fetch) -> None:
    url = server.serve("/f", FILE, Answer(status=500), Answer(status=503), Answer())
    assert fetch(url).path.read_bytes() == FILE
    assert len(server.requests) == 3


def test_server_errors_without_end_are_given_up(server: FileServer, fetch: Fetch) -> None:
    url = server.serve("/f", FILE, Answer(status=500))
    with pytest.raises(FetchError, match="500 Internal Server Error; gave up after 3 tries"):
        fetch(url)
    assert len(server.requests) == 3


@pytest.mark.parametrize(("asked", "slept"), [("7", 7.0), ("100000", 120.0), ("soon", 0.01)])
def test_retry_after_is_respected_within_reason(
    server: FileServer, fetch: Fetch, monkeypatch: pytest.MonkeyPatch, asked: str, slept: float
) -> None:
    waits: list[float] = []
    monkeypatch.setattr("hatespeech.fetching.http.time.sleep", waits.append)
    busy = Answer(status=429, headers={"Retry-After": asked})
    fetch(server.serve("/f", FILE, busy, Answer()))
    assert waits == [slept]


@pytest.mark.parametrize(
    ("status", "said"), [(404, "404 Not Found"), (403, "403 Forbidden"), (401, "401 Unauthorized")]
)
def test_lasting_refusal_is_not_tried_again(
    server: FileServer, fetch: Fetch, status: int, said: str
) -> None:
    url = server.serve("/f", FILE, Answer(status=status))
    with pytest.raises(FetchError, match=f"/f: the server answered {said}$"):
        fetch(url)
    assert len(server.requests) == 1
    assert list(fetch.folder.iterdir()) == []


def test_server_that_ignores_range_is_read_from_the_start(server: FileServer, fetch: Fetch) -> None:
    url = server.serve("/f", FILE, Answer(cut=CUT), Answer(ignore_range=True))
    assert fetch(url).path.read_bytes() == FILE


def test_server_that_ignores_range_and_keeps_breaking_is_given_up(
    server: FileServer, fetch: Fetch
) -> None:
    url = server.serve("/f", FILE, Answer(cut=CUT, ignore_range=True))
    with pytest.raises(FetchError, match="gave up after 3 tries"):
        fetch(url)
    assert len(server.requests) <= 4


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(Answer(content=OTHER, etag='"two"'), id="a server that honours If-Range"),
        pytest.param(
            Answer(content=OTHER, etag='"two"', ignore_if_range=True), id="one that ignores it"
        ),
        pytest.param(Answer(content=OTHER + b"more"), id="same ETag, another size"),
        pytest.param(Answer(content=OTHER[: CUT - 10]), id="same ETag, shorter than what is there"),
        pytest.param(
            Answer(content=bytes(byte ^ 1 for byte in FILE)), id="same ETag, another last byte"
        ),
    ],
)
def test_changed_file_is_not_glued_to_what_is_there(
    server: FileServer, fetch: Fetch, answer: Answer
) -> None:
    url = server.serve("/f", FILE, Answer(cut=CUT), answer)
    assert fetch(url).path.read_bytes() == answer.content


def test_file_that_changes_with_every_try_ends_in_an_error(
    server: FileServer, fetch: Fetch
) -> None:
    answers = [Answer(cut=CUT, etag=f'"{number}"') for number in range(20)]
    url = server.serve("/f", FILE, *answers)
    with pytest.raises(FetchError, match="gave up"):
        fetch(url)
    assert len(server.requests) < 10


@pytest.mark.parametrize(
    ("answer", "condition"),
    [
        (Answer(cut=CUT, etag=None), None),
        (Answer(cut=CUT, etag='W/"weak"'), None),
        (Answer(cut=CUT, etag=None, last_modified="Mon, 01 Jan 2024 00:00:00 GMT"), "Mon, 01"),
        (Answer(cut=CUT, etag='W/"w"', last_modified="Mon, 01 Jan 2024 00:00:00 GMT"), "Mon, 01"),
    ],
)
def test_only_what_can_be_proved_the_same_is_resumed(
    server: FileServer, fetch: Fetch, answer: Answer, condition: str | None
) -> None:
    url = server.serve("/f", FILE, answer, Answer(etag=None, last_modified=answer.last_modified))
    assert fetch(url).path.read_bytes() == FILE
    _, second = server.requests
    assert ("range" in second.headers) == (condition is not None)
    assert second.headers.get("if-range", "").startswith(condition or "")


def test_partial_download_of_another_url_is_not_resumed(server: FileServer, fetch: Fetch) -> None:
    with pytest.raises(FetchError):
        fetch(server.serve("/one", FILE, Answer(cut=CUT)), retries=0)
    assert fetch(server.serve("/two", OTHER)).path.read_bytes() == OTHER


def test_renewed_signature_in_the_query_string_resumes(server: FileServer, fetch: Fetch) -> None:
    url = server.serve("/f", FILE, Answer(cut=CUT), Answer())
    with pytest.raises(FetchError):
        fetch(f"{url}?signature=monday", retries=0)
    assert fetch(f"{url}?signature=tuesday").path.read_bytes() == FILE
    assert server.requests[1].sent == SIZE - CUT + 1


@pytest.mark.parametrize("state", ["", "[]", '{"url": 1}', '{"etag": null}'])
def test_damaged_record_of_a_partial_download_starts_again(
    server: FileServer, fetch: Fetch, state: str
) -> None:
    url = server.serve("/f", FILE)
    fetch(url)
    (fetch.folder / http.STATE).write_text(state)
    (fetch.folder / http.PART).write_bytes(b"something else")
    assert fetch(url).path.read_bytes() == FILE


def test_server_that_announces_more_than_it_sends_is_given_up(
    server: FileServer, fetch: Fetch
) -> None:
    url = server.serve("/f", FILE, Answer(announce=100))
    with pytest.raises(FetchError, match="gave up"):
        fetch(url)


def test_silent_server_is_given_up_after_the_timeout_and_resumed(
    server: FileServer, fetch: Fetch
) -> None:
    url = server.serve("/f", FILE, Answer(stall=CUT), Answer())
    assert fetch(url, timeout=0.3).path.read_bytes() == FILE
    assert fetch.notes == ["the server went silent; trying again in 0.01 s"]
    assert server.requests[1].sent == SIZE - CUT + 1


def test_redirect_is_followed_and_the_first_address_recorded(
    server: FileServer, fetch: Fetch
) -> None:
    server.serve("/real", FILE)
    moved = Answer(status=302, headers={"Location": "/real?token=secret"})
    found = fetch(server.serve("/f", b"", moved))
    assert found.path.read_bytes() == FILE
    assert found.remote.url == f"http://{server.address}/f"


@pytest.mark.parametrize("target", ["/f", "ftp://127.0.0.1/f", "http://[broken"])
def test_redirect_that_leads_nowhere_is_an_error(
    server: FileServer, fetch: Fetch, target: str
) -> None:
    url = server.serve("/f", b"", Answer(status=302, headers={"Location": target}))
    with pytest.raises(FetchError) as caught:
        fetch(url)
    assert "\n" not in str(caught.value)


def test_empty_file_is_an_error(server: FileServer, fetch: Fetch) -> None:
    with pytest.raises(FetchError, match="empty file"):
        fetch(server.serve("/f", b""))


def test_room_is_asked_for_before_anything_is_written(server: FileServer, fetch: Fetch) -> None:
    def refuse(coming: int, whole: int) -> None:
        raise FetchError(f"{coming} of {whole}")

    with pytest.raises(FetchError, match=f"^{SIZE} of {SIZE}$"):
        fetch(server.serve("/f", FILE, Answer(cut=CUT)), require_room=refuse)
    assert not (fetch.folder / http.PART).exists()
    assert server.requests[0].sent <= CUT


def test_room_is_asked_for_what_is_still_to_come(server: FileServer, fetch: Fetch) -> None:
    fetch(server.serve("/f", FILE, Answer(cut=CUT), Answer()))
    assert fetch.needed == [(SIZE, SIZE), (SIZE - CUT, SIZE)]


@pytest.mark.parametrize(
    "answer",
    [
        None,
        Answer(status=403),
        Answer(status=500),
        Answer(cut=9, ignore_range=True),
        Answer(announce=9),
    ],
)
def test_no_message_shows_credentials_or_the_query_string(
    server: FileServer, fetch: Fetch, answer: Answer | None
) -> None:
    address = server.address if answer else f"127.0.0.1:{free_port()}"
    if answer:
        server.serve("/f", FILE, answer)
    with pytest.raises(FetchError) as caught:
        fetch(f"http://amy:hunter2@{address}/f?X-Signature=s3cr3t#part")
    said = " ".join([str(caught.value), *fetch.notes])
    assert f"http://{address}/f: " in said
    assert not any(secret in said for secret in ("amy", "hunter2", "Signature", "s3cr3t", "part"))
    assert "\n" not in said
    kept = b"".join(path.read_bytes() for path in fetch.folder.glob("*.json"))
    assert b"hunter2" not in kept
    assert b"s3cr3t" not in kept


def test_credentials_of_the_url_reach_the_server(server: FileServer, fetch: Fetch) -> None:
    server.serve("/f", FILE)
    fetch(f"http://amy:hunter2@{server.address}/f?X-Signature=s3cr3t")
    (request,) = server.requests
    assert request.headers["authorization"].startswith("Basic ")
    assert request.path == "/f?X-Signature=s3cr3t"
