"""A download ends, whatever the server does, and leaves the disk as it was."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hatespeech.fetching import FetchError, http
from hatespeech.fetching.http import download
from hatespeech.retry import Backoff
from tests.support.certificates import write_certificate
from tests.support.stand_ins.file_server import Answer, FileServer
from tests.support.stand_ins.raw_server import RawServer, answering, dripping, endless

CHUNK = b"10000\r\n" + b"a" * 65_536 + b"\r\n"
ENDLESS = b'HTTP/1.1 200 OK\r\nETag: "one"\r\nTransfer-Encoding: chunked\r\n\r\n'

Fetch = Callable[..., Path]


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fetch:
    monkeypatch.setattr(http, "BACKOFF", Backoff(first=0.01, longest=0.01))

    def call(url: str, **changes: Any) -> Path:
        arguments: dict[str, Any] = {
            "timeout": 5.0,
            "retries": 2,
            "require_room": lambda _coming, _whole: None,
            "progress": lambda _done, _total: None,
            "notify": lambda _line: None,
        }
        return download(url, tmp_path, **(arguments | changes)).path

    return call


def left(folder: Path) -> int:
    """Return the bytes of the download that are on the disk."""
    return sum(path.stat().st_size for path in folder.glob(http.PART))


def test_more_bytes_than_were_announced_end_the_download(fetch: Fetch, tmp_path: Path) -> None:
    """A range without a length of its own may go on for as long as the server likes."""
    first = answering(
        b'HTTP/1.1 200 OK\r\nETag: "one"\r\nContent-Length: 90000\r\n\r\n' + b"a" * 50_000
    )
    rest = endless(
        b'HTTP/1.1 206 Partial Content\r\nETag: "one"\r\nTransfer-Encoding: chunked\r\n'
        b"Content-Range: bytes 49999-89999/90000\r\n\r\n",
        CHUNK,
    )
    with RawServer(first, rest) as server, pytest.raises(FetchError, match="than were announced"):
        fetch(f"{server.url}/f")
    assert len(server.requests) == 2
    assert left(tmp_path) == 0


def test_a_file_without_an_end_fills_no_disk(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "LARGEST", 1_000_000)
    with RawServer(endless(ENDLESS, CHUNK)) as server, pytest.raises(FetchError, match="more than"):
        fetch(f"{server.url}/f")
    assert len(server.requests) == 1
    assert left(tmp_path) == 0


def test_a_file_that_is_announced_as_too_large_is_not_begun(fetch: Fetch, tmp_path: Path) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (http.LARGEST + 1)
    with RawServer(endless(head, CHUNK)) as server, pytest.raises(FetchError, match="more than"):
        fetch(f"{server.url}/f")
    assert left(tmp_path) == 0


def test_room_is_asked_for_again_while_a_file_of_unknown_size_arrives(
    fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "ROOM_STEP", 200_000)

    def require_room(_coming: int, whole: int) -> None:
        if whole > 500_000:
            raise FetchError("not enough disk space")

    with RawServer(endless(ENDLESS, CHUNK)) as server, pytest.raises(FetchError, match="space"):
        fetch(f"{server.url}/f", require_room=require_room)
    assert 0 < left(tmp_path) <= 500_000


DRIPS = {
    "body": b'HTTP/1.1 200 OK\r\nETag: "one"\r\nContent-Length: 90000\r\n\r\na',
    "endless_body": ENDLESS + b"1\r\na\r\n",
    "between_pieces": ENDLESS + b"1;a",
    "head": b"HTTP/1.1 200 OK\r\nX-Long: a",
}


@pytest.mark.parametrize("data", DRIPS.values(), ids=DRIPS.keys())
def test_a_server_that_sends_byte_by_byte_is_given_up(data: bytes, fetch: Fetch) -> None:
    drip = dripping(data, 0.01)
    with RawServer(drip) as server, pytest.raises(FetchError, match="gave up after 2 tries"):
        fetch(f"{server.url}/f", timeout=0.5, retries=1)
    assert len(server.requests) == 2


def test_tries_that_bring_a_few_bytes_each_are_given_up(server: FileServer, fetch: Fetch) -> None:
    url = server.serve("/f", b"a" * 100_000, Answer(cut=100))
    with pytest.raises(FetchError, match="gave up after 3 tries"):
        fetch(url)


def test_a_redirect_from_https_to_http_is_not_followed(
    server: FileServer, fetch: Fetch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, key = write_certificate(tmp_path, "localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    plain = server.serve("/f", b"a" * 1000)

    def moved(target: str) -> Any:
        return answering(f"HTTP/1.1 302 Found\r\nLocation: {target}\r\n\r\n".encode())

    whole = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc")
    with RawServer(moved("/g"), whole, tls=context) as encrypted:
        assert fetch(f"{encrypted.url}/f").read_bytes() == b"abc"
    said = f"^https://.*/f: redirects to {plain}$"
    with (
        RawServer(moved(f"{plain}?token=secret"), tls=context) as encrypted,
        pytest.raises(FetchError, match=said),
    ):
        fetch(f"{encrypted.url}/f")
    assert server.requests == []
