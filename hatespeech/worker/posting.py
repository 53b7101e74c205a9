"""Posts the reply to a job until the platform has taken it.

The SDK's own function tries three times within two seconds, and only after a 5xx: one connection
that is reset loses the reply, and the job waits for its time-out.
"""

from __future__ import annotations

import asyncio
import io
import json
import logging
from collections.abc import Mapping
from typing import Any, Final

import aiohttp
from runpod.serverless.modules import rp_http

from hatespeech.retry import RETRIED_STATUS, Backoff, retry_after

log = logging.getLogger(__name__)

BACKOFF: Final = Backoff(0.1, 10.0)
# Of one try. A reply may have 20 MB.
TRY: Final = aiohttp.ClientTimeout(total=60.0, sock_connect=10.0)


async def post_reply(session: aiohttp.ClientSession, job_id: str, reply: Mapping[str, Any]) -> None:
    """Post a reply until the platform takes it or refuses it for good; the caller sets a time.

    A connection that fails, a 5xx or a 429 is followed by another try. If the platform took the
    reply and only its own answer was lost, it gets the same reply again. Any other status, such as
    413 for a reply that is too large, is final.
    """
    url = rp_http.JOB_DONE_URL.replace("$ID", job_id) + "&isStream=false"
    body = json.dumps(reply, ensure_ascii=False).encode()
    headers = {
        "charset": "utf-8",
        "Content-Type": "application/x-www-form-urlencoded",
        "X-Request-ID": job_id,
    }
    failures = 0
    while True:
        asked = 0.0  # seconds that the platform asks to wait
        try:
            # As a file: aiohttp writes bytes in one piece, which holds up the event loop.
            data = io.BytesIO(body)
            async with session.post(url, data=data, headers=headers, timeout=TRY) as response:
                status = response.status
                if status < 500 and status not in RETRIED_STATUS:
                    if status >= 400:
                        log.error("the reply to job %s was refused with %d", job_id, status)
                    return
                reason = f"status {status}"
                asked = retry_after(response.headers)
        except (aiohttp.ClientError, OSError) as exc:  # a time-out is an OSError, too
            reason = type(exc).__name__
        failures += 1
        log.warning("the reply to job %s was not taken (%s); trying again", job_id, reason)
        await asyncio.sleep(max(BACKOFF.seconds(failures), min(asked, BACKOFF.longest)))
