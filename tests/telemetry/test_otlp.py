"""Traces and metrics as a collector gets them, from a server and from a queue worker."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from unittest.mock import patch

import pytest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from hatespeech.engine.predictor import Predictor
from hatespeech.errors import SettingsError
from hatespeech.settings import EngineSettings
from hatespeech.telemetry import otlp
from hatespeech.telemetry.recorder import Recorder
from hatespeech.version import __version__
from tests.conftest import StartWorker
from tests.support.bad_inputs import MARKER
from tests.support.grpc_client import BEARER as GRPC_BEARER
from tests.support.grpc_client import GrpcClient
from tests.support.http_client import BEARER
from tests.support.local_server import local_server, refusal
from tests.support.ports import free_port
from tests.support.processes.server import server_environment
from tests.support.processes.worker import APP, wait_until
from tests.support.stand_ins.otlp_collector import OtlpCollector, attributes
from tests.support.stand_ins.runpod.endpoint import RunpodEndpoint

TRACE: Final = "0af7651916cd43dd8448eb211c80319c"
CALLER: Final = "b7ad6b7169203331"
TRACEPARENT: Final = f"00-{TRACE}-{CALLER}-01"
GRPC_TRACE: Final = "1af7651916cd43dd8448eb211c80319d"
SETTING: Final = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.fixture
def collector() -> Iterator[OtlpCollector]:
    with OtlpCollector() as collector:
        yield collector


@dataclass
class Sent:
    """What a server sent to its collector, and the id of its job."""

    collector: OtlpCollector
    job_id: str

    def request(self, route: str, status: int = 200) -> Span:
        """Return the span of the request for this route."""
        (found,) = (
            span
            for span in self.collector.spans
            if attributes(span.attributes).get("http.route") == route
            and attributes(span.attributes)["http.response.status_code"] == status
        )
        return found

    def children(self, parent: Span) -> list[Span]:
        """Return the spans in another one, in the order of their starts."""
        found = [span for span in self.collector.spans if span.parent_span_id == parent.span_id]
        assert all(span.trace_id == parent.trace_id for span in found)
        return sorted(found, key=lambda span: (span.start_time_unix_nano, span.end_time_unix_nano))


@pytest.fixture(scope="module")
def sent(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sent]:
    port = free_port()
    with OtlpCollector() as collector:
        settings = {SETTING: collector.url, "GRPC": f"127.0.0.1:{port}"}
        folder = tmp_path_factory.mktemp("traced")
        with (
            local_server(folder, small_checkpoint, settings) as server,
            GrpcClient(port) as client,
        ):
            server.ready()
            body = {"texts": [MARKER, "", "good"]}
            headers = {**BEARER, "traceparent": TRACEPARENT, "X-Request-ID": "ours"}
            assert server.post("/score", json=body, headers=headers).status_code == 200
            server.get(f"/score?text={MARKER}", headers={"traceparent": "nonsense"})
            grpc = [*GRPC_BEARER, ("traceparent", f"00-{GRPC_TRACE}-{CALLER}-01")]
            assert client.score({"prompt": MARKER}, grpc).name == "OK"
            job_id = server.post("/runsync", json={"input": {"prompt": MARKER}}).json()["id"]
        yield Sent(collector, job_id)


def test_a_request_is_a_span_in_its_callers_trace_with_queue_and_compute_in_it(sent: Sent) -> None:
    request = sent.request("/score")
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, CALLER)
    assert (request.name, request.kind) == ("POST /score", Span.SPAN_KIND_SERVER)
    assert attributes(request.attributes) == {
        "http.request.method": "POST",
        "http.route": "/score",
        "http.response.status_code": 200,
        "hatespeech.request_id": "ours",
        "hatespeech.protocol": "http",
    }
    queue, compute = sent.children(request)
    assert (queue.name, compute.name) == ("queue", "compute")
    assert queue.end_time_unix_nano == compute.start_time_unix_nano
    assert request.start_time_unix_nano <= compute.end_time_unix_nano
    assert compute.end_time_unix_nano <= request.end_time_unix_nano
    found = attributes(compute.attributes)
    assert found["hatespeech.texts"] == 3
    assert int(found["hatespeech.tokens"]) > 2


def test_a_refused_request_is_a_span_with_an_error_and_a_trace_of_its_own(sent: Sent) -> None:
    request = sent.request("/score", 401)
    assert request.trace_id.hex() != TRACE
    assert request.parent_span_id == b""
    assert request.status.code == Status.STATUS_CODE_ERROR
    assert attributes(request.attributes)["error.type"] == "unauthorized"
    assert sent.children(request) == []


def test_a_call_over_grpc_is_in_its_callers_trace(sent: Sent) -> None:
    call = sent.request("grpc")
    assert (call.trace_id.hex(), call.parent_span_id.hex()) == (GRPC_TRACE, CALLER)
    assert [span.name for span in sent.children(call)] == ["queue", "compute"]


def test_a_job_runs_in_the_trace_of_its_request(sent: Sent) -> None:
    request = sent.request("/runsync")
    (job,) = sent.children(request)
    assert (job.name, job.kind) == ("job", Span.SPAN_KIND_CONSUMER)
    assert attributes(job.attributes) == {
        "hatespeech.job_id": sent.job_id,
        "hatespeech.outcome": "finished",
    }
    assert [span.name for span in sent.children(job)] == ["queue", "compute"]


def test_probes_are_no_traces_and_nothing_that_is_sent_holds_a_text(sent: Sent) -> None:
    routes = [attributes(span.attributes).get("http.route") for span in sent.collector.spans]
    assert "/ping" not in routes
    assert not any(MARKER.encode() in body for body in sent.collector.bodies)


def test_the_collector_gets_the_same_metrics_as_prometheus(
    sent: Sent, small_classifier: Predictor
) -> None:
    found = sent.collector.last_metrics
    labels = found["hate_speech_labels"].sum
    assert labels.is_monotonic
    assert sum(point.as_double for point in labels.data_points) == 4
    (version,) = found["hate_speech_version_info"].gauge.data_points
    assert attributes(version.attributes)["model"] == small_classifier.model_id
    (memory,) = found["process_resident_memory_bytes"].gauge.data_points
    assert memory.as_double > 1_000_000
    (compute,) = found["hate_speech_compute_seconds"].histogram.data_points
    assert (compute.count, sum(compute.bucket_counts)) == (3, 3)
    assert len(compute.bucket_counts) == len(compute.explicit_bounds) + 1
    assert compute.sum > 0
    assert not compute.HasField("min")
    hate = next(
        point
        for point in found["hate_speech_scores"].histogram.data_points
        if attributes(point.attributes)["label"] == "hate"
    )
    assert hate.count == 4
    for resource in sent.collector.resources:
        assert (resource["service.name"], resource["service.version"]) == (
            "hatespeech",
            __version__,
        )


def test_a_queue_worker_sends_its_jobs_and_metrics(
    start_worker: StartWorker, collector: OtlpCollector
) -> None:
    with RunpodEndpoint() as endpoint:
        worker = start_worker([APP], {**endpoint.environment(), SETTING: f"{collector.url}/"})
        good, bad = endpoint.submit({"prompt": MARKER}, {"prompt": ""})
        wait_until(
            lambda: endpoint.all_answered([good, bad]), "answers", watch=worker.require_running
        )
        worker.terminate()
        endpoint.drain()
        assert worker.wait() == 0
    by_job = {
        attributes(span.attributes)["hatespeech.job_id"]: span
        for span in collector.spans
        if span.name == "job"
    }
    assert attributes(by_job[good].attributes)["hatespeech.outcome"] == "finished"
    assert attributes(by_job[bad].attributes)["error.type"] == "validation"
    inner = [span.name for span in collector.spans if span.parent_span_id == by_job[good].span_id]
    assert sorted(inner) == ["compute", "queue"]
    jobs = collector.last_metrics["hate_speech_jobs"].sum.data_points
    assert {attributes(point.attributes)["outcome"]: point.as_double for point in jobs} == {
        "finished": 1,
        "failed": 1,
        "stopped": 0,
        "returned": 0,
    }
    assert "hate_speech_tokens" in collector.last_metrics
    assert len({each["service.instance.id"] for each in collector.resources}) == 1
    assert not any(MARKER.encode() in body for body in collector.bodies)


# A collector that is not well.


def test_a_dead_collector_costs_one_line_of_the_log(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "METRICS_SECONDS", 0.05)
    monkeypatch.setattr(otlp, "REQUEST_SECONDS", 0.1)
    said = "the collector does not take traces and metrics"
    with local_server(
        tmp_path, small_checkpoint, {SETTING: f"http://127.0.0.1:{free_port()}"}
    ) as server:
        server.ready()
        for _ in range(5):
            assert server.post("/score", json={"text": "good morning"}).status_code == 200
        wait_until(lambda: said in server.stderr, "the line", watch=server.require_running)
    assert server.stderr.count(said) == 1
    assert server.stderr.count("OTEL_") == 1
    assert "127.0.0.1:" not in server.stderr.replace("listening on http://127.0.0.1:", "")


def test_a_collector_that_comes_back_is_a_line_too(
    collector: OtlpCollector,
    small_checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(otlp, "METRICS_SECONDS", 0.05)
    monkeypatch.setattr(otlp, "REQUEST_SECONDS", 0.1)
    collector.refuses = True
    with local_server(tmp_path, small_checkpoint, {SETTING: collector.url}) as server:
        wait_until(lambda: "does not take" in server.stderr, "a refusal")
        collector.refuses = False
        wait_until(lambda: "answers again" in server.stderr, "an answer")
        assert collector.metrics
    assert server.stderr.count("OTEL_") == 2


def test_a_collector_that_hangs_delays_no_stop(
    small_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "METRICS_SECONDS", 0.05)
    monkeypatch.setattr(otlp, "REQUEST_SECONDS", 3600)
    with OtlpCollector() as collector:
        collector.hangs = True
        with local_server(tmp_path, small_checkpoint, {SETTING: collector.url}) as server:
            server.ready()
            assert server.post("/score", json={"text": "good morning"}).status_code == 200
            wait_until(lambda: collector.asked > 0, "an export")
        # The server has stopped, although no export has ended.
        assert collector.bodies == []


# Without the extra.


@contextlib.contextmanager
def without_opentelemetry() -> Iterator[None]:
    ours = ["hatespeech.telemetry.tracing", "hatespeech.telemetry.otlp"]
    with patch.dict(sys.modules, {"opentelemetry.sdk.trace": None}):
        for name in ours:
            sys.modules.pop(name, None)
        yield


def test_without_the_extra_nothing_starts_and_one_line_says_why(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    said = f"{SETTING} needs opentelemetry: pip install -r requirements-otel.txt"
    settings = {SETTING: "http://127.0.0.1:4318"}
    with without_opentelemetry():
        assert refusal(server_environment(tmp_path, small_checkpoint, settings)).endswith(
            f"error: {said}\n"
        )
        with pytest.raises(SettingsError) as caught:
            Recorder(EngineSettings.from_environment(settings))
        assert str(caught.value) == said


def test_nothing_of_opentelemetry_is_imported_without_the_setting() -> None:
    with patch.dict(sys.modules):
        for name in list(sys.modules):
            if name.startswith(("hatespeech.telemetry", "opentelemetry")):
                del sys.modules[name]
        from hatespeech.telemetry.recorder import Recorder as Fresh

        Fresh(EngineSettings())
        assert not any(name.startswith("opentelemetry") for name in sys.modules)


@pytest.mark.parametrize(
    "bad", ["collector:4318", "grpc://collector:4317", "http://", "http://u:p@host", "http://a b"]
)
def test_an_endpoint_that_is_no_url_is_refused(bad: str) -> None:
    with pytest.raises(SettingsError, match=f"{SETTING}=.* is not allowed: it must be http://"):
        EngineSettings.from_environment({SETTING: bad})
