"""A small base image to build on, and the wheels for what is built on it.

The base stands in for the real ones, of which one is several gigabytes: this machine's own Debian
or Ubuntu, its Python, managed by the distribution (PEP 668), and the CPU build of torch installed
over that. Its pip takes wheels from a server on this machine, so no step needs an index.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from typing_extensions import override

from tests.paths import ROOT

BASE: Final = "localhost/small-base"
PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PIP_CONF: Final = """\
[global]
no-index = true
find-links = {url}
disable-pip-version-check = true
"""
APT: Final = Path("/etc/apt")
PYTHONS: Final = ("3.11", "3.12")  # what pyproject.toml allows


class CommandError(Exception):
    """A command of the check failed; the message has its last words."""


class NotPossibleError(Exception):
    """The check can't be made on this machine; the message says why."""


def run(*command: str | Path, cwd: Path | None = None, stdin: Any = subprocess.DEVNULL) -> str:
    """Run a command; return what it wrote to standard output, or raise :class:`CommandError`."""
    done = subprocess.run(
        command, cwd=cwd, stdin=stdin, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        words = f"{done.stdout}\n{done.stderr}".strip()[-3000:]
        raise CommandError(f"{' '.join(map(str, command))[:200]}: {done.returncode}\n{words}")
    return done.stdout


@dataclass(frozen=True)
class AptSource:
    """Where this machine gets its own packages from."""

    mirror: str
    suite: str
    components: tuple[str, ...]


def find_apt_source(files: Iterable[tuple[str, str]], suite: str) -> AptSource:
    """Return the first source of ``suite`` with the component ``main``.

    ``files`` are names and contents of ``/etc/apt/sources.list`` and the files beside it. Raises
    :class:`NotPossibleError` if there is none.
    """
    for name, text in files:
        entries = _stanzas(text) if name.endswith(".sources") else _lines(text)
        for types, uris, suites, components in entries:
            mirrors = [uri for uri in uris if urlsplit(uri).scheme in ("http", "https", "file")]
            if "deb" in types and suite in suites and "main" in components and mirrors:
                return AptSource(mirrors[0], suite, tuple(components))
    raise NotPossibleError(f"/etc/apt names no source for {suite} main")


Entry = tuple[list[str], list[str], list[str], list[str]]


def _lines(text: str) -> Iterator[Entry]:
    for line in text.splitlines():
        words = re.sub(r"\[.*?\]", "", line.partition("#")[0]).split()
        if len(words) > 3:
            yield words[:1], words[1:2], words[2:3], words[3:]


def _stanzas(text: str) -> Iterator[Entry]:
    without_comments = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE)
    for stanza in re.split(r"\n\s*\n", without_comments):
        fields = {
            name.lower(): values.split()
            for name, values in re.findall(r"^([\w-]+):(.*(?:\n[ \t].*)*)", stanza, re.MULTILINE)
        }
        if fields.get("enabled") != ["no"]:
            names = ("types", "uris", "suites", "components")
            types, uris, suites, components = (fields.get(name, []) for name in names)
            yield types, uris, suites, components


def this_machines_source() -> AptSource:
    """Return the source of this machine's own release, as its files in ``/etc/apt`` name it."""
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    found = re.search(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)
    if found is None:
        raise NotPossibleError("this machine runs neither Debian nor Ubuntu")
    more = sorted((APT / "sources.list.d").glob("*.*"))
    paths = [APT / "sources.list", *(path for path in more if path.suffix in (".list", ".sources"))]
    files = ((path.name, path.read_text(encoding="utf-8")) for path in paths if path.is_file())
    return find_apt_source(files, found[1])


def distribution_python() -> str:
    """Return the version of the distribution's Python, such as ``3.11``."""
    said = run("apt-cache", "show", "python3")
    found = re.search(r"^Version: (\d+\.\d+)\.", said, re.MULTILINE)
    version = found[1] if found else "not known"
    if version not in PYTHONS:
        raise NotPossibleError(f"the distribution's Python is {version}, not 3.11 or 3.12")
    return version


@contextlib.contextmanager
def serve_wheels(folder: Path) -> Iterator[Wheels]:
    """Serve a new folder below ``folder`` on 127.0.0.1 until the ``with`` block ends."""
    wheels = folder / "wheels"
    wheels.mkdir()
    handler = partial(_Quiet, directory=str(wheels))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield Wheels(wheels, server.server_port)
        finally:
            server.shutdown()
            thread.join()


class Wheels:
    """Wheels that are served: ``base`` for torch, ``locked`` for what the image installs."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder, self._port = folder, port

    def url(self, name: str) -> str:
        """Return where pip finds the wheels of a folder."""
        return f"http://127.0.0.1:{self._port}/{name}/"

    def download(self, python: str) -> None:
        """Fetch torch and what it needs, and the packages of the lock files.

        ``TORCH_INDEX_URL`` is heeded as in ``scripts/install``.
        """
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "download"]
        pip += [f"--python-version={python}", "--only-binary=:all:"]
        index = os.environ.get("TORCH_INDEX_URL")
        requirements = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
        (torch,) = (line for line in requirements if line.startswith("torch=="))
        torch_index = [f"--index-url={index}"] if index else []
        run(*pip, *torch_index, f"--dest={self._folder / 'base'}", torch)
        # pip reads the markers for the Python that runs it. That one may be newer than the base's,
        # so of the extras it takes what any Python needs.
        extras = self._folder / "extras.txt"
        lock = (ROOT / "requirements-extras.lock").read_text(encoding="utf-8")
        extras.write_text(re.sub(r"(==\S+) ;.*\\$", r"\1 \\", lock, flags=re.MULTILINE))
        for file in (ROOT / "requirements.lock", extras):
            locked = f"--dest={self._folder / 'locked'}"
            run(*pip, "--require-hashes", "--no-deps", locked, "-r", file)


class _Quiet(SimpleHTTPRequestHandler):
    @override
    def log_message(self, *_arguments: Any) -> None:
        """Keep the check's own lines apart from the server's."""


def fill_base(root: Path, wheels: Wheels) -> None:
    """Put the base image's files into an empty folder, while the wheels are fetched."""
    source, python = this_machines_source(), distribution_python()
    failures: list[Exception] = []

    def download() -> None:
        try:
            wheels.download(python)
        except CommandError as exc:
            failures.append(exc)

    downloading = threading.Thread(target=download)
    downloading.start()
    try:
        # What is being made can be made again: no sync after each file.
        options = root / "etc/dpkg/dpkg.cfg.d"
        options.mkdir(parents=True)
        (options / "unsafe-io").write_text("force-unsafe-io\n")
        packages = "--include=python3,python3-pip"
        components = f"--components={','.join(source.components)}"
        run(
            *("debootstrap", "--variant=minbase", packages, components),
            *(source.suite, root, source.mirror),
        )
        for needless in ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/locale"):
            shutil.rmtree(root / needless)
    finally:
        downloading.join()
    if failures:
        raise failures[0]
    pip_conf = root / "etc/pip.conf"
    pip_conf.write_text(PIP_CONF.format(url=wheels.url("base")))
    install = "python3 -m pip install --quiet --break-system-packages --no-cache-dir torch"
    run("chroot", root, "env", "-i", f"PATH={PATH}", "HOME=/root", *install.split())
    pip_conf.write_text(PIP_CONF.format(url=wheels.url("locked")))


def copy_context(folder: Path) -> Path:
    """Copy the project as it lies here, without what a fresh clone lacks."""
    left_out = shutil.ignore_patterns(".venv", ".git", "__pycache__", ".*_cache", ".hypothesis")
    return Path(shutil.copytree(ROOT, folder / "context", ignore=left_out))
