"""When to send a request again: after which answers, and after how long."""

from __future__ import annotations

import email.utils
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

# A timeout, too many requests, or a fault of the server or of a proxy before it.
RETRIED_STATUS: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


@dataclass(frozen=True)
class Backoff:
    """Waits that double with each failure in a row, in seconds."""

    first: float
    longest: float

    def seconds(self, failures: int) -> float:
        """Return the wait after so many failures in a row."""
        doublings = min(failures - 1, 100)  # a float holds no more than 2**1023
        return min(self.first * 2.0**doublings, self.longest)


def retry_after(headers: Mapping[str, str]) -> float:
    """Return the seconds that a server asks to wait, 0 if it does not; RFC 9110 section 10.2.3.

    The header holds seconds or a date. A date is compared with the server's own clock if the
    answer has a ``Date`` header.
    """
    text = headers.get("retry-after", "").strip()
    if text.isdecimal():
        return float(text)
    until = _read_date(text)
    now = _read_date(headers.get("date", "")) or datetime.now(UTC)
    return max(0.0, (until - now).total_seconds()) if until else 0.0


def _read_date(text: str) -> datetime | None:
    try:
        date = email.utils.parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=UTC)
