"""URLs as a message or a record may show them."""

from __future__ import annotations

import re


def shown_url(url: str) -> str:
    """Return a URL without its secrets: user and password, and an HTTP URL's query and fragment.

    Other schemes keep what follows a ``?`` or ``#``: there it is part of a path or of a glob.
    """
    without_user = re.sub(r"(?<=://)[^/?#]*@", "", url)
    return re.sub(r"(https?://[^?#]*)[?#].*", r"\1", without_user, flags=re.DOTALL | re.IGNORECASE)
