"""What holds for every protocol of another service: guards, privacy, versions, limits of time."""

from __future__ import annotations

import itertools
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from hatespeech.errors import ValidationError
from hatespeech.serving.compat.lenient import parse_object
from hatespeech.serving.compat.texts import version_headers
from tests.support.bad_inputs import MARKER
from tests.support.http_client import TOKEN, HttpClient
from tests.support.local_server import local_server

# A good request of each protocol, and what its error holds of a reason.
ROUTES: Final[Mapping[str, tuple[str, dict[str, Any]]]] = {
    "perspective": (
        "/v1alpha1/comments:analyze",
        {"comment": {"text": MARKER}, "requestedAttributes": {"TOXICITY": {}}},
    ),
    "openai": ("/v1/moderations", {"input": MARKER}),
    "huggingface": ("/models/any", {"inputs": MARKER}),
    "litellm": ("/beta/litellm_basic_guardrail_api", {"texts": [MARKER]}),
}
PATHS: Final = [*(path for path, _ in ROUTES.values()), "/predict", "/batch"]


def reason(reply: requests.Response) -> str:
    """Return the message of an error of any form."""
    error = reply.json()["error"]
    return str(error["message"] if isinstance(error, dict) else error)


@pytest.mark.parametrize("name", ROUTES)
def test_each_text_is_counted_for_its_protocol(server: HttpClient, name: str) -> None:
    path, body = ROUTES[name]
    before = server.metrics().get(f"protocol_texts_total:{name}", 0)
    reply = server.post(path, json=body)
    assert reply.status_code == 200, reply.text
    assert server.metrics()[f"protocol_texts_total:{name}"] == before + 1
    assert reply.headers["X-Mapping-Version"] == "1"
    assert reply.headers["X-Model-Version"] == server.get("/").json()["model"]


def test_the_card_names_every_protocol(server: HttpClient) -> None:
    assert list(server.get("/").json()["protocols"]) == list(ROUTES)


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_too_large_is_refused_in_the_protocols_form(
    server: HttpClient, path: str
) -> None:
    reply = server.post(path, data=b"x" * 20_971_521)
    assert reply.status_code == 413
    assert reason(reply) == "body: is larger than 20971520 bytes"


def test_no_log_holds_a_text_or_a_key_at_any_level(
    small_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with local_server(tmp_path, small_checkpoint, {"LOG_LEVEL": "DEBUG"}) as server:
        server.ready()
        bodies = [b"{" + MARKER.encode(), *(json.dumps(body) for _, body in ROUTES.values())]
        for path, body, key in itertools.product(PATHS, bodies, (TOKEN, f"wrong-{TOKEN}")):
            reply = server.post(f"{path}?key={key}&x={MARKER}", data=body, headers={})
            assert TOKEN not in reply.text
            assert reply.status_code == 200 or MARKER not in reply.text
        theirs = [record for record in caplog.records if not record.name.startswith("urllib3")]
        logged = server.stderr + "".join(record.getMessage() for record in theirs)
        assert " POST /v1/moderations 401 " in logged or " POST unmatched 401 " in logged
        assert TOKEN not in logged
        assert MARKER not in logged


def test_while_the_model_loads_each_protocol_says_so_in_its_form(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "hatespeech.serving.served_model.ServedModel.start", lambda _: None
    )  # it never ends loading
    with local_server(tmp_path, small_checkpoint) as server:
        server.wait_ping(204)
        for name, (path, body) in ROUTES.items():
            reply = server.post(path, json=body)
            assert reply.status_code == 503, name
            assert reason(reply) == "the model is being loaded; try again"
            assert reply.headers["Retry-After"] == "5"


def test_a_name_that_no_header_can_hold_is_quoted() -> None:
    assert version_headers("mini@00", "1")["X-Model-Version"] == "mini@00"
    assert version_headers("größe\n@1", "1")["X-Model-Version"] == "gr%C3%B6%C3%9Fe%0A@1"


def test_no_more_keys_get_quotes_than_a_body_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten million of them, in a body that is refused in the end, would take four seconds."""
    body = b"{a: 1, b: 2, c: 3, d: 4, e: 5}"
    assert len(parse_object(body)) == 5
    monkeypatch.setattr("hatespeech.serving.compat.lenient.MAX_JSON_PARTS", 2)
    with pytest.raises(ValidationError):
        parse_object(body)


@pytest.mark.parametrize("raw", [b'"' + b'\\"' * 200_000, b"a" * 400_000, b"{a" + b" " * 400_000])
def test_a_body_without_quotes_takes_linear_time(raw: bytes) -> None:
    started = time.process_time()
    with pytest.raises(ValidationError):
        parse_object(raw)
    assert time.process_time() - started < 2  # quadratic time takes minutes
