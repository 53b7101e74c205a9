"""A reply reaches the platform however the connections to it break."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from runpod.serverless.modules import rp_http

from hatespeech.retry import Backoff
from hatespeech.worker import posting
from tests.support.stand_ins.raw_server import Act, RawServer, answering, reset, reset_early

TAKEN = answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
# Each loses the platform's answer, or the reply itself; the last one does not speak HTTP.
BROKEN = {
    "reset_before_it_is_read": reset_early,
    "reset_once_it_is_read": reset,
    "closed_without_an_answer": answering(b""),
    "closed_in_the_head": answering(b"HTTP/1.1 200 OK\r\nContent-"),
    "not_http": answering(b"\0\1\2\3\r\n\r\n"),
}
REPLY = {"output": {"text": "good morning" * 100_000}}  # larger than a socket's buffer


def post(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(posting, "BACKOFF", Backoff(0.01, 0.01))
    monkeypatch.setattr(rp_http, "JOB_DONE_URL", f"{url}/done/$ID?gpu=none")

    async def run() -> None:
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            await posting.post_reply(session, "job-1", REPLY)

    asyncio.run(run())


def bodies(server: RawServer) -> list[object]:
    return [json.loads(request.partition(b"\r\n\r\n")[2]) for request in server.requests]


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN.keys())
def test_a_connection_that_breaks_is_followed_by_the_same_reply_again(
    broken: Act, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawServer(broken, broken, TAKEN) as server:
        post(monkeypatch, server.url)
    # A reply that was reset before it was read has not been counted.
    assert bodies(server) == [REPLY] * (1 if broken is reset_early else 3)


@pytest.mark.parametrize("status", [400, 404, 413])
def test_a_refusal_is_final(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = answering(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)
    with RawServer(refusal, TAKEN) as server:
        post(monkeypatch, server.url)
    assert bodies(server) == [REPLY]
