"""LiteLLM's generic guardrail: what it sends, what blocks, and the reason that it shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest
import requests

from tests.support.bad_inputs import MARKER
from tests.support.checkpoints import SENTENCES
from tests.support.http_client import TOKEN, HttpClient
from tests.support.local_server import local_server
from tests.support.other_clients import run_python

PATH: Final = "/beta/litellm_basic_guardrail_api"
PARAMETERS: Final = "additional_provider_specific_params"
NUMBERS: Final = (
    "thresholds: must be numbers from 0 to 1 for some of hate, abusing, neutral, spam, toxic"
)


def check(server: HttpClient, body: Any) -> requests.Response:
    return server.post(PATH, json=body, headers={"x-api-key": TOKEN})


def toxic(server: HttpClient, text: str) -> float:
    return float(server.post("/score", json={"text": text}).json()["toxic"])


def test_a_text_that_reaches_a_threshold_blocks_and_the_reason_names_no_word(
    server: HttpClient,
) -> None:
    texts = [MARKER, *SENTENCES[:3]]
    values = [toxic(server, text) for text in texts]
    least = max(values)
    first = values.index(least)
    body = {"texts": texts, PARAMETERS: {"thresholds": {"toxic": least - 0.001}}}
    reply = check(server, body)
    assert reply.json()["action"] == "BLOCKED"
    assert reply.json()["blocked_reason"].startswith(f"texts[{first}]: toxic is {least:.2f}, the ")
    assert MARKER not in reply.text
    body = {"texts": texts, PARAMETERS: {"thresholds": {"toxic": min(1.0, least + 0.001)}}}
    assert check(server, body).json() == {"action": "NONE"}


def test_the_recommended_threshold_of_toxic_decides_by_default(server: HttpClient) -> None:
    for text in SENTENCES:
        scored = server.post("/score", json={"text": text, "thresholds": "balanced"}).json()
        action = check(server, {"texts": [text], PARAMETERS: None}).json()["action"]
        assert action == ("BLOCKED" if "toxic" in scored["flagged"] else "NONE")
        named = check(server, {"texts": [text], PARAMETERS: {"thresholds": "balanced"}})
        assert named.json()["action"] == ("BLOCKED" if scored["flagged"] else "NONE")


@pytest.mark.parametrize("texts", [None, [], [""], ["\u200b", " "]])
def test_what_holds_nothing_to_read_passes(server: HttpClient, texts: Any) -> None:
    assert check(server, {"texts": texts, "images": ["x"]}).json() == {"action": "NONE"}


def test_a_chat_of_many_texts_counts_as_the_requests_of_ours_that_they_would_take(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    limits = {"RATE_LIMIT": "4/hour", "MAX_TEXTS_PER_REQUEST": "2"}
    with local_server(tmp_path, small_checkpoint, limits) as server:
        reply = check(server.ready(), {"texts": ["good"] * 5})
        assert (reply.status_code, reply.headers["RateLimit-Remaining"]) == (200, "1")
        assert check(server, {"texts": ["good"] * 3}).status_code == 429


def test_a_long_prompt_is_read_in_pieces(server: HttpClient) -> None:
    long = "good morning everyone " * 1000 + SENTENCES[0]
    body = {"texts": ["good", long], PARAMETERS: {"thresholds": {"neutral": 0}}}
    assert check(server, {"texts": [long]}).status_code == 200
    assert check(server, body).json()["blocked_reason"].startswith("texts[0]: neutral is")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"texts": MARKER}, "texts: must be a list of strings"),
        ({"texts": [7]}, "texts: must be a list of strings"),
        ({PARAMETERS: MARKER}, f"{PARAMETERS}: must be an object"),
        (
            {PARAMETERS: {"thresholds": MARKER}},
            "thresholds: there are none of this name",
        ),
        (
            {PARAMETERS: {"thresholds": {MARKER: 1}}},
            NUMBERS,
        ),
        ({PARAMETERS: {"thresholds": {}}}, NUMBERS),
        ({"texts": ["a" * 1_000_001]}, "texts: 1000001 characters in all, the limit is 1000000"),
        (
            {PARAMETERS: {"thresholds": {"hate": 7}}},
            NUMBERS,
        ),
    ],
)
def test_a_request_that_cannot_be_decided_is_refused(
    server: HttpClient, body: Any, message: str
) -> None:
    reply = check(server, body)
    assert reply.json()["error"] == message
    assert reply.status_code == (413 if "in all" in message else 422)


@pytest.mark.slow
def test_litellms_guardrail_blocks_and_its_model_takes_our_moderations(server: HttpClient) -> None:
    script = """
import asyncio
from litellm.proxy.guardrails.guardrail_hooks.generic_guardrail_api import GenericGuardrailAPI
from litellm.types.llms.openai import OpenAIModerationResponse
found = [OpenAIModerationResponse(**moderated).results[0].flagged]
for thresholds in ({"neutral": 0}, {"neutral": 1}):
    guardrail = GenericGuardrailAPI(
        api_base=url, api_key=key, guardrail_name="ours", event_hook="pre_call",
        additional_provider_specific_params={"thresholds": thresholds},
    )
    call = guardrail.apply_guardrail(
        inputs={"texts": [text]}, request_data={}, input_type="request"
    )
    try:
        found.append(asyncio.run(call)["texts"])
    except Exception as error:
        found.append(str(error))
print(json.dumps(found))
"""
    moderated = server.post("/v1/moderations", json={"input": "good morning"}).json()
    given = {"url": server.url, "key": TOKEN, "text": "good morning", "moderated": moderated}
    flagged, blocked, passed = run_python("litellm==1.110.2", script, **given)
    assert flagged == moderated["results"][0]["flagged"]
    assert "neutral is" in blocked
    assert passed == ["good morning"]
