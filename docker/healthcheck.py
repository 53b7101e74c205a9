"""Succeed while the container works: the server answers that it is ready, or the worker lives.

A queue worker listens on no port and ends by itself when its device fails, so its process is all
there is to check. Which of the two runs is read from ``/proc``, not guessed from the settings.
"""

import http.client
import os
import socket
import sys
from pathlib import Path

WORKER, SERVER = "app.py", "server.py"
PORT = "8000"  # server.py's own default
LOOPBACK = "127.0.0.1"
# What a server that listens on every network of a kind is asked at.
EVERY = {"0.0.0.0": LOOPBACK, "::": "::1"}  # noqa: S104 - it listens on none
SECONDS = 5.0


def main() -> int:
    """Find the process and ask the server; print what is wrong."""
    problem = find_problem()
    if problem:
        sys.stderr.write(f"error: {problem}\n")
        return 1
    return 0


def find_problem() -> str | None:
    """Return what is wrong with the worker or server, if anything."""
    problem = "neither the worker nor the server is running"
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = process.joinpath("cmdline").read_bytes().decode(errors="replace")
            # The process name, in parentheses, may hold anything but comes before the last one.
            state = process.joinpath("stat").read_text().rpartition(") ")[2][:1]
        except OSError:  # it has ended, or we may not read it
            continue
        names = {Path(argument).name for argument in arguments.split("\0")}
        if not names & {WORKER, SERVER}:
            continue
        if state in ("T", "t"):  # by a signal or a debugger
            problem = "the process is stopped"
        else:
            return ask() if SERVER in names else None
    return problem


def ask() -> str | None:
    """Return why the server is not ready, if it isn't."""
    port = os.environ.get("PORT_HEALTH")
    path = os.environ.get("UNIX_SOCKET")
    host = os.environ.get("HOST") or LOOPBACK
    number = int(port or os.environ.get("PORT") or PORT)
    connection = http.client.HTTPConnection(EVERY.get(host, host), number, timeout=SECONDS)
    try:
        if path and not port:  # PORT is not listened on then
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(SECONDS)
            connection.sock.connect(path)
        connection.request("GET", "/ping")
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as exc:
        return f"the server does not answer: {type(exc).__name__}"
    finally:
        connection.close()
    return None if status == http.HTTPStatus.OK else f"/ping answers {status}"


if __name__ == "__main__":
    sys.exit(main())
