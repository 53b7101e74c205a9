"""Which URLs a webhook may have, and which addresses they may lead to."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Sequence
from typing import Final
from urllib.parse import urlsplit

from hatespeech.errors import ValidationError

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_URL_CHARS: Final = 2048

# All addresses of IPv6 that are given out to the public. What lies outside is for one network only,
# such as fec0::/10, which sites used before fc00::/7, or holds addresses of IPv4: 64:ff9b::/96.
_GIVEN_OUT: Final = ipaddress.IPv6Network("2000::/3")
# Networks that lead elsewhere than to the public. Of IPv6: addresses of IPv4, which a gateway on
# the way may turn them into. Of IPv4: for protocols (a cloud had its metadata at 192.0.0.192), and
# for gateways to IPv6; some releases of Python take both for public.
_ELSEWHERE: Final[Sequence[Network]] = [
    ipaddress.ip_network(network)
    for network in ("2001::/32", "2002::/16", "192.0.0.0/24", "192.88.99.0/24")
]


def check_url(url: object, networks: Sequence[Network]) -> str:
    """Return a webhook's URL; raise :class:`ValidationError` if it can't be one.

    Where a name leads is checked each time it is called.
    """
    if not isinstance(url, str) or not re.fullmatch(rf"[!-~]{{1,{MAX_URL_CHARS}}}", url):
        raise ValidationError(
            f"must be a URL of at most {MAX_URL_CHARS} ASCII characters", field="webhook"
        )
    try:
        parts = urlsplit(url)
        sound = bool(parts.hostname) and "@" not in parts.netloc
        port = parts.port
    except ValueError:
        sound, port = False, None
    if not sound or port == 0 or parts.scheme not in ("https", *(["http"] if networks else [])):
        raise ValidationError("must be https://, without user and password", field="webhook")
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(parts.hostname or "")
        if not may_receive(address, parts.scheme, networks):
            raise ValidationError("must lead to a public address", field="webhook")
    return url


def may_receive(address: Address, scheme: str, networks: Sequence[Network]) -> bool:
    """Return whether a webhook may go to this address: a public one, or one that is allowed.

    Unencrypted it goes only to one that is allowed.
    """
    plain = getattr(address, "ipv4_mapped", None) or address
    if any(plain in network for network in networks):
        return True
    return scheme == "https" and is_public(plain)


def is_public(address: Address) -> bool:
    """Return whether everyone can reach this address."""
    if isinstance(address, ipaddress.IPv6Address) and address not in _GIVEN_OUT:
        return False
    if any(address in network for network in _ELSEWHERE):
        return False
    return address.is_global and not address.is_multicast and not address.is_reserved
