"""``scripts/install``: what it installs once, which torch it takes, and what it leaves alone.

The script is the real one, in a folder with small requirement files; so are pip and the virtual
environment. The packages are empty and come from an index on this machine.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.paths import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a CPU build of its own"),
    pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="this machine has an NVIDIA GPU"),
]

INSTALLING = "Installing into .venv (the first time takes minutes) ...\n"
NO_GPU = "No NVIDIA GPU here: taking torch's CPU build (TORCH_BUILD=cuda takes the other).\n"
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
UNREACHABLE = f"{CPU_INDEX} cannot be reached: taking torch from the usual package index.\n"


def write_wheel(folder: Path, name: str, version: str) -> Path:
    """Write a wheel of an empty package into an index's folder for it."""
    folder = folder / name
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    about = f"{name}-{version}.dist-info"
    described = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    tag = "Wheel-Version: 1.0\nGenerator: x\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, content in (("METADATA", described), ("WHEEL", tag), ("RECORD", "")):
            # A ZipInfo has a date of its own: the same wheel has the same hash at any time.
            archive.writestr(zipfile.ZipInfo(f"{about}/{file}"), content)
    return wheel


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves a folder and says nothing about it."""

    def log_message(self, *_arguments: object) -> None:
        pass


class Checkout:
    """A folder with the script and requirement files, and the index that pip takes them from."""

    def __init__(self, folder: Path, index: str) -> None:
        self.folder = folder
        self.index = index
        (folder / "scripts").mkdir(parents=True)
        shutil.copy(ROOT / "scripts/install", folder / "scripts/install")

    def install(self, *files: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run the script; the CPU index of pytorch.org is out of reach behind a dead proxy."""
        environment = {
            "PATH": f"{self.folder}/path:/usr/bin:/bin",
            "HOME": str(self.folder),
            "PYTHON": sys.executable,
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"{self.index}/usual",
            "https_proxy": "http://127.0.0.1:9",
            "no_proxy": "127.0.0.1",
            **variables,
        }
        return subprocess.run(
            [self.folder / "scripts/install", *files],
            env=environment,
            capture_output=True,
            text=True,
            timeout=240,
        )

    def said(self, *files: str, **variables: str) -> str:
        """Run the script, which must succeed; return what it wrote."""
        done = self.install(*files, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def versions(self) -> dict[str, str]:
        """Return what is installed, without pip and setuptools."""
        python = self.folder / ".venv/bin/python"
        done = subprocess.run(
            [python, "-m", "pip", "freeze"], capture_output=True, text=True, timeout=60, check=True
        )
        return dict(line.split("==") for line in done.stdout.splitlines())


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of two indexes: ``usual``, and ``cpu``, whose torch is another build."""
    folder = tmp_path_factory.mktemp("index")
    write_wheel(folder / "cpu", "torch", "2.13.0+cpu")
    for name, version in (("torch", "2.13.0"), ("runs", "1.0"), ("tests", "1.0"), ("tests", "2.0")):
        write_wheel(folder / "usual", name, version)
    handler = functools.partial(QuietHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join(30)


@pytest.fixture
def checkout(tmp_path: Path, index: str) -> Checkout:
    """A checkout without an environment: running needs ``runs``, testing ``tests`` as well."""
    made = Checkout(tmp_path / "checkout", index)
    wheel = write_wheel(tmp_path, "runs", "1.0")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (made.folder / "requirements.txt").write_text("# comment\ntorch==2.13.0\nruns==1.0\n")
    (made.folder / "requirements.lock").write_text(f"runs==1.0 --hash=sha256:{digest}\n")
    (made.folder / "requirements-dev.txt").write_text("tests==1.0\n")
    (made.folder / "path").mkdir()
    return made


def test_files_that_are_installed_are_left_alone_whatever_else_is_asked_for(
    checkout: Checkout,
) -> None:
    run, test = ["requirements.lock"], ["requirements.lock", "requirements-dev.txt"]
    assert checkout.said(*run) == INSTALLING + NO_GPU + UNREACHABLE
    assert checkout.versions() == {"torch": "2.13.0", "runs": "1.0"}
    assert checkout.said(*run) == ""
    assert checkout.said(*test) == INSTALLING
    assert checkout.versions() == {"torch": "2.13.0", "runs": "1.0", "tests": "1.0"}
    assert checkout.said(*run) == ""
    assert checkout.said(*test) == ""
    (checkout.folder / "requirements-dev.txt").write_text("tests==2.0\n")
    assert checkout.said(*run) == ""
    assert checkout.said(*test) == INSTALLING
    assert checkout.versions()["tests"] == "2.0"


def test_a_file_that_failed_to_install_is_installed_the_next_time(checkout: Checkout) -> None:
    (checkout.folder / "requirements-dev.txt").write_text("tests==3.0\n")
    assert checkout.install("requirements-dev.txt").returncode == 1
    assert "tests" not in checkout.versions()
    assert checkout.install("requirements-dev.txt").returncode == 1


def test_a_variable_decides_which_torch_and_can_change_its_mind(checkout: Checkout) -> None:
    cpu = f"{checkout.index}/cpu"
    assert checkout.said(TORCH_INDEX_URL=cpu) == INSTALLING
    assert checkout.versions() == {"torch": "2.13.0+cpu"}
    assert checkout.said(TORCH_INDEX_URL=cpu) == ""
    assert checkout.said() == ""  # what is installed stays, though this machine has no GPU
    assert checkout.said(TORCH_BUILD="cuda") == INSTALLING
    assert checkout.versions() == {"torch": "2.13.0"}
    assert checkout.said(TORCH_BUILD="cuda") == ""
    refused = checkout.install(TORCH_BUILD="rocm")
    assert (refused.returncode, refused.stderr) == (1, "error: TORCH_BUILD must be cpu or cuda\n")


def test_an_index_without_torch_is_no_reason_to_fail(checkout: Checkout) -> None:
    index = checkout.index.replace("//", "//user:secret@") + "/empty"
    said = checkout.said(TORCH_INDEX_URL=index)
    last = f"{checkout.index}/empty has no such torch: taking it from the usual package index.\n"
    assert said.startswith(INSTALLING)
    assert said.endswith(last)
    assert "secret" not in said
    assert checkout.versions() == {"torch": "2.13.0"}


def test_a_machine_with_a_gpu_gets_the_usual_torch_in_silence(checkout: Checkout) -> None:
    tool = checkout.folder / "path/nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H200 (UUID: GPU-0)'\n")
    tool.chmod(0o755)
    assert checkout.said() == INSTALLING
    assert checkout.versions() == {"torch": "2.13.0"}


def test_a_driver_without_a_gpu_is_no_gpu(checkout: Checkout) -> None:
    tool = checkout.folder / "path/nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'No devices found.'\n")
    tool.chmod(0o755)
    assert checkout.said() == INSTALLING + NO_GPU + UNREACHABLE


def test_an_environment_that_cannot_be_made_leaves_nothing_of_its_own(checkout: Checkout) -> None:
    """As on Debian without python3-venv: half of an environment is made."""
    python = checkout.folder / "path/python"
    python.write_text(
        f'#!/bin/sh\ncase "$*" in "-m venv .venv") mkdir -p .venv/bin && exit 1 ;; '
        f'*) exec {sys.executable} "$@" ;; esac\n'
    )
    python.chmod(0o755)
    error = "error: no virtual environment; on Debian: apt-get install python3-venv\n"
    environment = checkout.folder / ".venv"
    failed = checkout.install(PYTHON=str(python))
    assert (failed.returncode, failed.stderr) == (1, error)
    assert not environment.exists()

    (checkout.folder / "elsewhere").mkdir()
    environment.symlink_to("elsewhere")
    failed = checkout.install(PYTHON=str(python))
    assert (failed.returncode, failed.stderr) == (1, error)
    assert environment.is_symlink()
    assert environment.exists()
