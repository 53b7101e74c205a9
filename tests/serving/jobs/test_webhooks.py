"""Webhooks: signed, repeated, kept over a restart, and sent to public addresses alone."""

from __future__ import annotations

import asyncio
import ipaddress
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import pytest
from aiohttp import web

from hatespeech.retry import Backoff
from hatespeech.serving.jobs import webhooks
from hatespeech.serving.jobs.webhook_urls import is_public
from tests.paths import ROOT
from tests.support.bad_inputs import MARKER
from tests.support.certificates import write_certificate
from tests.support.http_client import OTHER_TOKEN, TOKEN, HttpClient
from tests.support.local_server import local_server, refusal
from tests.support.other_clients import run_python
from tests.support.processes.server import http_server, server_environment
from tests.support.processes.worker import wait_until
from tests.support.stand_ins.app_thread import AppThread

SECRET: Final = "whsec_dGVzdHMgbmVlZCBhIHNlY3JldCBvZiAzMiBieXRlcy4="
ALLOWED: Final = {"WEBHOOK_SECRET": SECRET, "WEBHOOK_NETWORKS": "127.0.0.0/8"}
PUBLIC_ONLY: Final = {"WEBHOOK_SECRET": SECRET}
TWO_TOKENS: Final = {**ALLOWED, "BEARER_TOKEN": f"{TOKEN},{OTHER_TOKEN}"}


class Receiver(AppThread):
    """Notes what it is told, and answers with the next of ``statuses``, at the end with 204."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.tls = tls
        self.told: list[tuple[str, Mapping[str, str], bytes]] = []
        self.statuses: list[int] = []
        self.slow = 0  # requests to /slow, which are not answered

    def make_app(self) -> web.Application:
        app = web.Application(client_max_size=10_000_000)
        app.router.add_post("/{rest:.*}", self._note)
        return app

    async def _note(self, request: web.Request) -> web.Response:
        if request.path == "/slow":
            self.slow += 1
            await asyncio.Event().wait()
        self.told.append((request.path_qs, dict(request.headers), await request.read()))
        status = self.statuses.pop(0) if self.statuses else 204
        return web.Response(status=status, headers={"Location": f"{self.url}/elsewhere"})

    def wait(self, count: int, server: HttpClient) -> None:
        wait_until(lambda: len(self.told) >= count, "a webhook", watch=server.require_running)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "BACKOFF", Backoff(first=0.01, longest=0.05))
    monkeypatch.setattr(webhooks, "LOOK_SECONDS", 0.05)


def submit(server: HttpClient, url: str, job_input: Any = None, token: str = TOKEN) -> str:
    body = {"input": job_input or {"prompt": "good morning"}, "webhook": url}
    reply = server.post("/run", json=body, headers={"Authorization": f"Bearer {token}"})
    assert reply.status_code == 200, reply.text
    job_id: str = reply.json()["id"]
    return job_id


VERIFY: Final = """
from standardwebhooks.webhooks import Webhook
print(json.dumps(Webhook(secret).verify(body, headers)))
"""


@pytest.mark.slow
def test_a_job_that_has_ended_is_told_and_signed_as_the_standard_says(
    small_checkpoint: Path, tmp_path: Path, receiver: Receiver
) -> None:
    with local_server(tmp_path, small_checkpoint, ALLOWED) as server:
        server.ready()
        job_id = submit(server, f"{receiver.url}/hook?key=1")
        receiver.wait(1, server)
        ((path, headers, body),) = receiver.told
        assert path == "/hook?key=1"
        assert headers["Content-Type"] == "application/json"
        verified = run_python(
            "standardwebhooks==1.0.1",
            VERIFY,
            secret=SECRET,
            body=body.decode(),
            headers={name.lower(): value for name, value in headers.items()},
        )
        assert verified == server.finished(job_id)


def test_every_end_of_a_job_is_told(
    small_checkpoint: Path, tmp_path: Path, receiver: Receiver
) -> None:
    with local_server(tmp_path, small_checkpoint, ALLOWED) as server:
        server.ready()
        submit(server, f"{receiver.url}/refused", {"colour": "blue"})
        submit(server, f"{receiver.url}/scored")
        body = {"input": {"prompt": "hi"}, "webhook": f"{receiver.url}/waited"}
        assert server.post("/runsync", json=body).json()["status"] == "COMPLETED"
        receiver.wait(3, server)
        paths = {path for path, *_ in receiver.told}
        assert paths == {"/refused", "/scored", "/waited"}


def test_it_is_repeated_until_it_is_accepted_with_the_same_id(
    small_checkpoint: Path, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.statuses = [500, 302, 404, 200]
    environment = {**ALLOWED, "LOG_LEVEL": "DEBUG"}
    with local_server(tmp_path, small_checkpoint, environment) as server:
        server.ready()
        job_id = submit(server, f"{receiver.url}/{MARKER}", {"prompt": MARKER})
        receiver.wait(4, server)
        later = submit(server, f"{receiver.url}/later")
        receiver.wait(5, server)
        server.finished(later)
        said = server.stderr
    assert len({headers["webhook-id"] for _, headers, _ in receiver.told[:4]}) == 1
    assert [path for path, *_ in receiver.told] == [f"/{MARKER}"] * 4 + ["/later"]  # no redirect
    for status in (500, 302, 404):
        assert f"the webhook of job {job_id}: HTTP {status}; trying again in" in said
    assert MARKER not in said


def test_it_is_given_up_after_so_many_tries(
    small_checkpoint: Path,
    tmp_path: Path,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(webhooks, "MAX_TRIES", 3)
    receiver.statuses = [503] * 3
    with local_server(tmp_path, small_checkpoint, ALLOWED) as server:
        server.ready()
        submit(server, receiver.url)
        wait_until(lambda: "HTTP 503; giving up" in server.stderr, "the end")
        submit(server, f"{receiver.url}/other")
        receiver.wait(4, server)
    assert [path for path, *_ in receiver.told] == ["/", "/", "/", "/other"]


def test_what_was_not_delivered_is_delivered_after_a_restart(
    small_checkpoint: Path, tmp_path: Path, receiver: Receiver
) -> None:
    receiver.statuses = [503]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(webhooks, "BACKOFF", Backoff(first=600.0, longest=600.0))
        with local_server(tmp_path, small_checkpoint, ALLOWED) as server:
            server.ready()
            job_id = submit(server, receiver.url)
            receiver.wait(1, server)
    with local_server(tmp_path, small_checkpoint, ALLOWED) as server:
        receiver.wait(2, server)
        assert job_id.encode() in receiver.told[1][2]


# Whose go first.


def test_one_tokens_slow_webhooks_do_not_hold_up_those_of_another(
    small_checkpoint: Path, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "POST_SECONDS", 600.0)
    with local_server(tmp_path, small_checkpoint, TWO_TOKENS) as server:
        server.ready()
        for _ in range(webhooks.AT_ONCE + 2):
            submit(server, f"{receiver.url}/slow")
        wait_until(lambda: receiver.slow >= webhooks.OF_ONE_OWNER, "the slow ones")
        for number in range(3):
            submit(server, f"{receiver.url}/other", token=OTHER_TOKEN)
            receiver.wait(number + 1, server)
        assert receiver.slow == webhooks.OF_ONE_OWNER


def test_one_tokens_slow_names_do_not_keep_those_of_another_from_being_looked_up(
    small_checkpoint: Path, tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "POST_SECONDS", 600.0)
    monkeypatch.setattr(webhooks, "LOOKUPS_OF_ONE_OWNER", 3)
    monkeypatch.setattr(webhooks, "LOOKUP_THREADS", 4)
    ended = threading.Event()

    def wait_for_some(host: str, _port: int) -> list[Any]:
        if host == "slow.example":
            ended.wait()
        return [ipaddress.ip_address("127.0.0.1")]

    monkeypatch.setattr(webhooks, "look_up", wait_for_some)
    port = receiver.url.rpartition(":")[2]
    with local_server(tmp_path, small_checkpoint, TWO_TOKENS) as server:
        server.ready()
        try:
            for _ in range(4):
                submit(server, f"http://slow.example:{port}/")
            wait_until(lambda: "too many names are slow to look up" in server.stderr, "a refusal")
            submit(server, f"http://other.example:{port}/other", token=OTHER_TOKEN)
            receiver.wait(1, server)
        finally:
            ended.set()


# Where it may go.


def test_without_a_secret_a_webhook_is_refused_by_name(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with local_server(tmp_path, small_checkpoint) as server:
        server.ready()
        body = {"input": {"prompt": "hi"}, "webhook": "https://hooks.example"}
        reply = server.post("/run", json=body)
        assert reply.status_code == 422
        assert reply.json()["error"].startswith("webhook: is off on this server")
        assert server.post("/run", json={**body, "webhook": None}).status_code == 200


@pytest.fixture(scope="module")
def public_only(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    with local_server(tmp_path_factory.mktemp("public"), small_checkpoint, PUBLIC_ONLY) as server:
        yield server.ready()


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/",
        "https://user:secret@hooks.example/",
        "https://127.0.0.1/",
        "https://10.1.2.3:8443/",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/",
        "https://[::ffff:127.0.0.1]/",
        "https://[64:ff9b::7f00:1]/",
        "https://[2002:7f00:1::]/",
        "https://[fe80::1%25eth0]/",
        "https://0.0.0.0/",
        "https://224.0.0.1/",
        "https://hooks.example:0/",
        "https://hooks.example:99999/",
        "https://",
        "https:///path",
        "ftp://hooks.example/",
        "file:///etc/passwd",
        "https://hooks.example/ü",
        "https://hooks.example/a b",
        "https://hooks.example/" + "x" * 2048,
        "",
        7,
        ["https://hooks.example/"],
    ],
)
def test_a_url_that_can_not_be_a_webhook_is_refused(public_only: HttpClient, url: Any) -> None:
    body = {"input": {"prompt": "hi"}, "webhook": url}
    reply = public_only.post("/run", json=body)
    assert reply.status_code == 422, reply.text
    assert reply.json()["error"].startswith("webhook: ")
    assert "secret" not in reply.text


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.0.1", False),
        ("100.64.0.1", False),
        ("169.254.169.254", False),
        ("0.0.0.0", False),
        ("255.255.255.255", False),
        ("224.0.0.1", False),
        ("240.0.0.1", False),
        ("192.0.2.1", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("2001:db8::1", False),
        ("2002:a00:1::", False),
        ("2001:0:a00:1::", False),
        ("64:ff9b::a00:1", False),
        ("64:ff9b:1::a00:1", False),
        ("::ffff:0:a00:1", False),
        ("fec0::1", False),
        ("5f00::1", False),
        ("192.0.0.192", False),
        ("192.88.99.1", False),
    ],
)
def test_an_address_is_public_if_everyone_can_reach_it(text: str, public: bool) -> None:
    assert is_public(ipaddress.ip_address(text)) == public


def look_up_as(*addresses: str) -> Callable[[str, int], list[Any]]:
    return lambda _host, _port: [ipaddress.ip_address(address) for address in addresses]


@pytest.mark.parametrize("address", ["127.0.0.1", "::ffff:127.0.0.1", "169.254.169.254", "::1"])
def test_a_name_that_leads_to_a_private_address_is_not_called(
    public_only: HttpClient,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
    address: str,
) -> None:
    monkeypatch.setattr(webhooks, "look_up", look_up_as(address))
    monkeypatch.setattr(webhooks, "MAX_TRIES", 1)
    port = receiver.url.rpartition(":")[2]
    job_id = submit(public_only, f"https://hooks.example:{port}/{MARKER}")
    line = f"the webhook of job {job_id}: its name does not lead to a public address; giving up"
    wait_until(lambda: line in public_only.stderr, "the refusal", watch=public_only.require_running)
    assert receiver.told == []
    assert MARKER not in public_only.stderr
    assert "hooks.example" not in public_only.stderr


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST.", "127.1", "2130706433", "0x7f000001"])
def test_a_name_for_this_machine_is_not_called(
    public_only: HttpClient, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    monkeypatch.setattr(webhooks, "MAX_TRIES", 1)
    port = receiver.url.rpartition(":")[2]
    job_id = submit(public_only, f"https://{host}:{port}/")
    # A resolver may not know every spelling.
    said = re.compile(rf"the webhook of job {job_id}: its name (does not lead to a public|is not)")
    wait_until(lambda: said.search(public_only.stderr) is not None, "the refusal")
    assert receiver.told == []


def test_a_name_that_is_not_known_is_said(
    public_only: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "MAX_TRIES", 1)
    job_id = submit(public_only, "https://" + "x" * 64 + ".example")
    line = f"the webhook of job {job_id}: its name is not known; giving up"
    wait_until(lambda: line in public_only.stderr, "the refusal", watch=public_only.require_running)


# A server whose names take minutes to look up.
SLOW_NAMES: Final = """
import socket, sys, time
from hatespeech.serving.command import main
look_up = socket.getaddrinfo
def slow(host, *more, **named):
    if host == "hooks.example":
        print("looks up", flush=True)
        time.sleep(600)
    return look_up(host, *more, **named)
socket.getaddrinfo = slow
sys.exit(main([]))
"""


@pytest.mark.slow
def test_the_end_of_the_server_does_not_wait_for_a_name(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    environment = {**PUBLIC_ONLY, "PYTHONPATH": str(ROOT)}
    command = ("-c", SLOW_NAMES)
    with http_server(tmp_path, small_checkpoint, environment, command) as server:
        server.ready()
        submit(server, "https://hooks.example/")
        wait_until(lambda: "looks up" in server.stdout, "a name to be looked up")
        server.terminate()
        assert server.wait() == 0


def test_a_name_is_not_looked_up_if_too_many_are_slow(
    public_only: HttpClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "POST_SECONDS", 0.1)
    monkeypatch.setattr(webhooks, "MAX_TRIES", 1)
    ended = threading.Event()

    def wait(_host: str, _port: int) -> list[Any]:
        ended.wait()
        return []

    monkeypatch.setattr(webhooks, "look_up", wait)

    def said(job_id: str, reason: str) -> None:
        line = f"the webhook of job {job_id}: {reason}; giving up"
        wait_until(lambda: line in public_only.stderr, reason, watch=public_only.require_running)

    most = webhooks.LOOKUPS_OF_ONE_OWNER
    try:
        slow = [submit(public_only, "https://x.example/") for _ in range(most)]
        for job_id in slow:
            said(job_id, "TimeoutError")
        said(submit(public_only, "https://y.example/"), "too many names are slow to look up")
    finally:
        ended.set()


def test_the_address_that_was_checked_is_called_with_tls_for_the_name(
    small_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    certificate, key = write_certificate(tmp_path, "hooks.example")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # a proxy would look the name up
    monkeypatch.setattr(webhooks, "look_up", look_up_as("10.9.9.9", "127.0.0.1"))
    monkeypatch.setattr(webhooks, "MAX_TRIES", 1)
    with Receiver(tls) as receiver, local_server(tmp_path, small_checkpoint, ALLOWED) as server:
        server.ready()
        port = receiver.url.rpartition(":")[2]
        submit(server, f"https://hooks.example:{port}/hook")
        receiver.wait(1, server)
        assert receiver.told[0][1]["Host"] == f"hooks.example:{port}"
        other = submit(server, f"https://another.example:{port}/hook")
        wait_until(
            lambda: f"the webhook of job {other}: ConnectError; giving up" in server.stderr,
            "a certificate of another name to be refused",
            watch=server.require_running,
        )
        assert len(receiver.told) == 1


@pytest.mark.parametrize("secret", ["secret", "whsec_", "whsec_c2hvcnQ=", f"{SECRET}!"])
def test_a_bad_secret_stops_the_start_and_is_not_shown(
    small_checkpoint: Path, tmp_path: Path, secret: str
) -> None:
    environment = server_environment(tmp_path, small_checkpoint, {"WEBHOOK_SECRET": secret})
    said = refusal(environment)
    assert said.startswith("error: WEBHOOK_SECRET is not allowed: it must be")
    assert secret == "whsec_" or secret not in said
