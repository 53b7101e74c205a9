"""Records the replies that the document at ``/openapi.json`` shows, from a real server.

To be run when the embedded checkpoint or a reply changes:

    python -m tests.support.recorded_examples
"""

from __future__ import annotations

import json
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import requests

from hatespeech.serving.openapi import EXAMPLE_TEXT
from tests.paths import MINI, ROOT
from tests.support.faulty_device import Switches, faulty_device
from tests.support.http_client import BEARER, TOKEN, HttpClient
from tests.support.local_server import local_server
from tests.support.processes.worker import wait_until

FILE: Final = ROOT / "hatespeech" / "serving" / "examples.json"
CULPRIT: Final = "what the device fails on"
INSULT: Final = "you are a stupid idiot"
PERSPECTIVE: Final = {
    "comment": {"text": EXAMPLE_TEXT},
    "requestedAttributes": {"TOXICITY": {}},
    "doNotStore": True,
}
SUGGESTION: Final = {
    "comment": {"text": EXAMPLE_TEXT},
    "attributeScores": {"TOXICITY": {"summaryScore": {"value": 0}}},
}
# The routes of other services' protocols, which refuse a request without a token, a batch or GET.
OTHERS: Final = {
    "perspective_analyze": ("POST", "/v1alpha1/comments:analyze"),
    "perspective_suggestscore": ("POST", "/v1alpha1/comments:suggestscore"),
    "openai_moderations": ("POST", "/v1/moderations"),
    "huggingface_models": ("POST", "/models/any"),
    "huggingface_predict": ("POST", "/predict"),
    "huggingface_info": ("GET", "/info"),
    "litellm_guardrail": ("POST", "/beta/litellm_basic_guardrail_api"),
    "perspective_batch": ("POST", "/batch"),
    "perspective_discovery": ("POST", "/$discovery/rest"),
}

Examples = dict[str, Any]


def record() -> Examples:
    """Ask a server with the embedded checkpoint everything; return what it replies."""
    with tempfile.TemporaryDirectory() as name:
        with local_server(Path(name), MINI, {"RATE_LIMIT": "1/minute"}) as server:
            limited = [server.post("/score", json={"text": EXAMPLE_TEXT}) for _ in range(2)][1]
            server.ready()
        switches = Switches(Path(name))
        limits = {
            "MAX_QUEUE_TEXTS": "2",
            "MAX_TEXTS_PER_REQUEST": "2",
            "ON_UNREAD": "refuse",
            "SUGGESTIONS_FILE": str(Path(name) / "suggestions"),
        }
        with (
            faulty_device(switches, CULPRIT),
            local_server(Path(name), MINI, limits) as server,
        ):
            loading = server.post("/score", json={"text": EXAMPLE_TEXT})
            assert loading.status_code == 503, "the model was loaded at once"
            server.ready()
            return {
                "replies": record_replies(server),
                "errors": {
                    **record_errors(server, switches),
                    "unhealthy": loading.json(),
                    "rate_limited": limited.json(),
                },
            }


def record_replies(server: HttpClient) -> Examples:
    """Return the good replies of each operation, by status and name."""

    def post(path: str, body: Any, **options: Any) -> Any:
        reply = server.post(path, json=body, **options)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def get(path: str) -> Any:
        reply = server.get(path)
        assert reply.status_code == 200, reply.text
        return reply.json()

    one = post("/score", {"text": EXAMPLE_TEXT})
    explained = {"text": INSULT, "explain": True, "thresholds": "balanced", "id": "42"}
    done = post("/runsync", {"input": {"prompt": EXAMPLE_TEXT}})
    failed = post("/runsync", {"input": {"prompt": ""}})
    broken = post("/runsync", {"input": {"prompt": CULPRIT}})
    accepted = post("/run", {"input": {"prompt": EXAMPLE_TEXT}})
    server.finished(accepted["id"])
    stands = {"completed": done, "failed": failed}
    stream = get(f"/stream/{done['id']}")

    def scored(name: str, content: str) -> requests.Response:
        reply = server.post("/score/file", files={"file": (name, content)})
        assert reply.status_code == 200, reply.text
        return reply

    ok: dict[str, Examples] = {
        "score": {
            "one": one,
            "many": post("/score", {"texts": [EXAMPLE_TEXT, ""]}),
            "explained": post("/score", explained),
        },
        "score_get": {"one": one},
        "score_file": {
            "text/csv": scored("t.csv", f'text\n"{EXAMPLE_TEXT}"\n').text,
            "application/json": scored("t.json", json.dumps([{"text": EXAMPLE_TEXT}])).json(),
        },
        "run": {"accepted": accepted},
        "runsync": stands,
        "status": stands,
        "status_post": stands,
        "status_sync": stands,
        "status_sync_post": stands,
        "stream": {"completed": stream},
        "stream_post": {"completed": stream},
        "cancel": {"too late": post(f"/cancel/{done['id']}", None)},
        "retry": {"waits again": post(f"/retry/{broken['id']}", None)},
        "purge_queue": {"purged": post("/purge-queue", None)},
        "card": {"card": get("/")},
        "health": {"ready": get("/health")},
        "metrics": {"some lines": "\n".join(server.get("/metrics").text.splitlines()[:6])},
        "openai_moderations": {"one": post("/v1/moderations", {"input": INSULT})},
        "huggingface_models": {"one": post("/models/any", {"inputs": INSULT})},
        "huggingface_predict": {"one": post("/predict", {"inputs": INSULT})},
        "huggingface_info": {"info": get("/info")},
        "litellm_guardrail": {
            "blocked": post(
                "/beta/litellm_basic_guardrail_api", {"texts": [INSULT], "input_type": "request"}
            )
        },
        "perspective_batch": {"one": batch(server)},
        "perspective_suggestscore": {"kept": post("/v1alpha1/comments:suggestscore", SUGGESTION)},
        "perspective_discovery": {
            "its beginning": dict(list(get("/$discovery/rest").items())[:6]),
        },
        "perspective_analyze": {"one": post("/v1alpha1/comments:analyze", PERSPECTIVE)},
    }
    found = {operation: {"200": replies} for operation, replies in ok.items()}
    nothing = {"status": "loading", "model": None, "dtype": None, "embedded": False}
    found["health"]["503"] = {"loading": {**get("/health"), **nothing}}
    for operation, (method, path) in OTHERS.items():
        refused = server.request(method, path, json={}, headers={})
        found.setdefault(operation, {})["default"] = {"refused": refused.json()}
    return found


def batch(server: HttpClient) -> str:
    """Return the reply to a batch of one request, as Google's clients send it."""
    inner = json.dumps(PERSPECTIVE)
    request = (
        "--b\r\nContent-Type: application/http\r\nContent-ID: <1>\r\n\r\n"
        f"POST /v1alpha1/comments:analyze HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(inner)}\r\n\r\n{inner}\r\n--b--"
    )
    headers = {"Content-Type": 'multipart/mixed; boundary="b"'}
    reply = server.post("/batch", data=request.encode(), headers=headers)
    assert reply.status_code == 200, reply.text
    return reply.text


def record_errors(server: HttpClient, switches: Switches) -> Examples:
    """Return the body of each error that a route of ours may answer, by its code."""

    def body(reply: requests.Response) -> Any:
        assert reply.status_code >= 400, reply.text
        return reply.json()

    found = {
        "validation": body(server.post("/score", json={"texts": EXAMPLE_TEXT})),
        "unread": body(server.post("/score", json={"text": "صباح الخير"})),
        "too_large": body(server.post("/score", json={"text": "a" * 1_000_001})),
        "unsupported_media": body(server.post("/score", data=EXAMPLE_TEXT)),
        "unauthorized": body(server.post("/score", json={"text": "a"}, headers={})),
        "not_found": body(server.get("/status/unknown")),
        "method_not_allowed": body(server.request("PUT", "/score")),
        "internal": body(server.post("/score", json={"text": CULPRIT})),
    }

    def full() -> requests.Response:
        return server.post("/score", json={"texts": [EXAMPLE_TEXT] * 2})

    switches.hold()
    try:
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(full)
            wait_until(lambda: switches.held, "the device")
            found["overloaded"] = body(full())
            found["unfinished"] = body(
                server.post(
                    "/runsync?wait=1000",
                    json={"input": {"prompt": EXAMPLE_TEXT}},
                    headers={**BEARER, "Scores-Or-Error": "1000000"},
                )
            )
            switches.release()
            assert held.result().status_code == 200
    finally:
        switches.release()
    return found


def main() -> int:
    """Write the file."""
    examples = record()
    FILE.write_text(json.dumps(examples, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
