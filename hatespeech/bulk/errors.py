"""The one error of a bulk run."""

from __future__ import annotations


class RunError(Exception):
    """The run can't begin or go on: one line that says what to do, and quotes no text."""
