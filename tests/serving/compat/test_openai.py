"""OpenAI's moderations: published clients, every map and key, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any, Final

import pytest
import requests

from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from tests.support.bad_inputs import MARKER
from tests.support.checkpoints import SENTENCES, THRESHOLDS
from tests.support.http_client import BEARER, TOKEN, HttpClient
from tests.support.local_server import local_server
from tests.support.other_clients import run_node, run_python

PATH: Final = "/v1/moderations"
TEXT: Final = "nobody asked you, go back to sleep"
CATEGORIES: Final = {
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    "sexual",
    "sexual/minors",
    "violence",
    "violence/graphic",
}
MAPS: Final = ("categories", "category_scores", "category_applied_input_types")
ASSESSED: Final = {"hate": "hate", "harassment": "abusing"}


def moderate(server: HttpClient, body: Any, **options: Any) -> requests.Response:
    return server.post(PATH, json=body, **options)


def scores(classifier: Predictor, text: str) -> dict[str, float]:
    (found,) = classifier.score([text])
    assert isinstance(found, Prediction)
    return dict(zip(("hate", "abusing", "neutral", "spam"), found.scores, strict=True))


def error_of(reply: requests.Response, status: int) -> dict[str, Any]:
    assert reply.status_code == status, reply.text
    assert MARKER not in reply.text
    (error,) = reply.json().values()
    assert error.keys() == {"message", "type", "param", "code"}
    return dict(error)


def test_every_map_holds_every_category_and_the_unassessed_are_empty(
    server: HttpClient, small_classifier: Predictor
) -> None:
    reply = moderate(server, {"input": TEXT, "model": "omni-moderation-latest"})
    body = reply.json()
    assert body.keys() == {"id", "model", "results", "mapping"}
    assert body["id"].startswith("modr-")
    assert body["model"] == small_classifier.model_id == reply.headers["X-Model-Version"]
    (result,) = body["results"]
    wanted = scores(small_classifier, TEXT)
    assert result["scores"] == pytest.approx(wanted, abs=1e-5)
    for name in MAPS:
        assert result[name].keys() == CATEGORIES
    for category in CATEGORIES - ASSESSED.keys():
        assert [result[name][category] for name in MAPS] == [False, 0.0, []]
    for category, label in ASSESSED.items():
        assert result["category_scores"][category] == pytest.approx(wanted[label], abs=1e-5)
        assert result["category_applied_input_types"][category] == ["text"]


def test_the_recommended_thresholds_decide_what_is_flagged(server: HttpClient) -> None:
    least: Any = THRESHOLDS["balanced"]
    results = moderate(server, {"input": SENTENCES}).json()["results"]
    for result in results:
        for category, label in ASSESSED.items():
            value = result["scores"][label]
            top = max(result["scores"], key=result["scores"].get) == label
            wanted = value >= least[label] if label in least else top
            assert result["categories"][category] == wanted
        assert result["flagged"] == any(result["categories"].values())
    assert {result["flagged"] for result in results} == {True, False}


def test_a_list_of_strings_has_a_result_each_and_a_list_of_objects_has_one(
    server: HttpClient, small_classifier: Predictor
) -> None:
    many = moderate(server, {"input": ["good", TEXT]}).json()["results"]
    assert [result["scores"] for result in many] == [
        pytest.approx(scores(small_classifier, text), abs=1e-5) for text in ("good", TEXT)
    ]
    parts = [{"type": "text", "text": "good"}, {"type": "text", "text": TEXT}]
    (one,) = moderate(server, {"input": parts}).json()["results"]
    wanted = scores(small_classifier, f"good\n{TEXT}")
    assert one["scores"] == pytest.approx(wanted, abs=1e-5)


def test_a_name_with_a_version_pins_a_checkpoint(
    server: HttpClient, small_classifier: Predictor
) -> None:
    for name in (None, "", "text-moderation-stable", "whatever", small_classifier.model_id):
        assert moderate(server, {"input": "a b", "model": name}).status_code == 200
    error = error_of(moderate(server, {"input": MARKER, "model": "mini@000000000000"}), 404)
    assert (error["code"], error["param"]) == ("model_not_found", "model")
    assert small_classifier.model_id in error["message"]


@pytest.mark.parametrize(
    ("value", "param", "code"),
    [
        (None, "input", "missing_required_parameter"),
        ("", "input", "empty_string"),
        (["good", " \u200b"], "input[1]", "empty_string"),
        (7, "input", "invalid_type"),
        ([], "input", "invalid_type"),
        ({"type": "text", "text": MARKER}, "input", "invalid_type"),
        ([MARKER, {"type": "text", "text": MARKER}], "input[1]", "invalid_type"),
        ([{"type": "text", "text": MARKER}, MARKER], "input[1]", "invalid_type"),
        ([{"type": "text", "text": [MARKER]}], "input[0]", "invalid_type"),
        ([{"type": MARKER}], "input[0]", "invalid_type"),
        ([[1, 2]], "input[0]", "invalid_type"),
        ([{"type": "image_url", "image_url": {"url": MARKER}}], "input", "no_images"),
        (["a"] * 1025, "input", "array_above_max_length"),
        (MARKER * 10_000, "input", "string_above_max_length"),
    ],
)
def test_every_refusal_names_its_place_and_quotes_nothing(
    server: HttpClient, value: Any, param: str, code: str
) -> None:
    error = error_of(moderate(server, {"input": value}), 400)
    assert error["type"] == "invalid_request_error"
    assert (error["param"], error["code"]) == (param, code)


def test_other_errors_have_openais_form_too(server: HttpClient) -> None:
    wrong = error_of(
        moderate(server, {"input": MARKER}, headers={"Authorization": "Bearer x"}), 401
    )
    assert wrong["code"] == "invalid_api_key"
    assert TOKEN not in wrong["message"]
    key = error_of(moderate(server, {"input": "a"}, params={"key": TOKEN}, headers={}), 401)
    assert key["code"] == "invalid_api_key"
    assert error_of(server.get("/v1/models"), 404)["type"] == "invalid_request_error"
    assert error_of(server.get(PATH), 405)["type"] == "invalid_request_error"
    broken = server.post(PATH, data=b"{", headers={**BEARER, "Content-Type": "application/json"})
    assert error_of(broken, 400)["param"] == "body"
    assert error_of(moderate(server, [MARKER]), 400)["param"] == "body"


def test_the_operator_chooses_the_thresholds_and_may_let_spam_flag(
    small_checkpoint: Path, small_classifier: Predictor, tmp_path: Path
) -> None:
    known = [scores(small_classifier, text) for text in SENTENCES]
    least = {label: median(each[label] for each in known) for label in ("hate", "spam")}
    chosen = {"name": "ours", "version": "1", "model": small_classifier.model_id}
    thresholds, mapping = tmp_path / "thresholds.json", tmp_path / "mapping.toml"
    thresholds.write_text(json.dumps({**chosen, "thresholds": least}))
    mapping.write_text('version = "2"\nthresholds = "ours"\n[openai]\nspam_flags = true\n')
    settings = {
        "COMPAT_MAPPING": str(mapping),
        "THRESHOLDS_FILE": str(thresholds),
        "RATE_LIMIT": "1/hour",
        "COMPAT": "openai",
    }
    with local_server(tmp_path, small_checkpoint, settings) as server:
        server.ready()
        body = moderate(server, {"input": SENTENCES}).json()
        assert body["mapping"] == "1+2"
        spam_alone = 0
        for result in body["results"]:
            assert result["categories"]["hate"] == (result["scores"]["hate"] >= least["hate"])
            spam = result["scores"]["spam"] >= least["spam"]
            assert result["flagged"] == (spam or any(result["categories"].values()))
            spam_alone += spam and not any(result["categories"].values())
        assert 0 < spam_alone < len(SENTENCES)
        error = error_of(moderate(server, {"input": MARKER}), 429)
        assert (error["type"], error["code"]) == ("requests", "rate_limit_exceeded")


# Published clients.

PYTHON: Final = """
import openai
client = openai.OpenAI(base_url=url + "/v1", api_key=key, max_retries=0)
"""


@pytest.mark.slow
def test_openais_python_client(server: HttpClient, small_classifier: Predictor) -> None:
    script = """
reply = client.moderations.create(input=[text, "good"], model="omni-moderation-latest")
parts = client.moderations.create(input=[{"type": "text", "text": text}])
try:
    client.moderations.create(input=[{"type": "image_url", "image_url": {"url": "x"}}])
except openai.BadRequestError as error:
    refused = [error.code, error.param, error.type, str(error)]
try:
    client.moderations.create(input=text, model="mini@000000000000")
except openai.NotFoundError as error:
    unknown = error.code
try:
    client.with_options(api_key="wrong").moderations.create(input=text)
except openai.AuthenticationError as error:
    wrong = str(error)
print(json.dumps({
    "scores": [result.category_scores.hate for result in reply.results],
    "applied": reply.results[0].category_applied_input_types.sexual,
    "missing": [name for name, value in reply.results[0].categories if value is None],
    "parts": parts.results[0].category_scores.harassment, "model": reply.model,
    "refused": refused, "unknown": unknown, "wrong": wrong, "id": bool(reply._request_id),
}))
"""
    found = run_python("openai==3.57.0", PYTHON + script, url=server.url, key=TOKEN, text=TEXT)
    wanted = scores(small_classifier, TEXT)
    assert found["scores"][0] == pytest.approx(wanted["hate"], abs=1e-5)
    assert found["parts"] == pytest.approx(wanted["abusing"], abs=1e-5)
    assert (found["applied"], found["missing"], found["id"]) == ([], [], True)
    assert found["model"] == small_classifier.model_id
    code, param, kind, shown = found["refused"]
    assert (code, param, kind) == ("no_images", "input", "invalid_request_error")
    assert "this server reads texts alone" in shown
    assert found["unknown"] == "model_not_found"
    assert "Send a token of this server" in found["wrong"]


@pytest.mark.slow
def test_openais_javascript_client(server: HttpClient, small_classifier: Predictor) -> None:
    script = """
const { OpenAI } = require('openai');
const client = new OpenAI({ baseURL: given.url + '/v1', apiKey: given.key, maxRetries: 0 });
const reply = await client.moderations.create({ input: given.text });
const refused = await client.moderations.create({ input: '' }).catch((error) => error);
console.log(JSON.stringify([reply.results[0], refused.status, refused.message]));
"""
    given = {"url": server.url, "key": TOKEN, "text": TEXT}
    result, status, message = run_node("openai@6.49.0", script, **given)
    wanted = scores(small_classifier, TEXT)
    assert result["category_scores"]["hate"] == pytest.approx(wanted["hate"], abs=1e-5)
    assert status == 400
    assert "input: " in message
