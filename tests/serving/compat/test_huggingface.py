"""Hugging Face's two shapes: published clients, Discourse's request, and what is refused."""

from __future__ import annotations

from typing import Any, Final

import pytest
import requests

from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.labels import LABELS
from tests.support.bad_inputs import MARKER
from tests.support.http_client import BEARER, TOKEN, HttpClient
from tests.support.other_clients import run_node, run_python

MODELS: Final = "/models/any-team/any-name"
TEXT: Final = "nobody asked you, go back to sleep"
NAMES: Final = {"Unhealthy", "Backend", "Overloaded", "Validation"}


def ask(server: HttpClient, path: str, body: Any, **options: Any) -> requests.Response:
    return server.post(path, json=body, **options)


def ranked(classifier: Predictor, text: str) -> list[dict[str, Any]]:
    (found,) = classifier.score([text])
    assert isinstance(found, Prediction)
    pairs = sorted(zip(LABELS, found.scores, strict=True), key=lambda pair: -pair[1])
    return [{"label": label, "score": pytest.approx(score, abs=1e-5)} for label, score in pairs]


def error_of(reply: requests.Response, status: int) -> str:
    assert reply.status_code == status, reply.text
    assert MARKER not in reply.text
    assert reply.json().keys() == {"error", "error_type"}
    assert reply.json()["error_type"] in NAMES
    return str(reply.json()["error"])


def test_models_answers_with_a_list_for_each_text(
    server: HttpClient, small_classifier: Predictor
) -> None:
    wanted = ranked(small_classifier, TEXT)
    reply = ask(server, MODELS, {"inputs": TEXT})
    assert reply.json() == [wanted]
    assert reply.headers["X-Model-Version"] == small_classifier.model_id
    many = ask(server, MODELS, {"inputs": [TEXT, "good"], "parameters": {"top_k": 2}}).json()
    assert many == [wanted[:2], ranked(small_classifier, "good")[:2]]


def test_predict_answers_flat_for_a_text_and_with_lists_for_a_batch(
    server: HttpClient, small_classifier: Predictor
) -> None:
    wanted = ranked(small_classifier, TEXT)
    for inputs in (TEXT, [TEXT]):
        assert ask(server, "/predict", {"inputs": inputs}).json() == wanted
    batch = ask(server, "/predict", {"inputs": [[TEXT], ["good"]]}).json()
    assert batch == [wanted, ranked(small_classifier, "good")]


def test_a_request_as_discourse_sends_it_is_answered(
    server: HttpClient, small_classifier: Predictor
) -> None:
    headers = {**BEARER, "X-API-KEY": TOKEN, "Content-Type": "application/json"}
    text = TEXT + " and so on" * 2000
    reply = ask(server, "/predict", {"inputs": text, "truncate": True}, headers=headers)
    assert reply.json() == ranked(small_classifier, text[:10_000])
    left = {"inputs": text, "truncate": True, "truncation_direction": "Left"}
    assert ask(server, "/predict", left).json() == ranked(small_classifier, text[-10_000:])


def test_info_says_which_model_answers(server: HttpClient, small_classifier: Predictor) -> None:
    info = server.get("/info").json()
    assert f"{info['model_id']}@{info['model_sha']}" == small_classifier.model_id
    assert info["model_type"]["classifier"]["id2label"] == dict(
        zip(map(str, range(4)), LABELS, strict=True)
    )
    assert info["max_client_batch_size"] == 1024


def test_a_name_with_a_version_pins_a_checkpoint(
    server: HttpClient, small_classifier: Predictor
) -> None:
    served = f"/models/{small_classifier.model_id}"
    assert ask(server, served, {"inputs": "a b"}).status_code == 200
    message = error_of(ask(server, "/models/mini@000000000000", {"inputs": MARKER}), 404)
    assert small_classifier.model_id in message


@pytest.mark.parametrize("name", ["..%2F..%2Fscore", "a/../../metrics", "%00", "é", "x" * 4000])
def test_any_other_name_is_a_name_and_no_path(server: HttpClient, name: str) -> None:
    url = f"{server.url}/models/{name}"
    request = requests.Request("POST", url, json={"inputs": "good"}, headers=BEARER).prepare()
    request.url = url  # requests would tidy it
    reply = requests.Session().send(request, timeout=60)
    assert [len(each) for each in reply.json()] == [4]


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (MODELS, {}, 422, "inputs: must be a text, or a list of texts"),
        (MODELS, {"inputs": ""}, 422, "inputs: must be a text, or a list of texts"),
        (MODELS, {"inputs": [MARKER, 7]}, 422, "inputs: must be a text, or a list of texts"),
        (MODELS, {"inputs": []}, 422, "inputs: must hold from 1 to 1024 texts"),
        (
            MODELS,
            {"inputs": "\u200b"},
            422,
            "inputs: holds nothing but white space or invisible characters",
        ),
        (
            MODELS,
            {"inputs": MARKER * 2000},
            413,
            "inputs: holds a text of more than 10000 characters",
        ),
        (
            MODELS,
            {"inputs": MARKER, "parameters": {"function_to_apply": "sigmoid"}},
            422,
            "parameters.function_to_apply: may be softmax alone",
        ),
        (
            MODELS,
            {"inputs": MARKER, "parameters": {"top_k": True}},
            422,
            "parameters.top_k: must be a whole number from 1",
        ),
        (MODELS, {"inputs": MARKER, "parameters": []}, 422, "parameters: must be an object"),
        (MODELS, [MARKER], 422, "body: must be a JSON object"),
        (
            "/predict",
            {"inputs": [MARKER, MARKER]},
            422,
            "inputs: holds a pair of sentences; a batch is a list of lists of one text",
        ),
        (
            "/predict",
            {"inputs": [[MARKER], [MARKER, MARKER]]},
            422,
            "inputs: holds a pair of sentences; a batch is a list of lists of one text",
        ),
        (
            "/predict",
            {"inputs": [[MARKER], {"a": 1}]},
            422,
            "inputs: holds a pair of sentences; a batch is a list of lists of one text",
        ),
        ("/predict", {"inputs": [[7]]}, 422, "inputs: must be a text, or a list of texts"),
        (
            "/predict",
            {"inputs": MARKER, "raw_scores": True},
            422,
            "raw_scores: are not known; only probabilities are",
        ),
        (
            "/predict",
            {"inputs": MARKER, "truncation_direction": MARKER},
            422,
            "truncation_direction: must be Left or Right",
        ),
    ],
)
def test_every_refusal_has_teis_form_and_quotes_nothing(
    server: HttpClient, path: str, body: Any, status: int, message: str
) -> None:
    assert error_of(ask(server, path, body), status) == message


def test_a_token_is_needed(server: HttpClient) -> None:
    for path in (MODELS, "/predict", f"/predict?key={TOKEN}"):
        error_of(ask(server, path, {"inputs": MARKER}, headers={"X-API-Key": "wrong"}), 401)
    error_of(server.get("/info", headers={}), 401)


# Published clients.


@pytest.mark.slow
def test_hugging_faces_python_client(server: HttpClient, small_classifier: Predictor) -> None:
    script = """
from huggingface_hub import InferenceClient
client = InferenceClient(model=url, token=key)
found = [[each.label, each.score] for each in client.text_classification(text)]
two = client.text_classification(text, top_k=2, function_to_apply="softmax")
try:
    client.text_classification(text, function_to_apply="sigmoid")
except Exception as error:
    refused = str(error)
print(json.dumps([found, len(two), refused]))
"""
    given = {"url": server.url + MODELS, "key": TOKEN, "text": TEXT}
    found, two, refused = run_python("huggingface_hub==2.4.0", script, **given)
    wanted = ranked(small_classifier, TEXT)
    assert [{"label": label, "score": score} for label, score in found] == wanted
    assert two == 2
    assert "may be softmax alone" in refused


@pytest.mark.slow
def test_hugging_faces_javascript_client(server: HttpClient, small_classifier: Predictor) -> None:
    script = """
const { InferenceClient } = require('@huggingface/inference');
const client = new InferenceClient(given.key, { endpointUrl: given.url });
const found = await client.textClassification({ inputs: given.text });
const refused = await client.textClassification({ inputs: '' }).catch((error) => error);
console.log(JSON.stringify([found, refused.message]));
"""
    given = {"url": server.url + MODELS, "key": TOKEN, "text": TEXT}
    found, message = run_node("@huggingface/inference@4.13.30", script, **given)
    assert found == ranked(small_classifier, TEXT)
    assert "inputs: must be a text" in message
