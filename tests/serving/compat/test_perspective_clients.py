"""Perspective's published clients, unchanged but for the host, against a server on loopback."""

from __future__ import annotations

from typing import Any, Final

import pytest

from hatespeech.engine.predictor import Predictor
from tests.support.http_client import TOKEN
from tests.support.local_server import LocalServer
from tests.support.other_clients import run_node, run_python

pytestmark = pytest.mark.slow

GOOGLE: Final = "google-api-python-client==2.202.0"
TEXT: Final = "you are scum 👋 and always were"


@pytest.fixture(scope="module")
def toxicity(small_classifier: Predictor) -> float:
    (found,) = small_classifier.score([TEXT])
    hate, abusing, *_ = found.scores  # type: ignore[union-attr]  # the text has scores
    return hate + abusing


def given(server: LocalServer, **more: Any) -> dict[str, Any]:
    return {"url": server.url, "key": TOKEN, "text": TEXT, **more}


BUILD: Final = """
from googleapiclient import discovery, errors
client = discovery.build(
    "commentanalyzer", "v1alpha1", developerKey=key, static_discovery=False,
    discoveryServiceUrl=url + "/$discovery/rest?version=v1alpha1",
)
"""


def test_googles_python_client_discovers_and_analyzes(server: LocalServer, toxicity: float) -> None:
    script = """
body = {"comment": {"text": text}, "requestedAttributes": {"TOXICITY": {}}}
print(json.dumps(client.comments().analyze(body=body).execute()))
"""
    reply = run_python(GOOGLE, BUILD + script, **given(server))
    score = reply["attributeScores"]["TOXICITY"]
    assert score["summaryScore"]["value"] == pytest.approx(toxicity, abs=1e-5)
    assert [(span["begin"], span["end"]) for span in score["spanScores"]] == [(0, len(TEXT) + 1)]


def test_googles_python_client_shows_the_message_and_the_details(server: LocalServer) -> None:
    script = """
body = {"comment": {"text": text}, "requestedAttributes": {"INSULT": {}}}
try:
    client.comments().analyze(body=body).execute()
except errors.HttpError as error:
    print(json.dumps([error.status_code, error.reason, error.error_details[0]["errorType"]]))
"""
    assert run_python(GOOGLE, BUILD + script, **given(server)) == [
        400,
        "Attribute INSULT does not support request languages: en",
        "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE",
    ]


def test_googles_python_client_sends_a_batch_of_a_hundred(
    server: LocalServer, toxicity: float
) -> None:
    script = """
batch, found = client.new_batch_http_request(), {}
def keep(name, reply, error):
    found[name] = [error.status_code, error.reason] if error else reply
for index in range(100):
    body = {
        "comment": {"text": "" if index == 7 else text},
        "requestedAttributes": {"TOXICITY": {}, "SPAM": {}},
        "spanAnnotations": True,
    }
    batch.add(client.comments().analyze(body=body), callback=keep, request_id=f"number {index}")
batch.execute()
print(json.dumps(found))
"""
    before = server.metrics()
    found = run_python(GOOGLE, BUILD + script, **given(server))
    assert len(found) == 100
    assert found.pop("number 7") == [400, "Comment must be non-empty."]
    for reply in found.values():
        score = reply["attributeScores"]["TOXICITY"]["summaryScore"]
        assert score["value"] == pytest.approx(toxicity, abs=1e-5)
    after = server.metrics()
    grown = {name: after[name] - before.get(name, 0) for name in after}
    assert grown["requests_total:200:POST:perspective:/batch"] == 1
    assert grown["protocol_texts_total:perspective"] == 99
    assert grown["errors_total:validation"] == 1


def test_googles_python_client_is_told_of_a_wrong_key_in_each_part(server: LocalServer) -> None:
    script = """
batch, found = client.new_batch_http_request(), []
body = {"comment": {"text": text}, "requestedAttributes": {"TOXICITY": {}}}
batch.add(client.comments().analyze(body=body), callback=lambda *done: found.append(done))
batch.execute()
((_, reply, error),) = found
print(json.dumps([reply, error.status_code, error.error_details[0]["reason"]]))
"""
    reply = run_python(GOOGLE, BUILD + script, **given(server, key="wrong"))
    assert reply == [None, 400, "API_KEY_INVALID"]


PYPERSPECTIVE: Final = """
import importlib
module = importlib.import_module("PyPerspective.Perspective")
module.base_url = url + "/v1alpha1/comments:analyze"
"""


def test_pyperspective_reads_spans_and_languages(server: LocalServer, toxicity: float) -> None:
    script = """
comment = module.Perspective(key).get_score(text, tests=["TOXICITY", "IDENTITY_ATTACK"])
score = comment["toxicity"]
print(json.dumps({
    "score": score.score, "spans": [[span.start, span.end] for span in score.spans],
    "languages": [comment.requests_langs, comment.detected_langs],
}))
"""
    found = run_python("PyPerspective==1.0.4", PYPERSPECTIVE + script, **given(server))
    assert found["score"] == pytest.approx(toxicity, abs=1e-5)
    assert found["spans"] == [[0, len(TEXT) + 1]]
    assert found["languages"][0] == ["en"]


def test_pyperspective_knows_a_wrong_key(server: LocalServer) -> None:
    script = """
try:
    module.Perspective("wrong")
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""
    found = run_python("PyPerspective==1.0.4", PYPERSPECTIVE + script, **given(server))
    assert found == ["InvalidAuthKey", "Invalid Auth Key Provided!"]


# Both clients name Google's host in their code: their HTTP library is told to go elsewhere.
REDIRECT: Final = """
const axios = require('axios');
(axios.default || axios).interceptors.request.use((request) => {
  request.url = request.url.replace('https://commentanalyzer.googleapis.com', given.url);
  return request;
});
"""


def test_perspective_api_client_of_npm(server: LocalServer, toxicity: float) -> None:
    script = """
const Perspective = require('perspective-api-client');
const client = new Perspective({ apiKey: given.key });
const reply = await client.analyze(given.text);
const refused = await client.analyze(given.text, { attributes: ['insult'] }).catch((e) => e);
console.log(JSON.stringify([reply.attributeScores.TOXICITY.summaryScore.value, refused.message]));
"""
    value, message = run_node("perspective-api-client@3.1.0", REDIRECT + script, **given(server))
    assert value == pytest.approx(toxicity, abs=1e-5)
    assert message == "Attribute INSULT does not support request languages: en"


def test_conversationais_client_of_npm(server: LocalServer, toxicity: float) -> None:
    script = """
const { Client } = require('@conversationai/perspectiveapi-js-client');
console.log(JSON.stringify(await new Client(given.key).getScores(given.text)));
"""
    package = "@conversationai/perspectiveapi-js-client@1.0.1"
    found = run_node(package, REDIRECT + script, **given(server))
    assert found["TOXICITY"] == pytest.approx(toxicity, abs=1e-5)
    assert 0 < found["SPAM"] < 1


def test_googleapis_common_discovers_and_analyzes(server: LocalServer, toxicity: float) -> None:
    script = """
const { Discovery } = require('googleapis-common');
const address = given.url + '/$discovery/rest?version=v1alpha1';
const endpoint = await new Discovery({ debug: false, includePrivate: false }).discoverAPI(address);
const client = endpoint({ auth: given.key });
const request = {
  comment: { text: given.text }, context: { entries: [] }, clientToken: 'a token',
  languages: ['en'], requestedAttributes: { TOXICITY: {} }, spanAnnotations: true,
};
const { data } = await client.comments.analyze({ resource: request });
const failed = await client.comments.analyze({ resource: {} }).catch((error) => error);
console.log(JSON.stringify([data, failed.message]));
"""
    package = "googleapis-common@8.0.3"
    reply, message = run_node(package, script, **given(server))
    score = reply["attributeScores"]["TOXICITY"]
    assert score["summaryScore"]["value"] == pytest.approx(toxicity, abs=1e-5)
    assert reply["clientToken"] == "a token"
    assert message == "Comment must be non-empty."
