"""Room that is kept on a disk, for what must be written when the disk is full."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

RESERVE_BYTES: Final = 8 * 1024 * 1024  # more than it takes to overwrite a large job with zeros
SHARE: Final = 8  # of a small disk, one in so many bytes
_PIECE: Final = bytes(1024 * 1024)


class Reserve:
    """A file of zeros beside the file of jobs."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def fill(self) -> bool:
        """Take the room; return whether there was that much, and as much again."""
        try:
            disk = shutil.disk_usage(self._path.parent)
            size = min(RESERVE_BYTES, disk.total // SHARE)
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.fchmod(descriptor, 0o600)
                missing = size - os.fstat(descriptor).st_size
                if missing <= 0:
                    return True
                if disk.free < missing + size:
                    return False
                with open(descriptor, "wb", closefd=False) as file:
                    for start in range(0, size, len(_PIECE)):
                        file.write(_PIECE[: size - start])
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError:
            self.release()
            return False
        return True

    def release(self) -> None:
        """Give the room back to the disk."""
        with contextlib.suppress(OSError):
            os.truncate(self._path, 0)
