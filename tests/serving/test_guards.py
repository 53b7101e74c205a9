"""Who gets in over HTTP, what is refused before it costs anything, and what is never told."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest
import requests

from hatespeech.serving.guards import connection, limits
from hatespeech.serving.settings import ServerSettings
from tests.paths import ROOT
from tests.support.bad_inputs import MARKER
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
    ("POST", "/v2/any/run", {"input": {"prompt": "hello"}}, 200),
    ("POST", "/v2/any/runsync", {"input": {"prompt": "hello"}}, 200),
    ("GET", "/v2/any/status/none", None, 404),
    ("POST", "/v2/any/cancel/none", None, 404),
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
    for headers in ({"Origin": ORIGIN}, {**BEARER, "Origin": ORIGIN}):  # a 401 can be read, too
        reply = server.get("/score?text=a", headers=headers)
        assert reply.headers["Access-Control-Allow-Origin"] == ORIGIN


def test_a_path_says_which_methods_it_takes(server: HttpClient) -> None:
    cases = (
        ("PUT", "/score", "GET, POST"),
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
        connection.sendall(head.encode())
        for part in parts:
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
    frames = [b"%x\r\n%s\r\n" % (50_000, b"x" * 50_000)] * 3
    reply = raw_post(server, "Transfer-Encoding: chunked", *frames)
    assert reply.startswith("HTTP/1.1 413 ")


def test_two_lengths_at_once_are_answered_and_the_limit_holds(server: HttpClient) -> None:
    """RFC 9112, 6.3: chunks go before a declared length."""
    body = json.dumps({"text": "good morning"}).encode()
    chunk = b"%x\r\n%s\r\n" % (len(body), body)
    for length in (0, 5, len(body), MAX_BODY):
        both = f"Content-Length: {length}\r\nTransfer-Encoding: chunked"
        reply = raw_post(server, both, chunk, b"0\r\n\r\n")
        assert reply.startswith("HTTP/1.1 200 ")
        assert reply.count("HTTP/1.1 ") == 1
        frames = [b"%x\r\n%s\r\n" % (50_000, b"x" * 50_000)] * 3
        assert raw_post(server, both, *frames).startswith("HTTP/1.1 413 ")


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


def json_headers() -> dict[str, str]:
    return {**BEARER, "Content-Type": "application/json"}


def test_the_file_route_has_a_limit_of_its_own(server: HttpClient) -> None:
    row = f"{'x' * 98}\n"
    fitting = "text\n" + row * 2000
    assert MAX_BODY < len(fitting) < MAX_FILE
    assert server.post("/score/file", files={"file": ("a.csv", fitting)}).status_code == 200
    large = "text\n" + row * 4000
    require_error(server.post("/score/file", files={"file": ("a.csv", large)}), 413, "too_large")


BAD_BODIES: Final = {
    "empty": b"",
    "no_json": b'{"text": ' + MARKER.encode(),
    "cut_off": b'{"text": "' + MARKER.encode(),
    "not_utf8": b'{"text": "' + MARKER.encode() + b'\xff"}',
    "utf16": json.dumps({"text": MARKER}).encode("utf-16"),
    "byte_order_mark": b"\xef\xbb\xbf" + json.dumps({"text": MARKER}).encode(),
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
        codes = [server.get("/", headers={}).status_code for _ in range(8)]
        assert codes == [200] * 7 + [429]
        assert "everyone who can reach" in server.stderr


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({}, ["BEARER_TOKEN", "ALLOW_ANONYMOUS"]),
        ({"ALLOW_ANONYMOUS": "0"}, ["BEARER_TOKEN"]),
        ({"BEARER_TOKEN": f"{MARKER} {MARKER}"}, ["BEARER_TOKEN", "ASCII"]),
        ({"BEARER_TOKEN": TOKEN, "JOBS_DB": "/nowhere/jobs"}, ["JOBS_DB", "no such"]),
        ({"BEARER_TOKEN": TOKEN, "RATE_LIMIT": "often"}, ["RATE_LIMIT", "600/minute"]),
        ({"BEARER_TOKEN": TOKEN, "HOST": "192.0.2.1"}, ["PORT", "HOST"]),
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
        local_server(tmp_path_factory.mktemp("impatient"), small_checkpoint) as server,
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


def test_a_client_that_does_not_read_its_reply_is_dropped(impatient: HttpClient) -> None:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect(("127.0.0.1", impatient.port))
    with connection:
        port = connection.getsockname()[1]
        # A few megabytes each: more than the kernel takes off the server's hands.
        request = b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: x\r\n\r\n"
        connection.sendall(request * 20)
        assert is_connected(impatient.port, port)
        wait_until(lambda: not is_connected(impatient.port, port), "the client to be dropped")


def is_connected(server_port: int, client_port: int) -> bool:
    """Whether the server's end of a connection is established, by the kernel's own table."""
    ends = (f":{server_port:04X}", f":{client_port:04X}")
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(
        row[1].endswith(ends[0]) and row[2].endswith(ends[1]) and row[3] == "01" for row in rows
    )
