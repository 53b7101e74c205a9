"""A real pgbouncer in front of a PostgreSQL, in transaction mode."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.ports import free_port, listens
from tests.support.processes.worker import wait_until
from tests.support.services.postgres import PASSWORD, USER, Postgres, unprivileged


@contextlib.contextmanager
def pgbouncer(database: Postgres) -> Iterator[int]:
    """Start one; return its port. Skip the test if this machine has none."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("needs pgbouncer: scripts/apt-packages names it")
    port = free_port()
    identity: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="pgbouncer-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        users, settings = folder / "users", folder / "settings"
        users.write_text(f'"{USER}" "{PASSWORD}"\n')
        settings.write_text(
            f"""
            [databases]
            * = host=127.0.0.1 port={database.port}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {port}
            unix_socket_dir =
            auth_type = scram-sha-256
            auth_file = {users}
            pool_mode = transaction
            default_pool_size = 3
            """.replace("            ", "")
        )
        if os.geteuid() == 0:
            identity = {"user": unprivileged(), "group": unprivileged(), "extra_groups": []}
            for file in (folder, users, settings):
                shutil.chown(file, unprivileged())
        with (folder / "log").open("w") as log:
            process = subprocess.Popen(
                [program, settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={"PATH": os.environ["PATH"]},
                **identity,
            )
        try:
            wait_until(lambda: listens(port), "pgbouncer to listen")
            yield port
        finally:
            process.kill()
            process.wait(30)
