"""Ports of 127.0.0.1."""

from __future__ import annotations

import contextlib
import random
import socket
from typing import Final

# Below the ports that Linux gives to sockets without a wish, so that none of these takes the port
# between this look and its use.
PORTS: Final = range(20_000, 32_000)


def free_port() -> int:
    """Return a port that is free on every address of this machine."""
    chance = random.SystemRandom()  # which differs in processes that a test seeds alike
    while True:
        port = chance.choice(PORTS)
        with contextlib.suppress(OSError), listener(port):
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
