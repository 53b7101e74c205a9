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
        self.size = min(RESERVE_BYTES, shutil.disk_usage(path.parent).total // SHARE)

    def take(self) -> bool:
        """Take the room, unless it is taken; return whether there was that much."""
        with contextlib.suppress(OSError):
            if self._path.stat().st_size == self.size:
                return True
        return self._write(0, self.size)

    def has_as_much_again(self) -> bool:
        """Return whether the disk has room beside the reserve, by writing there."""
        if shutil.disk_usage(self._path.parent).free < self.size:
            return False
        written = self._write(self.size, 2 * self.size)
        with contextlib.suppress(OSError):
            os.truncate(self._path, self.size)
        return written

    def release(self) -> None:
        """Give the room back to the disk."""
        with contextlib.suppress(OSError):
            os.truncate(self._path, 0)

    def _write(self, start: int, end: int) -> bool:
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb", buffering=0) as file:  # noqa: PTH123 - not a path
                os.fchmod(descriptor, 0o600)
                file.seek(start)
                while start < end:
                    start += file.write(_PIECE[: end - start])
                os.fsync(descriptor)
        except OSError:
            return False
        return True
