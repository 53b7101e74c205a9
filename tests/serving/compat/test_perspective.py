"""Perspective as its clients use it: keys, bodies, spans, languages, errors, batches."""

from __future__ import annotations

import json
import stat
import time
from collections.abc import Mapping
from email.parser import BytesParser
from pathlib import Path
from typing import Any, Final

import pytest
import requests

from hatespeech.engine.predictor import Predictor
from hatespeech.serving.compat.perspective.errors import CommentError
from hatespeech.serving.compat.perspective.requests import MAX_BYTES, Comment, read_comment
from hatespeech.serving.compat.perspective.sentences import MOST_SPANS, sentences, utf16_places
from tests.paths import ROOT
from tests.support.bad_inputs import MARKER, UntouchedText
from tests.support.http_client import TOKEN, HttpClient
from tests.support.local_server import LocalServer, local_server, refusal
from tests.support.processes.server import server_environment

ANALYZE: Final = "/v1alpha1/comments:analyze"
TOXICITY: Final[dict[str, Any]] = {"TOXICITY": {}}
RUSSIAN: Final = "доброе утро, как у вас сегодня дела"
GERMAN: Final = "guten Morgen, wie geht es Ihnen heute, mein lieber Freund"


def analyze(server: HttpClient, body: Any, **options: Any) -> requests.Response:
    given = {"params": {"key": TOKEN}, "headers": {}, **options}
    data = body if isinstance(body, str | bytes) else json.dumps(body)
    return server.post(ANALYZE, data=data, **given)


def comment(text: str, attributes: Mapping[str, Any] = TOXICITY, **more: Any) -> dict[str, Any]:
    return {"comment": {"text": text}, "requestedAttributes": attributes, **more}


def refused(reply: requests.Response, status: int = 400) -> dict[str, Any]:
    """Return the error of a reply, after checking that it has Google's form."""
    error: dict[str, Any] = reply.json()["error"]
    assert (reply.status_code, error["code"]) == (status, status)
    assert error.keys() == {"code", "message", "status", "details"}
    assert MARKER not in reply.text
    return error


def error_type(reply: requests.Response) -> tuple[str, str]:
    error = refused(reply)
    return error["details"][0]["errorType"], error["message"]


def expected(classifier: Predictor, text: str) -> dict[str, float]:
    (found,) = classifier.score([text])
    hate, abusing, _, spam = found.scores  # type: ignore[union-attr]  # the text has scores
    return {"TOXICITY": hate + abusing, "IDENTITY_ATTACK": hate, "SPAM": spam}


# Keys.


@pytest.mark.parametrize(
    ("query", "headers"),
    [
        (f"?key={TOKEN}", {}),
        (f"?prettyPrint=false&key={TOKEN}&alt=json&$.xgafv=2", {}),
        ("", {"X-Goog-Api-Key": TOKEN}),
        ("", {"X-API-Key": TOKEN}),
        ("?key=", {"Authorization": f"Bearer {TOKEN}"}),
    ],
)
def test_a_key_may_be_where_googles_clients_put_it(
    server: HttpClient, query: str, headers: Mapping[str, str]
) -> None:
    reply = server.post(ANALYZE + query, data=json.dumps(comment("hello")), headers=headers)
    assert reply.status_code == 200, reply.text


def test_the_key_of_a_query_counts_on_perspectives_paths_alone(server: HttpClient) -> None:
    for path in ("/score", "/", "/metrics", "/v1alpha2/comments:analyze", "/batches"):
        reply = server.get(path, params={"key": TOKEN, "text": "a"}, headers={})
        assert (reply.status_code, reply.json()["error_type"]) == (401, "unauthorized"), path


def test_a_wrong_key_and_a_missing_one_are_told_apart(server: HttpClient) -> None:
    wrong = refused(analyze(server, comment(MARKER), params={"key": "wrong"}))
    assert wrong["message"] == "API key not valid. Please pass a valid API key."
    assert (wrong["status"], wrong["details"][0]["reason"]) == (
        "INVALID_ARGUMENT",
        "API_KEY_INVALID",
    )
    missing = refused(analyze(server, comment(MARKER), params={}), 403)
    assert missing["status"] == "PERMISSION_DENIED"
    assert "?key=" in missing["message"]


def test_a_key_is_neither_logged_nor_counted_nor_echoed(server: LocalServer) -> None:
    for key in (TOKEN, "a-wrong-key-that-nobody-may-see"):
        for path in (ANALYZE, "/v1alpha1/nothing", "/$discovery/rest", "/batch"):
            reply = server.post(f"{path}?key={key}", data=b"{", headers={})
            assert key not in reply.text + str(reply.headers)
        metrics = server.get("/metrics").text
        assert key not in server.stderr
        assert key not in metrics


# Requests.


def test_the_three_attributes_are_the_models_scores(
    server: HttpClient, small_classifier: Predictor
) -> None:
    text = "nobody asked you, go back to sleep"
    reply = analyze(server, comment(text, {"TOXICITY": {}, "IDENTITY_ATTACK": {}, "SPAM": None}))
    body = reply.json()
    values = {name: each["summaryScore"]["value"] for name, each in body["attributeScores"].items()}
    assert values == pytest.approx(expected(small_classifier, text), abs=1e-5)
    for each in body["attributeScores"].values():
        (span,) = each["spanScores"]
        assert span == {"begin": 0, "end": len(text), "score": each["summaryScore"]}
    assert body["hatespeech"]["model"] == small_classifier.model_id
    assert body["hatespeech"]["mapping"] == "1" == reply.headers["X-Mapping-Version"]
    assert reply.headers["X-Model-Version"] == small_classifier.model_id


CASES: Final = json.loads((ROOT / "tests" / "data" / "perspective_requests.json").read_text())


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["client"])
def test_requests_as_clients_send_them_are_answered(server: HttpClient, case: Any) -> None:
    reply = server.post(
        ANALYZE, params={"key": TOKEN}, data=case["body"].encode(), headers=case["headers"]
    )
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert next(iter(body)) == "attributeScores"  # peRspective looks into what comes first
    for name, score in body["attributeScores"].items():
        assert score["spanScores"], name  # peRspective reads these alone
        assert 0 <= score["summaryScore"]["value"] <= 1
    assert sorted(body["attributeScores"]) == case["attributes"]
    assert body["languages"] == case.get("languages", ["en"])


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "x"])
def test_the_type_of_a_body_does_not_matter(server: HttpClient, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    assert analyze(server, comment("hello"), headers=headers).status_code == 200


def test_null_is_unset_and_unknown_fields_are_ignored(server: HttpClient) -> None:
    body = comment("hello", {"TOXICITY": {"scoreType": None, "scoreThreshold": None, "x": 1}})
    for name in ("languages", "context", "clientToken", "spanAnnotations", "doNotStore", "x"):
        body[name] = None
    body["comment"]["type"] = None
    assert analyze(server, body).json().keys() == {
        "attributeScores",
        "languages",
        "detectedLanguages",
        "hatespeech",
    }


def test_keys_without_quotes_are_read_and_texts_are_left_alone(
    server: HttpClient, small_classifier: Predictor
) -> None:
    text = 'he said: "key: value", {a: b}'
    body = f"{{comment: {{text: {json.dumps(text)}}}, requestedAttributes: {{TOXICITY:{{}}}} }}"
    value = analyze(server, body).json()["attributeScores"]["TOXICITY"]["summaryScore"]["value"]
    assert value == pytest.approx(expected(small_classifier, text)["TOXICITY"], abs=1e-5)


def test_a_threshold_leaves_lower_scores_out(server: HttpClient) -> None:
    attributes = {"TOXICITY": {"scoreThreshold": 1.5}, "SPAM": {"scoreThreshold": 0}}
    assert list(analyze(server, comment("hello", attributes)).json()["attributeScores"]) == ["SPAM"]


def test_a_client_token_comes_back(server: HttpClient) -> None:
    for token, back in (("42", "42"), ("", ""), ("half \ud83d", "half \ufffd")):
        reply = analyze(server, comment("hello", clientToken=token))
        assert reply.json()["clientToken"] == back


def test_a_version_pins_a_checkpoint(server: HttpClient, small_classifier: Predictor) -> None:
    digits = small_classifier.model_id.partition("@")[2]
    for version in (digits, small_classifier.model_id):
        key = f"TOXICITY@{version}"
        assert list(analyze(server, comment("a b", {key: {}})).json()["attributeScores"]) == [key]
    for version in ("", "1", digits[:-1], "mini@" + digits):
        kind, message = error_type(analyze(server, comment("a b", {f"TOXICITY@{version}": {}})))
        assert kind == "INVALID_REQUEST"
        assert message.startswith(f"Unknown requested attribute: TOXICITY@{version}")
        assert small_classifier.model_id in message


# Spans.


def test_spans_are_sentences_in_utf16_units_each_with_its_own_score(
    server: HttpClient, small_classifier: Predictor
) -> None:
    text = "  👋👋 good day. You are scum!\nné 👍🏽 “so.”  "
    body = analyze(server, comment(text, spanAnnotations=True)).json()
    units = text.encode("utf-16-le")
    spans = body["attributeScores"]["TOXICITY"]["spanScores"]
    found = [units[2 * span["begin"] : 2 * span["end"]].decode("utf-16-le") for span in spans]
    assert found == ["👋👋 good day.", "You are scum!", "né 👍🏽 “so.”"]
    for sentence, span in zip(found, spans, strict=True):
        wanted = expected(small_classifier, sentence)["TOXICITY"]
        assert span["score"] == {"value": pytest.approx(wanted, abs=1e-5), "type": "PROBABILITY"}
    whole = expected(small_classifier, text)["TOXICITY"]
    summary = body["attributeScores"]["TOXICITY"]["summaryScore"]
    assert summary["value"] == pytest.approx(whole, abs=1e-5)


def test_a_sentence_that_holds_nothing_to_read_has_no_span(server: HttpClient) -> None:
    spans = analyze(server, comment("good.\n\u200b\n\ufe0f", spanAnnotations=True)).json()[
        "attributeScores"
    ]["TOXICITY"]["spanScores"]
    assert [(span["begin"], span["end"]) for span in spans] == [(0, 5)]


def test_many_sentences_share_spans() -> None:
    text = "Go on. " * 1000
    found = sentences(text)
    assert len(found) <= MOST_SPANS
    assert (found[0][0], found[-1][1]) == (0, len(text) - 1)
    assert sentences("") == []
    assert utf16_places("a👋b👋", [(0, 1), (1, 2), (2, 4)]) == [(0, 1), (1, 3), (3, 6)]


@pytest.mark.parametrize(
    "text", ["." * 20_480, ".)" * 10_240, " " * 20_480 + "a", '."' + '"' * 20_000]
)
def test_sentences_take_linear_time(text: str) -> None:
    started = time.process_time()
    sentences(text)
    assert time.process_time() - started < 1  # quadratic time takes minutes


# Languages.


def test_the_language_is_the_identifiers(server: HttpClient) -> None:
    english = "good morning everyone, what a lovely day this is"
    body = analyze(server, comment(english)).json()
    assert (body["languages"], body["detectedLanguages"]) == (["en"], ["en"])
    short = analyze(server, comment("hello")).json()  # the identifier was not asked
    assert (short["languages"], short["detectedLanguages"]) == (["en"], [])


@pytest.mark.parametrize(("text", "code"), [(RUSSIAN, "ru"), (GERMAN, "de")])
def test_a_comment_in_another_language_is_refused_unless_the_request_says_english(
    server: HttpClient, text: str, code: str
) -> None:
    error = refused(analyze(server, comment(text)))
    assert error["message"] == f"Attribute TOXICITY does not support request languages: {code}"
    assert error["details"][0]["languageNotSupportedByAttributeError"] == {
        "detectedLanguages": [code],
        "attribute": "TOXICITY",
    }
    body = analyze(server, comment(text, languages=["en-GB"])).json()
    assert body["languages"] == ["en-GB"]
    assert body["hatespeech"]["warnings"]


def test_a_language_that_the_model_lacks_is_refused(server: HttpClient) -> None:
    error = refused(analyze(server, comment("hello", languages=["en", "de"])))
    assert error["message"] == "Attribute TOXICITY does not support request languages: de"
    assert error["details"][0]["languageNotSupportedByAttributeError"] == {
        "requestedLanguages": ["de"],
        "attribute": "TOXICITY",
    }


# Errors.


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (b"", "COMMENT_EMPTY", "Comment must be non-empty."),
        (comment(""), "COMMENT_EMPTY", "Comment must be non-empty."),
        (comment(" \u200b\n"), "COMMENT_EMPTY", "Comment must be non-empty."),
        (comment("é" * 10_241), "COMMENT_TOO_LONG", "Comment text too long."),
        (comment(MARKER, {}), "NO_REQUESTED_ATTRIBUTES", "Missing requested_attributes"),
        (
            {"comment": {"text": MARKER}},
            "NO_REQUESTED_ATTRIBUTES",
            "Missing requested_attributes",
        ),
        (
            comment(MARKER, {"toxicity": {}}),
            "INVALID_REQUEST",
            "Unknown requested attribute: toxicity",
        ),
        (
            comment(MARKER, {"TOXICITY": {"scoreType": "RAW"}}),
            "INVALID_REQUEST",
            "Requested score type RAW is not supported by attribute TOXICITY",
        ),
        (
            {"comment": {"text": MARKER, "type": "HTML"}, "requestedAttributes": TOXICITY},
            "INVALID_REQUEST",
            "Currently, only 'PLAIN_TEXT' comments are supported",
        ),
        (
            {"comment": {"text": MARKER, "type": MARKER}, "requestedAttributes": TOXICITY},
            "INVALID_REQUEST",
            "Unknown text type",
        ),
        (
            comment(MARKER, context={"entries": [{}], "articleAndParentComment": {"article": {}}}),
            "INVALID_REQUEST",
            "Context can have either entries or article_and_parent_comment, but both fields were "
            "populated.",
        ),
        ({"comment": MARKER}, "INVALID_REQUEST", "Invalid value at 'comment'"),
        ({"comment": {"text": [MARKER]}}, "INVALID_REQUEST", "Invalid value at 'comment.text'"),
        (
            comment(MARKER, {"TOXICITY": {"scoreThreshold": MARKER}}),
            "INVALID_REQUEST",
            "Invalid value at 'requestedAttributes.TOXICITY.scoreThreshold'",
        ),
        (
            comment(MARKER, dict.fromkeys(map(str, range(1000)))),
            "INVALID_REQUEST",
            "Invalid value at 'requestedAttributes': it holds more than 100",
        ),
        (
            comment(MARKER, spanAnnotations="yes"),
            "INVALID_REQUEST",
            "Invalid value at 'spanAnnotations'",
        ),
        (
            comment(MARKER, languages=[MARKER * 9]),
            "INVALID_REQUEST",
            "Invalid value at 'languages': a BCP 47 tag, such as en, is needed",
        ),
        (b'{"comment": ', "INVALID_REQUEST", "body: is not valid JSON at line 1"),
        (b"[]", "INVALID_REQUEST", "body: must be a JSON object"),
        (b"\xff", "INVALID_REQUEST", "body: is not UTF-8"),
        (b"[" * 100_000, "INVALID_REQUEST", "body: is nested too deeply"),
        (b'{"comment": NaN}', "INVALID_REQUEST", "body: is not valid JSON"),
    ],
    ids=lambda value: value if isinstance(value, str) and value.isupper() else None,
)
def test_every_refusal_has_googles_form_and_quotes_nothing(
    server: HttpClient, body: Any, kind: str, message: str
) -> None:
    assert error_type(analyze(server, body)) == (kind, message)


def test_an_attribute_that_the_model_does_not_tell_is_refused_or_dropped(
    server: HttpClient,
) -> None:
    both: dict[str, Any] = {"SEVERE_TOXICITY": {}, "TOXICITY": {}}
    error = refused(analyze(server, comment("hello", both)))
    assert error["message"] == "Attribute SEVERE_TOXICITY does not support request languages: en"
    detail = error["details"][0]
    assert detail["languageNotSupportedByAttributeError"]["attribute"] == "SEVERE_TOXICITY"
    dropped = analyze(server, comment("hello", both, dropUnsupportedAttributes=True)).json()
    assert list(dropped["attributeScores"]) == ["TOXICITY"]
    alone = comment("hello", {"INSULT": {}}, dropUnsupportedAttributes=True)
    assert error_type(analyze(server, alone))[0] == "LANGUAGE_NOT_SUPPORTED_BY_ATTRIBUTE"


def test_a_comment_of_20480_bytes_is_read_whatever_other_texts_may_have(
    server: HttpClient,
) -> None:
    text = ("many words " * 2000)[:20_480]
    assert server.post("/score", json={"text": text}).status_code == 413
    (span,) = analyze(server, comment(text)).json()["attributeScores"]["TOXICITY"]["spanScores"]
    assert span["end"] == 20_480


@pytest.mark.parametrize(
    ("method", "path", "status", "name"),
    [
        ("GET", ANALYZE, 405, "UNIMPLEMENTED"),
        ("POST", "/v1alpha1/comments:delete", 404, "NOT_FOUND"),
        ("POST", "/$discovery/rest", 405, "UNIMPLEMENTED"),
    ],
)
def test_other_paths_and_methods_have_googles_form_too(
    server: HttpClient, method: str, path: str, status: int, name: str
) -> None:
    reply = server.request(method, path, params={"key": TOKEN}, headers={})
    assert refused(reply, status)["status"] == name


def test_a_web_page_may_send_googles_header(server: HttpClient) -> None:
    headers = {
        "Origin": "https://example.org",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-goog-api-key,content-type",
    }
    assert server.request("OPTIONS", ANALYZE, headers=headers).status_code == 200


# The discovery document.


def test_discovery_says_where_the_request_came_to(server: HttpClient) -> None:
    path = "/$discovery/rest?version=v1alpha1&key=whatever"
    document = server.get(path, headers={"Host": "scores.example:8443"}).json()
    assert document["rootUrl"] == "http://scores.example:8443/"
    assert (document["name"], document["batchPath"]) == ("commentanalyzer", "batch")
    assert "auth" not in document


# Batches.


def part(body: Any, key: str = TOKEN, path: str = ANALYZE, method: str = "POST") -> str:
    line = f"{method} {path}?key={key}&alt=json HTTP/1.1"
    return f"{line}\nContent-Type: application/json\nHost: h\n\n{json.dumps(body)}"


def multipart(parts: list[str], newline: str = "\n") -> bytes:
    lines = []
    for index, each in enumerate(parts):
        lines += ["--=b=", "Content-Type: application/http", f"Content-ID: <u + {index}>", "", each]
    return newline.join([*lines, "--=b=--", ""]).encode()


LONG_HEAD: Final = "a: b\n" * 1000
LONG_HEAD_MESSAGE: Final = "part: has a head larger than 4096 bytes"


def send_batch(server: HttpClient, body: bytes, **options: Any) -> requests.Response:
    headers = {"Content-Type": 'multipart/mixed; boundary="=b="'}
    return server.post("/batch", data=body, **{"headers": headers, **options})


def answers(reply: requests.Response) -> dict[str, tuple[int, Any]]:
    """Return status and body of each part of a reply, by the id of its request."""
    assert reply.status_code == 200, reply.text
    head = f"Content-Type: {reply.headers['Content-Type']}\r\n\r\n".encode()
    found = {}
    for each in BytesParser().parsebytes(head + reply.content).walk():
        if each.get_content_type() == "application/http":
            inner = each.get_payload()
            assert isinstance(inner, str)
            status, body = inner.split(" ", 2)[1], inner.split("\r\n\r\n", 1)[1]
            found[str(each["Content-ID"])] = int(status), json.loads(body)
    return found


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_each_part_of_a_batch_has_its_own_answer(
    server: HttpClient, small_classifier: Predictor, newline: str
) -> None:
    parts = [
        part(comment("you are scum.\n\nGo away", spanAnnotations=True)),
        part(comment("hello"), key="wrong"),
        part(comment("hello"), path="/score"),
        part({"comment": {}}),
        "not HTTP at all" if newline == "x" else part(comment("hello"), path="/batch"),
        part(comment(RUSSIAN)),
        part(comment("hello")),
    ]
    found = answers(send_batch(server, multipart(parts, newline)))
    assert [found[f"<response-u + {index}>"][0] for index in range(7)] == [
        *(200, 400, 404, 400, 404, 400, 200)
    ]
    first = found["<response-u + 0>"][1]["attributeScores"]["TOXICITY"]
    assert len(first["spanScores"]) == 2
    wanted = expected(small_classifier, "hello")["TOXICITY"]
    last = found["<response-u + 6>"][1]["attributeScores"]["TOXICITY"]["summaryScore"]
    assert last["value"] == pytest.approx(wanted, abs=1e-5)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "A batch must hold from 1 to 1000 parts"),
        (b"--=b=--", "A batch must hold from 1 to 1000 parts"),
        (multipart(["x"] * 1001), "A batch must hold from 1 to 1000 parts"),
        (multipart(["nonsense"]), "part: is not an HTTP request"),
        (b"--=b=\n\n" + b"--=b=\n" * 3, "part: is not an HTTP request"),
        (multipart([f"POST / HTTP/1.1\n{LONG_HEAD}\n"]), LONG_HEAD_MESSAGE),
        (b"--=b=\n" + LONG_HEAD.encode() + b"\nPOST / HTTP/1.1\n\n", LONG_HEAD_MESSAGE),
    ],
)
def test_a_batch_that_cannot_be_read_is_refused(
    server: HttpClient, body: bytes, message: str
) -> None:
    assert error_type(send_batch(server, body)) == ("INVALID_REQUEST", message)


def test_a_batch_needs_a_boundary(server: HttpClient) -> None:
    for kind in ("multipart/mixed", "multipart/form-data; boundary=x", "application/json", ""):
        reply = send_batch(server, multipart(["x"]), headers={"Content-Type": kind})
        assert error_type(reply)[1] == "A batch must be multipart/mixed, with a boundary"


@pytest.mark.parametrize("value", ["=b=", '"=b="', '"=b="; charset=utf-8', "=b= ;x"])
def test_a_boundary_may_be_quoted_or_not(server: HttpClient, value: str) -> None:
    headers = {"Content-Type": f"Multipart/Mixed; Boundary={value}"}
    reply = send_batch(server, multipart([part(comment("hello"))]), headers=headers)
    assert [status for status, _ in answers(reply).values()] == [200]


def test_a_content_type_that_takes_long_to_read_is_refused(server: HttpClient) -> None:
    headers = {"Content-Type": 'multipart/mixed; boundary="=b="; x="' + ";" * 5000}
    reply = send_batch(server, multipart([part(comment("hello"))]), headers=headers)
    message = "Content-Type is longer than 256 characters"
    assert error_type(reply) == ("INVALID_REQUEST", message)


def test_a_part_within_a_part_is_not_read(server: HttpClient) -> None:
    inner = multipart([part(comment("hello"))]).decode().replace("=b=", "=c=")
    nested = f'POST /batch?key={TOKEN} HTTP/1.1\nContent-Type: multipart/mixed; boundary="=c="\n\n'
    ((status, body),) = answers(send_batch(server, multipart([nested + inner]))).values()
    assert (status, body["error"]["status"]) == (404, "NOT_FOUND")


def test_a_large_batch_of_a_stranger_is_not_read_to_its_end(server: HttpClient) -> None:
    parts = [part(comment("hello " * 3000), key="wrong") for _ in range(100)]
    assert refused(send_batch(server, multipart(parts)), 403)["status"] == "PERMISSION_DENIED"
    known = [part(comment("hello " * 3000)), *parts]
    statuses = [status for status, _ in answers(send_batch(server, multipart(known))).values()]
    assert statuses == [200, *[400] * 100]


def test_a_comment_is_made_readable_only_if_it_is_not_too_long() -> None:
    text = UntouchedText("\ud800" * (MAX_BYTES + 1))
    with pytest.raises(CommentError, match="too long"):
        read_comment(Comment.model_construct(text=text, type="PLAIN_TEXT"))


# What the operator sets.


def test_the_operator_decides_what_the_reply_may_hold(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    mapping, kept = tmp_path / "mapping.toml", tmp_path / "kept.jsonl"
    mapping.write_text(
        'version = "ours-2"\n[perspective]\nunsupported = "drop"\nlanguages = "accept"\n'
        "[perspective.attributes]\n"
        'SEVERE_TOXICITY = { score = "hate", reason = "It is close enough for us." }\n'
    )
    settings = {
        "COMPAT_MAPPING": str(mapping),
        "SUGGESTIONS_FILE": str(kept),
        "PUBLIC_URL": "https://scores.example/path",
        "RATE_LIMIT": "6/hour",
    }
    with local_server(tmp_path, small_checkpoint, settings) as server:
        server.ready()
        names: dict[str, Any] = {"SEVERE_TOXICITY": {}, "TOXICITY": {}, "INSULT": {}}
        reply = analyze(server, comment(GERMAN, names, languages=["de"]))
        body = reply.json()
        assert list(body["attributeScores"]) == ["SEVERE_TOXICITY", "TOXICITY"]
        assert body["hatespeech"]["mapping"] == "1+ours-2"
        value = body["attributeScores"]["SEVERE_TOXICITY"]["summaryScore"]["value"]
        assert value == body["hatespeech"]["scores"]["hate"]
        assert body["languages"] == ["de"]
        document = server.get("/$discovery/rest", headers={}).json()
        assert document["rootUrl"] == "https://scores.example/path/"

        suggestion = {  # as Coral sends it
            "comment": {"text": "half \ud83d"},
            "context": {"entries": [{"text": '{"url":"https://example.org/?commentID=7"}'}]},
            "attributeScores": {"TOXICITY": {"summaryScore": {"value": 1}}},
            "languages": ["en"],
            "communityId": "Coral:https://example.org",
            "clientToken": "comment:7",
        }
        sent = server.post(
            "/v1alpha1/comments:suggestscore", params={"key": TOKEN}, json=suggestion, headers={}
        )
        assert (sent.status_code, sent.json()) == (200, {"clientToken": "comment:7"})
        (line,) = map(json.loads, kept.read_text().splitlines())
        assert line["comment"]["text"] == "half \ufffd"
        assert line["attributeScores"] == suggestion["attributeScores"]
        assert stat.S_IMODE(kept.stat().st_mode) == 0o600
        assert "half" not in server.stderr

        # Two requests are counted so far; of a batch each part counts.
        reply = send_batch(server, multipart([part(comment("hello"))] * 5))
        found = answers(reply)
        assert [status for status, _ in found.values()] == [200, 200, 200, 200, 429]
        late = refused(analyze(server, comment("hello")), 429)
        assert late["status"] == "RESOURCE_EXHAUSTED"
        assert late["details"][0]["reason"] == "RATE_LIMIT_EXCEEDED"


def test_suggestions_are_refused_without_a_file(server: HttpClient) -> None:
    body = {"comment": {"text": MARKER}, "attributeScores": {"TOXICITY": {}}}
    reply = server.post("/v1alpha1/comments:suggestscore", params={"key": TOKEN}, json=body)
    assert refused(reply, 501)["status"] == "UNIMPLEMENTED"


def test_nothing_is_served_when_it_is_off(small_checkpoint: Path, tmp_path: Path) -> None:
    with local_server(tmp_path, small_checkpoint, {"COMPAT": "off"}) as server:
        assert server.get(ANALYZE, params={"key": TOKEN}, headers={}).status_code == 401
        assert server.post(ANALYZE, json=comment("a")).json()["error_type"] == "not_found"
        assert server.get("/").json()["protocols"] == {}


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("COMPAT", "perspektive", "off, or perspective"),
        ("COMPAT_MAPPING", "/nowhere.toml", "No such file or directory"),
        ("SUGGESTIONS_FILE", "/nowhere/kept.jsonl", "no such file or directory"),
        ("PUBLIC_URL", "scores.example", "http://… or https://…"),
    ],
)
def test_a_bad_setting_stops_the_server(
    tmp_path: Path, small_checkpoint: Path, name: str, value: str, reason: str
) -> None:
    environment = server_environment(tmp_path, small_checkpoint, {name: value})
    line = refusal(environment)
    assert line.startswith(f"error: {name}=")
    assert reason in line


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("version = 1", "version: must be 1 to 32 letters, digits, dots, hyphens or underscores"),
        ("[perspective]\nunsupported = 'zero'", 'perspective.unsupported: must be "refuse" or "'),
        ("[openai]\nspam_flags = 'maybe'", "openai.spam_flags: must be true or false"),
        ("openai = 1", "openai: must be a table"),
        ("[openai]\ncategory = 1", "openai.category: there is no such key"),
        (
            "[openai.categories]\n'the hate' = { reason = 'x' }",
            "openai.categories.the hate: this name must be 1 to 64 letters, digits, slashes, ",
        ),
        (
            "[perspective.attributes]\nTHREAT = { score = 'hate' }",
            "perspective.attributes.THREAT.reason: is missing; it must be a line of 1 to 301 char",
        ),
        (
            "[perspective.attributes]\nTHREAT = { score = 'threat', reason = 'x' }",
            "THREAT.score: must be one of hate, abusing, neutral, spam, toxic, in quotes",
        ),
        ("[perspective.attributes]\nTHREAT = 'hate'", "perspective.attributes.THREAT: must be a "),
        ("[perspective]\nlanguages = 'accept'", "version is missing"),
        ("version", "COMPAT_MAPPING"),
    ],
)
def test_a_mapping_that_cannot_be_used_is_told_by_its_line(
    tmp_path: Path, small_checkpoint: Path, text: str, reason: str
) -> None:
    mapping = tmp_path / "mapping.toml"
    mapping.write_text(text)
    environment = {"COMPAT_MAPPING": str(mapping)}
    line = refusal(server_environment(tmp_path, small_checkpoint, environment))
    assert line.startswith(f"error: COMPAT_MAPPING='{mapping}' cannot be used: ")
    assert reason in line
