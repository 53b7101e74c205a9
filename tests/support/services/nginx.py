"""A real nginx with the shipped configuration, changed where a test must: ports and paths."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final

import pytest

from tests.paths import ROOT
from tests.support.ports import listens
from tests.support.processes.worker import wait_until

SHIPPED: Final = ROOT / "deploy" / "nginx.conf"
MAIN: Final = """\
{user}
daemon off;
pid {folder}/pid;
error_log {folder}/log warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {site}
}}
"""


def changed(text: str, changes: Mapping[str, str]) -> str:
    """Replace what a test must change; each of it must be there."""
    for before, after in changes.items():
        assert before in text, before
        text = text.replace(before, after)
    return text


@contextlib.contextmanager
def nginx(port: int, server: str, changes: Mapping[str, str] | None = None) -> Iterator[str]:
    """Start one in front of ``server``, as ``host:port`` or ``unix:path``; return its URL."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("needs nginx: scripts/apt-packages names it")
    certificate = "    ssl_certificate     /etc/ssl/moderation.pem;\n"
    key = "    ssl_certificate_key /etc/ssl/moderation.key;\n"
    site = changed(
        SHIPPED.read_text(encoding="utf-8"),
        {
            "listen 443 ssl;": f"listen 127.0.0.1:{port};",
            "server 127.0.0.1:8000;": f"server {server};",
            certificate: "",
            key: "",
            **(changes or {}),
        },
    )
    with tempfile.TemporaryDirectory(prefix="nginx-") as name:
        user = "user root;" if os.geteuid() == 0 else ""
        configuration = Path(name) / "nginx.conf"
        configuration.write_text(MAIN.format(folder=name, site=site, user=user), encoding="utf-8")
        process = subprocess.Popen(
            [program, "-e", f"{name}/start", "-c", str(configuration)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

        def running() -> None:
            log = "".join(path.read_text() for path in Path(name).glob("[ls][ot]*"))
            assert process.poll() is None, log

        try:
            wait_until(lambda: listens(port), "nginx to listen", watch=running)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)
