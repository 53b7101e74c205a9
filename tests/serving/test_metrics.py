"""What Prometheus reads: what is counted, by what, and that no caller can make it grow."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from prometheus_client.parser import text_string_to_metric_families

from hatespeech.engine.predictor import Predictor
from hatespeech.labels import LABELS
from hatespeech.version import __version__
from tests.paths import ROOT
from tests.support.bad_inputs import MARKER
from tests.support.http_client import BEARER, HttpClient
from tests.support.local_server import local_server

TEXTS: Final = ["good morning", "win a free phone now", "", "доброе утро"]


@pytest.fixture(scope="module")
def server(
    small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[HttpClient]:
    with local_server(tmp_path_factory.mktemp("metrics"), small_checkpoint) as server:
        yield server.ready()


def grown(server: HttpClient, before: dict[str, float]) -> dict[str, float]:
    """Return the samples that grew, and by how much."""
    after = server.metrics()
    differences = {name: value - before.get(name, 0) for name, value in after.items()}
    return {name: value for name, value in differences.items() if value > 0}


def test_labels_flags_scores_and_times_are_counted(server: HttpClient) -> None:
    before = server.metrics()
    body = {"texts": TEXTS, "thresholds": {"neutral": 0, "spam": 1}}
    items = server.post("/score", json=body).json()["items"]
    found = grown(server, before)
    labels = [item["label"] for item in items if "label" in item]
    for label in LABELS:
        assert found.get(f"labels_total:{label}", 0) == labels.count(label)
        assert found[f"scores_count:{label}"] == 3
        scores = [item[label] for item in items if "label" in item]
        assert found.get(f"scores_sum:{label}", 0) == pytest.approx(sum(scores))
        below = [score for score in scores if score <= 0.1]
        assert found.get(f"scores_bucket:{label}:0.1", 0) == len(below)
    assert found["flags_total:neutral"] == 3
    assert "flags_total:spam" not in found
    assert found["warnings_total:unread"] == 1
    assert found["errors_total:validation"] == 1
    assert found["queue_seconds_count"] == found["compute_seconds_count"] == 1
    assert found["compute_seconds_sum"] > 0


def test_a_refused_request_is_counted_by_its_route(server: HttpClient) -> None:
    before = server.metrics()
    server.get("/score?text=hello", headers={})
    server.get("/status/some-job", headers={})
    server.post("/v2/any/run", headers={})
    server.request("DELETE", "/score")
    found = grown(server, before)
    assert found["requests_total:401:GET:http:/score"] == 1
    assert found["requests_total:401:GET:http:/status/{job_id}"] == 1
    assert found["requests_total:401:POST:http:/v2/{endpoint_id}/run"] == 1
    assert found["requests_total:405:DELETE:http:/score"] == 1
    assert found["errors_total:unauthorized"] == 3


def test_a_request_over_the_rate_is_counted_by_its_route(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with local_server(tmp_path, small_checkpoint, {"RATE_LIMIT": "1/day"}) as server:
        server.ready()
        for _ in range(2):
            server.get("/score?text=hello")
        assert server.metrics()["requests_total:429:GET:http:/score"] == 1


def test_unknown_paths_and_methods_are_one_series(server: HttpClient) -> None:
    before = server.metrics()
    for i in range(20):
        server.get(f"/{MARKER}/{i}")
        server.request(f"{MARKER}{i}", "/score")
    after = server.metrics()
    new = {name for name in after.keys() - before.keys() if name.startswith("requests_total")}
    assert new == {
        "requests_total:404:GET:http:unmatched",
        "requests_total:405:OTHER:http:/score",
    }
    assert MARKER not in server.get("/metrics").text


def test_requests_and_texts_are_counted_by_protocol(server: HttpClient) -> None:
    before = server.metrics()
    server.post("/score", json={"texts": ["a", "b"]})
    server.post("/v1/moderations", json={"input": ["a", "b", "c"]})
    server.finished(server.run({"prompt": "a"}))
    found = grown(server, before)
    assert found["requests_total:200:POST:http:/score"] == 1
    assert found["requests_total:200:POST:openai:/v1/moderations"] == 1
    assert found["request_seconds_count:POST:openai:/v1/moderations"] == 1
    assert found["protocol_texts_total:openai"] == 3
    assert found["protocol_texts_total:http"] == 3
    assert found["jobs_total:finished"] == 1


def test_a_job_that_fails_is_counted(server: HttpClient) -> None:
    before = server.metrics()
    assert server.finished(server.run({"prompt": ""}))["status"] == "FAILED"
    found = grown(server, before)
    assert (found["jobs_total:failed"], found["errors_total:validation"]) == (1, 1)


def test_the_versions_and_the_memory_are_told(
    server: HttpClient, small_classifier: Predictor
) -> None:
    text = server.get("/metrics").text
    (version,) = re.findall(r"^hate_speech_version_info\{(.*)\} 1\.0$", text, re.MULTILINE)
    for label, value in {
        "service": __version__,
        "model": small_classifier.model_id,
        "checkpoint": small_classifier.versions.checkpoint,
        "normaliser": small_classifier.versions.normaliser,
        "device": "cpu",
        "dtype": "float32",
    }.items():
        assert f'{label}="{value}"' in version
    assert server.metrics()["process_resident_memory_bytes"] > 1_000_000


def metrics_table(text: str) -> str:
    """Return the table of ``docs/operations.md`` for what ``/metrics`` answered."""
    rows = ["| metric | kind | meaning |", "| --- | --- | --- |"]
    for family in text_string_to_metric_families(text):
        if family.name.startswith("hate_speech_"):
            suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
            rows.append(f"| `{family.name}{suffix}` | {family.type} | {family.documentation} |")
    return "\n".join(rows) + "\n"


def test_the_page_of_operations_has_the_table_of_metrics(server: HttpClient) -> None:
    table = metrics_table(server.get("/metrics", headers=BEARER).text)
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    assert table in page, f"docs/operations.md needs this table:\n{table}"
