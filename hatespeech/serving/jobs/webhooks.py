"""Tells a caller's URL that its job has ended, by a POST of what ``/status`` returns.

The POST is signed as https://www.standardwebhooks.com says, and repeated until it is answered with
2xx. The store holds what is still untold, so a restart loses nothing, and with several servers each
job is told by one. The caller chooses the URL, so it must lead to a public address: else it could
reach what only this machine can. And it may be slow, so the owners of jobs take turns, and none can
use every place. No log holds a URL or a body.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import ipaddress
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Final
from urllib.parse import SplitResult, urlsplit

import httpx2

from hatespeech.retry import Backoff
from hatespeech.serving.jobs.store import Delivery, Store, StoreError
from hatespeech.serving.jobs.turns import Turns
from hatespeech.serving.jobs.webhook_urls import Address, Network, may_receive
from hatespeech.version import __version__

log = logging.getLogger(__name__)
logging.getLogger("httpx2").setLevel(logging.WARNING)  # at INFO it logs every URL

AT_ONCE: Final = 10
OF_ONE_OWNER: Final = 8  # of those, so that others need not wait for the end of one that is slow
LOOK_SECONDS: Final = 5.0  # between looks for what is due again, or was left by another server
POST_SECONDS: Final = 10.0  # for everything from the look-up of the name to the status
CLAIM_SECONDS: Final = 60.0  # after which a server that claimed a delivery must have died
MAX_TRIES: Final = 8
BACKOFF: Final = Backoff(first=10.0, longest=600.0)
# A name that is slow to look up occupies a thread for longer than its delivery waits for it.
LOOKUP_THREADS: Final = 64
LOOKUPS_OF_ONE_OWNER: Final = 48


class DeliveryError(Exception):
    """A webhook was not accepted; the message says why, and is fit for a log."""


def signature(key: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the header ``webhook-signature``."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode()


def look_up(host: str, port: int) -> list[Address]:
    """Return the addresses of a name; raise ``OSError`` if it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(str(place[0]).partition("%")[0]) for *_, place in found]


class Names:
    """Looks names up. Neither requests nor the end of the process wait for one that is slow."""

    def __init__(self) -> None:
        self._asking: Counter[bytes] = Counter()  # threads for each owner
        self._lock = threading.Lock()

    async def look_up(self, owner: bytes, host: str, port: int) -> list[Address]:
        """Return the addresses of a name; raise :class:`DeliveryError` if that fails."""
        with self._lock:
            threads = self._asking.total()
            if threads >= LOOKUP_THREADS or self._asking[owner] >= LOOKUPS_OF_ONE_OWNER:
                raise DeliveryError("too many names are slow to look up")
            self._asking[owner] += 1
        found: Future[list[Address]] = Future()
        found.set_running_or_notify_cancel()  # from here on it can't be cancelled

        def ask() -> None:
            try:
                found.set_result(look_up(host, port))
            except Exception as exc:
                found.set_exception(exc)
            finally:
                with self._lock:
                    self._asking[owner] -= 1

        # A pool's threads are waited for when the process ends.
        threading.Thread(target=ask, name="webhook-name", daemon=True).start()
        try:
            return await asyncio.wrap_future(found)
        except (OSError, ValueError):  # UnicodeError, a ValueError, for labels that are too long
            raise DeliveryError("its name is not known") from None


class Webhooks:
    """Delivers what the store holds, for as long as :meth:`run` does."""

    def __init__(self, store: Store, key: bytes, networks: Sequence[Network]) -> None:
        self._store = store
        self._key = key
        self._networks = networks
        self._due = asyncio.Event()
        self._names = Names()
        self._turns = Turns()

    def job_ended(self) -> None:
        """Look for jobs that have ended."""
        self._due.set()

    async def run(self) -> None:
        """Deliver until cancelled. What is not delivered then is delivered after the next start."""
        running: dict[asyncio.Task[None], bytes] = {}  # whose each is

        def ended(task: asyncio.Task[None]) -> None:
            del running[task]
            self._due.set()  # there is room for another

        # Without a proxy, which would look names up itself. A connection is not used again: it
        # belongs to a name, and the client knows it by its address.
        client = httpx2.AsyncClient(
            verify=httpx2.create_ssl_context(),
            trust_env=False,
            limits=httpx2.Limits(max_keepalive_connections=0),
            timeout=POST_SECONDS,
        )
        try:
            async with client:
                while True:
                    for delivery in await self._take(Counter(running.values())):
                        task = asyncio.create_task(self._deliver(client, delivery))
                        running[task] = delivery.owner
                        task.add_done_callback(ended)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(LOOK_SECONDS):
                            await self._due.wait()
                    self._due.clear()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _take(self, running: Counter[bytes]) -> Sequence[Delivery]:
        taken: list[Delivery] = []
        places = AT_ONCE - running.total()
        if places > 0:
            with contextlib.suppress(StoreError):  # the next look tries again
                due = await self._store.count_due(OF_ONE_OWNER)
                shares = Counter(self._turns.share(due, running, places, OF_ONE_OWNER))
                for owner, count in shares.items():
                    taken += await self._store.take_deliveries(owner, count, CLAIM_SECONDS)
        return taken

    async def _deliver(self, client: httpx2.AsyncClient, delivery: Delivery) -> None:
        job, tries = delivery.job, delivery.tries
        again: float | None = None
        try:
            async with asyncio.timeout(POST_SECONDS):
                await self._post(client, delivery)
        except Exception as exc:  # else it would be repeated without a limit
            reason = str(exc) if isinstance(exc, DeliveryError) else type(exc).__name__
            again = BACKOFF.seconds(tries) if tries < MAX_TRIES else None
            following = "giving up" if again is None else f"trying again in {again:.0f} s"
            log.warning("the webhook of job %s: %s; %s", job.id, reason, following)
        with contextlib.suppress(StoreError):  # then it is delivered once more
            await self._store.end_delivery(delivery, again)

    async def _post(self, client: httpx2.AsyncClient, delivery: Delivery) -> None:
        job, parts = delivery.job, urlsplit(delivery.url)
        address = await self._address(delivery.owner, parts)
        body = job.to_json().encode()
        # The same each time, so that a receiver can tell a repetition; another after a retry.
        message_id = f"{job.id}-{round((job.finished or 0) * 1000)}"
        now = int(time.time())
        request = client.build_request(
            "POST",
            # To the address that was checked: another look-up might lead elsewhere.
            httpx2.URL(delivery.url).copy_with(host=str(address)),
            content=body,
            headers={
                "Host": parts.netloc,
                "Content-Type": "application/json",
                "User-Agent": f"hate-speech-detection/{__version__}",
                "webhook-id": message_id,
                "webhook-timestamp": str(now),
                "webhook-signature": signature(self._key, message_id, now, body),
            },
            extensions={"sni_hostname": parts.hostname},
        )
        reply = await client.send(request, stream=True, follow_redirects=False)
        await reply.aclose()  # what it says does not matter
        if not reply.is_success:
            raise DeliveryError(f"HTTP {reply.status_code}")

    async def _address(self, owner: bytes, parts: SplitResult) -> Address:
        """Return an address that the URL's name leads to now, and that may receive webhooks."""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        for address in await self._names.look_up(owner, parts.hostname or "", port):
            if may_receive(address, parts.scheme, self._networks):
                return address
        raise DeliveryError("its name does not lead to a public address")
