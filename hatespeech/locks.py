"""A folder that one process holds for itself."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


class FolderHeldError(Exception):
    """Another process holds the folder."""


@contextlib.contextmanager
def held_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and hold it through the file ``lock`` in it.

    The system releases the lock when the process ends, even if it is killed. The body may remove
    the folder. Raises :class:`FolderHeldError`.
    """
    while True:
        current = False
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "lock").open("wb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise FolderHeldError(str(folder)) from None
            # The holder before us may have finished, and removed this file, since it was opened.
            with contextlib.suppress(FileNotFoundError):
                there = os.stat(file.name)  # noqa: PTH116 - beside os.fstat
                current = os.path.samestat(os.fstat(file.fileno()), there)
            if current:
                yield
                return
