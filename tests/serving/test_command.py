"""``python server.py``: its help, and how it starts or says why not."""

from __future__ import annotations

import os
import pty
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hatespeech.serving.command import main
from tests.support.http_client import TOKEN
from tests.support.ports import free_port
from tests.support.processes.server import SERVER
from tests.support.processes.worker import WorkerProcess, clean_environment, wait_until

NO_TOKEN = (
    "error: BEARER_TOKEN is not set; make one: export BEARER_TOKEN=$(openssl rand -hex 32) "
    "(or set ALLOW_ANONYMOUS=1 to serve everyone)"
)


@pytest.fixture
def environment(clean_process: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The settings of a server that starts here, without those of the developer's own."""
    clean_process.setenv("BEARER_TOKEN", TOKEN)
    return clean_process


@pytest.mark.slow
def test_the_first_example_of_the_help_scores_with_the_token_that_it_makes(
    small_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    example = capsys.readouterr().out.partition("examples:\n")[2].partition("\n\n")[0]
    port = str(free_port())
    settings = {
        **clean_environment(tmp_path, small_checkpoint),
        "PORT": port,
        "JOBS_DB": str(tmp_path / "jobs.sqlite3"),
    }
    done = subprocess.run(
        ["bash", "-euc", example.replace("8000", port).replace("python server.py", "server")],
        env={**settings, "BASH_FUNC_server%%": f"() {{ exec {sys.executable} {SERVER}; }}"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('{"text":"good morning","hate":')


@pytest.mark.slow
def test_a_mistyped_permission_is_named_beside_the_missing_token(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    settings = {"ALOW_ANONYMOUS": "1", "PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, SERVER],
        env={**clean_environment(tmp_path, small_checkpoint), **settings},
        capture_output=True,
        text=True,
        timeout=60,
    )
    mistyped, missing = done.stderr.splitlines()
    assert mistyped.endswith("ALOW_ANONYMOUS is not a setting; did you mean ALLOW_ANONYMOUS?")
    assert (missing, done.returncode) == (NO_TOKEN, 1)


@pytest.mark.slow
@pytest.mark.parametrize("terminal", [True, False])
def test_without_a_token_one_line_gives_the_command_that_makes_one(
    terminal: bool, small_checkpoint: Path, tmp_path: Path
) -> None:
    reader, writer = pty.openpty() if terminal else os.pipe()
    done = subprocess.run(
        [sys.executable, SERVER],
        env=clean_environment(tmp_path, small_checkpoint),
        stdin=writer if terminal else subprocess.DEVNULL,
        stdout=writer,
        stderr=writer,
        timeout=60,
    )
    os.close(writer)
    with os.fdopen(reader, "rb") as output:
        told = output.read1().decode()
    assert done.returncode == 1
    assert told.splitlines() == [NO_TOKEN]


@pytest.mark.parametrize(("host", "shown"), [("127.0.0.1", "127.0.0.1"), ("::1", "[::1]")])
def test_a_port_that_is_taken_is_one_line_that_names_the_address(
    host: str, shown: str, environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as taken:
        port = taken.getsockname()[1]
        environment.setenv("HOST", host)
        environment.setenv("PORT", str(port))
        assert main([]) == 1
    error = f"error: cannot listen on HOST:PORT {shown}:{port}: address already in use\n"
    assert capsys.readouterr().err == error


@pytest.mark.slow
def test_an_ipv6_address_is_logged_as_a_url_that_works(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    settings = {
        **clean_environment(tmp_path, small_checkpoint),
        "BEARER_TOKEN": TOKEN,
        "HOST": "::1",
        "PORT": str(free_port()),
        "JOBS_DB": str(tmp_path / "jobs.sqlite3"),
    }
    with WorkerProcess([SERVER], settings, tmp_path) as server:
        wait_until(
            lambda: "listening on " in server.stderr, "the server", watch=server.require_running
        )
        assert re.search(rf"listening on http://\[::1\]:{settings['PORT']}$", server.stderr, re.M)
