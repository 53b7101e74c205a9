"""Builds images with buildah in a storage of its own, and a small base image to build on.

The base stands in for the real one, which is several gigabytes: Debian 12, its Python 3.11, managed
by the distribution (PEP 668), and the CPU build of torch installed over that. Its pip takes wheels
from a folder that is mounted while building, so no step needs an index.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from tests.paths import ROOT

WHEELS: Final = "/wheels"
PIP_CONF: Final = f"""\
[global]
no-index = true
find-links = {WHEELS}
disable-pip-version-check = true
"""
SUITE: Final = "bookworm"
MIRROR: Final = "http://deb.debian.org/debian"
PYTHON: Final = "3.11"  # the suite's
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BASE: Final = "localhost/small-base"


class CommandError(Exception):
    """A command of the build failed; the message has its last words."""


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """Run a command; return what it wrote to standard output, or raise :class:`CommandError`."""
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        words = f"{done.stdout}\n{done.stderr}".strip()[-3000:]
        raise CommandError(f"{' '.join(map(str, command))[:200]}: {done.returncode}\n{words}")
    return done.stdout


class Buildah:
    """buildah with its storage below ``folder``; ``close`` unmounts and removes that."""

    def __init__(self, folder: Path) -> None:
        self._storage = folder / "storage"
        self._options = [
            f"--root={self._storage / 'root'}",
            f"--runroot={self._storage / 'run'}",
            f"--storage-driver={choose_driver(folder)}",
        ]

    def __call__(self, command: str, *arguments: str | Path) -> str:
        """Run a buildah command; return its output without the line's end."""
        return run("buildah", *self._options, command, *arguments).rstrip("\n")

    def build(
        self,
        context: Path,
        name: str,
        wheels: Path,
        build_arguments: Mapping[str, str],
        target: str | None = None,
    ) -> None:
        """Build ``context``'s Dockerfile, reusing layers, up to a stage or to the end."""
        self(
            "build",
            "--isolation=chroot",
            "--network=host",
            "--format=docker",
            "--pull-never",
            "--layers",
            f"--volume={wheels}:{WHEELS}:ro",
            *(f"--build-arg={key}={value}" for key, value in build_arguments.items()),
            *([f"--target={target}"] if target else []),
            f"--tag={name}",
            context,
        )

    def config(self, image: str) -> dict[str, Any]:
        """Return an image's configuration: ``User``, ``Env``, ``Entrypoint`` and so on."""
        return dict(self._inspect(image)["config"])

    def count_layers(self, image: str) -> int:
        """Return how many layers an image has."""
        return len(self._inspect(image)["rootfs"]["diff_ids"])

    def _inspect(self, image: str) -> dict[str, Any]:
        return dict(json.loads(self("inspect", "--type=image", image))["Docker"])

    def close(self) -> None:
        """Remove containers, images and the storage itself."""
        for command in ("umount", "rm"):
            subprocess.run(
                ["buildah", *self._options, command, "--all"], capture_output=True, check=False
            )
        # The overlay driver keeps its own folder mounted.
        for line in reversed(Path("/proc/mounts").read_text().splitlines()):
            place = line.split(" ")[1]
            if place.startswith(f"{self._storage}/"):
                subprocess.run(["umount", "--lazy", place], capture_output=True, check=False)
        shutil.rmtree(self._storage, ignore_errors=True)


def choose_driver(folder: Path) -> str:
    """Return ``overlay`` where such a mount works, else ``vfs``, which copies every layer whole."""
    probe = folder / "probe"
    for name in ("lower", "upper", "work", "merged"):
        (probe / name).mkdir(parents=True)
    options = f"lowerdir={probe}/lower,upperdir={probe}/upper,workdir={probe}/work"
    mount = ["mount", "-t", "overlay", "overlay", "-o", options, str(probe / "merged")]
    works = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    if works:
        run("umount", probe / "merged")
    shutil.rmtree(probe)
    return "overlay" if works else "vfs"


def download_wheels(folder: Path) -> tuple[Path, Path]:
    """Fetch torch and what it needs, and the lock file's packages, with this machine's pip.

    Returns the two folders. ``TORCH_INDEX_URL`` is heeded as in ``scripts/install``.
    """
    base, locked = folder / "wheels-base", folder / "wheels"
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
    pip += [f"--python-version={PYTHON}", "--only-binary=:all:"]
    index = os.environ.get("TORCH_INDEX_URL")
    requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    (torch,) = (line for line in requirements if line.startswith("torch=="))
    run(*pip, *([f"--index-url={index}"] if index else []), f"--dest={base}", torch)
    lock = ROOT / "requirements.lock"
    run(*pip, "--require-hashes", "--no-deps", f"--dest={locked}", "-r", lock)
    return base, locked


def make_base(buildah: Buildah, folder: Path) -> Path:
    """Build the base image ``BASE``; return the folder of wheels for what is built on it."""
    failures: list[Exception] = []
    wheels: list[Path] = []

    def download() -> None:
        try:
            wheels.extend(download_wheels(folder))
        except CommandError as exc:
            failures.append(exc)

    downloading = threading.Thread(target=download)
    downloading.start()
    container = buildah("from", "scratch")
    try:
        root = Path(buildah("mount", container))
        # What is being made can be made again: no sync after each file.
        options = root / "etc/dpkg/dpkg.cfg.d"
        options.mkdir(parents=True)
        (options / "unsafe-io").write_text("force-unsafe-io\n")
        packages = "--include=python3,python3-pip"
        run("debootstrap", "--variant=minbase", packages, SUITE, root, MIRROR)
        for needless in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(root / needless)
        (root / "etc/pip.conf").write_text(PIP_CONF)
        (root / WHEELS.lstrip("/")).mkdir()
    finally:
        downloading.join()
    if failures:
        raise failures[0]
    base, locked = wheels
    volume = f"--volume={base}:{WHEELS}:ro"
    install = "python3 -m pip install --quiet --break-system-packages --no-cache-dir torch"
    buildah("run", "--isolation=chroot", volume, container, "--", *install.split())
    buildah("config", f"--env=PATH={PATH}", container)
    buildah("commit", "--format=docker", "--rm", container, BASE)
    return locked


def copy_context(folder: Path) -> Path:
    """Copy the project as it lies here, without what a fresh clone lacks."""
    left_out = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache", ".hypothesis")
    return Path(shutil.copytree(ROOT, folder / "context", ignore=left_out))


def push_layers(buildah: Buildah, image: str, folder: Path) -> list[Path]:
    """Write an image's layers, uncompressed; return them from the base up."""
    buildah("push", "--quiet", "--disable-compression", image, f"dir:{folder}")
    manifest = json.loads((folder / "manifest.json").read_text())
    return [folder / layer["digest"].removeprefix("sha256:") for layer in manifest["layers"]]
