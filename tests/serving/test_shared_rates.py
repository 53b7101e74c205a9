"""One limit for several servers, counted in a real Redis."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest

from hatespeech.errors import SettingsError
from hatespeech.serving.guards import rate_counts
from hatespeech.serving.guards.rate_counts import open_counts
from hatespeech.serving.settings import ServerSettings
from tests.support.http_client import BEARER, OTHER_TOKEN, TOKEN, HttpClient
from tests.support.local_server import LocalServer, local_server
from tests.support.ports import free_port
from tests.support.services.redis import PASSWORD, Redis, redis

pytestmark = pytest.mark.slow

LIMIT: Final = 20


@pytest.fixture
def counter(tmp_path: Path) -> Iterator[Redis]:
    with redis(tmp_path) as server:
        yield server


@contextlib.contextmanager
def two_servers(
    folder: Path, model_dir: Path, url: str, **more: str
) -> Iterator[list[LocalServer]]:
    # A long window: only the servers' requests count, not how fast they come.
    settings = {"RATE_LIMIT": f"{LIMIT}/day", "RATE_LIMIT_STORAGE": url, **more}
    with contextlib.ExitStack() as running:
        servers = []
        for name in "ab":
            (folder / name).mkdir()
            server = local_server(folder / name, model_dir, settings)
            servers.append(running.enter_context(server))
        yield servers


def statuses(servers: list[LocalServer], count: int) -> list[int]:
    """Ask the servers in turn for a path that costs nothing; return the statuses."""
    return [servers[i % len(servers)].get("/nowhere").status_code for i in range(count)]


def test_two_servers_share_one_limit(
    counter: Redis, tmp_path: Path, small_checkpoint: Path
) -> None:
    with two_servers(tmp_path, small_checkpoint, counter.url) as servers:
        assert statuses(servers, LIMIT + 4) == [404] * LIMIT + [429] * 4
        reply = servers[0].get("/nowhere")
        assert int(reply.headers["Retry-After"]) >= 1
        assert reply.headers["RateLimit-Remaining"] == "0"
        assert reply.json()["error_type"] == "rate_limited"
        # Another token has a limit of its own.
        other = {"Authorization": f"Bearer {OTHER_TOKEN}"}
        assert servers[1].get("/nowhere", headers=other).status_code == 404
        assert "RATE_LIMIT_STORAGE" not in servers[0].stderr + servers[1].stderr


def test_texts_are_counted_together_too(
    counter: Redis, tmp_path: Path, small_checkpoint: Path
) -> None:
    with two_servers(tmp_path, small_checkpoint, counter.url, RATE_LIMIT_COUNTS="texts") as servers:
        for server in servers:
            server.ready()
        first = servers[0].post("/score", json={"texts": ["a"] * 12})
        second = servers[1].post("/score", json={"texts": ["a"] * 5})
        left = [int(reply.headers["RateLimit-Remaining"]) for reply in (first, second)]
        assert left == [LIMIT - 12, LIMIT - 17]
        assert servers[0].post("/score", json={"texts": ["a"] * 5}).status_code == 429


def test_while_redis_is_away_each_server_counts_by_itself(
    counter: Redis, tmp_path: Path, small_checkpoint: Path
) -> None:
    with (
        patch.object(rate_counts, "AGAIN_SECONDS", 0.0),
        two_servers(tmp_path, small_checkpoint, counter.url) as servers,
    ):
        assert statuses(servers, LIMIT // 2) == [404] * (LIMIT // 2)
        counter.stop()
        assert statuses(servers, 2 * LIMIT + 2) == [404] * 2 * LIMIT + [429] * 2
        counter.start()
        assert statuses(servers, LIMIT + 2) == [404] * LIMIT + [429] * 2
    said = servers[0].stderr + servers[1].stderr  # both log where the second one does
    assert said.count("each server counts by itself") == 2
    assert said.count("Redis answers again") == 2
    for secret in (PASSWORD, TOKEN, "127.0.0.1"):
        assert secret not in said


@pytest.mark.parametrize("bad", ["memcached://x", "redis://", "redis:// x", "memory://"])
def test_a_url_of_anything_else_is_refused(bad: str) -> None:
    with pytest.raises(SettingsError, match="RATE_LIMIT_STORAGE is not allowed: it must be redis"):
        ServerSettings.from_environment({"RATE_LIMIT_STORAGE": bad})


def test_a_wrong_url_is_one_line_that_names_the_setting_and_no_secret(counter: Redis) -> None:
    for url, said in (
        (counter.url.replace(PASSWORD, "wrong-secret"), "wrong password"),
        ("redis://:se/cret@127.0.0.1/0", "is not a URL that redis reads"),
    ):
        with pytest.raises(SettingsError) as caught:
            open_counts(url)
        assert str(caught.value).startswith("RATE_LIMIT_STORAGE=redis://… ")
        assert said in str(caught.value)
        assert "secret" not in str(caught.value)
        assert "cret" not in str(caught.value).replace("redis://…", "")


def test_a_redis_that_is_away_at_the_start_is_no_reason_not_to_start(
    tmp_path: Path, small_checkpoint: Path
) -> None:
    settings = {
        "RATE_LIMIT": "2/day",
        "RATE_LIMIT_STORAGE": f"redis://127.0.0.1:{free_port()}/0",
    }
    with local_server(tmp_path, small_checkpoint, settings) as server:
        client: HttpClient = server
        assert [client.get("/nowhere", headers=BEARER).status_code for _ in range(3)] == [
            404,
            404,
            429,
        ]
        assert "ConnectionError" in server.stderr
