"""What a message or a record shows of a URL, and which URLs may get a secret."""

from __future__ import annotations

import pytest

from hatespeech.urls import keeps_secrets, shown_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://me:key@host/a.csv?token=key", "https://host/a.csv"),
        ("https://me:k@y@host/a.csv#key", "https://host/a.csv"),
        ("HTTPS://me:key@host:8443?token=me@key/x", "HTTPS://host:8443"),
        ("simplecache::https://me:key@host/a@b.csv?token=key", "simplecache::https://host/a@b.csv"),
        ("s3://key@bucket/2024-?.csv", "s3://bucket/2024-?.csv"),
        ("a@b?.csv", "a@b?.csv"),
    ],
)
def test_a_shown_url_holds_no_secret(url: str, shown: str) -> None:
    assert shown_url(url) == shown


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://scores.example", True),
        ("http://127.0.0.1:8000/path", True),
        ("http://[::1]:8000", True),
        ("http://LOCALHOST:8000", True),
        ("http://scores:8000", True),  # a neighbour in a container network
        ("http://scores.example", False),
        ("http://192.0.2.1", False),
        ("http://[2001:db8::1]", False),
        ("http://3221225985", False),  # 192.0.2.1, written as one number
    ],
)
def test_a_secret_goes_only_where_nobody_outside_can_read_it(url: str, expected: bool) -> None:
    assert keeps_secrets(url) is expected
