"""The audit log: a line for each decision, without its text.

A line is a JSON object: time, id, SHA-256 of the text in UTF-8, the scores, the label, what was
flagged by which thresholds, model and versions; or the error of a text that has no scores. A person
who has a text can find its lines. A person who has only a line must guess the text, which is easy
for a short one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from hatespeech.contract import TextScore, Versions
from hatespeech.journal import Journal

TOLD: Final = ("label", "flagged", "read_as", "error")


class AuditLog:
    """The file of decisions. Call it from one thread."""

    def __init__(self, path: Path, model: str, versions: Versions) -> None:
        """Open the file; raise :class:`SettingsError` if that fails."""
        self._made_by = {"model": model, "versions": asdict(versions)}
        self._journal = Journal(path, "AUDIT_LOG", "decisions")

    @property
    def unwritten(self) -> int:
        """How many decisions could not be written."""
        return self._journal.unwritten

    def write(self, items: Sequence[TextScore], thresholds: Mapping[str, Any] | None) -> None:
        """Append decisions. What can't be written is counted; nothing is raised.

        ``thresholds`` are those that decided what was flagged, if any did: numbers and perhaps
        their name and version.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        once = {**({} if thresholds is None else {"thresholds": thresholds}), **self._made_by}
        self._journal.write([line_of(item, now) | once for item in items])

    def close(self) -> None:
        """Close the file."""
        self._journal.close()


def line_of(item: TextScore, now: str) -> dict[str, Any]:
    """Return what the line of one decision says about its text."""
    whole = item.to_dict()
    line: dict[str, Any] = {"time": now, "id": item.id}
    line["text_sha256"] = hashlib.sha256(item.text.encode()).hexdigest()
    line |= {name: round(score, 6) for name, score in item.scores.items()}
    return line | {name: whole[name] for name in TOLD if name in whole}
