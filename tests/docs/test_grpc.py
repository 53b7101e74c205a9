"""docs/grpc.md: its programs run as they stand, and its tables are the server's."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from grpc_tools import protoc

from hatespeech.labels import LABELS
from hatespeech.serving.grpc import calls, grpc_server, room
from hatespeech.serving.guards.connection import MAX_GRPC_CONNECTIONS
from hatespeech.serving.http_errors import STATUSES
from hatespeech.serving.settings import SHUTDOWN_SECONDS, ServerSettings
from tests.docs.pages import blocks, marked
from tests.paths import ROOT
from tests.support.http_client import TOKEN
from tests.support.local_server import local_server
from tests.support.ports import free_port
from tests.support.processes.worker import clean_environment

PAGE: Final = "docs/grpc.md"
TEXT: Final = (ROOT / PAGE).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def address(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    folder = tmp_path_factory.mktemp("page")
    with local_server(folder, small_checkpoint, {"GRPC": address}) as http:
        http.ready()
        yield address


def run(program: str, folder: Path, address: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env={**clean_environment(folder, None), "ADDRESS": address, "TOKEN": TOKEN},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_program_with_generated_classes_prints_labels(address: str, tmp_path: Path) -> None:
    (block,) = marked(PAGE, "run: compiled")
    (command,) = re.findall(r"`python -m (grpc_tools\.protoc .+?)`", TEXT, re.DOTALL)
    name, *arguments = command.split()
    assert name == "grpc_tools.protoc"
    placed = [f"-I{ROOT}" if each == "-I." else each for each in arguments]
    placed = [each.replace("_out=.", f"_out={tmp_path}") for each in placed]
    assert protoc.main([name, *placed]) == 0
    first, second = run(block.text, tmp_path, address).splitlines()
    assert (first.endswith("] good morning"), second.endswith("] you are scum")) == (True, True)
    assert {first.split()[0], second.split()[0]} <= set(LABELS)


@pytest.mark.slow
def test_the_program_with_reflection_prints_a_label(address: str, tmp_path: Path) -> None:
    (block,) = marked(PAGE, "run")
    assert run(block.text, tmp_path, address).strip() in LABELS
    assert len(block.text.splitlines()) <= 20


def test_the_commands_set_what_exists() -> None:
    shell = "".join(block.text for block in blocks(TEXT) if block.language == "sh")
    names = set(re.findall(r"\b([A-Z]+(?:_[A-Z]+)*)=", TEXT + shell))
    assert names <= {name.upper() for name in ServerSettings.model_fields}
    assert set(re.findall(r"--\w+", shell)) == {"--grpc"}


def test_the_table_of_codes_is_that_of_the_server() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+) \|", TEXT, re.MULTILINE)
    listed = {code: name for name, codes in rows for code in re.findall(r"\w+", codes)}
    assert listed == {
        kind.code: calls.CODES[status].name
        for kind, status in STATUSES.items()
        if status in calls.CODES
    }
    assert all(str(status) in TEXT for status in calls.CODES)


def test_the_table_of_limits_is_that_of_the_server() -> None:
    options = dict(grpc_server.OPTIONS)
    streams = options["grpc.max_concurrent_streams"]
    handshake = options["grpc.server_handshake_timeout_ms"]
    age, grace = (options[f"grpc.max_connection_age{name}_ms"] for name in ("", "_grace"))
    for value in (
        f"{MAX_GRPC_CONNECTIONS}, {streams}",
        f"{grpc_server.MAX_CALLS:,}",
        f"{handshake // 1000}, {calls.MESSAGE_SECONDS:.0f}",
        f"{age // 1000}, {grace // 1000}",
        f"{room.MAX_OTHER_CALLS}",
    ):
        assert f"| {value} |" in TEXT
    assert options["grpc.http2.min_ping_interval_without_data_ms"] == 10_000
    assert f"({SHUTDOWN_SECONDS} s)" in TEXT
    assert f" {room.largest_message(ServerSettings()):,} by default" in TEXT
    assert f"waits up to {room.PLACE_SECONDS:.0f} s for its place" in TEXT
