"""A real PostgreSQL with a cluster of its own, which can be stopped, restarted and looked into."""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from tests.support.ports import free_port

USER: Final = "hatespeech"
PASSWORD: Final = "a-password-of-the-tests/@:#"  # in a URL it has to be escaped
ESCAPED: Final = "a-password-of-the-tests%2F%40%3A%23"
START_SECONDS: Final = 60
LEAST_VERSION: Final = 15


class Postgres:
    """A cluster in a folder of its own; start one with :func:`postgres`."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.port = free_port()
        self.folder = folder
        self._programs = programs
        self._data = folder / "data"
        # PostgreSQL refuses to run as root.
        self._user = unprivileged() if os.geteuid() == 0 else None
        if self._user is not None:
            shutil.chown(folder, self._user)
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        self._run(
            *("initdb", "--pgdata", str(self._data), "--username", USER, "--pwfile", str(secret)),
            *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
        )

    def start(self) -> None:
        """Start it; return once it answers."""
        options = (
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= "
            "-c fsync=off -c shared_buffers=16MB -c max_connections=60"
        )
        self._control("start", "--options", options, "--log", str(self.folder / "log"))

    def stop(self, mode: str = "fast") -> None:
        """Stop it: ``fast`` ends its connections, ``immediate`` is a crash."""
        self._control("stop", "--mode", mode)

    def url(self, database: str, port: int | None = None) -> str:
        """Return where a database is, as seen through ``port`` if there is a proxy."""
        return f"postgresql://{USER}:{ESCAPED}@127.0.0.1:{port or self.port}/{database}"

    def create(self, database: str, *options: str) -> str:
        """Make a database; return its URL."""
        self.execute("postgres", f"CREATE DATABASE {database} {' '.join(options)}")
        return self.url(database)

    def execute(
        self, database: str, statement: str, parameters: Sequence[Any] | Mapping[str, Any] = ()
    ) -> list[tuple[Any, ...]]:
        """Run a statement; return its rows."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement, parameters)
            return cursor.fetchall() if cursor.description else []

    @property
    def user_id(self) -> int:
        """The user that it runs as."""
        return os.geteuid() if self._user is None else pwd.getpwnam(self._user).pw_uid

    def _control(self, *arguments: str) -> None:
        timeout = ("--timeout", str(START_SECONDS), "--wait", "--silent")
        self._run("pg_ctl", "--pgdata", str(self._data), *timeout, *arguments)

    def _run(self, program: str, *arguments: str) -> None:
        identity: dict[str, Any] = {}
        if self._user is not None:
            identity = {"user": self._user, "group": self._user, "extra_groups": []}
        # Not a pipe: the server, which goes on, would hold it open.
        with (self.folder / "output").open("a+") as output:
            done = subprocess.run(
                [self._programs / program, *arguments],
                cwd=self.folder,
                env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
                timeout=2 * START_SECONDS,
                **identity,
            )
            output.seek(0)
            assert done.returncode == 0, output.read()[-4000:]


@contextlib.contextmanager
def postgres() -> Iterator[Postgres]:
    """Start a PostgreSQL; skip the test if this machine has none."""
    programs = find_programs()
    if programs is None:
        pytest.skip(f"needs PostgreSQL {LEAST_VERSION} or newer: scripts/apt-packages names it")
    # Not in pytest's folder, which only its own user may enter.
    with tempfile.TemporaryDirectory(prefix="postgres-", ignore_cleanup_errors=True) as name:
        server = Postgres(programs, Path(name))
        server.start()
        try:
            yield server
        finally:
            with contextlib.suppress(AssertionError):  # a test may have stopped it
                server.stop("immediate")


def find_programs() -> Path | None:
    """Return the folder of the newest version that is installed."""
    folders = [*Path("/usr/lib/postgresql").glob("*/bin")]
    found = shutil.which("initdb")
    if found is not None:
        folders.append(Path(found).resolve().parent)
    versions = {}
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            said = subprocess.run(
                [folder / "postgres", "--version"], capture_output=True, text=True, check=True
            ).stdout
            version = re.search(r"\d+", said)
            if version is not None and int(version[0]) >= LEAST_VERSION:
                versions[int(version[0])] = folder
    return versions[max(versions)] if versions else None


def unprivileged() -> str:
    """Return the user that runs PostgreSQL for a test that runs as root."""
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise AssertionError("no user to run PostgreSQL as")
