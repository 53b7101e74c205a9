"""Unix sockets, path prefixes, idle connections, HEAD: what deployments ask of the server."""

from __future__ import annotations

import http.client
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from starlette.types import Scope

from hatespeech.errors import SettingsError
from hatespeech.serving import command
from hatespeech.serving.route_path import route_path
from tests.paths import ROOT
from tests.support.http_client import BEARER, SECONDS, HttpClient
from tests.support.local_server import local_server, refusal
from tests.support.ports import free_port
from tests.support.processes.server import http_server, server_environment
from tests.support.processes.worker import WorkerProcess, wait_until

GETS: Final = ("/", "/ping", "/health", "/metrics", "/docs", "/demo", "/openapi.json")


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(SECONDS)
        self.sock.connect(str(self._path))


def status_over(path: Path, method: str, target: str, body: str | None = None) -> int:
    connection = UnixConnection(path)
    try:
        connection.request(method, target, body, {**BEARER, "Content-Type": "application/json"})
        reply = connection.getresponse()
        reply.read()
        return reply.status
    except (ConnectionError, FileNotFoundError):
        return 0
    finally:
        connection.close()


@pytest.mark.slow
def test_scores_over_a_unix_socket(small_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))  # as a server leaves it that was killed
    environment = {"UNIX_SOCKET": str(path), "MAX_CONNECTIONS_PER_ADDRESS": "1"}
    with (
        http_server(tmp_path, small_checkpoint, environment) as server,
        socket.socket(socket.AF_UNIX) as idle,
    ):
        wait_until(
            lambda: status_over(path, "GET", "/ping") == 200, "it", watch=server.require_running
        )
        idle.connect(str(path))  # all connections are one proxy's: not limited by address
        assert status_over(path, "POST", "/score", '{"text": "hello"}') == 200
        with pytest.raises(SettingsError, match="UNIX_SOCKET: another server listens there"):
            command.listen_locally(path)


@pytest.mark.slow
def test_uvicorn_itself_serves_a_unix_socket(small_checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "http.sock"
    arguments = ("-m", "uvicorn", "server:app", "--uds", str(path), "--app-dir", str(ROOT))
    environment = server_environment(tmp_path, small_checkpoint, {})
    with WorkerProcess(arguments, environment, tmp_path) as server:
        wait_until(
            lambda: status_over(path, "GET", "/ping") == 200, "it", watch=server.require_running
        )
        assert status_over(path, "POST", "/score", '{"text": "hello"}') == 200


@pytest.mark.parametrize(
    ("path", "reason"),
    [("missing/http.sock", "no such file or directory"), ("x" * 200, "af_unix path too long")],
)
def test_a_unix_socket_that_cannot_be_made_is_one_line(
    path: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(SettingsError, match=f"UNIX_SOCKET: cannot listen there: {reason}"):
        command.listen_locally(tmp_path / path)


def test_a_file_that_is_not_a_socket_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    with pytest.raises(SettingsError, match="address already in use"):
        command.listen_locally(file)
    assert file.read_text() == "kept"


def test_every_ipv6_network_includes_ipv4() -> None:
    """``HOST=::`` alone would take IPv6 only."""
    if not socket.has_dualstack_ipv6():
        pytest.skip("this system has no IPv6")
    port = free_port()
    with command.listen("::", port, "PORT"), socket.create_connection(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/score", "", "/score"),
        ("/api/score", "/api", "/score"),
        ("/api/api/score", "/api", "/score"),
        ("/api", "/api", "/"),
        ("/apiary", "/api", "/apiary"),
        ("/a/b/score", "/a/b", "/score"),
    ],
)
def test_the_prefix_is_taken_off_the_path(path: str, root: str, expected: str) -> None:
    scope: Scope = {"type": "http", "path": path, "root_path": root}
    assert route_path(scope) == expected


@pytest.mark.parametrize("prefix", ["/score", "/v2", "/docs", "/v1/moderations"])
def test_a_prefix_that_is_a_path_of_the_server_is_refused(
    small_checkpoint: Path, tmp_path: Path, prefix: str
) -> None:
    """``/score`` could be the route, or the prefix alone."""
    given = server_environment(tmp_path, small_checkpoint, {"ROOT_PATH": prefix})
    assert refusal(given).startswith(f"error: ROOT_PATH='{prefix}' is not allowed")


def test_wrong_proxies_are_refused_by_the_name_that_was_given(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    given = server_environment(tmp_path, small_checkpoint, {"FORWARDED_ALLOW_IPS": "*"})
    assert refusal(given).startswith("error: FORWARDED_ALLOW_IPS='*' is not allowed")


@pytest.mark.slow
def test_uvicorns_own_root_path_changes_nothing(small_checkpoint: Path, tmp_path: Path) -> None:
    """A proxy that takes the prefix off sends these paths."""
    port = free_port()
    arguments = ("-m", "uvicorn", "server:app", "--port", str(port), "--app-dir", str(ROOT))
    limits = {"MAX_BODY_BYTES": "1024", "METRICS": "open"}
    environment = server_environment(tmp_path, small_checkpoint, limits)
    with WorkerProcess((*arguments, "--root-path", "/api"), environment, tmp_path) as process:
        server = HttpClient()
        server.port = port
        server.require_running = process.require_running  # type: ignore[method-assign]  # of this one
        server.ready()
        for path in GETS[1:]:
            assert server.get(path, headers={}).status_code == 200, path
        file = "text\n" + "hello\n" * 500
        assert server.post("/score/file", files={"file": ("t.csv", file)}).status_code == 200
        assert server.post("/score", json={"text": "a" * 2000}).status_code == 413


@pytest.fixture(scope="module")
def server(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    folder = tmp_path_factory.mktemp("ways")
    with local_server(folder, small_checkpoint, {"KEEP_ALIVE": "2"}) as server:
        yield server.ready()


@pytest.mark.parametrize("path", [*GETS, "/score?text=hello", "/status/none", "/demo/demo.js"])
def test_head_is_get_without_the_body(path: str, server: HttpClient) -> None:
    get, head = server.get(path), server.request("HEAD", path)
    assert head.status_code == get.status_code
    assert head.content == b""
    assert head.headers["Content-Type"] == get.headers["Content-Type"] if get.content else True
    with server.connect() as connection:  # nothing may follow the head of the reply
        token = BEARER["Authorization"]
        connection.sendall(
            f"HEAD {path} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\n"
            f"Connection: close\r\n\r\n".encode()
        )
        raw = b"".join(iter(lambda: connection.recv(65536), b""))
    assert raw.endswith(b"\r\n\r\n")
    assert raw.count(b"\r\n\r\n") == 1


def test_head_of_what_has_no_get_is_refused(server: HttpClient) -> None:
    reply = server.request("HEAD", "/run")
    assert (reply.status_code, reply.headers["Allow"]) == (405, "POST")
    assert server.post("/health").headers["Allow"] == "GET, HEAD"


def test_an_idle_connection_stays_open_as_long_as_the_setting_says(server: HttpClient) -> None:
    with server.connect() as connection:
        began = time.monotonic()
        connection.sendall(b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        assert connection.recv(65536) == b"", "closed by the server"
        assert time.monotonic() - began >= 2


def test_a_byte_order_mark_in_front_of_json_is_ignored(server: HttpClient) -> None:
    body = b"\xef\xbb\xbf" + b'{"text": "hello"}'
    reply = server.post("/score", data=body, headers={**BEARER, "Content-Type": "application/json"})
    assert reply.status_code == 200


@pytest.mark.parametrize(
    ("coding", "said"),
    [
        ("gzip", "body: Content-Encoding: gzip is not read; send it uncompressed"),
        ("br", "body: Content-Encoding: br is not read; send it uncompressed"),
        ("secret", "body: Content-Encoding: codings are not read; send it uncompressed"),
    ],
)
@pytest.mark.parametrize("path", ["/score", "/run", "/score/file"])
def test_a_compressed_body_is_refused_by_name(
    path: str, coding: str, said: str, server: HttpClient
) -> None:
    headers = {**BEARER, "Content-Type": "application/json", "Content-Encoding": coding}
    reply = server.post(path, data=b"\x1f\x8b", headers=headers)
    assert (reply.status_code, reply.json()["error"]) == (415, said)


@pytest.mark.parametrize("value", ["True", "true"])
def test_switches_in_a_query_are_read_as_python_writes_them(value: str, server: HttpClient) -> None:
    reply = server.get("/score", params={"text": "hello", "explain": value, "robust": value})
    assert reply.json()["words"]
