"""What ``download.py`` is made of: a resumable download, a tokenizer, a checkpoint folder."""

from __future__ import annotations


class FetchError(Exception):
    """Something could not be fetched or was not accepted; the message is one line and says what.

    It shows no credentials: URLs in it are without user, password and query string.
    """
