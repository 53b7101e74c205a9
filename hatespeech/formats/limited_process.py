"""A child process that reads a foreign file, with a limit on its memory.

A file of kilobytes may ask a reader of Parquet for gigabytes, in more ways than a check of the file
could find. So the reader runs in a process that the system refuses more memory than the limit. Its
death is an answer: the file needs too much. What the child took goes back to the system when it
ends. The child gets the open file and a pipe, and neither secrets nor settings. It can give up the
right to open other files, ``/proc`` among them.

The parent calls, the child answers, one call at a time. Calls and answers are JSON or bytes, never
pickles, because the child may have been taken over by what it reads.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from importlib.machinery import BuiltinImporter, FrozenImporter
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, BinaryIO, Final

from hatespeech.errors import ServiceError, TooLargeError, ValidationError
from hatespeech.paths import PACKAGE

# The child gives way to the threads that score.
NICENESS: Final = 10
# What the child may know of the parent's environment.
PASSED_ON: Final = ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ")
# Neither allocator takes more from the system than it is asked for, so the limit is exact.
EXACT_ALLOCATORS: Final = {"ARROW_DEFAULT_MEMORY_POOL": "system", "MALLOC_ARENA_MAX": "1"}
# No library starts a thread when it is imported: :func:`deny_files` would not hold for that thread.
NO_THREADS: Final = {
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    "OPENBLAS_NUM_THREADS": "1",
}
# Linux's numbers of calls, one for every architecture, and of an option of prctl.
LANDLOCK_CREATE_RULESET, LANDLOCK_RESTRICT_SELF, PR_SET_NO_NEW_PRIVS = 444, 446, 38
# What can be denied: kinds of access to files and to TCP, and reach of other processes. An older
# kernel knows fewer kinds, and refuses a set with others.
RULESETS: Final = ((0xFFFF, 0b11, 0b11), (0x7FFF, 0, 0), (0x1FFF, 0, 0))
READY: Final = b"r"
JSON: Final = b"j"
BYTES: Final = b"b"
ERROR: Final = b"e"
# What a child may raise: its file is wrong, or over a limit.
ERRORS: Final = {kind.code: kind for kind in (ValidationError, TooLargeError)}

Method = Callable[[Any], Any]


class LimitedProcess:
    """Runs ``module`` in a child, which calls :func:`answer_calls`; ``file``, if any, is its input.

    The child may take ``memory_bytes`` beyond what its imports take.
    """

    def __init__(
        self, module: str, file: BinaryIO | None, memory_bytes: int, arguments: object
    ) -> None:
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()
        self._connection, child = Pipe()
        try:
            with child:
                self._process = subprocess.Popen(  # noqa: S603 - this Python and a module of ours
                    [sys.executable, "-P", "-m", module, str(child.fileno()), str(memory_bytes)],
                    stdin=subprocess.DEVNULL if file is None else file,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # it may quote the file
                    env=_environment(),
                    pass_fds=[child.fileno()],
                )
        except BaseException:
            self._connection.close()
            raise
        try:
            self._connection.send_bytes(json.dumps(arguments).encode())
            self._connection.recv_bytes()
        except (EOFError, OSError):
            self.close()
            raise RuntimeError(f"{module} does not start") from None

    def call(self, name: str, argument: object = None) -> Any:
        """Call a method of the child; return its answer, bytes or what JSON holds.

        Raises the error that the child raises, one of ``ERRORS``, and :class:`TooLargeError` if the
        child dies.
        """
        try:
            with self._lock:
                self._connection.send_bytes(json.dumps([name, argument]).encode())
                answer = self._connection.recv_bytes(self._memory_bytes)
        except (EOFError, OSError):
            raise TooLargeError(
                f"needs more than {self._memory_bytes} bytes of memory to be read", field="file"
            ) from None
        kind, body = answer[:1], answer[1:]
        if kind == BYTES:
            return body
        if kind == JSON:
            return json.loads(body)
        code, message = json.loads(body)
        raise ERRORS[code](message, field="file")

    def close(self) -> None:
        """End the child. A call that waits for it in another thread raises."""
        self._process.kill()
        with self._lock:
            self._connection.close()
        self._process.wait()


def answer_calls(make_methods: Callable[[BinaryIO, Any], Mapping[str, Method]]) -> None:
    """Be the child: answer calls until the parent is gone.

    ``make_methods`` takes the file and the parent's arguments. Call this after all imports, whose
    memory does not count.
    """
    connection, memory_bytes = Connection(int(sys.argv[1])), int(sys.argv[2])
    limit_memory(memory_bytes)
    os.nice(NICENESS)
    with contextlib.suppress(EOFError, ConnectionError, MemoryError):
        file = os.fdopen(0, "rb")
        methods = make_methods(file, json.loads(connection.recv_bytes()))
        connection.send_bytes(READY)
        while True:
            name, argument = json.loads(connection.recv_bytes())
            try:
                answer = methods[name](argument)
                if isinstance(answer, bytes):
                    message = BYTES + answer
                else:
                    message = JSON + json.dumps(answer, ensure_ascii=False).encode()
            except ServiceError as error:
                message = ERROR + json.dumps([error.code, error.message]).encode()
            connection.send_bytes(message)
    os._exit(0)  # without clean-up: the parent waits, and an ordinary end may need memory


def limit_memory(memory_bytes: int) -> None:
    """Let this process take so many bytes more than it has; if the system runs short, end it first.

    Has no effect on systems other than Linux.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmData:"):
                limit = int(line.split()[1]) * 1024 + memory_bytes
                resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        Path("/proc/self/oom_score_adj").write_text("1000")


def deny_files() -> None:
    """Let this thread, and those that it starts, open no more files, and none of ``/proc``.

    What is open stays open. Newer kernels also deny TCP connections, and signals to others. The
    kernel denies nothing if it lacks Landlock, as before Linux 5.13 and on other systems. Modules
    that are not imported yet are missing on all systems.
    """
    # pyarrow tries to import pandas, and goes on without it only if the module is missing.
    sys.meta_path[:] = [BuiltinImporter, FrozenImporter]
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    for denied in RULESETS:
        rules = struct.pack("QQQ", *denied)
        size = ctypes.c_size_t(len(rules))
        ruleset = libc.syscall(ctypes.c_long(LANDLOCK_CREATE_RULESET), rules, size, 0)
        if ruleset >= 0:
            break
    else:
        return
    # Without rules that allow something, everything of these kinds is denied.
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.syscall(
        ctypes.c_long(LANDLOCK_RESTRICT_SELF), ruleset, 0
    ):
        raise OSError(ctypes.get_errno(), "Landlock refuses to deny files")
    os.close(ruleset)


def _environment() -> dict[str, str]:
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    path = [str(PACKAGE.parent), *filter(None, sys.path)]
    return {**environment, **EXACT_ALLOCATORS, **NO_THREADS, "PYTHONPATH": os.pathsep.join(path)}
