"""Scores over HTTP, what is counted of them, and what the OpenAPI document promises."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import regex
import requests

from hatespeech.contract import Prediction
from hatespeech.engine.encoder import INVISIBLE
from hatespeech.engine.predictor import Predictor
from hatespeech.labels import FLAGS, LABELS
from hatespeech.serving.openapi import VISIBLE
from tests.support.bad_inputs import BAD_INPUTS, BAD_ITEMS
from tests.support.checkpoints import SENTENCES, THRESHOLDS
from tests.support.http_client import BEARER, SECONDS, TOKEN, HttpClient, together
from tests.support.local_server import local_server
from tests.support.processes.worker import clean_environment


@pytest.fixture(scope="module")
def server(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    folder = tmp_path_factory.mktemp("score")
    settings = {"SUGGESTIONS_FILE": str(folder / "suggestions.jsonl")}
    with local_server(folder, small_checkpoint, settings) as server:
        yield server.ready()


def expected_scores(classifier: Predictor, texts: list[str]) -> list[list[float]]:
    scores = []
    for result in classifier.score(texts):
        assert isinstance(result, Prediction)
        scores.append(list(result.scores))
    return scores


@pytest.mark.parametrize("name", ["text", "prompt"])
def test_one_text_is_scored_by_get_and_by_post(
    server: HttpClient, small_classifier: Predictor, name: str
) -> None:
    text = "so\u00e9 & 100% +1 👋"
    (expected,) = expected_scores(small_classifier, [text])
    by_get = server.get("/score", params={name: text, "explain": "true"}).json()
    by_post = server.post("/score", json={name: text, "explain": True}).json()
    for reply in (by_get, by_post):
        assert reply["text"] == text
        assert [reply[label] for label in LABELS] == pytest.approx(expected, abs=1e-5)
        assert [word["word"] for word in reply["words"]] == text.split()
        assert reply["model"] == small_classifier.model_id


def test_get_explains_by_name(server: HttpClient) -> None:
    asked = {"text": "you are an idiot", "explain": "leave_one_out"}
    by_get = server.get("/score", params=asked).json()["words"]
    by_post = server.post("/score", json=asked).json()["words"]
    for one, other in zip(by_get, by_post, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_get_takes_recommended_thresholds_by_name(server: HttpClient) -> None:
    text = "nobody asked for your opinion, go back to sleep"
    flagged = {}
    for name in ("balanced", "strict"):
        query = {"text": text, "thresholds": name}
        reply = server.get("/score", params=query).json()
        least: Any = THRESHOLDS[name]
        assert reply["flagged"] == [flag for flag in FLAGS if reply[flag] >= least.get(flag, 2)]
        assert reply["flagged"] == server.post("/score", json=query).json()["flagged"]
        flagged[name] = reply["flagged"]
    assert flagged["balanced"] != flagged["strict"]


@pytest.mark.parametrize("case", BAD_INPUTS, ids=lambda case: case.name)
def test_what_the_contract_refuses_has_its_status_and_quotes_nothing(
    server: HttpClient, case: Any
) -> None:
    reply = server.post("/score", json=case.input)
    if case.input is None:  # which the client library takes for no body at all
        reply = server.post(
            "/score", data="null", headers={**BEARER, "Content-Type": "application/json"}
        )
    code, _, message = case.error.partition(": ")
    assert reply.status_code == {"validation": 422, "too_large": 413}[code]
    assert reply.json() == {"error": message, "error_type": code}


def test_a_bad_item_among_many_fails_alone(server: HttpClient) -> None:
    texts = ["good", *(text for text, _ in BAD_ITEMS), "morning", "half \ud83d"]
    reply = server.post("/score", data=json.dumps({"texts": texts}), headers=json_headers())
    items = reply.json()["items"]
    for index, (_, error) in enumerate(BAD_ITEMS, start=1):
        assert items[index]["error"] == error.format(place=f"texts[{index}]")
    assert {"label" in items[0], "label" in items[-2], items[-1]["text"] == "half \ufffd"} == {True}


def json_headers() -> dict[str, str]:
    return {**BEARER, "Content-Type": "application/json"}


def test_callers_at_the_same_time_share_batches_and_get_their_own(
    server: HttpClient, small_classifier: Predictor
) -> None:
    texts = [
        [f"{SENTENCES[(i + j) % len(SENTENCES)]} {i} {j}" for j in range(8)] for i in range(32)
    ]
    before = server.metrics()

    def ask(i: int) -> Any:
        with requests.Session() as session:
            return [
                session.post(
                    f"{server.url}/score", json={"texts": texts[i]}, headers=BEARER, timeout=SECONDS
                ).json()
                for _ in range(4)
            ]

    for i, replies in enumerate(together(32, ask)):
        expected = expected_scores(small_classifier, texts[i])
        for reply in replies:
            for item, text, scores in zip(reply["items"], texts[i], expected, strict=True):
                assert item["text"] == text
                assert [item[label] for label in LABELS] == pytest.approx(scores, abs=1e-5)
    after = server.metrics()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["requests_total:200:POST:http:/score"] == 128
    assert grown["request_seconds_count:POST:http:/score"] == 128
    assert grown["texts_total"] == grown["sequences_total"] == 32 * 8 * 4
    assert grown["text_windows_count"] == 32 * 8 * 4
    assert grown["shared_batches_total"] > 0
    assert grown["batches_total"] < 128
    assert grown["tokens_total"] > 0 == grown["padding_total"]  # on a CPU, nothing is padded
    assert after["queue_texts"] == 0


def test_warnings_are_counted_by_code(server: HttpClient) -> None:
    before = server.metrics()
    server.post("/score", json={"texts": ["доброе утро", "good", "早上好", ""]})
    after = server.metrics()
    name = "warnings_total:unread"
    assert after[name] - before.get(name, 0) == 2


def test_errors_are_counted_by_code_those_of_items_too(server: HttpClient) -> None:
    before = server.metrics()
    server.post("/score", json={"texts": ["", "a", ""]})
    server.post("/score", json={"text": ""})
    server.post("/score", json={"text": "a" * 20_000})
    after = server.metrics()
    grown = {
        code: after[f"errors_total:{code}"] - before.get(f"errors_total:{code}", 0)
        for code in ("validation", "too_large")
    }
    assert grown == {"validation": 3, "too_large": 1}


# What the OpenAPI document promises.


def test_the_document_is_what_a_platform_imports(server: HttpClient) -> None:
    document = server.get("/openapi.json", headers={}).json()
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "Hate-speech detection"
    operations = {
        (method.upper(), path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    assert sorted(operation["operationId"] for operation in operations.values()) == sorted(
        [
            "card",
            "ping",
            "health",
            "metrics",
            "score_get",
            "score",
            "score_file",
            "run",
            "runsync",
            "status",
            "status_post",
            "status_sync",
            "status_sync_post",
            "stream",
            "stream_post",
            "retry",
            "purge_queue",
            "cancel",
            "perspective_analyze",
            "perspective_batch",
            "perspective_suggestscore",
            "perspective_discovery",
            "openai_moderations",
            "huggingface_models",
            "huggingface_predict",
            "huggingface_info",
            "litellm_guardrail",
        ]
    )
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"] == {"type": "http", "scheme": "bearer"}
    assert schemes["apiKey"]["name"] == "X-API-Key"
    assert document["security"] == [{"bearer": []}, {"apiKey": []}]
    error = {"$ref": "#/components/schemas/ErrorReply"}
    for place, operation in operations.items():
        is_open = place[1] in ("/ping", "/health", "/batch", "/$discovery/rest")
        assert operation.get("security") == ([] if is_open else None)
        if not is_open and operation["tags"][0] in ("score", "service", "jobs"):
            assert operation["responses"]["401"]["content"]["application/json"]["schema"] == error
    examples = operations["POST", "/score"]["requestBody"]["content"]["application/json"][
        "examples"
    ]
    for example in examples.values():
        assert server.post("/score", json=example["value"]).status_code == 200


def test_the_documented_pattern_is_what_the_classifier_calls_visible() -> None:
    pattern = re.compile(VISIBLE)
    for code in [c for c in range(0x10000) if not 0xD800 <= c < 0xE000]:
        assert bool(pattern.search(chr(code))) != bool(INVISIBLE.fullmatch(chr(code))), hex(code)
    assert regex.search(VISIBLE, "👋")


# That a key came with another body before is beyond a schema: let each be used once. So is that a
# list of ids is as long as that of texts: let null stand for those that lack. So is what
# Scores-Or-Error makes an error: send its bad values only (tests/serving/jobs has the good ones).
SCHEMATHESIS_HOOKS: Final = """
import itertools
import re

import schemathesis

counter = itertools.count()


@schemathesis.hook
def before_call(context, case, kwargs):
    key = case.headers.get("Idempotency-Key")
    if isinstance(key, str) and re.fullmatch("[!-~]{1,200}", key):
        case.headers["Idempotency-Key"] = f"{key}-{next(counter)}"
    if re.fullmatch("[0-9]+", str(case.headers.get("Scores-Or-Error"))):
        del case.headers["Scores-Or-Error"]
    body = case.body if isinstance(case.body, dict) else {}
    texts = body.get("texts", body.get("prompts"))
    if isinstance(body.get("ids"), list) and isinstance(texts, list):
        body["ids"] = (body["ids"] + [None] * len(texts))[: len(texts)]
"""
# 413 is not among what schemathesis takes for a refusal by default. What a file's bytes mean, and
# that its part must have a name, no schema can say: tests/serving/uploads/test_score_file.py does.
# Other services have 400 for a wrong key, ignore what they do not know, and refuse what their own
# documents do not say: tests/serving/compat. Which jobs can be retried depends on their state.
SCHEMATHESIS_CONFIG: Final = """
[checks]
negative_data_rejection.expected-statuses = [401, 404, 405, 413, 415, 422, 429]

[[operations]]
include-path-regex = "^/(score/file|retry/.*)$"
checks.positive_data_acceptance.enabled = false

[[operations]]
include-path-regex = "^/(batch$|v1alpha1/|v1/|models/|predict$|info$|beta/)"
checks.ignored_auth.enabled = false
checks.negative_data_rejection.enabled = false
checks.positive_data_acceptance.enabled = false
"""


@pytest.mark.slow
def test_schemathesis_finds_the_document_true(server: HttpClient, tmp_path: Path) -> None:
    hooks = tmp_path / "once_hooks.py"
    hooks.write_text(SCHEMATHESIS_HOOKS)
    (tmp_path / "schemathesis.toml").write_text(SCHEMATHESIS_CONFIG)
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "schemathesis.cli",
            "run",
            f"{server.url}/openapi.json",
            f"--header=Authorization: Bearer {TOKEN}",
            "--max-examples=5",
            "--seed=7",
            "--generation-database=none",
            "--workers=1",
            "--request-timeout=30",
            "--no-color",
        ],
        cwd=tmp_path,
        env={
            **clean_environment(tmp_path, None),
            "SCHEMATHESIS_HOOKS": "once_hooks",
            "PYTHONPATH": str(tmp_path),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert "Tested: 27" in run.stdout, run.stdout
