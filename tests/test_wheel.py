"""The wheel: what it holds, and that it scores from an empty folder with what it requires alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from hatespeech.labels import FLAGS
from hatespeech.version import __version__
from tests.paths import ROOT
from tests.support.environments import make_environment, with_requirements
from tests.support.http_client import read_csv
from tests.support.processes.server import http_server
from tests.support.processes.worker import clean_environment

pytestmark = pytest.mark.slow

PROJECT: Final[Mapping[str, Any]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
SECONDS: Final = 240

SCORE: Final = """
from hatespeech import Classifier
with Classifier.load() as classifier:
    print(classifier.score("you are scum").label)
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of what git has or would have, built apart: a build leaves files behind."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    source = tmp_path_factory.mktemp("source")
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    for name in files.stdout.splitlines():
        if (ROOT / name).is_file():  # not one that was removed and not committed yet
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    output = tmp_path_factory.mktemp("wheel")
    # The setuptools that torch requires builds it: no download.
    options = ["--no-deps", "--no-build-isolation", "--quiet", "--wheel-dir", str(output)]
    command = [sys.executable, "-m", "pip", "wheel", ".", *options]
    subprocess.run(command, cwd=source, check=True, timeout=SECONDS)
    (built,) = output.iterdir()
    return built


def install(wheel: Path, folder: Path, *extras: str) -> Path:
    """Install the wheel beside what it and its extras require; return the folder of commands.

    pip has nothing to download from: a requirement that is not there, or of a wrong version, fails.
    """
    wanted = [*PROJECT["dependencies"]]
    wanted += [text for extra in extras for text in PROJECT["optional-dependencies"][extra]]
    python = make_environment(folder, with_requirements(wanted))
    target = f"hate-speech-detection[{','.join(extras)}] @ {wheel.as_uri()}"
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install"]
    subprocess.run([*pip, "--no-index", "--quiet", target], check=True, timeout=SECONDS)
    return python.parent


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment without any extra."""
    return install(wheel, tmp_path_factory.mktemp("bare"))


def run(commands: Path, home: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of an environment in ``home``."""
    return subprocess.run(
        [str(commands / command[0]), *command[1:]],
        cwd=home,
        env=clean_environment(home, None),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )


def test_wheel_holds_the_package_and_nothing_beside_it(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    about = f"hate_speech_detection-{__version__}.dist-info"
    assert {name.partition("/")[0] for name in names} == {"hatespeech", about}
    listed = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "hatespeech"]
    files = subprocess.run(listed, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    tracked = {name for name in files.stdout.splitlines() if (ROOT / name).is_file()}
    assert "hatespeech/checkpoints/mini/model.safetensors" in tracked
    assert {name for name in names if name.startswith("hatespeech/")} == tracked
    # The embedded checkpoint has a licence of its own.
    licences = {name.partition("/licenses/")[2] for name in names if "/licenses/" in name}
    assert licences == {"LICENSE", "LICENSES/Apache-2.0.txt"}


def test_installed_command_scores_a_text(bare: Path, tmp_path: Path) -> None:
    done = run(bare, tmp_path, "hatespeech", "you are scum")
    assert done.returncode == 0, done.stderr
    label, *scores = done.stdout.splitlines()
    assert label == "abusing"
    assert [line.split()[0] for line in scores] == list(FLAGS)
    # One line about the small model, and none by libraries that miss something.
    (note,) = done.stderr.splitlines()
    assert "the small embedded checkpoint mini" in note
    assert list(tmp_path.iterdir()) == []


def test_installed_command_scores_a_file(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("id,text\n1,good morning\n2,you are scum\n")
    done = run(bare, tmp_path, "hatespeech", "score", "in.csv", "out.csv")
    assert done.returncode == 0, done.stderr
    rows = read_csv((tmp_path / "out.csv").read_text())
    assert [(row["id"], row["label"]) for row in rows] == [("1", "neutral"), ("2", "abusing")]


def test_installed_package_scores_from_python(bare: Path, tmp_path: Path) -> None:
    done = run(bare, tmp_path, "python", "-W", "error", "-c", SCORE)
    assert (done.returncode, done.stdout) == (0, "abusing\n"), done.stderr


def test_installed_command_says_its_version(bare: Path, tmp_path: Path) -> None:
    done = run(bare, tmp_path, "hatespeech", "--version")
    assert (done.returncode, done.stdout) == (0, f"hatespeech {__version__}\n")


@pytest.mark.parametrize(
    ("name", "extra", "some"),
    [("serve", "server", "uvicorn"), ("worker", "worker", "runpod"), ("train", "train", "scipy")],
)
def test_a_missing_extra_is_one_line_that_says_what_to_install(
    name: str, extra: str, some: str, bare: Path, tmp_path: Path
) -> None:
    done = run(bare, tmp_path, "hatespeech", name)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: hatespeech {name} needs ")
    assert some in line
    assert line.endswith(f": pip install '.[{extra}]' in a checkout")


def test_a_missing_engine_is_one_line_that_says_what_to_install(bare: Path, tmp_path: Path) -> None:
    (tmp_path / "in.csv").write_text("text\ngood morning\n")
    done = run(bare, tmp_path, "hatespeech", "score", "in.csv", "out.csv", "--engine", "ray")
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.endswith(": pip install '.[ray]' in a checkout")


def test_bare_package_has_the_help_of_what_needs_no_extra(bare: Path, tmp_path: Path) -> None:
    for name in ("score", "download"):
        done = run(bare, tmp_path, "hatespeech", name, "--help")
        assert (done.returncode, done.stderr) == (0, "")
    done = run(bare, tmp_path, "hatespeech", "--print-completion", "bash")
    assert done.returncode == 0
    assert "--text-column" in done.stdout


def test_every_extra_can_be_installed_beside_what_it_requires(wheel: Path, tmp_path: Path) -> None:
    extras = [name for name in PROJECT["optional-dependencies"] if name != "all"]
    (nested,) = PROJECT["optional-dependencies"]["all"]
    assert nested == f"hate-speech-detection[{','.join(extras)}]"
    commands = install(wheel, tmp_path / "all", *extras)
    for name in ("serve", "worker", "train"):
        done = run(commands, tmp_path, "hatespeech", name, "--help")
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith(f"usage: hatespeech {name} ")


def test_extras_of_the_server_and_the_worker_hold_all_that_they_need(
    wheel: Path, tmp_path: Path, small_checkpoint: Path
) -> None:
    commands = install(wheel, tmp_path / "environment", "server", "worker")
    job = json.dumps({"input": {"prompt": "you are scum"}})
    done = run(commands, tmp_path, "hatespeech", "worker", "--test_input", job)
    assert json.loads(done.stdout)["label"] == "abusing"

    start = "import os, sys; os.execv(sys.argv[1], sys.argv[1:])"
    command = ("-c", start, str(commands / "hatespeech"), "serve")
    with http_server(tmp_path, small_checkpoint, command=command) as server:
        assert server.ready().get("/score?text=good").json()["text"] == "good"
        upload = {"file": ("a.csv", "text\na\n")}
        assert server.post("/score/file", files=upload).status_code == 200
        assert server.get("/docs", headers={}).status_code == 200
        server.terminate()
        assert server.wait() == 0
