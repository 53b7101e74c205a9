"""A disk that is easily full: a small file system in memory."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def mount(folder: Path, options: str) -> None:
    """Mount it, or change its size; skip the test without the right to do so."""
    command = ("mount", "-t", "tmpfs", "-o", options, "tmpfs", folder)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"needs the right to mount a small disk: {done.stderr.strip()}")


@contextlib.contextmanager
def small_disk(folder: Path, size: int, user: int = 0) -> Iterator[Path]:
    """Make ``folder`` a disk of so many bytes that belongs to a user."""
    folder.mkdir()
    mount(folder, f"size={size},uid={user},mode=0700")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
