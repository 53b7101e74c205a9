"""What a setting changes of the server: its log, its metrics, its ports, its descriptors."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from hatespeech.serving.guards.connection import RESERVED_DESCRIPTORS
from tests.support.bad_inputs import MARKER
from tests.support.http_client import BEARER, TOKEN
from tests.support.ports import free_port
from tests.support.processes.server import SERVER, HttpServer, http_server
from tests.support.processes.worker import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpServer]:
    port = str(free_port())
    environment = {"LOG_FORMAT": "json", "METRICS": "open", "PORT": port, "PORT_HEALTH": port}
    with http_server(tmp_path_factory.mktemp("open"), small_checkpoint, environment) as server:
        yield server.ready()


# No CORS_ORIGINS.


def test_a_preflight_hears_of_cors_origins_and_not_of_tokens(server: HttpServer) -> None:
    preflight = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    reply = server.request("OPTIONS", "/score", preflight)
    assert (reply.status_code, reply.json()["error_type"]) == (422, "validation")
    assert "CORS_ORIGINS" in reply.json()["error"]
    assert server.request("OPTIONS", "/score", {}).status_code == 401  # which is no preflight


# LOG_FORMAT=json.


def log_lines(server: HttpServer) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in server.stderr.splitlines()]
    assert all(isinstance(line, dict) for line in lines)
    return lines


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "route", "status", "error"),
    [
        ("POST", "/score", {"text": MARKER}, BEARER, "/score", 200, None),
        ("GET", f"/score?text={MARKER}", None, BEARER, "/score", 200, None),
        ("POST", "/score", {"text": MARKER, MARKER: 1}, BEARER, "/score", 422, "validation"),
        ("GET", f"/{MARKER}?text={MARKER}", None, BEARER, "unmatched", 404, "not_found"),
        ("GET", f"/status/{MARKER}", None, BEARER, "/status/{job_id}", 404, "not_found"),
        ("PUT", "/score", {"text": MARKER}, BEARER, "/score", 405, "method_not_allowed"),
        ("GET", "/", None, {"X-API-Key": MARKER}, "/", 401, "unauthorized"),
    ],
)
def test_a_json_log_has_one_object_for_each_request(
    server: HttpServer,
    method: str,
    path: str,
    body: Any,
    headers: dict[str, str],
    route: str,
    status: int,
    error: str | None,
) -> None:
    reply = server.request(method, path, headers, json=body)
    assert reply.status_code == status
    request_id = reply.headers["X-Request-ID"]

    def found() -> list[dict[str, Any]]:
        return [line for line in log_lines(server) if line.get("request_id") == request_id]

    wait_until(lambda: bool(found()), "the request to be logged")
    (line,) = found()
    milliseconds = line["milliseconds"]
    assert isinstance(milliseconds, float)
    assert 0 <= milliseconds < 60_000
    work = {}
    told = "" if error is None else f": {error}"
    if status == 200:
        work = {name: line[name] for name in ("tokens", "queue_ms", "compute_ms", "labels")}
        (label,) = work["labels"]
        told = (
            f": 1 text, {work['tokens']} tokens, queue {work['queue_ms']} ms, "
            f"compute {work['compute_ms']} ms, {label} 1"
        )
        work |= {"texts": 1}
    assert line == {
        "time": line["time"],
        "level": "INFO",
        "logger": "hatespeech.serving.guards.envelope",
        "message": f"request {request_id} {method} {route} {status} {milliseconds:.1f} ms{told}",
        "request_id": request_id,
        "protocol": "http",
        "method": method,
        "route": route,
        "status": status,
        "milliseconds": milliseconds,
        "error_type": error,
        **work,
    }
    assert not [secret for secret in (MARKER, TOKEN, "text=") if secret in server.stderr]


def test_a_json_log_holds_the_callers_own_request_id(server: HttpServer) -> None:
    server.get("/", headers={**BEARER, "X-Request-ID": "order-66"})
    wait_until(
        lambda: any(line.get("request_id") == "order-66" for line in log_lines(server)),
        "the request to be logged",
    )


# METRICS=open.


def test_open_metrics_are_for_everyone_and_the_document_says_so(server: HttpServer) -> None:
    reply = server.get("/metrics", headers={})
    assert reply.status_code == 200
    assert "hate_speech_ready 1.0" in reply.text
    assert server.get("/metrics", headers={"X-API-Key": "wrong"}).status_code == 200
    assert server.get("/metrics/x", headers={}).status_code == 401
    paths = server.get("/openapi.json", headers={}).json()["paths"]
    assert paths["/metrics"]["get"]["security"] == []
    assert list(paths["/metrics"]["get"]["responses"]) == ["200"]
    assert "401" in paths["/score"]["post"]["responses"]


# The probes, and a PORT_HEALTH that is PORT.


@pytest.mark.parametrize("path", ["/ping", "/health"])
def test_a_probe_answers_head_as_it_answers_get_without_a_body(
    server: HttpServer, path: str
) -> None:
    with server.connect() as connection:  # a client library would not notice a body
        request = f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
        connection.sendall(request.encode())
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    assert received.endswith(b"\r\n\r\n")
    assert received.count(b"\r\n\r\n") == 1
    get = server.get(path, headers={})
    head = server.request("HEAD", path, {})
    assert received.startswith(b"HTTP/1.1 200 ")
    assert head.status_code == get.status_code == 200
    assert head.headers["Content-Length"] == get.headers["Content-Length"]
    assert head.headers.get("Content-Type") == get.headers.get("Content-Type")
    assert bool(get.content) == (path == "/health")
    documented = server.get("/openapi.json", headers={}).json()["paths"][path]
    assert list(documented) == ["get"]


def test_health_says_which_number_format_is_in_use(server: HttpServer) -> None:
    assert server.get("/health").json()["dtype"] == "float32"


def test_a_health_port_that_is_the_port_takes_nothing_away_from_it(server: HttpServer) -> None:
    assert server.get("/ping", headers={}).status_code == 200
    assert server.get("/score?text=good").status_code == 200
    assert server.get("/docs", headers={}).status_code == 200
    listening = [line["message"] for line in log_lines(server) if "listening" in line["message"]]
    assert listening == [f"listening on {server.url}"]


# Open files.

CONNECTIONS: Final = 72
DESCRIPTORS: Final = RESERVED_DESCRIPTORS + CONNECTIONS
# As a shell's ``ulimit -n`` would.
FEW_DESCRIPTORS: Final = f"""
import os, resource, sys
resource.setrlimit(resource.RLIMIT_NOFILE, ({DESCRIPTORS}, {DESCRIPTORS}))
os.execv(sys.executable, [sys.executable, {SERVER!r}])
"""
PING: Final = b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"


def ping(connection: socket.socket) -> bool:
    """Whether a connection still answers; it stays open."""
    with contextlib.suppress(ConnectionError):
        connection.sendall(PING)
        received = b""
        while not received.endswith(b"\r\n\r\n"):
            chunk = connection.recv(65536)
            if not chunk:
                return False
            received += chunk
        return received.startswith(b"HTTP/1.1 200 ")
    return False


def test_more_connections_than_open_files_cost_only_the_quietest_of_them(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with (
        http_server(tmp_path, small_checkpoint, command=("-c", FEW_DESCRIPTORS)) as server,
        contextlib.ExitStack() as connections,
    ):
        server.ready()
        first = connections.enter_context(server.connect())
        opened: list[socket.socket] = []
        for _ in range(2 * CONNECTIONS):
            opened.append(connections.enter_context(server.connect()))
            assert ping(opened[-1])
            assert ping(first), "it is quiet for a moment only"
        assert not ping(opened[0])
        assert ping(opened[-1])
        # What is left for everything else is enough for a file on the disk.
        assert server.post("/score/file", files={"file": ("a.csv", "text\na\n")}).status_code == 200
        assert server.get("/score?text=good").status_code == 200
        warnings = [line for line in server.stderr.splitlines() if " INFO " not in line]
        assert warnings == []
