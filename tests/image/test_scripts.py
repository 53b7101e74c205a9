"""The scripts that the image is built with, starts with and is checked with, run here."""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.paths import ROOT

pytestmark = pytest.mark.slow

DOCKER = ROOT / "docker"
LOCK = ROOT / "requirements.lock"


def run_script(
    *command: str | Path, environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def test_selected_pins_keep_versions_markers_and_hashes() -> None:
    run = run_script(sys.executable, DOCKER / "select_pins.py", LOCK, "httpx2", "tqdm")
    assert run.returncode == 0, run.stderr
    lines = run.stdout.splitlines()
    begun = [line for line in lines if not line.startswith(" ")]
    locked = LOCK.read_text(encoding="utf-8").splitlines()
    assert begun == [line for line in locked if line.startswith(("httpx2==", "tqdm=="))]
    assert sum("--hash=sha256:" in line for line in lines) == len(lines) - len(begun) >= 4


def test_pin_that_the_lock_lacks_is_an_error() -> None:
    run = run_script(sys.executable, DOCKER / "select_pins.py", LOCK, "tqdm", "no-such-thing")
    assert (run.returncode, run.stdout) == (1, "")
    assert "does not pin no-such-thing" in run.stderr


def test_constraints_hold_torch_at_the_version_that_is_there() -> None:
    run = run_script(sys.executable, DOCKER / "constraints.py")
    assert f"torch=={importlib.metadata.version('torch')}\n" in run.stdout


def test_constraints_need_a_torch_to_protect() -> None:
    run = run_script(sys.executable, "-S", DOCKER / "constraints.py")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr == "error: the base image has no torch\n"


@pytest.fixture
def container(tmp_path: Path) -> tuple[Path, dict[str, str]]:
    """An entry point whose scripts and Python lie in ``tmp_path``, and its environment."""
    for script in ("app.py", "server.py"):
        code = "import json, os, sys; print(json.dumps([os.getpid(), *sys.argv]))"
        (tmp_path / script).write_text(code, encoding="utf-8")
    entrypoint = (DOCKER / "entrypoint").read_text(encoding="utf-8")
    assert "/app/app.py" in entrypoint
    mine = tmp_path / "entrypoint"
    mine.write_text(entrypoint.replace("/app/", f"{tmp_path}/"), encoding="utf-8")
    mine.chmod(0o755)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python3").symlink_to(sys.executable)
    return mine, {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}


@pytest.mark.parametrize(
    ("given", "script", "passed"),
    [
        ([], "app.py", []),
        (["--test_input", "{}"], "app.py", ["--test_input", "{}"]),
        (["server"], "server.py", []),
        (["server", "--help"], "server.py", ["--help"]),
        (["python3", "-u", "app.py", "--help"], "app.py", ["--help"]),
    ],
)
def test_entry_point_becomes_what_was_asked_for(
    container: tuple[Path, dict[str, str]],
    tmp_path: Path,
    given: list[str],
    script: str,
    passed: list[str],
) -> None:
    entrypoint, environment = container
    with subprocess.Popen(
        [entrypoint, *given],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        out, _ = process.communicate(timeout=60)
    pid, argv0, *rest = json.loads(out)
    # The process itself and no child of its: signals reach Python.
    assert pid == process.pid
    assert [Path(argv0).name, *rest] == [script, *passed]


LIMITS = ("memory.max", "memory/memory.limit_in_bytes")  # of cgroup 2 and 1


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("given", [[], ["server"]], ids=["worker", "server"])
def test_entry_point_says_that_the_containers_memory_is_too_small(
    container: tuple[Path, dict[str, str]], tmp_path: Path, given: list[str], limit: str
) -> None:
    entrypoint, environment = container
    text = entrypoint.read_text(encoding="utf-8")
    assert f"/sys/fs/cgroup/{limit}" in text
    entrypoint.write_text(text.replace("/sys/fs/cgroup/", f"{tmp_path}/"), encoding="utf-8")
    file = tmp_path / limit
    file.parent.mkdir(exist_ok=True)
    file.write_text("104857600\n", encoding="utf-8")
    refused = run_script(entrypoint, *given, environment=environment)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr.startswith("error: this container may use 104 MB of memory")
    assert len(refused.stderr.splitlines()) == 1
    # Whatever else is run in it is none of the entry point's business.
    assert run_script(entrypoint, "true", environment=environment).returncode == 0
    for enough in ("max", "9223372036854771712", "2000000000"):
        file.write_text(f"{enough}\n", encoding="utf-8")
        started = run_script(entrypoint, *given, environment=environment)
        assert started.returncode == 0, started.stderr


def check_health(
    process: subprocess.Popen[str], environment: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the health check with eyes for one process alone: this machine may run other workers."""
    script = (DOCKER / "healthcheck.py").read_text(encoding="utf-8")
    assert '.glob("[0-9]*")' in script
    code = script.replace('.glob("[0-9]*")', f'.glob("{process.pid}")')
    return run_script(sys.executable, "-I", "-c", code, environment=environment)


@pytest.fixture
def start_script(tmp_path: Path) -> Iterator[Any]:
    """Starts a script of a given name that waits for its standard input to end."""
    running: list[subprocess.Popen[str]] = []

    def start(name: str, code: str = "input()") -> subprocess.Popen[str]:
        script = tmp_path / name
        script.write_text(f"print('up', flush=True); {code}", encoding="utf-8")
        process = subprocess.Popen(
            [sys.executable, str(script)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        running.append(process)
        assert process.stdout
        assert process.stdout.readline() == "up\n"
        return process

    yield start
    for process in running:
        process.kill()
        process.communicate(timeout=30)


def test_health_check_passes_while_a_worker_lives(start_script: Any) -> None:
    worker = start_script("app.py")
    assert check_health(worker).returncode == 0


def test_health_check_fails_for_a_stopped_worker(start_script: Any) -> None:
    worker = start_script("app.py")
    worker.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, worker.pid, os.WSTOPPED)
    run = check_health(worker)
    assert (run.returncode, run.stderr) == (1, "error: the process is stopped\n")


@pytest.mark.parametrize(
    ("host", "address"),
    [("", "127.0.0.1"), ("0.0.0.0", "127.0.0.1"), ("127.0.0.2", "127.0.0.2"), ("::", "::1")],
)
def test_health_check_asks_where_the_server_listens(
    host: str, address: str, start_script: Any
) -> None:
    server = start_script("server.py")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        listening = socket.create_server((address, 0), family=family)
    except OSError:
        pytest.skip("this machine has no IPv6")
    with listening, ThreadPoolExecutor(1) as threads:
        threads.submit(answer_ready, listening)
        run = check_health(server, {"HOST": host, "PORT": str(listening.getsockname()[1])})
    assert (run.returncode, run.stderr) == (0, "")


def test_health_check_asks_at_the_unix_socket(start_script: Any, tmp_path: Path) -> None:
    server = start_script("server.py")
    path = str(tmp_path / "socket")
    with socket.socket(socket.AF_UNIX) as listening, ThreadPoolExecutor(1) as threads:
        listening.bind(path)
        listening.listen()
        threads.submit(answer_ready, listening)
        run = check_health(server, {"UNIX_SOCKET": path, "PORT": "9"})
    assert (run.returncode, run.stderr) == (0, "")


def answer_ready(listening: socket.socket) -> None:
    listening.settimeout(60)
    connection, _ = listening.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")


def test_health_check_fails_without_a_worker(start_script: Any) -> None:
    run = check_health(start_script("something_else.py"))
    assert run.returncode == 1
    assert run.stderr == "error: neither the worker nor the server is running\n"


@pytest.mark.parametrize("name", ["PORT", "PORT_HEALTH"])
@pytest.mark.parametrize(("status", "code"), [(200, 0), (204, 1), (503, 1)])
def test_health_check_asks_the_server(start_script: Any, name: str, status: int, code: int) -> None:
    class Ping(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/ping" else 404)
            self.end_headers()

        def log_message(self, *_arguments: Any) -> None:
            pass

    server = start_script("server.py")
    with HTTPServer(("127.0.0.1", 0), Ping) as pings:
        pings.timeout = 10
        thread = threading.Thread(target=pings.handle_request)
        thread.start()
        environment = {"PORT": "9", name: str(pings.server_address[1])}
        run = check_health(server, environment)
        thread.join()
    assert run.returncode == code
    assert (f"/ping answers {status}" in run.stderr) == bool(code)


def test_health_check_fails_for_a_silent_server(start_script: Any) -> None:
    run = check_health(start_script("server.py"), {"PORT": "9"})
    assert run.returncode == 1
    assert "does not answer: ConnectionRefusedError" in run.stderr


# The check itself.


def test_check_says_that_it_did_not_run_without_its_tools(tmp_path: Path) -> None:
    for tool in ("bash", "dirname", "uname", "id"):
        found = shutil.which(tool)
        assert found
        (tmp_path / tool).symlink_to(found)
    run = run_script(ROOT / "scripts/check-image", environment={"PATH": str(tmp_path)})
    assert run.returncode == 0
    assert run.stdout.startswith("check-image: not run: ")
    assert len(run.stdout.splitlines()) == 1
