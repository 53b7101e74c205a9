"""When a request is sent again: the waits double, and a server's own wish is read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest

from hatespeech.retry import Backoff, retry_after

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def test_waits_double_up_to_the_longest_however_many_failures_there_were() -> None:
    backoff = Backoff(first=0.5, longest=3.0)
    assert [backoff.seconds(failures) for failures in (1, 2, 3, 4, 5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    assert backoff.seconds(10_000) == 3.0


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "soon"}, 0.0),
        ({"retry-after": "-7"}, 0.0),
        (
            {
                "retry-after": format_datetime(NOW + timedelta(seconds=90), usegmt=True),
                "date": format_datetime(NOW, usegmt=True),
            },
            90.0,
        ),
        ({"retry-after": format_datetime(NOW - timedelta(days=9999), usegmt=True)}, 0.0),
    ],
)
def test_retry_after_is_read_in_both_its_forms(headers: dict[str, str], seconds: float) -> None:
    assert retry_after(headers) == seconds
