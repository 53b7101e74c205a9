"""Where several callers have tokens, none of them can fill the queue alone."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.support.faulty_device import Switches, faulty_device
from tests.support.http_client import OTHER_TOKEN
from tests.support.local_server import local_server
from tests.support.processes.worker import wait_until

Body = Callable[[list[str]], dict[str, Any]]
ENVIRONMENT = {"MAX_QUEUE_TEXTS": "100", "MAX_TEXTS_PER_REQUEST": "90"}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/score", lambda texts: {"texts": texts}),
        ("/v1/moderations", lambda texts: {"input": texts}),
        ("/predict", lambda texts: {"inputs": [[text] for text in texts]}),
    ],
)
def test_a_caller_leaves_as_much_of_the_queue_as_it_takes(
    path: str, body: Body, small_checkpoint: Path, tmp_path: Path
) -> None:
    switches = Switches(tmp_path)
    other = {"Authorization": f"Bearer {OTHER_TOKEN}"}
    with (
        faulty_device(switches),
        local_server(tmp_path, small_checkpoint, ENVIRONMENT) as server,
        ThreadPoolExecutor(2) as pool,
    ):
        server.ready()
        switches.hold()
        try:
            first = pool.submit(server.post, "/score", json={"text": "good morning"})
            wait_until(lambda: switches.held, "the device", watch=server.require_running)
            assert server.post(path, json=body(["good"] * 60)).status_code == 429
            second = pool.submit(server.post, path, json=body(["good"] * 40), headers=other)
            wait_until(lambda: server.metrics()["queue_texts"] == 41, "the second caller")
        finally:
            switches.release()
        assert (first.result().status_code, second.result().status_code) == (200, 200)
