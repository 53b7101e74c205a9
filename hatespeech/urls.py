"""URLs: what a message or a record may show of them, and which of them may get a secret."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit


def shown_url(url: str) -> str:
    """Return a URL without its secrets: user and password, and an HTTP URL's query and fragment.

    Other schemes keep what follows a ``?`` or ``#``: there it is part of a path or of a glob.
    """
    without_user = re.sub(r"(?<=://)[^/?#]*@", "", url)
    return re.sub(r"(https?://[^?#]*)[?#].*", r"\1", without_user, flags=re.DOTALL | re.IGNORECASE)


def keeps_secrets(url: str) -> bool:
    """Return whether nobody outside can read what goes to a sound URL of HTTP.

    That is https, or http to this machine or to a host without a dot: a neighbour in a container
    network. Raises :class:`ValueError` for an impossible host.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    # A name of digits alone would be an address, written as one number.
    neighbour = re.fullmatch(r"[a-z_][a-z0-9_-]*", host) is not None
    return parts.scheme == "https" or neighbour or is_this_machine(host)


def is_this_machine(host: str) -> bool:
    """Return whether a URL's host is a loopback address, or the name of one."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
