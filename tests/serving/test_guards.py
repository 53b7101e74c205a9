"""Who gets in over HTTP, what is refused before it costs anything, and what is never told."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import pytest
import requests
from uvicorn.protocols.http.h11_impl import H11Protocol

from hatespeech.serving import reading
from hatespeech.serving.guards import connection, limits
from hatespeech.serving.guards.auth import network_of
from hatespeech.serving.settings import ServerSettings
from hatespeech.settings import EngineSettings
from tests.paths import ROOT
from tests.support.bad_inputs import MARKER, UntouchedText
from tests.support.http_client import BEARER, OTHER_TOKEN, TOKEN, HttpClient, together
from tests.support.local_server import local_server, refusal
from tests.support.ports import free_port
from tests.support.processes.server import http_server, server_environment
from tests.support.processes.worker import wait_until

MAX_BODY: Final = 100_000
MAX_FILE: Final = 300_000
ORIGIN: Final = "https://moderators.example"

# Every route, what to send, and what the right token gets.
GUARDED: Final = (
    ("GET", "/", None, 200),
    ("GET", "/score?text=hello", None, 200),
    ("POST", "/score", {"text": "hello"}, 200),
    ("POST", "/score/file", None, 415),
    ("POST", "/run", {"input": {"prompt": "hello"}}, 200),
    ("POST", "/runsync", {"input": {"prompt": "hello"}}, 200),
    ("GET", "/status/none", None, 404),
    ("POST", "/cancel/none", None, 404),
    ("POST", "/status/none", None, 404),
    ("GET", "/status-sync/none", None, 404),
    ("POST", "/status-sync/none", None, 404),
    ("GET", "/stream/none", None, 404),
    ("POST", "/stream/none", None, 404),
    ("POST", "/retry/none", None, 404),
    ("POST", "/purge-queue", None, 200),
    ("POST", "/v2/any/run", {"input": {"prompt": "hello"}}, 200),
    ("POST", "/v2/any/runsync", {"input": {"prompt": "hello"}}, 200),
    ("GET", "/v2/any/status/none", None, 404),
    ("POST", "/v2/any/cancel/none", None, 404),
    ("POST", "/v2/any/status/none", None, 404),
    ("GET", "/v2/any/status-sync/none", None, 404),
    ("GET", "/v2/any/stream/none", None, 404),
    ("POST", "/v2/any/retry/none", None, 404),
    ("POST", "/v2/any/purge-queue", None, 200),
    ("GET", "/v2/any/health", None, 200),
    ("GET", "/metrics", None, 200),
    ("GET", "/nowhere", None, 404),
    ("GET", "/docs../score", None, 404),
    ("GET", "/demo../score", None, 404),
    ("DELETE", "/score", None, 405),
    ("OPTIONS", "/score", None, 405),
)
OPEN: Final = (
    ("/ping", 200),
    ("/health", 200),
    ("/docs", 200),
    ("/docs/swagger-ui-bundle.js", 200),
    ("/docs/swagger-ui.css", 200),
    ("/docs/../score", 404),
    ("/docs/%2e%2e/score", 404),
    ("/openapi.json", 200),
    ("/demo", 200),
    ("/demo/demo.js", 200),
    ("/demo/table.js", 200),
    ("/demo/demo.css", 200),
    ("/demo/icon.svg", 200),
    ("/demo/none", 404),
    ("/demo/../score", 404),
    ("/demo/%2e%2e/score", 404),
)
WRONG: Final[tuple[Mapping[str, str], ...]] = (
    {},
    {"Authorization": f"Bearer {TOKEN}x"},
    {"Authorization": f"Bearer {TOKEN[:-1]}"},
    {"Authorization": "Bearer "},
    {"Authorization": f"Basic {TOKEN}"},
    {"Authorization": TOKEN},
    {"Authorization": f"Bearer {OTHER_TOKEN},{TOKEN}"},
    {"X-API-Key": "wrong"},
    {"X-API-Key": ""},
)
RIGHT: Final[tuple[Mapping[str, str], ...]] = (
    BEARER,
    {"Authorization": f"bearer {OTHER_TOKEN}"},
    {"X-API-Key": TOKEN},
    # Behind a gateway, Authorization is the gateway's.
    {"X-API-Key": TOKEN, "Authorization": "Bearer rpa_0123456789"},
)


@pytest.fixture(scope="module")
def server(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    environment = {
        "CORS_ORIGINS": ORIGIN,
        "MAX_BODY_BYTES": str(MAX_BODY),
        "MAX_FILE_BYTES": str(MAX_FILE),
        "LOG_LEVEL": "DEBUG",
        "PORT_HEALTH": str(free_port()),
    }
    with local_server(tmp_path_factory.mktemp("guard"), small_checkpoint, environment) as server:
        yield server.ready()


def require_error(reply: requests.Response, status: int, code: str) -> None:
    assert (reply.status_code, reply.json()["error_type"]) == (status, code), reply.text
    assert reply.json().keys() == {"error", "error_type"}
    assert MARKER not in reply.text


@pytest.mark.parametrize(("method", "path", "body", "status"), GUARDED)
def test_a_guarded_route_answers_the_right_token_and_no_other(
    server: HttpClient, method: str, path: str, body: object, status: int
) -> None:
    for headers in WRONG:
        reply = server.request(method, path, headers, json=body)
        require_error(reply, 401, "unauthorized")
        challenge = reply.headers["WWW-Authenticate"]
        assert challenge.startswith("Bearer ")
        assert ("invalid_token" in challenge) == bool(headers)
    for headers in RIGHT:
        assert server.request(method, path, headers, json=body).status_code == status


@pytest.mark.parametrize(("path", "status"), OPEN)
def test_an_open_path_needs_no_token_and_opens_no_other(
    server: HttpClient, path: str, status: int
) -> None:
    with server.connect() as connection:  # a client library would tidy the path
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        assert read_all(connection).startswith(f"HTTP/1.1 {status} ")


def test_the_second_port_has_the_probes_and_nothing_else(server: HttpClient) -> None:
    base = f"http://127.0.0.1:{server.health_port}"
    assert requests.get(f"{base}/ping", timeout=60).status_code == 200
    assert requests.get(f"{base}/health", timeout=60).json()["status"] == "ready"
    for path in ("/", "/score?text=hello", "/docs", "/openapi.json", "/demo"):
        reply = requests.get(base + path, headers=BEARER, timeout=60)
        require_error(reply, 404, "not_found")


def test_a_reply_carries_the_security_headers_and_no_banner(server: HttpClient) -> None:
    for reply in (server.get("/score?text=a"), server.get("/nowhere"), server.get("/", headers={})):
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
        assert reply.headers["X-Frame-Options"] == "DENY"
        assert reply.headers["Referrer-Policy"] == "no-referrer"
        assert reply.headers["Cache-Control"] == "no-store"
        assert "default-src 'none'" in reply.headers["Content-Security-Policy"]
        assert "Server" not in reply.headers


def test_the_documentation_asks_nobody_else_for_anything(server: HttpClient) -> None:
    page = server.get("/docs", headers={})
    assert "script-src 'self';" in page.headers["Content-Security-Policy"]
    assert "http" not in page.text
    assert "<script>" not in page.text
    assert "swagger" in server.get("/docs/swagger-ui-bundle.js", headers={}).text.lower()
    assert '"openapi.json"' in server.get("/docs/start.js", headers={}).text


def test_a_request_id_is_kept_if_sane_and_made_up_otherwise(server: HttpClient) -> None:
    sane = {**BEARER, "X-Request-ID": "abc-123.X_y"}
    assert server.get("/", headers=sane).headers["X-Request-ID"] == "abc-123.X_y"
    for other in ("", "a" * 65, "a b", "a\tb", "<script>"):
        given = server.get("/", headers={**BEARER, "X-Request-ID": other}).headers["X-Request-ID"]
        assert given != other
        assert len(given) == 16
    assert "abc-123.X_y" in server.stderr


def test_cors_lets_in_the_listed_origin_alone(server: HttpClient) -> None:
    preflight = {
        "Origin": ORIGIN,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type,x-api-key",
    }
    reply = server.request("OPTIONS", "/score", preflight)
    assert reply.status_code == 200
    assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN
    other = server.request("OPTIONS", "/score", {**preflight, "Origin": "https://evil.example"})
    assert "Access-Control-Allow-Origin" not in other.headers
    require_error(other, 422, "validation")
    assert other.json()["error"] == "Origin: is not in this server's CORS_ORIGINS"
    for headers in ({"Origin": ORIGIN}, {**BEARER, "Origin": ORIGIN}):  # a 401 can be read, too
        reply = server.get("/score?text=a", headers=headers)
        assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_a_path_says_which_methods_it_takes(server: HttpClient) -> None:
    cases = (
        ("PUT", "/score", "GET, HEAD, POST"),
        ("GET", "/run", "POST"),
        ("PUT", "/ping", "GET, HEAD"),
    )
    for method, path, allowed in cases:
        reply = server.request(method, path)
        require_error(reply, 405, "method_not_allowed")
        assert reply.headers["Allow"] == allowed


# Bodies.


def read_all(connection: socket.socket) -> str:
    data = b""
    while chunk := connection.recv(65536):
        data += chunk
    return data.decode()


def raw_post(server: HttpClient, headers: str, *parts: bytes, path: str = "/score") -> str:
    """Send a request byte by byte as given; return all that comes until the server closes."""
    with server.connect() as connection:
        head = (
            f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nConnection: close\r\n{headers}\r\n\r\n"
        )
        # The first part goes with the head: one that comes when the server has refused the head
        # resets the connection, maybe before the reply is read.
        first, *others = parts or (b"",)
        connection.sendall(head.encode() + first)
        for part in others:
            connection.sendall(part)
        return read_all(connection)


def test_a_body_over_the_limit_is_refused_however_it_comes(server: HttpClient) -> None:
    fitting = json.dumps({"texts": ["x" * 9000] * 10}).encode()
    assert len(fitting) < MAX_BODY
    assert server.post("/score", data=fitting, headers=json_headers()).status_code == 200
    large = json.dumps({"text": MARKER * MAX_BODY}).encode()[: MAX_BODY + 1]
    require_error(server.post("/score", data=large, headers=json_headers()), 413, "too_large")
    chunks = (large[i : i + 5000] for i in range(0, len(large), 5000))
    require_error(server.post("/score", data=chunks, headers=json_headers()), 413, "too_large")
    # Declared and never sent: refused before a byte of it.
    for declared in (MAX_BODY + 1, 10**30):
        reply = raw_post(server, f"Content-Length: {declared}")
        assert reply.startswith(("HTTP/1.1 413 ", "HTTP/1.1 400 "))
    # Chunked, whatever length is declared beside: what counts is what comes.
    # The byte too many comes last: what comes behind it may reset the connection before the reply
    # is read.
    frames = [b"%x\r\n%s\r\n" % (size, b"x" * size) for size in (MAX_BODY - 1, 1, 1)]
    reply = raw_post(server, "Transfer-Encoding: chunked", *frames)
    assert reply.startswith("HTTP/1.1 413 ")


def test_two_lengths_at_once_are_refused_and_nothing_after_them_is_a_request(
    server: HttpClient,
) -> None:
    """A proxy in front may believe the other one (RFC 9112, 6.1)."""
    body = json.dumps({"text": "good morning"}).encode()
    chunk = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    for length in (0, 5, len(body), MAX_BODY):
        both = b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % length
        with server.connect() as connection:
            connection.sendall(SLOW_HEAD + both + chunk + b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
            reply = read_all(connection)
        assert reply.startswith("HTTP/1.1 422 ")
        assert "head: has both" in reply
        assert reply.count("HTTP/1.1 ") == 1


@pytest.mark.parametrize("place", ["path", "query", "header", "headers"])
def test_a_head_over_the_limit_is_refused_however_it_arrives(
    server: HttpClient, place: str
) -> None:
    much = "x" * 40_000
    target, headers = "/ping", ""
    if place == "path":
        target = f"/{much}"
    elif place == "query":
        target = f"/ping?{much}"
    elif place == "header":
        headers = f"X-Much: {much}\r\n"
    else:
        headers = "X-Many: abcdefgh\r\n" * 2000
    with server.connect() as connection:
        # In one piece: the server may read all of it at once, and then has the whole head.
        connection.sendall(f"GET {target} HTTP/1.1\r\nHost: x\r\n{headers}\r\n".encode())
        reply = read_all(connection)
    assert reply.startswith(("HTTP/1.1 413 ", "HTTP/1.1 400 "))
    assert "connection: close" in reply.lower()


def test_a_declared_length_that_is_not_the_bodys_is_answered_and_nothing_hangs(
    server: HttpClient,
) -> None:
    body = json.dumps({"text": MARKER}).encode()
    # Less than what comes: cut off, and what follows is no part of a request.
    reply = raw_post(server, f"Content-Length: {len(body) - 1}", body)
    assert reply.startswith("HTTP/1.1 422 ")
    assert reply.count("HTTP/1.1 ") == 1
    # Kept open, it would be the next request, and is none.
    with server.connect() as connection:
        head = SLOW_HEAD + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n"
        connection.sendall(head + b'{}{"text": "a"}\r\n\r\n')
        reply = read_all(connection)
    assert [reply.count(f"HTTP/1.1 {status} ") for status in (200, 422, 400)] == [0, 1, 1]
    # More than what comes, and the client sends no more.
    with server.connect() as connection:
        head = SLOW_HEAD + b"Content-Type: application/json\r\nContent-Length: 900\r\n\r\n"
        connection.sendall(head + body)
        connection.shutdown(socket.SHUT_WR)
        reply = read_all(connection)
    assert reply == "" or reply.startswith("HTTP/1.1 4")
    assert MARKER not in reply
    for lengths in ("Content-Length: 2\r\nContent-Length: 30", "Content-Length: -1"):
        assert raw_post(server, lengths, body).startswith("HTTP/1.1 400 ")


@pytest.mark.parametrize("answered", [False, True], ids=["with_the_head", "after_the_reply"])
def test_a_broken_chunk_of_a_body_that_is_not_read_leaves_no_error_in_the_log(
    server: HttpClient, answered: bool
) -> None:
    before = len(server.stderr)
    head = b"POST /score HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head if answered else head + b"broken\r\n")
        if answered:
            assert connection.recv(12) == b"HTTP/1.1 401"
            connection.sendall(b"broken\r\n")
        assert ("HTTP/1.1 400 " in read_all(connection)) is not answered
    wait_until(lambda: "POST /score 401" in server.stderr[before:], "the request to be logged")
    server.get("/ping")
    assert "ERROR" not in server.stderr[before:]


def json_headers() -> dict[str, str]:
    return {**BEARER, "Content-Type": "application/json"}


def test_the_file_route_has_a_limit_of_its_own(server: HttpClient) -> None:
    row = f"{'x' * 98}\n"
    fitting = "text\n" + row * 2000
    assert MAX_BODY < len(fitting) < MAX_FILE
    assert server.post("/score/file", files={"file": ("a.csv", fitting)}).status_code == 200
    large = "text\n" + row * 4000
    require_error(server.post("/score/file", files={"file": ("a.csv", large)}), 413, "too_large")


def test_a_body_of_millions_of_values_is_refused_before_it_is_parsed(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with local_server(tmp_path, small_checkpoint) as server:
        server.ready()
        for body in (b"[" + b"[]," * 500_000 + b"1]", b"[" + b"1.5," * 500_000 + b"1]"):
            for path in ("/score", "/run"):
                reply = server.post(path, data=body, headers=json_headers())
                require_error(reply, 413, "too_large")
        # What stands in strings is no part.
        text = json.dumps({"text": '[{,"\\' * 200_000}).encode()
        assert len(text) > 1_000_000
        reply = server.post("/score", data=text, headers=json_headers())
        require_error(reply, 413, "too_large")
        assert "characters" in reply.json()["error"]


@pytest.mark.parametrize("size", [2, 3, 7, 100])
def test_parts_are_counted_outside_of_strings_wherever_a_piece_ends(size: int) -> None:
    body = json.dumps({"a": ['x"[,{', "\\\\", "", {"\\": [1, 2]}], 'b"': "\u00e9"}).encode()
    parts = 4 + 5 + 7  # brackets, commas, strings
    with patch.object(reading, "PIECE", size):
        for most, expected in ((parts, False), (parts - 1, True)):
            with patch.object(reading, "MAX_JSON_PARTS", most):
                assert reading.has_too_many_parts(body) is expected
        for odd in (b'"', b"\\", b'"\\', b'"abc\\"', b""):
            assert reading.has_too_many_parts(odd) is False


BAD_BODIES: Final = {
    "empty": b"",
    "no_json": b'{"text": ' + MARKER.encode(),
    "cut_off": b'{"text": "' + MARKER.encode(),
    "not_utf8": b'{"text": "' + MARKER.encode() + b'\xff"}',
    "utf16": json.dumps({"text": MARKER}).encode("utf-16"),
    "nan": b'{"text": "a", "thresholds": {"hate": NaN}}',
    "infinity": b'{"text": "a", "thresholds": {"hate": -Infinity}}',
    "huge_float": b'{"text": "a", "thresholds": {"hate": 1e999}}',
    "huge_float_in_a_job": b'{"input": {"prompt": "a", "thresholds": {"hate": 1e999}}}',
    "nan_in_a_job": b'{"input": {"prompt": "a", "thresholds": {"hate": NaN}}}',
    "huge_integer": b'{"text": ' + b"9" * 5000 + b"}",
    "deep": b'{"text": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep_object": b'{"a":' * 9000 + b"1" + b"}" * 9000,
    "array": b'["' + MARKER.encode() + b'"]',
    "two_documents": b'{"text": "a"} {"text": "b"}',
}


@pytest.mark.parametrize("path", ["/score", "/run", "/runsync"])
@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_body_that_is_no_sound_json_is_a_validation_error(
    server: HttpClient, path: str, name: str
) -> None:
    reply = server.post(path, data=BAD_BODIES[name], headers=json_headers())
    require_error(reply, 422, "validation")


def test_json_is_read_only_if_it_is_declared(server: HttpClient) -> None:
    body = json.dumps({"text": MARKER})
    for kind in ("text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"):
        for path in ("/score", "/run", "/runsync"):
            headers = {**BEARER, "Content-Type": kind}
            require_error(server.post(path, data=body, headers=headers), 415, "unsupported_media")
    good = {**BEARER, "Content-Type": "Application/JSON; charset=utf-8"}
    assert server.post("/score", data=body, headers=good).status_code == 200


@pytest.mark.parametrize(
    "query",
    [
        "",
        "text=",
        "text=a&text=b",
        "text=a&colour=red",
        "text=%ff",
        "text=a&prompt=b",
        "explain=true",
        "text=a&explain=yes",
        "&".join(["text=a"] * 50),
        "text=a&thresholds=",
        "text=a&thresholds=lenient",
        'text=a&thresholds={"hate":0.5}',
    ],
)
def test_a_query_that_is_not_what_it_must_be_is_a_validation_error(
    server: HttpClient, query: str
) -> None:
    require_error(server.get(f"/score?{query}"), 422, "validation")


def test_texts_tokens_and_query_strings_are_never_logged(
    server: HttpClient, capsys: pytest.CaptureFixture[str]
) -> None:
    server.get(f"/score?text={MARKER}")
    server.get(f"/{MARKER}?text={MARKER}")
    server.get(f"/status/{MARKER}")
    server.post("/score", json={"text": MARKER, MARKER: 1})
    server.post("/score", data=MARKER, headers=json_headers())
    server.post("/score/file", files={"file": (f"{MARKER}.csv", f"text\n{MARKER}\n")})
    server.post("/score/file", files={"file": (f"{MARKER}.exe", MARKER)})
    server.finished(server.run({"prompt": MARKER}))
    server.get("/", headers={"Authorization": f"Bearer {MARKER}", "X-Request-ID": f"{MARKER}!"})
    raw_post(server, f"Bad Header {MARKER}")
    assert MARKER not in server.stderr
    assert TOKEN not in server.stderr
    assert OTHER_TOKEN not in server.stderr
    assert "text=" not in server.stderr
    assert "POST /score/file 200" in server.stderr
    assert "GET unmatched 404" in server.stderr
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_under_uvicorns_own_command_nothing_is_logged_either(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    port = str(free_port())
    command = ("-m", "uvicorn", "server:app", "--port", port, "--no-server-header")
    with http_server(tmp_path, small_checkpoint, {"PORT": port}, command) as server:
        server.ready()
        assert server.get(f"/score?text={MARKER}").json()["text"] == MARKER
        assert server.get(f"/{MARKER}", headers={}).status_code == 401
        assert "Server" not in server.get("/").headers
        server.terminate()
        server.wait()
        assert "GET /score 200" in server.stderr
        assert MARKER not in server.stderr + server.stdout


def test_settings_never_show_a_token() -> None:
    settings = ServerSettings.from_environment({"BEARER_TOKEN": f"{TOKEN}, {OTHER_TOKEN}"})
    assert list(settings.tokens) == [TOKEN, OTHER_TOKEN]
    shown = f"{settings!r} {settings} {settings.model_dump()} {settings.model_dump_json()}"
    assert TOKEN not in shown
    assert OTHER_TOKEN not in shown


# How often, and who counts as one.


def test_a_token_that_asks_too_often_is_told_when_to_come_back(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with local_server(tmp_path, small_checkpoint, {"RATE_LIMIT": "10/minute;100/hour"}) as server:
        server.ready()
        replies = together(14, lambda _: server.get("/"))
        refused = [reply for reply in replies if reply.status_code == 429]
        assert len(refused) == 4
        for reply in refused:
            require_error(reply, 429, "rate_limited")
            assert 1 <= int(reply.headers["Retry-After"]) <= 60
        other = {"Authorization": f"Bearer {OTHER_TOKEN}"}
        assert server.get("/", headers=other).status_code == 200
        assert server.get("/health", headers={}).status_code == 200
        for _ in range(12):  # a wrong token is nobody's
            assert server.get("/", headers={"X-API-Key": "wrong"}).status_code == 401


@pytest.mark.parametrize(
    ("given", "readings"),
    [
        ({"text": "a b"}, 4),
        ({"text": UntouchedText("a b " * 10_000)}, 0),
        ({"prompts": ["a b", UntouchedText("a b " * 10_000)]}, 4),
        ({"texts": [UntouchedText("a b")] * 10_000}, 0),
        ({"prompts": [UntouchedText("a b " * 2500)] * 200}, 0),
    ],
    ids=["text", "long_text", "a_long_one_of_two", "too_many", "too_much_together"],
)
def test_readings_are_counted_of_what_is_within_the_limits(
    given: dict[str, Any], readings: int
) -> None:
    assert limits.count_body_readings({"explain": True, **given}, EngineSettings()) == readings


def rates(reply: requests.Response) -> tuple[str, int]:
    """Return limit and remaining, of a reply that has all four fields."""
    assert 1 <= int(reply.headers["RateLimit-Reset"]) <= 86_400
    return reply.headers["RateLimit-Limit"], int(reply.headers["RateLimit-Remaining"])


def test_a_reply_says_how_much_is_left_of_the_limit_that_is_reached_first(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with local_server(tmp_path, small_checkpoint, {"RATE_LIMIT": "4/hour;100/day"}) as server:
        server.ready()
        replies = [server.get("/nowhere") for _ in range(5)]
        assert [rates(reply) for reply in replies] == [("4", left) for left in (3, 2, 1, 0, 0)]
        assert replies[-1].status_code == 429
        assert {reply.headers["RateLimit-Policy"] for reply in replies} == {"4;w=3600, 100;w=86400"}


def test_asking_how_the_service_or_a_job_is_counts_nothing(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with local_server(tmp_path, small_checkpoint, {"RATE_LIMIT": "2/day"}) as server:
        server.ready()
        job_id = server.run({"prompt": "good morning"})
        for path in ("/metrics", "/status/none", f"/v2/any/status/{job_id}", "/v2/any/health"):
            for _ in range(3):
                reply = server.get(path)
                assert reply.status_code in (200, 404)
                assert "RateLimit-Limit" not in reply.headers
        assert rates(server.get("/nowhere")) == ("2", 0)
        assert server.get("/statuses").status_code == 429
        assert server.finished(job_id)["status"] == "COMPLETED"


def test_the_limit_can_count_texts(small_checkpoint: Path, tmp_path: Path) -> None:
    settings = {"RATE_LIMIT": "20/day", "RATE_LIMIT_COUNTS": "texts"}
    with local_server(tmp_path, small_checkpoint, settings) as server:
        server.ready()
        assert rates(server.post("/score", json={"texts": ["a"] * 5}))[1] == 15
        assert rates(server.post("/score", json={"text": "a"}))[1] == 14
        assert rates(server.post("/v1/moderations", json={"input": ["a", "b"]}))[1] == 12
        file = {"file": ("a.csv", "text\na\nb\nc\n")}
        assert rates(server.post("/score/file", files=file))[1] == 9
        assert server.post("/run", json={"input": {"prompts": ["a"] * 4}}).status_code == 200
        refused = server.post("/score", json={"texts": ["a"] * 6})
        require_error(refused, 429, "rate_limited")
        assert rates(refused)[1] == 4, "a request that is refused counts as one"
        assert server.post("/score/file", files=file).status_code == 200
        require_error(server.post("/score/file", files=file), 429, "rate_limited")


def test_one_request_counts_as_the_whole_limit_at_most(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    settings = {"RATE_LIMIT": "3/day", "RATE_LIMIT_COUNTS": "texts"}
    with local_server(tmp_path, small_checkpoint, settings) as server:
        server.ready()
        reply = server.post("/score", json={"texts": ["a"] * 9})
        assert (reply.status_code, rates(reply)) == (200, ("3", 0))


def test_an_anonymous_server_serves_whoever_asks_and_limits_by_address(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    environment = {
        "BEARER_TOKEN": "",
        "ALLOW_ANONYMOUS": "1",
        "RATE_LIMIT": "10/hour",
        "METRICS": "off",
    }
    with local_server(tmp_path, small_checkpoint, environment) as server:
        server.ready()
        # The Authorization is a gateway's.
        for headers in ({}, {"Authorization": "Bearer rpa_0123456789"}):
            assert server.get("/score?text=a", headers=headers).status_code == 200
        assert server.get("/metrics", headers={}).status_code == 404
        document = server.get("/openapi.json", headers={}).json()
        assert "securitySchemes" not in document["components"]
        codes = [server.get("/", headers={}).status_code for _ in range(9)]
        assert codes == [200] * 8 + [429]
        assert "everyone who can reach" in server.stderr


def test_an_address_in_a_header_counts_only_if_a_trusted_proxy_sends_it(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    anonymous = {"BEARER_TOKEN": "", "ALLOW_ANONYMOUS": "1", "RATE_LIMIT": "3/hour"}
    for trusted, expected in (("", [200] * 3 + [429] * 2), ("127.0.0.1", [200] * 5)):
        folder = tmp_path / f"trusted{trusted}"
        folder.mkdir()
        environment = {**anonymous, "TRUSTED_PROXIES": trusted}
        with local_server(folder, small_checkpoint, environment) as server:
            server.ready()
            codes = [
                server.get("/", headers={"X-Forwarded-For": f"192.0.2.{i}"}).status_code
                for i in range(5)
            ]
            assert codes == expected


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, ["BEARER_TOKEN", "ALLOW_ANONYMOUS"]),
        ({"ALLOW_ANONYMOUS": "0"}, ["BEARER_TOKEN"]),
        ({"BEARER_TOKEN": f"{MARKER} {MARKER}"}, ["BEARER_TOKEN", "ASCII"]),
        ({"BEARER_TOKEN": TOKEN, "JOBS_DB": "/nowhere/jobs"}, ["JOBS_DB", "no such"]),
        ({"BEARER_TOKEN": TOKEN, "RATE_LIMIT": "often"}, ["RATE_LIMIT", "600/minute"]),
        ({"BEARER_TOKEN": TOKEN, "HOST": "192.0.2.1"}, ["PORT", "HOST"]),
        ({"BEARER_TOKEN": TOKEN, "TRUSTED_PROXIES": "*"}, ["TRUSTED_PROXIES", "networks"]),
    ],
)
def test_a_server_that_must_not_start_says_why_in_one_line(
    environment: dict[str, str], words: list[str], tmp_path: Path
) -> None:
    line = refusal(without_token(tmp_path) | environment)
    assert all(word in line for word in words)
    assert MARKER not in line
    assert TOKEN not in line


def without_token(folder: Path) -> dict[str, str]:
    environment = server_environment(folder, folder / "nowhere", {})
    del environment["BEARER_TOKEN"]
    return environment


@pytest.mark.slow
def test_uvicorns_own_command_says_why_it_must_not_start(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "uvicorn", "server:app"],
        cwd=ROOT,
        env=without_token(tmp_path),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.startswith("error: ")
    assert run.stderr.count("\n") == 1
    assert "BEARER_TOKEN" in run.stderr


@pytest.mark.slow
def test_a_model_that_does_not_load_ends_the_server_with_one_line(tmp_path: Path) -> None:
    with http_server(tmp_path, tmp_path / "nowhere") as server:
        assert server.wait() == 1
        assert "error: MODEL_DIR=" in server.stderr
        assert "Traceback" not in server.stderr


# Slow clients; the deadlines are the real ones, made short.

DEADLINE: Final = 1.0


@pytest.fixture(scope="module")
def impatient(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    with (
        patch.object(connection, "HEAD_SECONDS", DEADLINE),
        patch.object(connection, "LINGER_SECONDS", DEADLINE),
        patch.object(connection, "WRITE_SECONDS", DEADLINE),
        patch.object(limits, "BODY_GRACE_SECONDS", DEADLINE),
        local_server(
            tmp_path_factory.mktemp("impatient"), small_checkpoint, {"KEEP_ALIVE": "1"}
        ) as server,
    ):
        yield server.ready()


def drip(server: HttpClient, first: bytes, drop: bytes, seconds: float = 60) -> tuple[str, float]:
    """Send ``first``, then ``drop`` five times a second until the server has had enough."""
    started = time.monotonic()
    received = b""
    with server.connect() as connection:
        connection.sendall(first)
        connection.settimeout(0.2)
        while time.monotonic() < started + seconds:
            try:
                chunk = connection.recv(65536)
                if not chunk:
                    return received.decode(), time.monotonic() - started
                received += chunk
            except TimeoutError:
                pass
            except ConnectionError:
                return received.decode(), time.monotonic() - started
            try:
                connection.sendall(drop)
            except ConnectionError:
                return received.decode(), time.monotonic() - started
    raise AssertionError(f"still connected after {seconds} s; received {received!r}")


SLOW_HEAD: Final = f"POST /score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
SLOW_BODY: Final = SLOW_HEAD + b"Content-Type: application/json\r\nContent-Length: 90000\r\n\r\n"


def test_a_connection_that_never_finishes_its_head_is_closed(impatient: HttpClient) -> None:
    replies = together(3, lambda i: drip(impatient, (b"", SLOW_HEAD, b"G")[i], b"x"))
    assert [received for received, _ in replies] == ["", "", ""]
    # Also after a request that was fine.
    fine = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"
    received, _ = drip(impatient, fine + SLOW_HEAD, b"x")
    assert received.startswith("HTTP/1.1 200 ")
    # And the server is none the worse.
    assert impatient.get("/ping").status_code == 200


def test_a_body_that_drips_is_refused_and_the_connection_closed(impatient: HttpClient) -> None:
    received, _ = drip(impatient, SLOW_BODY, b"x")
    assert received.startswith("HTTP/1.1 422 ")
    assert "body: comes too slowly" in received


def test_a_body_that_nobody_reads_does_not_hold_the_connection(impatient: HttpClient) -> None:
    unauthorised = SLOW_BODY.replace(TOKEN.encode(), b"wrong")
    received, _ = drip(impatient, unauthorised, b"x")
    assert received.startswith("HTTP/1.1 401 ")


def test_a_connection_has_its_turn_however_small_the_chunks_of_its_body_are(
    server: HttpClient,
) -> None:
    """h11 takes half a second for as many chunks of one byte as asyncio reads in one go."""
    body = json.dumps({"text": "good morning " * 400}).encode()
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n"
    head = SLOW_HEAD + b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
    last = b"GET /ping HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    steps: list[int | None] = []  # the bytes of each part; None where others had their turn
    parse = H11Protocol.data_received

    def data_received(self: H11Protocol, data: bytes) -> None:
        steps.append(len(data))
        self.loop.call_soon(steps.append, None)
        parse(self, data)

    with (
        patch.object(connection, "TURN_SECONDS", -1.0),
        patch.object(H11Protocol, "data_received", data_received),
        server.connect() as client,
    ):
        client.sendall(head + chunks)
        reply = client.recv(65536)
        client.sendall(last)  # and the connection is read again
        reply += read_all(client).encode()
    assert reply.count(b"HTTP/1.1 200 ") == 2
    parts = [step for step in steps if step is not None]
    assert max(parts) <= connection.PART_BYTES
    assert sum(parts) == len(head + chunks + last)
    assert all(None in pair for pair in itertools.pairwise(steps))


def test_an_idle_connection_is_closed(impatient: HttpClient) -> None:
    received, _ = drip(impatient, b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n", b"")
    assert received.startswith("HTTP/1.1 200 ")


def test_a_head_of_unreasonable_size_is_refused(impatient: HttpClient) -> None:
    with impatient.connect() as connection:
        connection.sendall(SLOW_HEAD)
        try:
            for _ in range(100):
                connection.sendall(b"X-Filler: " + b"x" * 10_000 + b"\r\n")
            received = read_all(connection)
        except ConnectionError:
            received = "HTTP/1.1 400 "
    assert received.startswith("HTTP/1.1 400 ")


def open_unread(server: HttpClient, request: bytes) -> socket.socket:
    """Open a connection whose client reads nothing."""
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", server.port))
    connection.sendall(request)
    return connection


# A few megabytes each: more than the kernel takes off the server's hands.
MEGABYTES: Final = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n" * 20


def test_a_client_that_does_not_read_its_reply_is_dropped(impatient: HttpClient) -> None:
    with open_unread(impatient, MEGABYTES) as connection:
        port = connection.getsockname()[1]
        assert is_connected(impatient.port, port)
        wait_until(lambda: not is_connected(impatient.port, port), "the client to be dropped")


def test_of_those_who_read_nothing_the_caller_with_the_most_bytes_loses_a_connection(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    environment = {"MAX_REQUEST_CHARS": "10000000"}
    body = json.dumps({"texts": ["x" * 1_000_000] * 9}).encode()
    head = (
        "POST /score HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    with (
        patch.object(connection, "UNREAD_BYTES", 20_000_000),
        local_server(tmp_path, small_checkpoint, environment) as server,
        contextlib.ExitStack() as stack,
    ):
        server.ready()

        def ask(token: str) -> int:
            request = head.format(token).encode() + body
            port: int = stack.enter_context(open_unread(server, request)).getsockname()[1]
            return port

        one = ask(TOKEN)
        wait_until(lambda: any(each.unread for each in server.connections), "the reply")
        many = [ask(OTHER_TOKEN) for _ in range(8)]
        wait_until(
            lambda: not all(is_connected(server.port, port) for port in many), "one of them to go"
        )
        assert is_connected(server.port, one)
        assert server.get("/ping").status_code == 200


def is_connected(server_port: int, client_port: int) -> bool:
    """Whether the server's end of a connection is established, by the kernel's own table."""
    ends = (f":{server_port:04X}", f":{client_port:04X}")
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        row[1].endswith(ends[0]) and row[2].endswith(ends[1]) and row[3] == "01" for row in rows
    )


# Callers that hold connections, or what is behind them.


def open_silent(server: HttpClient, count: int) -> list[socket.socket]:
    return [server.connect() for _ in range(count)]


def is_closed(connection: socket.socket) -> bool:
    """Whether the server has closed a connection on which it has nothing to say."""
    try:
        return connection.recv(1) == b""
    except ConnectionError:
        return True


def open_busy(
    server: HttpClient, count: int, source: str = "127.0.0.1", begun: bytes = SLOW_BODY
) -> list[socket.socket]:
    """Open connections with a request that the server is still reading."""
    opened = []
    for _ in range(count):
        one = socket.create_connection(
            ("127.0.0.1", server.port), timeout=60, source_address=(source, 0)
        )
        opened.append(one)
        # The server answers 100 once the route waits for the body.
        try:
            one.sendall(begun.replace(b"\r\n\r\n", b"\r\nExpect: 100-continue\r\n\r\n"))
            accepted = one.recv(65536).startswith(b"HTTP/1.1 100 ")
        except ConnectionError:
            accepted = False
        if not accepted:
            close_all(opened)
            raise ConnectionError("refused")
    return opened


def close_all(connections: Sequence[socket.socket]) -> None:
    for each in connections:
        each.close()


def test_silent_connections_give_way_to_callers_that_ask_for_something(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with (
        patch.object(connection, "MAX_CONNECTIONS", 6),
        local_server(tmp_path, small_checkpoint) as server,
    ):
        server.ready()
        silent = open_silent(server, 6)
        assert [server.get("/ping").status_code for _ in range(3)] == [200] * 3
        assert is_closed(silent[0]), "the oldest goes first"
        busy = open_busy(server, 6)
        assert all(is_closed(each) for each in silent)
        with pytest.raises(requests.ConnectionError):
            server.get("/ping")
        close_all([*silent, *busy])
        server.ready()


# What a stranger can leave unfinished: a request to an open path, and one that it would pay for.
STRANGERS_BATCH: Final = (
    b"POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/mixed; boundary=b\r\n"
    b"Content-Length: 2000\r\n\r\n"
)
BUYERS_BODY: Final = re.sub(rb"Authorization: [^\r]+\r\n", b"", SLOW_BODY)
SELLING: Final = {
    "PUBLIC_URL": "https://scores.example",
    "PAY_TO": "0x" + "12" * 20,
    "PAY_FACILITATOR": "https://x402.org/facilitator",
    "PRICE": "0.0005",
}


@pytest.mark.parametrize("begun", [STRANGERS_BATCH, BUYERS_BODY], ids=["batch", "buyer"])
@pytest.mark.parametrize("limit", ["all", "address"])
def test_a_strangers_unfinished_request_gives_way_and_a_known_callers_does_not(
    small_checkpoint: Path, tmp_path: Path, begun: bytes, limit: str
) -> None:
    own = {"MAX_CONNECTIONS_PER_ADDRESS": "4"} if limit == "address" else {}
    with (
        patch.object(connection, "MAX_CONNECTIONS", 2048 if own else 4),
        local_server(tmp_path, small_checkpoint, SELLING | own) as server,
    ):
        server.ready()
        known = open_busy(server, 2)
        strangers = open_busy(server, 2, begun=begun)
        assert server.get("/ping").status_code == 200
        assert is_closed(strangers[0]), "the oldest goes first"
        known += open_busy(server, 2)
        assert is_closed(strangers[1])
        with pytest.raises(ConnectionError):
            open_busy(server, 1, begun=begun)
        close_all([*known, *strangers])
        server.ready()


def ping(connection: HTTPConnection) -> int:
    connection.request("GET", "/ping")
    with connection.getresponse() as reply:
        reply.read()
        return reply.status


def test_of_strangers_the_one_goes_that_is_without_a_reply_for_longest(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with (
        patch.object(connection, "MAX_CONNECTIONS", 3),
        local_server(tmp_path, small_checkpoint) as server,
    ):
        server.ready()
        answered = HTTPConnection("127.0.0.1", server.port, 60)
        assert ping(answered) == 200
        unfinished = open_busy(server, 2, begun=STRANGERS_BATCH)
        assert ping(answered) == 200
        newcomers = []
        for each in unfinished:
            newcomers += open_busy(server, 1)
            assert is_closed(each)
        assert ping(answered) == 200
        answered.close()
        close_all([*unfinished, *newcomers])


def test_a_batch_that_has_shown_a_right_key_does_not_give_way(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    request = json.dumps({"comment": {"text": "hello"}, "requestedAttributes": {"TOXICITY": {}}})
    part = f"POST /v1alpha1/comments:analyze?key={TOKEN} HTTP/1.1\n\n{request:300000}"
    body = f"--b\n\n{part}\n--b--\n".encode()
    head = STRANGERS_BATCH.replace(b"2000", str(len(body)).encode())
    with (
        patch.object(connection, "MAX_CONNECTIONS", 2),
        local_server(tmp_path, small_checkpoint) as server,
    ):
        server.ready()
        (batch,) = open_busy(server, 1, begun=head)
        batch.sendall(body[:-1])
        wait_until(
            lambda: any(each.serves_caller for each in server.connections), "the key to be read"
        )
        stranger = server.connect()
        assert server.get("/ping").status_code == 200
        assert is_closed(stranger)
        batch.sendall(body[-1:])
        assert batch.recv(65536).startswith(b"HTTP/1.1 200 ")
        close_all([batch, stranger])


def test_probes_on_their_own_port_do_not_count_among_the_callers(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    environment = {"PORT_HEALTH": str(free_port())}
    with (
        patch.object(connection, "MAX_CONNECTIONS", 3),
        local_server(tmp_path, small_checkpoint, environment) as server,
    ):
        server.ready()
        busy = open_busy(server, 3)
        health = f"http://127.0.0.1:{server.health_port}/ping"
        assert requests.get(health, timeout=60).status_code == 200
        close_all(busy)


def test_an_address_can_fill_its_own_share_of_the_connections_and_no_more(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with local_server(tmp_path, small_checkpoint, {"MAX_CONNECTIONS_PER_ADDRESS": "3"}) as server:
        server.ready()
        busy = open_busy(server, 3)
        with pytest.raises(ConnectionError):
            open_busy(server, 1)
        other = open_busy(server, 1, source="127.0.0.2")
        close_all([*busy, *other])
        server.ready()


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::1", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_caller_counts_by_the_network_that_a_customer_gets(address: str, network: str) -> None:
    assert network_of(address) == network


def test_a_body_that_came_fast_cannot_be_silent_afterwards(impatient: HttpClient) -> None:
    with patch.object(limits, "BODY_BYTES_PER_SECOND", 1):
        received, _ = drip(impatient, SLOW_BODY + b"x" * 50_000, b"")
    assert received.startswith("HTTP/1.1 422 ")
    assert "body: comes too slowly" in received


def test_a_client_that_reads_steadily_gets_a_reply_of_any_length(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    environment = {"MAX_REQUEST_CHARS": "10000000"}
    texts = ["x" * 1_000_000] * 9
    with (
        patch.object(connection, "WRITE_SECONDS", DEADLINE),
        local_server(tmp_path, small_checkpoint, environment) as server,
    ):
        server.ready()
        with server.post("/score", json={"texts": texts}, stream=True) as reply:
            seconds, received, started = 3 * DEADLINE, 0, time.monotonic()
            # No faster than it takes three deadlines, so that no reply before the end is enough.
            for chunk in reply.iter_content(65536):
                received += len(chunk)
                while received / 9_000_000 > (time.monotonic() - started) / seconds:
                    time.sleep(0.01)
        assert received > 9_000_000


def test_all_bodies_together_have_a_limit_and_one_caller_gets_half(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    environment = {"MAX_BODY_BYTES": "200000", "ALL_BODIES_BYTES": "300000"}
    with local_server(tmp_path, small_checkpoint, environment) as server:
        server.ready()
        body = json.dumps({"text": "x" * 180_000}).encode()
        head = SLOW_HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        held = server.connect()
        held.sendall(head % len(body) + body[:-1])
        others = {**json_headers(), "Authorization": f"Bearer {OTHER_TOKEN}"}
        wait_until(
            lambda: server.post("/score", data=body, headers=json_headers()).status_code == 429,
            "the unfinished body to count",
        )
        require_error(server.post("/score", data=body, headers=json_headers()), 429, "overloaded")
        # Others have room, and small bodies always do.
        require_error(server.post("/score", data=body, headers=others), 413, "too_large")
        assert server.post("/score", json={"text": "a"}).status_code == 200
        held.close()
        wait_until(
            lambda: server.post("/score", data=body, headers=json_headers()).status_code == 413,
            "the room to be free again",
        )


def test_all_buyers_together_get_no_more_room_for_bodies_than_one_caller(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    environment = {**SELLING, "MAX_BODY_BYTES": "200000", "ALL_BODIES_BYTES": "300000"}
    body = json.dumps({"text": "x" * 180_000}).encode()
    head = BUYERS_BODY.replace(b"90000", str(len(body)).encode())
    with local_server(tmp_path, small_checkpoint, environment) as server:
        server.ready()
        (held,) = open_busy(server, 1, "127.0.0.2", head)
        held.sendall(body[:-1])

        def other_buyer() -> int:
            other = HTTPConnection("127.0.0.1", server.port, 60, source_address=("127.0.0.3", 0))
            with contextlib.closing(other):
                other.request("POST", "/score", body, {"Content-Type": "application/json"})
                with other.getresponse() as reply:
                    return reply.status

        wait_until(lambda: other_buyer() == 429, "the unfinished body to count")
        with_token = server.post("/score", data=body, headers=json_headers())
        require_error(with_token, 413, "too_large")
        held.close()
        wait_until(lambda: other_buyer() == 402, "the room to be free again")


# What the system refuses is not the caller's fault, and not ours.


@contextlib.contextmanager
def soft_limit(kind: int, limit: int) -> Iterator[None]:
    """Lower one of this process's limits, in which the server runs, too."""
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def lowest_free_descriptor() -> int:
    with Path(os.devnull).open() as file:
        return file.fileno()


def test_a_disk_or_descriptors_that_are_used_up_give_503_and_one_line_of_log(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    content = "text\n" + "good morning\n" * 200_000
    with (
        local_server(tmp_path, small_checkpoint, {"LOG_FORMAT": "json"}) as server,
        requests.Session() as session,
    ):
        server.ready()
        session.headers.update(BEARER)
        url = f"{server.url}/score/file"
        assert session.get(f"{server.url}/ping", timeout=60).status_code == 200

        with soft_limit(resource.RLIMIT_FSIZE, 1_500_000):
            reply = session.post(url, files={"file": ("a.csv", content)}, timeout=60)
        require_error(reply, 503, "unhealthy")
        assert int(reply.headers["Retry-After"]) > 0

        free = lowest_free_descriptor()
        with soft_limit(resource.RLIMIT_NOFILE, free):
            reply = session.post(url, files={"file": ("a.csv", content)}, timeout=60)
        require_error(reply, 503, "unhealthy")
        lines = [json.loads(line) for line in server.stderr.splitlines()]
        short = [line["message"] for line in lines if "short of something" in line["message"]]
        assert short == [
            f"the system is short of something: {name}" for name in ("EFBIG", "EMFILE")
        ]
        assert session.get(f"{server.url}/ping", timeout=60).status_code == 200


def test_an_error_that_asyncio_reports_is_one_line_without_what_it_quotes(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with local_server(tmp_path, small_checkpoint, {"LOG_FORMAT": "json"}) as server:
        server.ready()

        def fail() -> None:
            raise ValueError(MARKER)

        server.call_soon(fail)
        wait_until(lambda: "ValueError" in server.stderr, "the error to be logged")
        lines = [json.loads(line) for line in server.stderr.splitlines()]
        (line,) = [line for line in lines if "ValueError" in line["message"]]
        assert line["level"] == "ERROR"
        assert MARKER not in server.stderr


@pytest.mark.slow
def test_a_reply_after_a_signal_says_that_the_connection_closes(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    body = json.dumps({"text": "good morning"}).encode()
    with http_server(tmp_path, small_checkpoint) as server:
        server.ready()
        with server.connect() as begun:
            head = SLOW_HEAD + b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            begun.sendall(head % len(body) + body[:-1])
            assert server.get("/ping").headers.get("Connection") is None
            server.terminate()
            wait_until(lambda: "Shutting down" in server.stderr, "the server to stop")
            begun.sendall(body[-1:])
            reply = read_all(begun)
        assert reply.startswith("HTTP/1.1 200 ")
        assert "\r\nconnection: close\r\n" in reply


# What an explanation costs.


def test_explanations_count_as_the_requests_that_their_readings_would_fill(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    """A text of four words is read 16 times."""
    texts = ["a b c d"] * 10
    with (
        patch.object(limits, "READINGS_OF_A_REQUEST", 16),
        local_server(tmp_path, small_checkpoint, {"RATE_LIMIT": "30/hour"}) as server,
    ):
        server.ready()
        for path, body in (
            ("/score", {"texts": texts, "explain": True}),
            ("/run", {"input": {"texts": texts, "explain": "shapley"}}),
        ):
            reply = server.post(path, json=body)
            assert reply.status_code == 200, reply.text
        # 2 × (1 + 10) so far.
        require_error(
            server.post("/score", json={"texts": texts, "explain": True}), 429, "rate_limited"
        )
        assert server.post("/score", json={"texts": texts}).status_code == 200
        cheap = {"texts": texts, "explain": "leave_one_out"}
        assert server.post("/score", json=cheap).status_code == 200
        other = {"Authorization": f"Bearer {OTHER_TOKEN}"}
        # Never more than the limit, or it could not be answered at all.
        many = {"texts": texts * 4, "explain": True}
        assert server.post("/score", json=many, headers=other).status_code == 200
        require_error(server.get("/", headers=other), 429, "rate_limited")
