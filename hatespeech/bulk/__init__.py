"""Bulk scoring: files of texts in, files of scores out; see ``score.py``."""

from __future__ import annotations


class RunError(Exception):
    """The run can't begin or go on: one line that says what to do, and quotes no text."""
