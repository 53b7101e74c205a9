"""Calls over gRPC: replies, the code of every error, deadlines, limits, and what is logged."""

from __future__ import annotations

import contextlib
import gc
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final
from unittest.mock import patch

import grpc
import pytest

from hatespeech.collector import without_garbage_collection
from hatespeech.contract import Prediction
from hatespeech.engine.predictor import Predictor
from hatespeech.errors import TooLargeError, ValidationError
from hatespeech.labels import FLAGS, LABELS
from hatespeech.serving.grpc import calls, room
from hatespeech.serving.http_errors import STATUSES
from hatespeech.serving.served_model import ServedModel
from tests.conformance.grpc_front import over_grpc
from tests.serving.grpc.conftest import MAX_BODY, Both
from tests.support.bad_inputs import BAD_INPUTS, MARKER, BadInput
from tests.support.checkpoints import SENTENCES
from tests.support.faulty_device import Switches, faulty_device
from tests.support.grpc_client import (
    BEARER,
    METHOD,
    Ended,
    GrpcClient,
    Metadata,
    question,
    unfinished,
)
from tests.support.http_client import OTHER_TOKEN, TOKEN, together
from tests.support.local_server import LocalServer, local_server
from tests.support.ports import free_port
from tests.support.processes.worker import wait_until


def require_error(ended: Ended, code: str, line: str, pushback: int = -1) -> None:
    assert (ended.name, ended.line) == (code, line)
    assert ended.metadata["grpc-retry-pushback-ms"] == str(pushback)
    assert ended.metadata["x-request-id"]


# What comes back.


def test_a_text_gets_its_scores_and_the_requests_id(
    both: Both, small_classifier: Predictor
) -> None:
    text = f"{SENTENCES[0]} 👋"
    (expected,) = small_classifier.score([text])
    assert isinstance(expected, Prediction)
    ended = both.grpc.score({"prompt": text}, [*BEARER, ("x-request-id", "order-66")])
    assert ended.name == "OK"
    assert ended.metadata["x-request-id"] == ended.message.id == "order-66"
    assert (ended.message.status, ended.message.error) == ("COMPLETED", "")
    result = ended.message.output
    scores = [getattr(result, label) for label in LABELS]
    assert scores == pytest.approx(expected.scores, abs=1e-5)
    assert (result.text, result.windows, result.model) == (text, 1, small_classifier.model_id)
    assert result.timing.compute_ms > 0


def test_a_batch_is_ok_though_some_of_its_texts_fail(both: Both) -> None:
    ended = both.grpc.score({"prompts": ["good", "", "x" * 20_000], "explain": True})
    assert ended.name == "OK"
    good, empty, long = ended.message.output.items
    assert (good.label in LABELS, good.error) == (True, "")
    assert [word.word for word in good.words] == ["good"]
    assert empty.error == "validation: prompts[1]: must not be empty"
    assert long.error == ("too_large: prompts[2]: has 20000 characters, the limit is 10000")
    assert not empty.HasField("hate")


def test_sixty_four_callers_share_batches_and_each_gets_its_own(
    both: Both, small_classifier: Predictor
) -> None:
    texts = [f"{SENTENCES[index % len(SENTENCES)]} {index}" for index in range(64)]
    before = both.http.metrics()["shared_batches_total"]
    ended = together(64, lambda index: both.grpc.score({"prompt": texts[index]}))
    for one, text, expected in zip(ended, texts, small_classifier.score(texts), strict=True):
        assert isinstance(expected, Prediction)
        assert one.message.output.text == text
        scores = [getattr(one.message.output, label) for label in LABELS]
        assert scores == pytest.approx(expected.scores, abs=1e-5)
    assert both.http.metrics()["shared_batches_total"] > before


def running() -> int:
    """Return how many calls all servers of this process hold."""
    gc.unfreeze()  # what a server has loaded is frozen, and frozen objects are not listed
    handlers = [each for each in gc.get_objects() if type(each) is calls.CallHandler]
    assert handlers
    return sum(len(each.running) for each in handlers)


def test_a_call_that_has_ended_is_held_no_longer(both: Both) -> None:
    assert both.grpc.score({"prompt": "good"}).name == "OK"
    wait_until(lambda: running() == 0, "every call to be let go")


def test_a_refused_message_is_let_go_without_a_garbage_collection(both: Both) -> None:
    with without_garbage_collection():
        before = refusals()
        assert both.grpc.send(MARKER.encode() * 50_000).name == "INVALID_ARGUMENT"
        assert both.grpc.score({"prompts": [MARKER] * 2000}).name == "RESOURCE_EXHAUSTED"
        wait_until(lambda: refusals() == before, "the exceptions, which hold it, to be let go")


def refusals() -> int:
    """Return how many exceptions that refuse a request this process holds."""
    kinds = (ValidationError, TooLargeError)
    return sum(type(each) in kinds for each in gc.get_objects())


# What does not.

CODES: Final = {"validation": "INVALID_ARGUMENT", "too_large": "RESOURCE_EXHAUSTED"}


@pytest.mark.parametrize(
    "case", [case for case in BAD_INPUTS if over_grpc(case.input)], ids=lambda case: case.name
)
def test_a_bad_input_has_the_code_of_its_error_and_its_line(both: Both, case: BadInput) -> None:
    ended = both.grpc.score(case.input)
    require_error(ended, CODES[case.error.partition(":")[0]], case.error)
    assert MARKER not in ended.line


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        (b"", "validation: input: must be an object with prompt or prompts"),
        (
            question({}).SerializeToString(),
            "validation: prompt: is missing; give prompt, a string, or prompts, a list",
        ),
        (MARKER.encode(), "validation: message: is not service.data"),
        (
            b'{"input": {"prompt": "%s"}}' % MARKER.encode(),
            "validation: message: is not service.data",
        ),
    ],
)
def test_a_message_that_is_none_of_the_protos_is_an_invalid_argument(
    both: Both, raw: bytes, line: str
) -> None:
    require_error(both.grpc.send(raw), "INVALID_ARGUMENT", line)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.5, 1.5])
def test_a_threshold_that_is_no_probability_is_an_invalid_argument(
    both: Both, value: float
) -> None:
    message: Any = question({"prompt": "a"})
    message.input.thresholds.hate = value
    require_error(
        both.grpc.send(message.SerializeToString()),
        "INVALID_ARGUMENT",
        "validation: thresholds.hate: must be a number from 0 to 1",
    )


WRONG: Final[tuple[Metadata, ...]] = (
    [],
    [("authorization", f"Bearer {TOKEN}x")],
    [("authorization", f"Basic {TOKEN}")],
    [("authorization", TOKEN)],
    [("x-api-key", "wrong")],
    [("authorization", f"Bearer {OTHER_TOKEN},{TOKEN}")],
)
RIGHT: Final[tuple[Metadata, ...]] = (
    [("authorization", f"bearer {OTHER_TOKEN}")],
    [("x-api-key", TOKEN)],
    [("x-api-key", TOKEN), ("authorization", "Bearer of-a-gateway")],
)


@pytest.mark.parametrize("metadata", WRONG)
def test_a_missing_or_wrong_token_is_unauthenticated(both: Both, metadata: Any) -> None:
    line = "unauthorized: a valid token is needed: Authorization: Bearer, or X-API-Key"
    require_error(both.grpc.score({"prompt": MARKER}, metadata), "UNAUTHENTICATED", line)


@pytest.mark.parametrize("metadata", RIGHT)
def test_a_right_token_suffices_in_either_place(both: Both, metadata: Any) -> None:
    assert both.grpc.score({"prompt": "good"}, metadata).name == "OK"


def test_every_error_that_http_has_a_status_for_and_a_call_can_meet_has_a_code() -> None:
    never = {402, 404, 405, 415, 504}  # payments, paths, methods, media types, unfinished jobs
    assert calls.CODES.keys() == set(STATUSES.values()) - never


def test_an_error_that_nobody_foresaw_is_internal_and_says_nothing(both: Both) -> None:
    def fail(_self: object, _body: object, **_options: object) -> None:
        raise KeyError(MARKER)

    with patch.object(ServedModel, "score", fail):
        ended = both.grpc.score({"prompt": MARKER})
    require_error(ended, "INTERNAL", "internal: the request could not be answered")
    assert f"request {ended.metadata['x-request-id']} failed: KeyError at" in both.http.stderr


# Sizes.


def test_a_message_over_the_limit_is_refused_by_grpc_itself(both: Both) -> None:
    fitting = both.grpc.score({"prompts": ["x" * 9000] * 10})
    assert fitting.name == "OK"
    ended = both.grpc.score({"prompt": MARKER * MAX_BODY}, [*BEARER, ("x-request-id", "large")])
    assert ended.name == "RESOURCE_EXHAUSTED"
    assert f"vs. {MAX_BODY})" in ended.line
    wait_until(lambda: "request large POST grpc 413" in both.http.stderr, "the log line")


def test_a_small_message_that_unpacks_to_a_large_one_is_refused_as_well(both: Both) -> None:
    packed: dict[str, Any] = {"compression": grpc.Compression.Gzip}
    assert both.grpc.score({"prompts": ["x" * 9000] * 10}, **packed).name == "OK"
    bomb = both.grpc.score({"prompt": "x" * 50_000_000}, **packed)
    assert (bomb.name, bomb.line) == ("RESOURCE_EXHAUSTED", "Decompressed message larger than max")


def test_a_caller_without_a_token_is_refused_before_its_message_is_read(both: Both) -> None:
    """Otherwise the answer would be that the message is too large."""
    assert both.grpc.score({"prompt": "x" * 50_000_000}, []).name == "UNAUTHENTICATED"


def test_a_message_that_does_not_come_in_time_is_an_invalid_argument(both: Both) -> None:
    with (
        patch.object(calls, "MESSAGE_SECONDS", 0.2),
        unfinished(both.grpc, METHOD, 1, BEARER) as (call,),
    ):
        assert call.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert call.details() == "validation: message: comes too slowly"


def test_a_message_is_as_large_as_the_contract_allows_and_no_larger(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    """MAX_BODY_BYTES is 20 MB here: JSON has escapes."""
    port = free_port()
    environment = {
        "GRPC": f"127.0.0.1:{port}",
        "MAX_TEXTS_PER_REQUEST": "64",
        "MAX_REQUEST_CHARS": "6400",
    }
    text, name = "𝔤" * 100, "𝔦" * 128  # four bytes each
    whole = {
        "prompts": [text] * 64,
        "ids": [name] * 64,
        "robust": True,
        "thresholds": {**dict.fromkeys(FLAGS, 0.5)},
    }
    with local_server(tmp_path, small_checkpoint, environment) as http, GrpcClient(port) as client:
        http.ready()
        assert client.score(whole).name == "OK"
        much_more = client.score({"prompts": [text * 2] * 64})
        assert much_more.line.startswith("too_large: prompts: 12800 characters in all")
        refused = client.score({"prompt": "x" * 100_000})
        assert (refused.name, "received message larger than max" in refused.line.lower()) == (
            "RESOURCE_EXHAUSTED",
            True,
        ), refused.line


# Messages that do not come to their end.


@contextlib.contextmanager
def places(folder: Path, model_dir: Path, count: int) -> Iterator[GrpcClient]:
    """Start a server that has places for so many messages that arrive; yield a client."""
    port = free_port()
    environment = {
        "GRPC": f"127.0.0.1:{port}",
        "MAX_BODY_BYTES": "100000",
        "ALL_BODIES_BYTES": str(count * 100_000),
    }
    with local_server(folder, model_dir, environment) as http, GrpcClient(port) as client:
        http.ready()
        yield client


def test_unfinished_messages_take_half_of_the_places_at_most_and_none_of_another_caller(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    with (
        patch.object(room, "PLACE_SECONDS", 0.2),
        places(tmp_path, small_checkpoint, 4) as client,
    ):
        with unfinished(client, METHOD, 30, BEARER):
            wait_until(lambda: client.score({"prompt": "good"}).name != "OK", "the places to go")
            line = "overloaded: too many messages arrive at the same time; try again"
            refused = client.score({"prompt": MARKER})
            require_error(refused, "RESOURCE_EXHAUSTED", line, pushback=1000)
            other = [("x-api-key", OTHER_TOKEN)]
            assert client.score({"prompt": "good"}, other).name == "OK"
        wait_until(lambda: client.score({"prompt": "good"}).name == "OK", "the places to be free")


def test_a_call_waits_for_its_place_and_is_answered(small_checkpoint: Path, tmp_path: Path) -> None:
    with places(tmp_path, small_checkpoint, 1) as client:
        with unfinished(client, METHOD, 1, BEARER):
            wait_until(lambda: running() == 1, "the message that takes the place")
            waiting = [client.begin({"prompt": f"good morning {index}"}) for index in range(8)]
            wait_until(lambda: running() == 9, "the calls to wait")
        assert [client.result(call).name for call in waiting] == ["OK"] * 8


def test_little_of_a_message_comes_in_before_its_call_has_a_place(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    sent = [0] * 40

    def pieces(index: int) -> Iterator[bytes]:
        """A piece is asked for once the one before it is on its way."""
        for sent[index] in range(1, 51):
            yield bytes(80_000)

    with (
        places(tmp_path, small_checkpoint, 1) as client,
        patch.object(room, "PLACE_SECONDS", 3),
        unfinished(client, METHOD, 1, BEARER),
    ):
        wait_until(lambda: running() == 1, "the message that takes the place")
        begin = client.channel.stream_stream(METHOD)
        waiting = [begin(pieces(index), metadata=BEARER, timeout=60) for index in range(len(sent))]
        codes = {call.code() for call in waiting}
        assert codes == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        assert max(sent) <= 3, sent


# Logs and metrics.


def log_line(server: LocalServer, request_id: str) -> dict[str, Any]:
    def found() -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in server.stderr.splitlines()]
        return [line for line in lines if line.get("request_id") == request_id]

    wait_until(lambda: bool(found()), "the call to be logged")
    (line,) = found()
    return line


@pytest.mark.parametrize(
    ("job_input", "metadata", "status", "error"),
    [
        ({"prompt": MARKER}, BEARER, 200, None),
        ({"prompts": [MARKER, ""]}, BEARER, 200, None),
        ({"prompt": MARKER, "prompts": [MARKER]}, BEARER, 422, "validation"),
        ({"prompt": MARKER * 1000}, BEARER, 413, "too_large"),
        ({"prompt": MARKER}, [("authorization", f"Bearer {MARKER}")], 401, "unauthorized"),
    ],
)
def test_a_call_is_logged_and_counted_as_a_request_over_http_is(
    both: Both, job_input: Any, metadata: Any, status: int, error: str | None
) -> None:
    before = both.http.metrics()
    ended = both.grpc.score(job_input, metadata)
    line = log_line(both.http, ended.metadata["x-request-id"])
    shown = {name: line[name] for name in ("method", "route", "status", "error_type", "level")}
    assert shown == {
        "method": "POST",
        "route": "grpc",
        "status": status,
        "error_type": error,
        "level": "INFO",
    }
    after = both.http.metrics()
    for name in (
        f"requests_total:{status}:POST:grpc:grpc",
        "request_seconds_count:POST:grpc:grpc",
        *([f"errors_total:{error}"] if error else []),
        *(["text_windows_count"] if status == 200 else []),
        *(["errors_total:validation"] if job_input.get("prompts") == [MARKER, ""] else []),
    ):
        assert after[name] == before.get(name, 0) + 1, name


def test_texts_and_tokens_are_never_logged(both: Both) -> None:
    both.grpc.score({"prompts": [MARKER, MARKER * 2000], "explain": True})
    both.grpc.score({"prompt": MARKER}, [("authorization", MARKER), ("x-request-id", f"{MARKER}!")])
    both.grpc.send(MARKER.encode())
    both.grpc.score({"prompt": MARKER}, timeout=1e-9)
    both.grpc.channel.unary_unary(f"/{MARKER}/{MARKER}").future(b"", timeout=5).exception()
    both.grpc.score({"prompt": "good"}, [*BEARER, ("x-request-id", "the-last")])
    log_line(both.http, "the-last")
    for secret in (MARKER, TOKEN, OTHER_TOKEN):
        assert secret not in both.http.stderr


# Callers that give up, on a device that is held.


@pytest.fixture
def switches(tmp_path: Path) -> Switches:
    return Switches(tmp_path)


@pytest.fixture
def held(small_checkpoint: Path, tmp_path: Path, switches: Switches) -> Iterator[Both]:
    """A server of few places whose device can be held."""
    port = free_port()
    environment = {
        "GRPC": f"127.0.0.1:{port}",
        "BEARER_TOKEN": TOKEN,  # of a single caller, who may fill the queue
        "MAX_QUEUE_TEXTS": "100",
        "MAX_TEXTS_PER_REQUEST": "90",
    }
    with (
        faulty_device(switches),
        local_server(tmp_path, small_checkpoint, environment) as http,
        GrpcClient(port) as client,
    ):
        try:
            yield Both(http.ready(), client, port)
        finally:
            switches.replace_device()


def occupy(both: Both, switches: Switches) -> Any:
    """Begin a call whose text the device holds; return its future."""
    switches.hold()
    call = both.grpc.begin({"prompt": "good morning"})
    wait_until(lambda: switches.held, "the device")
    return call


@pytest.mark.parametrize("how", ["cancelled", "deadline"])
def test_a_caller_that_gives_up_has_its_queued_texts_dropped(
    held: Both, switches: Switches, how: str
) -> None:
    first = occupy(held, switches)
    many = {"prompts": [f"never scored {index}" for index in range(50)]}
    deadline = {"timeout": 0.3} if how == "deadline" else {}
    call = held.grpc.begin(many, [*BEARER, ("x-request-id", "gives-up")], **deadline)
    if how == "cancelled":
        wait_until(lambda: held.http.metrics()["queue_texts"] == 51, "the texts to be queued")
        call.cancel()
    assert (
        held.grpc.result(call).name
        == {
            "cancelled": "CANCELLED",
            "deadline": "DEADLINE_EXCEEDED",
        }[how]
    )
    wait_until(lambda: held.http.metrics()["queue_texts"] == 1, "the texts to be dropped")
    wait_until(lambda: "request gives-up POST grpc 499" in held.http.stderr, "the log line")
    switches.release()
    assert held.grpc.result(first).name == "OK"
    assert held.grpc.score({"prompt": "good evening"}).name == "OK"
    counters = held.http.metrics()
    assert (counters["texts_total"], counters["sequences_total"]) == (52, 2)


def test_a_full_queue_is_resource_exhausted_at_once_and_a_retry_waits_as_told(
    held: Both, switches: Switches
) -> None:
    first = occupy(held, switches)
    second = held.grpc.begin({"prompts": ["good"] * 90})
    wait_until(lambda: held.http.metrics()["queue_texts"] == 91, "the texts to be queued")
    refused = held.grpc.score({"prompts": ["good"] * 20})
    line = "overloaded: the queue is full; try again"
    require_error(refused, "RESOURCE_EXHAUSTED", line, pushback=1000)
    # A client with a retry policy asks again by itself, as gRFC A6 has it.
    policy = {
        "maxAttempts": 3,
        "initialBackoff": "0.01s",
        "maxBackoff": "0.01s",
        "backoffMultiplier": 1,
        "retryableStatusCodes": ["RESOURCE_EXHAUSTED"],
    }
    config = json.dumps({"methodConfig": [{"name": [{}], "retryPolicy": policy}]})
    with (
        GrpcClient(held.port, options=[("grpc.service_config", config)]) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        retried = pool.submit(client.score, {"prompts": ["good"] * 20})
        wait_until(
            lambda: held.http.metrics()["errors_total:overloaded"] == 2, "the second refusal"
        )
        switches.release()
        assert retried.result().name == "OK"
        # Too large is RESOURCE_EXHAUSTED as well, and is not tried again.
        before = held.http.metrics().get("errors_total:too_large", 0)
        assert client.score({"prompts": ["good"] * 91}).name == "RESOURCE_EXHAUSTED"
        assert held.http.metrics()["errors_total:too_large"] == before + 1
    assert held.grpc.result(first).name == held.grpc.result(second).name == "OK"


def test_a_broken_device_is_unavailable(held: Both, switches: Switches) -> None:
    switches.break_device()
    line = "unhealthy: the device failed; this worker is being replaced"
    for _ in range(2):
        require_error(held.grpc.score({"prompt": MARKER}), "UNAVAILABLE", line, pushback=5000)


# Who asks how often: one count for both fronts.


def test_the_rate_limit_counts_a_caller_over_both_fronts(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    port = free_port()
    environment = {"GRPC": f"127.0.0.1:{port}", "RATE_LIMIT": "4/hour"}
    with local_server(tmp_path, small_checkpoint, environment) as http, GrpcClient(port) as client:
        http.ready()
        assert [client.score({"prompt": "good"}).name for _ in range(2)] == ["OK"] * 2
        assert [http.get("/score?text=good").status_code for _ in range(3)] == [200, 200, 429]
        refused = client.score({"prompt": MARKER})
        assert (refused.name, refused.line) == (
            "RESOURCE_EXHAUSTED",
            "rate_limited: the limit is 4 per 1 hour; wait",
        )
        assert 0 < int(refused.metadata["grpc-retry-pushback-ms"]) <= 3_600_000
        other = [("x-api-key", OTHER_TOKEN)]
        assert client.score({"prompt": "good"}, other).name == "OK"


def test_anonymous_callers_are_told_apart_by_address_as_over_http(
    small_checkpoint: Path, tmp_path: Path
) -> None:
    port = free_port()
    environment = {
        "GRPC": f"[::]:{port}",
        "BEARER_TOKEN": "",
        "ALLOW_ANONYMOUS": "1",
        "RATE_LIMIT": "3/hour",
    }
    with (
        local_server(tmp_path, small_checkpoint, environment) as http,
        GrpcClient(port) as client,
        GrpcClient(port, host="[::1]") as other,
    ):
        http.ready()
        assert http.get("/score?text=good", headers={}).status_code == 200
        ended = [client.score({"prompt": "good"}, []).name for _ in range(3)]
        assert ended == ["OK", "OK", "RESOURCE_EXHAUSTED"]
        assert http.get("/score?text=good", headers={}).status_code == 429
        ended = [other.score({"prompt": "good"}, []).name for _ in range(4)]
        assert ended == ["OK", "OK", "OK", "RESOURCE_EXHAUSTED"]
