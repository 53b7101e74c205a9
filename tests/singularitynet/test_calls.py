"""Calls through the daemon's passthrough to real workers: what a SingularityNET client sees.

Three ways lead there: the emulation of Runpod's API, whose jobs our handler works, ``app.py
--rp_serve_api`` as a service of one's own, and ``server.py``. The daemon's configuration is written
by ``scripts/daemon-config``.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.labels import LABELS
from tests.paths import DATA
from tests.support.http_client import TOKEN
from tests.support.local_server import local_server
from tests.support.processes.development_api import development_api
from tests.support.processes.worker import clean_environment
from tests.support.stand_ins.runpod.endpoint import RunpodEndpoint
from tests.support.stand_ins.runpod.jobs import Fault
from tests.support.stand_ins.runpod.worked import daemon_config, worked_endpoint
from tests.support.stand_ins.snet_client import generate_client, write_config
from tests.support.stand_ins.snet_daemon import PROTO, SnetDaemon

ORIGINAL: Final = DATA / "original_service.proto"
TEXTS: Final = (
    "good morning",
    "you are scum 🤬🤬 go away 👩🏽‍🚒",
    "صباح الخير يا صديقي \u200f#سلام",
    "שלום, מה שלומך?",
    "line one\nline two\ttab \\ \" ' <b>&amp;</b> \u2028 \x00 end",
)
LONG: Final = "the train was late again and nobody told us why 🚆 " * 60

# Prints what a client compiled from the original proto sees, as one line of JSON a prompt.
ORIGINAL_CLIENT: Final = """
import json, sys
import grpc
sys.path.insert(0, sys.argv[1])
import original_service_pb2, original_service_pb2_grpc
with grpc.insecure_channel(sys.argv[2]) as channel:
    stub = original_service_pb2_grpc.runsyncStub(channel)
    for prompt in json.loads(sys.argv[3]):
        question = original_service_pb2.data(input=original_service_pb2.Input(prompt=prompt))
        try:
            reply = stub.runsync(question, timeout=60)
        except grpc.RpcError as error:
            print(json.dumps([error.code().name, error.details().split("{")[0], []]))
            continue
        fields = [getattr(reply.output, n) for n in ("abusing", "hate", "neutral", "spam", "text")]
        print(json.dumps([reply.status, reply.HasField("output"), fields]))
"""


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The module that protoc generates from service.proto; its stub is in ``services``."""
    folder = tmp_path_factory.mktemp("client")
    generate_client(PROTO, folder)
    sys.path.insert(0, str(folder))
    yield importlib.import_module("service_pb2")
    sys.path.remove(str(folder))


@pytest.fixture(scope="module")
def services(messages: Any) -> Any:
    return importlib.import_module("service_pb2_grpc")


@pytest.fixture(scope="module")
def dev_server(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("api")
    with development_api(folder, clean_environment(folder, small_checkpoint)) as api:
        yield api.url


@pytest.fixture(scope="module")
def http_url(small_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with local_server(tmp_path_factory.mktemp("http"), small_checkpoint) as server:
        yield server.ready().url


@pytest.fixture(scope="module")
def endpoint(small_classifier: Predictor) -> Iterator[RunpodEndpoint]:
    with worked_endpoint(small_classifier) as cloud:
        yield cloud


@pytest.fixture
def cloud(endpoint: RunpodEndpoint) -> Iterator[RunpodEndpoint]:
    """The emulation, in its normal mode again after each test."""
    yield endpoint
    endpoint.forget()


@pytest.fixture(scope="module")
def runpod_daemon(
    endpoint: RunpodEndpoint, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SnetDaemon]:
    config = daemon_config(tmp_path_factory.mktemp("runpod"), endpoint, "--wait-seconds", "60")
    with SnetDaemon(config) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def own_daemon(dev_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnetDaemon]:
    folder = tmp_path_factory.mktemp("own")
    with SnetDaemon(write_config(folder, "--self-hosted", dev_server, BEARER_TOKEN="t")) as daemon:
        yield daemon


@pytest.fixture(scope="module")
def server_daemon(http_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SnetDaemon]:
    folder = tmp_path_factory.mktemp("server")
    config = write_config(folder, "--self-hosted", http_url, BEARER_TOKEN=TOKEN)
    with SnetDaemon(config) as daemon:
        yield daemon


class Client:
    """Calls runsync on one daemon with the generated code."""

    def __init__(
        self, daemon: SnetDaemon, messages: Any, services: Any, *, failures_are_free: bool = False
    ) -> None:
        self._daemon, self._messages, self._services = daemon, messages, services
        self.failures_are_free = failures_are_free  # they are errors of the call

    def __call__(self, seconds: float = 60, **question: Any) -> Any:
        return self.send(self._messages.data(input=self._messages.Input(**question)), seconds)

    def send(self, message: Any, seconds: float = 60) -> Any:
        with grpc.insecure_channel(self._daemon.address) as channel:
            return self._services.runsyncStub(channel).runsync(message, timeout=seconds)


WAYS: Final = ("runpod_daemon", pytest.param("own_daemon", marks=pytest.mark.slow), "server_daemon")


@pytest.fixture(params=WAYS)
def call(request: pytest.FixtureRequest, messages: Any, services: Any) -> Client:
    """All ways, in turn."""
    daemon = request.getfixturevalue(request.param)
    is_server = request.param == "server_daemon"
    return Client(daemon, messages, services, failures_are_free=is_server)


@pytest.fixture
def call_runpod(runpod_daemon: SnetDaemon, messages: Any, services: Any) -> Client:
    return Client(runpod_daemon, messages, services)


def scores(result: Any) -> list[float]:
    return [getattr(result, label) for label in LABELS]


def expected(classifier: Predictor, text: str) -> Any:
    (score,) = classifier.score([text])
    assert isinstance(score, Prediction)
    return pytest.approx(list(score.scores), abs=1e-5)


@pytest.mark.parametrize("text", TEXTS)
def test_one_text_is_scored_as_the_model_scores_it(
    call: Client, small_classifier: Predictor, text: str
) -> None:
    reply = call(prompt=text)
    assert (reply.status, reply.error) == ("COMPLETED", "")
    assert reply.id
    result = reply.output
    assert result.text == text
    assert scores(result) == expected(small_classifier, text)
    assert sum(scores(result)) == pytest.approx(1, abs=1e-5)
    assert getattr(result, result.label) == max(scores(result))
    assert result.windows == 1
    assert not result.window
    assert result.model == small_classifier.model_id
    assert result.timing.compute_ms > 0


def test_many_texts_come_back_in_order_and_one_bad_one_spoils_no_other(
    call: Client, small_classifier: Predictor
) -> None:
    reply = call(prompts=[*TEXTS, "", " \t", LONG])
    assert reply.status == "COMPLETED"
    items = reply.output.items
    assert [item.text for item in items] == [*TEXTS, "", " \t", LONG]
    for item in (*items[: len(TEXTS)], items[-1]):
        assert scores(item) == expected(small_classifier, item.text)
        assert item.error == ""
    empty, white = items[len(TEXTS) : -1]
    assert empty.error == "validation: prompts[5]: must not be empty"
    assert white.error.startswith("validation: prompts[6]: ")
    for item in (empty, white, reply.output):
        assert not any(item.HasField(label) for label in LABELS)
    assert reply.output.model == small_classifier.model_id


def test_long_text_says_which_window_spoke(call: Client, small_classifier: Predictor) -> None:
    result = call(prompt=LONG).output
    (score,) = small_classifier.score([LONG])
    assert isinstance(score, Prediction)
    assert result.windows == score.windows > 1
    assert tuple(result.window) == score.window
    assert scores(result) == expected(small_classifier, LONG)


def test_explained_words_add_up_offsets_and_influences(
    call: Client, small_classifier: Predictor
) -> None:
    text = "you are  scum 🤬 friend"
    result = call(prompt=text, explain=True).output
    assert [(word.word, word.start, word.end) for word in result.words] == [
        *(("you", 0, 3), ("are", 4, 7), ("scum", 9, 13), ("🤬", 14, 15), ("friend", 16, 22)),
    ]
    (score,) = small_classifier.score([text], explain="shapley")
    assert isinstance(score, Prediction)
    assert score.words is not None
    for word, known in zip(result.words, score.words, strict=True):
        assert scores(word) == pytest.approx(list(known.scores.values()), abs=1e-5)
        assert word.toxic == pytest.approx(known.toxic, abs=1e-5)


def test_thresholds_flag_and_a_threshold_of_zero_counts(call: Client, messages: Any) -> None:
    thresholds = messages.Thresholds(hate=0.0, abusing=0.0, spam=1.0)
    result = call(prompt="good morning", thresholds=thresholds).output
    assert list(result.flagged) == ["hate", "abusing"]
    assert list(call(prompt="good morning").output.flagged) == []


@pytest.mark.parametrize(
    ("question", "reason"),
    [
        ({"prompt": ""}, "validation: prompt: must not be empty"),
        ({}, "validation: prompt: is missing; give prompt, a string, or prompts, a list"),
        ({"prompt": "\u200b \n"}, "validation: prompt: holds nothing but white space"),
        ({"prompt": "a", "prompts": ["b"]}, "validation: prompt, prompts: give only one of them"),
        ({"prompt": "a" * 10_001}, "too_large: prompt: has 10001 characters"),
        ({"prompts": ["a"] * 1025}, "too_large: prompts: holds 1025 texts"),
        ({"prompt": "a " * 257, "explain": True}, "too_large: prompt: has 257 words"),
    ],
)
def test_job_that_fails_says_why(call: Client, question: dict[str, Any], reason: str) -> None:
    if call.failures_are_free:
        with pytest.raises(grpc.RpcError, match="upstream http status 4") as caught:
            call(**question)
        error = caught.value
        assert isinstance(error, grpc.Call)
        assert error.code() == grpc.StatusCode.UNAVAILABLE
        told = json.loads(str(error.details()).splitlines()[0].partition(": ")[2])
        assert f"{told['error_type']}: {told['error']}".startswith(reason)
        assert told["id"]
        return
    reply = call(**question)
    assert reply.status == "FAILED"
    assert reply.error.startswith(reason)
    assert reply.id
    assert not reply.HasField("output")


def test_message_without_input_is_an_error_of_the_call(call: Client, messages: Any) -> None:
    with pytest.raises(grpc.RpcError, match="upstream http status 4"):
        call.send(messages.data())


def test_job_still_waiting_for_a_worker_is_told_from_zeros(
    cloud: RunpodEndpoint, messages: Any, services: Any, tmp_path: Path
) -> None:
    config = daemon_config(tmp_path, cloud, "--wait-seconds", "1")
    with SnetDaemon(config) as daemon:
        call = Client(daemon, messages, services)
        cloud.workers = False
        queued = call(prompt="good morning")
        cloud.workers, cloud.delay_seconds = True, 60
        running = call(prompt="good morning")
    assert cloud.requests[-1][1].endswith("/runsync?wait=1000")
    for reply, status in ((queued, "IN_QUEUE"), (running, "IN_PROGRESS")):
        assert reply.status == status
        assert cloud.jobs[reply.id].status == status
        assert not reply.HasField("output")
        assert reply.error == ""


@pytest.mark.parametrize(
    ("status", "body"), [(401, ""), (429, '{"error": "slow down"}'), (500, "oops")]
)
def test_refusal_by_the_platform_is_unavailable_with_its_words(
    cloud: RunpodEndpoint, call_runpod: Client, status: int, body: str
) -> None:
    cloud.always["runsync"] = Fault(status, body)
    with pytest.raises(grpc.RpcError) as caught:
        call_runpod(prompt="good morning")
    error = caught.value
    assert isinstance(error, grpc.Call)
    assert error.code() == grpc.StatusCode.UNAVAILABLE
    assert f"upstream http status {status}: {body}" in str(error.details())


def test_wrong_key_is_unavailable(
    cloud: RunpodEndpoint, messages: Any, services: Any, tmp_path: Path
) -> None:
    config = daemon_config(tmp_path, cloud, key="wrong")
    before = len(cloud.jobs)
    with SnetDaemon(config) as daemon, pytest.raises(grpc.RpcError, match="http status 401"):
        Client(daemon, messages, services)(prompt="good morning")
    assert len(cloud.jobs) == before


def test_heartbeat_of_our_service_is_what_the_daemon_wants(
    http_url: str, messages: Any, services: Any, tmp_path: Path
) -> None:
    config = write_config(tmp_path, "--self-hosted", http_url, BEARER_TOKEN="wrong")
    with urllib.request.urlopen(json.loads(config.read_text())["heartbeat_endpoint"]) as response:
        assert response.status == 200  # without a header
        assert response.read()
    with SnetDaemon(config) as daemon, pytest.raises(grpc.RpcError, match="http status 401"):
        Client(daemon, messages, services)(prompt="good morning")


def test_slow_worker_is_waited_for(cloud: RunpodEndpoint, call_runpod: Client) -> None:
    cloud.delay_seconds = 1.5
    assert call_runpod(prompt="good morning").status == "COMPLETED"


def test_error_of_another_type_than_string_never_reads_as_zeros(
    cloud: RunpodEndpoint, call_runpod: Client
) -> None:
    cloud.always["runsync"] = Fault(200, '{"status": "FAILED", "error": {"code": 1}}')
    with pytest.raises(grpc.RpcError, match="jsonToProto"):
        call_runpod(prompt="good morning")


def test_callers_at_once_each_get_their_own_text(call: Client) -> None:
    texts = [f"good morning number {n}" for n in range(12)]
    found: dict[str, str] = {}

    def ask(text: str) -> None:
        found[text] = call(prompt=text).output.text

    threads = [threading.Thread(target=ask, args=(text,)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {text: text for text in texts}


def original_sees(daemon: SnetDaemon, folder: Path, *prompts: str) -> list[list[Any]]:
    generate_client(ORIGINAL, folder)
    # In a process of its own: both protos name their messages alike.
    ran = subprocess.run(
        [sys.executable, "-c", ORIGINAL_CLIENT, str(folder), daemon.address, json.dumps(prompts)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    return [json.loads(line) for line in ran.stdout.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("way", ["runpod_daemon", "own_daemon", "server_daemon"])
def test_client_of_the_original_proto_keeps_working(
    request: pytest.FixtureRequest, way: str, tmp_path: Path, small_classifier: Predictor
) -> None:
    daemon = request.getfixturevalue(way)
    *seen, empty = original_sees(daemon, tmp_path, *TEXTS, "")
    for text, (status, has_output, (abusing, hate, neutral, spam, echo)) in zip(
        TEXTS, seen, strict=True
    ):
        assert (status, has_output, echo) == ("COMPLETED", True, text)
        assert [hate, abusing, neutral, spam] == expected(small_classifier, text)
    # Its empty prompt is not sent at all.
    if way == "server_daemon":
        assert empty == ["UNAVAILABLE", "upstream http status 422: ", []]
    else:  # it sees no reason, but the status, and no output
        assert empty == ["FAILED", False, [0, 0, 0, 0, ""]]


@pytest.mark.slow
def test_client_of_the_original_proto_can_tell_a_queued_job(
    cloud: RunpodEndpoint, tmp_path: Path
) -> None:
    config = daemon_config(tmp_path, cloud, "--wait-seconds", "1")
    cloud.workers = False
    with SnetDaemon(config) as daemon:
        assert original_sees(daemon, tmp_path, "good morning") == [
            ["IN_QUEUE", False, [0, 0, 0, 0, ""]]
        ]
