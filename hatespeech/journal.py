"""Files of records that are only appended to: JSON lines that several processes may write.

The audit log and the file of receipts are such files. A rotation may move one away at any time.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from hatespeech.errors import SettingsError

log = logging.getLogger(__name__)

MODE: Final = 0o600  # of a new file; one that is there keeps its own


class Journal:
    """A file that any number of processes append lines to. Call it from one thread."""

    def __init__(self, path: Path, setting: str, records: str) -> None:
        """Open the file; raise :class:`SettingsError` if that fails.

        ``setting`` is the variable that names the file, and ``records`` what it holds, for
        messages.
        """
        self.unwritten = 0
        """How many records could not be written."""
        self._path = path
        self._setting = setting
        self._records = records
        self._torn = False  # the file ends in a part of a line
        self._failing = False
        try:
            self._file = _open(path)
        except OSError as exc:
            raise SettingsError(f"{setting}={path}: {exc.strerror}") from None

    def write(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records. What can't be written is counted; nothing is raised."""
        lines = [json.dumps(record).encode() + b"\n" for record in records]
        data = b"".join(lines)  # one write, so that lines of several processes don't mix
        done = 0
        try:
            self._follow_rotation()
            if self._torn:
                os.write(self._file, b"\n")
                self._torn = False
            while done < len(data):
                done += os.write(self._file, data[done:])
        except OSError as exc:
            if done:
                self._torn = not data[:done].endswith(b"\n")
            self.unwritten += len(lines) - data[:done].count(b"\n")
            if not self._failing:  # one line in the log, not one for each reply
                log.error(
                    "%s=%s: %s: %s are lost", self._setting, self._path, exc.strerror, self._records
                )
            self._failing = True
        else:
            self._failing = False

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _follow_rotation(self) -> None:
        """Open the file anew if its name now belongs to another file, or to none."""
        kept = os.fstat(self._file)
        with contextlib.suppress(FileNotFoundError):
            there = self._path.stat()
            if (there.st_dev, there.st_ino) == (kept.st_dev, kept.st_ino):
                return
        opened = _open(self._path)
        os.close(self._file)
        self._file, self._torn = opened, False


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
