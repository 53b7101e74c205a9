"""What a message or a record shows of a URL."""

from __future__ import annotations

import pytest

from hatespeech.urls import shown_url


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
