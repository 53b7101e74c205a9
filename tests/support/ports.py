"""Ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import tempfile
from pathlib import Path
from typing import Final

# Below the ports that Linux gives to sockets without a wish, so that none of these takes the port
# between this look and its use.
PORTS: Final = range(20_000, 32_000)
# Nor may another test do that: all processes of this user share one count, so that a port is not
# named again before all others were. (Chosen by chance, two of one test were the same at times.)
LAST_PORT: Final = Path(tempfile.gettempdir()) / f"hatespeech-tests-last-port-{os.getuid()}"


def free_port() -> int:
    """Return a port that is free on every address of this machine, and new to every test."""
    while True:
        port = _next_port()
        with contextlib.suppress(OSError), listener(port):
            return port


def _next_port() -> int:
    descriptor = os.open(LAST_PORT, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "r+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        last = file.read()
        place = int(last) - PORTS.start + 1 if last.isdecimal() else random.randrange(len(PORTS))
        port = PORTS[place % len(PORTS)]
        file.seek(0)
        file.truncate()
        file.write(str(port))
    return port


def listener(port: int) -> socket.socket:
    """Return a socket that listens on every address; raises :class:`OSError` if one is taken."""
    if socket.has_dualstack_ipv6():
        family = socket.AF_INET6
        return socket.create_server(("::", port), family=family, dualstack_ipv6=True)
    return socket.create_server(("0.0.0.0", port))


def listens(port: int) -> bool:
    """Say whether a connection to this port is taken."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 5):
        return True
    return False


def connections(port: int) -> int:
    """Return how many connections the server on this port has."""
    rows = [
        row.split()
        for table in ("tcp", "tcp6")
        for row in Path("/proc/net", table).read_text().splitlines()[1:]
    ]
    established = "01"
    return sum(row[1].endswith(f":{port:04X}") and row[3] == established for row in rows)
