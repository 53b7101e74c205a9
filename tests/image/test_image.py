"""The Dockerfile and its scripts, as far as reading and running them here can tell.

``scripts/check-image`` builds and runs the image.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from hatespeech.serving.settings import ServerSettings
from tests.paths import ROOT
from tests.support.image.layers import LEFT_OUT, is_pickle
from tests.support.imports import transitive_imports

DOCKER = ROOT / "docker"
LOCK = ROOT / "requirements.lock"


@dataclass(frozen=True)
class Instruction:
    name: str
    text: str  # after the name, continuation lines joined


def parse_dockerfile() -> list[list[Instruction]]:
    """Return the instructions before the first FROM, then those of each stage."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    stages: list[list[Instruction]] = [[]]
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        if line.strip():
            name, rest = line.split(maxsplit=1)
            if name == "FROM":
                stages.append([])
            stages[-1].append(Instruction(name, rest))
    return stages


STAGES = parse_dockerfile()
FINAL = STAGES[-1]


def stage(name: str) -> list[Instruction]:
    (found,) = (each for each in STAGES[1:] if each[0].text.endswith(f" AS {name}"))
    return found


def arguments(instructions: Sequence[Instruction], name: str) -> list[str]:
    return [each.text for each in instructions if each.name == name]


def copied(instructions: Sequence[Instruction]) -> list[str]:
    """Return what a stage copies from the project, folders expanded into their files."""
    files = []
    for text in arguments(instructions, "COPY"):
        if text.startswith("--from="):
            continue
        for source in shlex.split(text)[:-1]:
            path = ROOT / source
            assert path.exists(), f"COPY {source}: there is no such file"
            inside = [path] if path.is_file() else list(path.rglob("*"))
            files += [str(p.relative_to(ROOT)) for p in inside if p.is_file()]
    return [file for file in files if "__pycache__" not in file]


def pins() -> dict[str, str]:
    """Return the lock file's lines that begin an entry, by name."""
    lines = LOCK.read_text(encoding="utf-8").splitlines()
    return {line.partition("==")[0]: line for line in lines if re.match(r"[a-z0-9]", line)}


def distributions_of(packages: frozenset[str]) -> set[str]:
    """Return the distributions that hold these import packages."""
    by_package = packages_distributions()
    return {canonicalize_name(by_package[package][0]) for package in packages}


def with_requirements(names: set[str]) -> set[str]:
    """Return distributions and all that they need here, extras apart."""
    closed, waiting = set[str](), set(names)
    while waiting:
        name = waiting.pop()
        closed.add(name)
        for text in importlib.metadata.requires(name) or []:
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                waiting |= {canonicalize_name(requirement.name)} - closed
    return closed


# The Dockerfile.


def test_base_image_is_pinned_by_digest_and_brings_the_torch_of_the_requirements() -> None:
    (base,) = (text for text in arguments(STAGES[0], "ARG") if text.startswith("BASE_IMAGE="))
    match = re.fullmatch(
        r"BASE_IMAGE=pytorch/pytorch:(\S+?)-cuda[\d.]+-cudnn\d+-runtime@sha256:[0-9a-f]{64}", base
    )
    assert match
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8")
    assert f"torch=={match[1]}\n" in requirements


def test_every_stage_builds_on_the_base_image() -> None:
    names = {"${BASE_IMAGE}"}
    for each in STAGES[1:]:
        image, _, name = each[0].text.partition(" AS ")
        assert image in names
        names.add(name)


def test_container_runs_as_a_numbered_user_who_is_not_root() -> None:
    (user,) = arguments(FINAL, "USER")
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@pytest.mark.parametrize("name", ["ENTRYPOINT", "CMD"])
def test_start_needs_no_shell(name: str) -> None:
    (command,) = arguments(FINAL, name)
    assert isinstance(json.loads(command), list)


def test_health_check_needs_no_shell_and_names_a_file_of_the_image() -> None:
    (text,) = arguments(FINAL, "HEALTHCHECK")
    *_, script = json.loads(text.partition("CMD ")[2])
    assert script.removeprefix("/app/") in copied(FINAL)


def test_nothing_in_the_dockerfile_is_secret() -> None:
    declared = [
        re.split("[= ]", text, maxsplit=1)[0]
        for each in STAGES
        for text in (*arguments(each, "ARG"), *arguments(each, "ENV"))
    ]
    secrets = re.compile(r"TOKEN$|SECRET|PASSWORD|KEY|CREDENTIAL", re.IGNORECASE)
    assert not [name for name in declared if secrets.search(name)]
    assert "REVISION" in declared  # the list is not empty for want of parsing


def environment_of_the_image() -> dict[str, str]:
    (text,) = arguments(FINAL, "ENV")
    return dict(each.split("=", 1) for each in shlex.split(text))


def test_environment_of_the_image_is_allowed_by_the_settings() -> None:
    environment = environment_of_the_image()
    settings = ServerSettings.from_environment(environment)
    assert settings.model_dir == Path("/app/checkpoints/bertweet-large")
    assert settings.host == "0.0.0.0"
    assert (environment["HF_HUB_OFFLINE"], environment["TRANSFORMERS_OFFLINE"]) == ("1", "1")


def test_image_holds_what_its_checkpoint_stage_made_and_not_what_it_fetched() -> None:
    sources = [text.split()[:2] for text in arguments(FINAL, "COPY") if "--from=" in text]
    assert sources == [
        ["--from=packages", "/opt/worker"],
        ["--from=checkpoint", "/app/checkpoints/bertweet-large"],
    ]


def test_version_label_is_the_projects_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert f"VERSION={project['version']}" in arguments(FINAL, "ARG")


# What is copied where.


def test_download_layer_depends_on_the_fetching_code_alone() -> None:
    files = transitive_imports(ROOT, "docker/fetch.py").files
    assert set(copied(stage("fetching"))) == files - {"hatespeech/__init__.py"}


def test_conversion_layer_depends_on_what_download_py_imports_alone() -> None:
    files = transitive_imports(ROOT, "download.py").files
    data = {str(path.relative_to(ROOT)) for path in (ROOT / "utils").glob("*.tsv")}
    assert data
    assert set(copied(stage("checkpoint"))) == files | data


@pytest.mark.parametrize("script", ["app.py", "server.py"])
def test_image_holds_all_that_its_scripts_import(script: str) -> None:
    imports = transitive_imports(ROOT, script)
    assert imports.files <= set(copied(FINAL))
    assert distributions_of(imports.packages) - {"torch"} <= pins().keys()


def test_every_copied_file_gets_past_dockerignore_and_nothing_else_does() -> None:
    wanted = {file for each in STAGES[1:] for file in copied(each)}
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
        if line and not line.startswith("#")
    ]
    assert patterns[0] == "*"
    let_in = {line.removeprefix("!") for line in patterns if line.startswith("!")}
    assert let_in == {file.partition("/")[0] for file in wanted}
    assert set(patterns) - {f"!{name}" for name in let_in} == {"*", "**/__pycache__", "**/.*"}


def test_download_stage_pins_what_the_fetching_code_needs() -> None:
    needed = with_requirements(
        distributions_of(transitive_imports(ROOT, "docker/fetch.py").packages)
    )
    (text,) = arguments(stage("fetching-pins"), "RUN")
    chosen = text.partition("requirements.lock ")[2].partition(" >")[0].split()
    assert sorted(chosen) == sorted(needed)


# The scripts.


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
    assert begun == [pins()["httpx2"], pins()["tqdm"]]
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


def test_health_check_asks_the_servers_default_port() -> None:
    script = (DOCKER / "healthcheck.py").read_text(encoding="utf-8")
    assert f'\nPORT = "{ServerSettings().port}"' in script
    assert f"{ServerSettings().port}" in arguments(FINAL, "EXPOSE")


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


def test_check_recognises_the_checkpoints_pickle() -> None:
    pickle = ROOT / "tests/data/checkpoints/tiny_eval_zip.pt"
    assert is_pickle(pickle.read_bytes())
    assert not is_pickle(b"PK\x05\x06" + bytes(18))
    assert not is_pickle(LOCK.read_bytes())


def test_check_looks_for_what_must_stay_outside() -> None:
    assert LEFT_OUT.fullmatch("app/tests/test_image.py")
    assert LEFT_OUT.fullmatch("app/.env")
    assert not LEFT_OUT.fullmatch("app/utils/settings.py")
