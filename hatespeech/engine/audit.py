"""The audit log: a line for each decision, without its text.

A line is a JSON object: time, id, SHA-256 of the text in UTF-8, the scores, the label, what was
flagged by which thresholds, model and versions; or the error of a text that has no scores. A person
who has a text can find its lines. A person who has only a line must guess the text, which is easy
for a short one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hatespeech.contract import TextScore, Versions
from hatespeech.errors import SettingsError

log = logging.getLogger(__name__)

MODE: Final = 0o600  # of a new file; one that is there keeps its own
TOLD: Final = ("label", "flagged", "read_as", "error")


class AuditLog:
    """A file that any number of processes append lines to. Call it from one thread."""

    def __init__(self, path: Path, model: str, versions: Versions) -> None:
        """Open the file; raise :class:`SettingsError` if that fails."""
        self._made_by = {"model": model, "versions": asdict(versions)}
        self.unwritten = 0
        """How many decisions could not be written."""
        self._path = path
        self._torn = False  # the file ends in a part of a line
        self._failing = False
        try:
            self._file = _open(path)
        except OSError as exc:
            raise SettingsError(f"AUDIT_LOG={path}: {exc.strerror}") from None

    def write(self, items: Sequence[TextScore], thresholds: Mapping[str, Any] | None) -> None:
        """Append decisions. What can't be written is counted; nothing is raised.

        ``thresholds`` are those that decided what was flagged, if any did: numbers and perhaps
        their name and version.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        once = {**({} if thresholds is None else {"thresholds": thresholds}), **self._made_by}
        lines = [json.dumps(line_of(item, now) | once).encode() + b"\n" for item in items]
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
                log.error("AUDIT_LOG=%s: %s: decisions are lost", self._path, exc.strerror)
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


def line_of(item: TextScore, now: str) -> dict[str, Any]:
    """Return what the line of one decision says about its text."""
    whole = item.to_dict()
    line: dict[str, Any] = {"time": now, "id": item.id}
    line["text_sha256"] = hashlib.sha256(item.text.encode()).hexdigest()
    line |= {name: round(score, 6) for name, score in item.scores.items()}
    return line | {name: whole[name] for name in TOLD if name in whole}


def _open(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, MODE)
